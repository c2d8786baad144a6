"""The page as a reader has it, in a headless Chromium: what moves, fits and is printed, and that nothing is loaded.

    make test-browser

The screenshots it leaves in runs/screenshots are there to be looked at.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import random_target
from rich.console import Console

from mdlm_cfg import Guidance, LinearRamp, Sampler, TableMixture, terminal_law, tilted_law
from mdlm_cfg.app.evaluation import Report, evaluate
from mdlm_cfg.compare.decay import log_still_masked
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.studies.sequences import Sequences
from mdlm_cfg.targets.data import KnownData
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.toys import toy_1d_overlap

pytestmark = pytest.mark.browser
SCREENSHOTS = Path(__file__).parent.parent.parent / "runs" / "screenshots"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
OFFLINE = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--no-first-run", "--disable-sync", "--disable-default-apps"),
)
STRENGTHS = (0.0, 2.0, 5.0)
WIDTHS = (390, 1024, 1400)


def network(target: TableMixture) -> Any:
    """The exact conditionals of a slightly different mixture, in a network's place."""
    states = target.num_tokens**target.num_dims
    return TableMixture(0.97 * target.class_pmfs + 0.03 / states, target.class_weights).denoiser()


def named(target: TableMixture) -> TableMixture:
    values = ("[red]a[/red]", "$$", "שלום", "日本", "W" * 30, "six", "seven", "eight")
    names = ("first <b>", "second")
    return TableMixture(target.class_pmfs, target.class_weights, class_names=names, value_names=values)


