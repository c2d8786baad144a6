"""The renderer shows any declared rows: every view of any names and numbers, in tables, pictures, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from base64 import b64decode
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.reports.page import Section, render_page
from mdlm_cfg.reports.pictures import save
from mdlm_cfg.reports.pictures.lines import Lines
from mdlm_cfg.reports.render import drawing_of, sections_of, shown_table
from mdlm_cfg.reports.tables import Table as ShownTable, print_table
from mdlm_cfg.studies.findings import Block, Curve, Findings, Listing, Mosaic, Panel, PanelGrid, Table, col
from mdlm_cfg.studies.plan import Plan

PLAN = Plan((Guidance(2.0),), Sampler(), 10)
ODD = ["[/b]", "$$", "$x", "{}", "", "שלום", "日本", "🙂", "a\nb", "<b>&", "\\frac", "%s", "_^"]
NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["a b", "a,b", "a" * 300, "a" * 299 + "b", "日" * 99, "日" * 98 + "本"]),
    st.sampled_from(ODD),
)
NUMBERS = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1e-300, 1e300, float("inf"), float("nan")]))


@dataclass(frozen=True)
class Row:
    """A measured value."""

    w: Guidance = col("w", "strength", index=True)
    name: str = col("name", "of a class", index=True)
    value: float | None = col("value", "measured", unit="TV")


def block(rows: list[Row], names: list[str]) -> Block:
    array = np.array([[0.1, 0.2], [0.3, 0.4]])
    views = [
        Table(["name"], ["value"], "w"),
        Table(["w", "name"], ["value"]),
        Curve("w", "value", ["name"]),
        Curve("w", "value", ["name"], panels="name", log_y=True),
        PanelGrid({name: [Panel(name, array), Panel(name, array - 0.2, kind="change")] for name in names}),
        Mosaic(dict.fromkeys(names, array[None, None]), names[:1]),
        Listing("".join(names)),
    ]
    return Block("measured", rows, "Measured", views=views, logged=("value",))


def rows_of(names: list[str], numbers: list[float]) -> list[Row]:
    return [Row(Guidance(float(w)), name, v) for name in names for w, v in enumerate(numbers)]


@settings(max_examples=25, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), st.lists(NUMBERS, min_size=1, max_size=4))
def test_any_names_and_numbers_are_shown(names: list[str], numbers: list[float]) -> None:
    rows = rows_of(names, numbers)
    apart = Block("apart", rows, "Apart", per=["name"], views=[Curve("w", "value", ["name"])])
    empty = Block("empty", [], "Empty", per=["name"], views=[Table(["name"], ["value"])])
    findings = Findings(PLAN, [block(rows, names), apart, empty], ["Said."])
    with tempfile.TemporaryDirectory() as folder:
        sections = sections_of(findings, Path(folder), backend="none")
        assert "<h2>Measured</h2>" in render_page("T", sections)
        for section in sections:
            for picture in section.pictures:
                assert picture.path.is_file() and picture.numbers.path.is_file()
        paths = [picture.path for section in sections for picture in section.pictures]
        assert len(set(paths)) == len(paths)
    assert json.loads(json.dumps(findings.to_dict(), allow_nan=False))["measured"][0]["name"] == names[0]
    assert all(not set(name) & set(",; \n") for name in findings.numbers())


@pytest.mark.parametrize("names", [ODD[:7], [*ODD[7:], "a" * 300]])
@pytest.mark.filterwarnings("ignore")
def test_any_names_are_drawn(names: list[str], tmp_path: Path) -> None:
    rows = rows_of(names, [0.5, 0.0, 2.0])
    for k, view in enumerate(block(rows, names).views):
        drawing = drawing_of(view, rows)
        if drawing is not None:
            assert save(drawing, tmp_path / f"{k}.png").stat().st_size > 500


def test_the_first_screen_has_the_verdict_and_a_picture(tmp_path: Path) -> None:
    rows = rows_of(["a"], [0.5, 0.25])
    views = [Table(["w"], ["value"]), Curve("w", "value", ["name"])]
    blocks = {group: Block(group, rows, f"Of {group}", "Words.", views=views, group=group) for group in ("one", "two")}
    bare = Block("bare", rows, "A table", views=views[:1], group="")
    shown = replace(blocks["one"], group="")
    for unfolded, folded in (([], blocks), ([bare, shown], {"two": blocks["two"]}), ([shown, bare], {})):
        sections = sections_of(Findings(PLAN, [*unfolded, *folded.values()], []), tmp_path, backend="none")
        page = render_page("T", [Section("Verdict", "Said."), *sections]).partition("<h1>")[2]
        at = [page.index(part) for part in ("<h2>Verdict", "<h2>Of one", "<img", "Words.", "<table")]
        assert at == sorted(at)
        assert page.count('<details class="group"') == len(folded) - (not unfolded)


def test_of_many_strengths_the_strongest_alone_is_unfolded_and_no_table_is_of_zeros(tmp_path: Path) -> None:
    strengths = [0.0, 1.0, 2.0]
    rows = [Row(Guidance(w), name, v * w) for w in strengths for name, v in (("a", 0.5), ("b", 0.25))]
    views = [Table(["name"], ["value"]), Listing("text")]
    blocks = [Block(name, rows, f"Of {name}", per=["w"], views=views, group="all") for name in ("one", "two")]
    page = render_page("T", sections_of(Findings(PLAN, blocks, []), tmp_path, backend="none")).partition("<h1>")[2]
    unfolded, *folded = page.split('<details class="group"')
    assert re.findall("<h2>(.*)</h2>", unfolded) == ["Of one: w = 2"]
    assert [re.findall("<h2>(.*)</h2>", part) for part in folded] == [["Of one"], ["Of two"]]
    assert page.count("<table") == 2 * (len(strengths) - 1)


def test_a_page_holds_the_small_files_of_numbers_that_it_links_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 500  # bytes
    monkeypatch.setattr("mdlm_cfg.reports.page.MOST_INSIDE", most)
    few = rows_of(["a"], [0.5, 0.25])
    many = rows_of([f"a{k}" for k in range(9)], [0.5] * 9)
    blocks = [Block(name, rows, name, views=[Curve("w", "value")]) for name, rows in (("few", few), ("many", many))]
    page = render_page("T", sections_of(Findings(PLAN, blocks, []), tmp_path, backend="none"))
    links = dict(re.findall(r'<a href="([^"]*)" download="([^"]*)">', page))
    assert set(links.values()) == {"few.csv", "many_0.csv"}  # many.csv is the table
    for href, name in links.items():
        written = (tmp_path / name).read_bytes()
        inside = len(written) <= most
        assert href == name if not inside else b64decode(href.partition("base64,")[2]) == written
    assert (tmp_path / "few.csv").stat().st_size <= most < (tmp_path / "many_0.csv").stat().st_size


HEADS = "w,class,guidance effect,between two orders,entropy,samples,noise floor,differing positions,change of values"


@pytest.mark.parametrize("name", ["quiet", "sampled_confidence, 64 steps, cosine"])
@pytest.mark.parametrize("num_rows", [2, 8])
def test_a_table_on_the_terminal_is_shown_whole(num_rows: int, name: str) -> None:
    heads = HEADS.split(",")
    rows = [[str(k), name, *["0.0150"] * 7] for k in range(num_rows)]
    screen = io.StringIO()
    print_table(ShownTable(heads, rows), "Title", Console(file=screen, width=80))
    assert {word for line in (heads, *rows) for cell in line for word in cell.split()} <= set(screen.getvalue().split())
    assert max(map(len, screen.getvalue().splitlines())) <= 80


def test_a_table_has_a_line_for_each_index_and_a_column_for_each_value_across() -> None:
    shown = shown_table(Table(["name"], ["value"], "w"), rows_of(["a", "b"], [0.25, None]))  # type: ignore[list-item]
    assert shown.columns == ["name", "w = 0", "w = 1"]
    assert shown.rows == [["a", "0.2500", "-"], ["b", "0.2500", "-"]]


NUMBER = re.compile(r"-?\d+(?:\.(\d+))?(e[+-]\d+)?")


@given(st.lists(st.one_of(st.none(), NUMBERS, st.floats(-1.0, 1.0), st.sampled_from([1.6e-4, 0.1159])), min_size=1))
def test_a_column_has_one_format_that_hides_no_number(values: list[float | None]) -> None:
    rows = [Row(Guidance(0.0), str(k), value) for k, value in enumerate(values)]
    view = Table(["name"], ["value"]) if any(v is not None for v in values) else Table(["name"], ["name", "value"])
    shown = dict(zip(values, [line[-1] for line in shown_table(view, rows).rows]))
    numbers = {v: text for v, text in shown.items() if v is not None and np.isfinite(v) and abs(v) >= 1e-12}
    written = [NUMBER.fullmatch(text) for text in numbers.values()]
    assert all(written) and len({(len(m[1] or ""), bool(m[2])) for m in written if m}) <= 1
    for value, text in numbers.items():
        exact = Fraction(value)  # the text of the largest numbers is no float
        assert abs(Fraction(text) - exact) <= min(max(Fraction("5e-5"), abs(exact) * 6 / 1000), abs(exact) / 2)
    assert all(text == "0" for v, text in shown.items() if v is not None and abs(v) < 1e-12)


def test_lines_hold_the_numbers_of_the_rows_and_coinciding_ones_are_one() -> None:
    rows = rows_of(["a", "b"], [1.0, 2.0]) + [Row(Guidance(w), "c", 3 * w) for w in (0.0, 1.0)]
    lines = drawing_of(Curve("w", "value", ["name"]), rows)
    assert isinstance(lines, Lines)
    assert lines.panels[""] == {
        "a": ([0.0, 1.0], [1.0, 2.0]),
        "b": ([0.0, 1.0], [1.0, 2.0]),
        "c": ([0.0, 1.0], [0.0, 3.0]),
    }
    assert list(lines._labels().values()) == ["a, b", "c"]
    written = [(row["series"], row["value (TV)"]) for row in lines.numbers()]
    assert written == [("a", 1.0), ("a", 2.0), ("b", 1.0), ("b", 2.0), ("c", 0.0), ("c", 3.0)]


def test_numbers_are_named_by_their_column_and_index_and_the_strength_comes_last() -> None:
    found = Findings(PLAN, [block(rows_of(["a, b"], [0.5, 0.25]), ["a"])], []).numbers()
    assert found == {"value_a_b_w0": 0.5, "value_a_b_w1": 0.25}


def test_every_table_but_the_main_one_has_a_csv_file(tmp_path: Path) -> None:
    rows = rows_of(["a"], [0.5, 0.25])
    second = Block("more", rows, "More", views=[Table(["w"], ["value"])])
    sections_of(Findings(PLAN, [block(rows, ["a"]), second], []), tmp_path, backend="none")
    with (tmp_path / "more.csv").open(newline="") as file:
        assert [row["value"] for row in csv.DictReader(file)] == ["0.5", "0.25"]


def test_a_view_may_be_a_function(tmp_path: Path) -> None:
    def own(rows: list[Row], path: Path) -> None:
        path.write_bytes(b"PNG" + str(len(rows)).encode())

    rows = rows_of(["a"], [0.5])
    (section,) = sections_of(Findings(PLAN, [Block("own", rows, "Own", views=[own])], []), tmp_path)
    (picture,) = section.pictures
    assert picture.path.read_bytes() == b"PNG1"


@pytest.mark.parametrize("value", [1e-300, 1e300])
def test_extreme_numbers_are_written_in_full(value: float) -> None:
    (row,) = Block("b", [Row(Guidance(1.0), "a", value)], "B").plain()
    assert row == {"w": 1.0, "kind": "rate", "name": "a", "value": value}


def test_panels_of_one_scale_hold_all_points() -> None:
    series = {"": ([0.0, 1.0], [0.0, 0.0])}, {"": ([0.0, 1.0], [1.0, 4.0])}
    for order in (series, series[::-1]):
        lines = Lines({str(k): one for k, one in enumerate(order)}, "x", "y")
        for axes in lines.draw(Figure()).flat:
            low, high = axes.get_ylim()
            assert low == 0 and 4 <= high < 8