def sequences() -> HiddenMarkovMixture:
    """Two classes of 200 letters."""
    transition = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]])
    emission = torch.tensor([[[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], [[0.4, 0.3, 0.3], [0.3, 0.4, 0.3]]])
    return HiddenMarkovMixture(
        torch.full((2, 2), 0.5), transition, emission, torch.tensor([0.5, 0.5]), num_dims=200, value_names=tuple("abc")
    )


TABLES = {
    "2d": (named(random_target(8, 2, seed=3, zeros=0.8)), (2,)),
    "1d": (toy_1d_overlap(), (1,)),
    "3d": (random_target(3, 3), (3,)),
    "cells": (random_target(2, 6), (2, 3)),
}
TARGETS = {name: target for name, (target, _) in TABLES.items()}


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of every target, by its name."""
    written = {}
    for name, (target, grid_shape) in {**TABLES, "sequences": (sequences(), (200,))}.items():
        data = KnownData(target, name, grid_shape, num_test=20)
        is_table = isinstance(target, TableMixture)
        plan = Plan(tuple(Guidance(w) for w in STRENGTHS), Sampler(), 2000 if is_table else 10, classes=(1,))
        study, learned = (TableReport(), network(target)) if is_table else (Sequences(compare=False), None)
        folder = tmp_path_factory.mktemp(name)
        report = Report(
            folder, name, {"command": "eval.py " + "x" * 200}, {"name": name}, {}, Console(file=io.StringIO())
        )
        written[name] = evaluate(data, learned, plan, report, study).path
    return written


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield chromium
        chromium.close()


Opened = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Iterator[Opened]:
    """Opens a report; afterwards nothing may have been complained of, and nothing but the file been asked for."""
    contexts = []
    faults = []
    asked = []

    def open_page(name: str, width: int = 1400, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(120_000)  # machines may be slow
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert {url for url in asked if not url.startswith("data:")} <= {path.as_uri() for path in pages.values()}


def read(pages: dict[str, Path], name: str) -> dict[str, Any]:
    return json.loads((pages[name].parent / "report.json").read_text())


def move_to(page: Any, w: float) -> None:
    """Put the slider where it says w, as a hand would."""
    slider = page.locator("input[type=range]")
    for place in range(int(slider.get_attribute("max")) + 1):
        slider.fill(str(place))
        if page.locator("output").text_content() == f"{w:g}":
            return
    raise AssertionError(f"the slider has no place for w = {w}")


def number(page: Any, row: str, law: str) -> list[float]:
    cell = page.locator(f".panel tr:has(th:text-is('{row}')) td[data-law={law}]")
    return [float(value) for value in cell.get_attribute("data-value").split()]


def picture(page: Any, name: str) -> str:
    return str(page.locator(f"figure[data-figure='{name}'] svg").inner_html())


@pytest.mark.parametrize("name", ["1d", "2d"])
def test_the_panel_says_what_report_json_says(name: str, opened: Opened, pages: dict[str, Path]) -> None:
    page = opened(name)
    found = read(pages, name)
    moments = {(row["w"], row["law"]): row for row in found["moments"]}
    for row in found["distances"]:
        move_to(page, row["w"])
        for law, key in (("class", "class_exact"), ("tilted", "tilted_exact"), ("learned", "exact_learned")):
            assert number(page, "TV to exact guided", law) == [pytest.approx(row[f"tv_{key}"], rel=1e-6, abs=1e-12)]
        for law in ("class", "exact", "learned", "tilted"):
            own = moments[row["w"], law]
            assert number(page, "mean", law) == pytest.approx(own["mean"], rel=1e-7)
            title = "variance" if name == "1d" else "eigenvalues of the covariance"
            assert number(page, title, law) == pytest.approx(own["eigenvalues"], rel=1e-6)
        said = page.locator("figure[data-figure=regions] svg").get_attribute("aria-label")
        masses = [one for one in found["geometry"] if (one["w"], one["law"]) == (row["w"], "exact")]
        for one in masses:
            words = said.split(f"{one['region']} data")[1].split(";")[0]
            assert float(words.split("exact guided ")[1].split(",")[0]) == pytest.approx(one["mass"], abs=6e-5)


def test_other_classes_and_kinds_are_those_of_the_library(opened: Opened) -> None:
    page = opened("2d")
    target = TARGETS["2d"]
    page.locator("select[name=class]").select_option(label="first <b>")
    page.locator("select[name=kind]").select_option("normalized")
    move_to(page, 5.0)
    guidance = Guidance(5.0, "normalized")
    exact = terminal_law(target.denoiser(), guidance, 0)
    learned = terminal_law(network(target), guidance, 0)
    for law, other in (("class", target.class_pmf(0)), ("tilted", tilted_law(target, 5.0, 0)), ("learned", learned)):
        expected = 0.5 * float((exact - other).abs().sum())
        assert number(page, "TV to exact guided", law) == [pytest.approx(expected, rel=1e-6, abs=1e-12)]
    assert "class first <b>, kind normalized, w = 5" in page.locator(".panel [aria-live]").text_content()


def test_the_decay_is_the_chains(opened: Opened) -> None:
    page = opened("1d")
    target = TARGETS["1d"]
    data = json.loads(page.locator(".panel script").text_content())
    for k, w in enumerate(data["w"]):
        expected = log_still_masked(target.denoiser(), Guidance(w), 0, data["tau"]).exp()
        assert data["laws"]["0/rate"][k]["still_masked"] == pytest.approx(expected.tolist(), rel=1e-7)


@pytest.mark.parametrize("name", ["1d", "2d"])
def test_slider_keyboard_and_switches_move_everything_together(name: str, opened: Opened) -> None:
    page = opened(name)
    moving = [f.get_attribute("data-figure") for f in page.locator(".panel figure").all()]
    assert {"exact-class", "exact-tilted", "learned-exact", "regions", "distances", "decay"} <= set(moving)
    before = {figure: picture(page, figure) for figure in moving}
    slider = page.locator("input[type=range]")
    slider.focus()
    w = page.locator("output").text_content()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("output").text_content() != w
    assert slider.get_attribute("aria-valuetext") == f"w = {page.locator('output').text_content()}"
    still = {figure for figure in moving if picture(page, figure) == before[figure]}
    assert still <= {"class", *(["exact-tilted"] if name == "1d" else [])}  # in one dimension the two laws agree
    for switch, option in (("class", "0"), ("kind", "normalized")):
        before = {figure: picture(page, figure) for figure in moving}
        page.locator(f"select[name={switch}]").select_option(option)
        changed = {figure for figure in moving if picture(page, figure) != before[figure]}
        if name == "2d":
            assert changed >= {"exact", "learned", "exact-class", "learned-exact", "regions", "decay"}
        else:  # a kind says nothing of where the chain ends, and the classes are mirror images
            assert changed >= ({"decay"} if switch == "kind" else {"laws", "exact-class", "learned-exact"})
    page.screenshot(path=SCREENSHOTS / f"{name}_moved.png")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [*TABLES, "sequences"])
def test_nothing_overflows_and_the_verdict_columns_are_in_view(name: str, width: int, opened: Opened) -> None:
    page = opened(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h2").first.text_content() == page.locator("section.verdict h2").text_content()
    assert page.locator("section.verdict").bounding_box()["y"] < 300
    for folded in page.locator("details").all():
        folded.evaluate("node => { node.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for column in ("balances", "total") if name in TABLES else ():
        box = page.locator(f"section:has(h3:text-is('The error budget')) th:text-is('{column}')").first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    page.screenshot(path=SCREENSHOTS / f"{name}_{width}.png", full_page=True)


@pytest.mark.parametrize("name", ["1d", "2d"])
def test_every_letter_lies_within_its_picture(name: str, opened: Opened) -> None:
    beyond = opened(name).evaluate(
        """[...document.querySelectorAll('svg text')].filter(text => {
          const [inner, outer] = [text, text.ownerSVGElement].map(one => one.getBoundingClientRect());
          return inner.left < outer.left - 1 || inner.right > outer.right + 1;
        }).map(text => text.textContent)"""
    )
    assert beyond == []


LETTER = 10 / 72 * 150  # the height of a picture's letters in its own pixels: 10 points at 150 dots per inch
READABLE = 10.5  # pixels of the screen


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["2d", "cells", "sequences"])
def test_letters_of_pictures_are_readable(name: str, width: int, opened: Opened) -> None:
    page = opened(name, width)
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    scales = page.evaluate("[...document.images].map(image => image.clientWidth / image.naturalWidth)")
    assert len(scales) >= 4 and min(scales) * LETTER >= READABLE


def test_letters_of_the_documentations_pictures_are_readable_on_a_phone(browser: Any, tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    names = ("correction", "moves_mnist", "gallery_decay_1d")
    images = "".join(f"<p><img src='{(docs / 'pictures' / name).as_uri()}.png'></p>" for name in names)
    style = f"<style>img {{ max-width: 100%; height: auto; }}{(docs / 'site.css').read_text()}</style>"
    (tmp_path / "page.html").write_text(f"{style}<div class='content' style='width: auto'>{images}</div>")
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto((tmp_path / "page.html").as_uri())
    widths = page.evaluate("[...document.images].map(i => i.getBoundingClientRect().width / i.naturalWidth)")
    assert len(widths) == 3 and min(widths) * LETTER >= READABLE
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_before_unfolding_a_page_is_at_most_five_screens_long(opened: Opened) -> None:
    page = opened("2d")
    assert page.evaluate("document.documentElement.scrollHeight") <= 5 * 900
    assert page.locator(".views figure").first.bounding_box()["y"] < 900


def test_cells_say_their_numbers_and_maps_their_scale(opened: Opened, pages: dict[str, Path]) -> None:
    page = opened("2d")
    target = TARGETS["2d"]
    texts = page.locator("figure[data-figure=class] rect title").all_text_contents()
    assert len(texts) == target.num_tokens**2
    top = target.class_pmf(1).argmax()
    said = float(texts[int(top)].split(": ")[1].split(",")[0])
    assert said == pytest.approx(float(target.class_pmf(1).max()), abs=1e-6)
    ends = page.locator("figure[data-figure=exact-class] svg text").all_text_contents()[-2:]
    assert ends[0][1:] == ends[1][1:] and float(ends[1]) > 0
    for line in ("distances", "decay"):
        assert page.locator(f"figure[data-figure={line}] .strip title").count() > 2


def test_print_has_every_column_and_every_folded_table(opened: Opened, pages: dict[str, Path]) -> None:
    from pypdf import PdfReader

    page = opened("2d")
    pdf = page.pdf(format="A4", path=SCREENSHOTS / "2d.pdf")
    text = " ".join(" ".join(leaf.extract_text().split()) for leaf in PdfReader(io.BytesIO(pdf)).pages)
    found = read(pages, "2d")
    for entry in found["ledger"]:
        assert f"{'yes' if entry['closes'] else 'no'} {entry['total']:.4f}" in text
    for line in found["ledger_lines"]:  # a table that is folded on the screen
        assert line["covariance_frobenius"] < 1e-12 or f"{line['covariance_frobenius']:.4f}" in text
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 690, "height": 1000})  # A4 between its margins
    cut = page.evaluate(
        "[...document.querySelectorAll('td, th')].filter(c => c.getBoundingClientRect().right > 690).length"
    )
    assert cut == 0


def test_a_dark_scheme_and_light_pictures_on_it(opened: Opened) -> None:
    page = opened("2d", color_scheme="dark")

    def brightness(selector: str, what: str) -> float:
        colour = page.locator(selector).first.evaluate(f"node => getComputedStyle(node).{what}")
        return sum(float(part) for part in colour[4:-1].split(",")[:3]) / 3

    assert brightness("body", "backgroundColor") < 50 and brightness("body", "color") > 200
    assert brightness("img", "backgroundColor") == brightness(".panel svg", "backgroundColor") == 255
    page.screenshot(path=SCREENSHOTS / "2d_dark.png", full_page=True)


@pytest.mark.parametrize("name", [*TABLES, "sequences"])
def test_every_picture_and_control_is_named(name: str, opened: Opened) -> None:
    page = opened(name)
    assert page.locator("img").count() >= 4
    unnamed = "!node.getAttribute('alt') && !node.getAttribute('aria-label')"
    assert page.evaluate(f"[...document.querySelectorAll('img, svg')].filter(node => {unnamed}).length") == 0
    assert (
        page.evaluate("[...document.querySelectorAll('input, select')].filter(node => !node.labels.length).length") == 0
    )
    assert page.locator(".panel").count() == (1 if name in ("1d", "2d") else 0)


def test_strengths_that_are_no_numbers_have_no_tilted_law(browser: Any, tmp_path: Path) -> None:
    target = toy_1d_overlap()
    data = KnownData(target, "x")
    schedule = Guidance(LinearRamp(0.0, 2.0))
    report = Report(tmp_path, "x", {}, {}, {}, Console(file=io.StringIO()))
    path = evaluate(data, None, Plan((Guidance(1.0), schedule), Sampler(), 100), report, TableReport()).path
    page = browser.new_page()
    page.goto(path.as_uri())
    slider = page.locator("input[type=range]")
    slider.fill(slider.get_attribute("max"))
    assert page.locator("output").text_content() == schedule.label
    assert page.locator(".panel thead").text_content() == "data (class)exact guided"
    assert not page.locator("figure[data-figure=exact-tilted]").is_visible()
    page.close()


def test_numbers_are_saved_from_a_page_that_is_alone(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    alone = Path(shutil.copy(pages["2d"], tmp_path / "mailed.html"))
    page = browser.new_page()
    page.goto(alone.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    links = page.locator("a[download]")
    assert links.count() >= 5
    for k in range(links.count()):
        with page.expect_download() as found:
            links.nth(k).click()
        name = found.value.suggested_filename
        assert found.value.path().read_bytes() == (pages["2d"].parent / name).read_bytes()
    page.close()
