"""Reports are judged by whether the files say the same as the laws."""

import base64
import csv
import io
import json
import re

import matplotlib.image
import numpy as np
import pytest
import torch
from markupsafe import escape
from mdlm_cfg.reports.table_report import table_sections
from mdlm_cfg.studies.table.distances import evaluate_table
from mdlm_cfg.studies.table.overlap import overlap_of
from mdlm_cfg.studies.table.study import Tables
from rich.console import Console

from mdlm_cfg.app.evaluation import Report, evaluate
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.reports.curves import draw_nelbo, line_plot
from mdlm_cfg.reports.images import mosaic, sample_grid
from mdlm_cfg.reports.page import Picture, Section, render_page, write_page
from mdlm_cfg.reports.tables import Table, distance_table, format_number, print_table, write_csv, write_json
from mdlm_cfg.reports.wandb_log import log_evaluation
from mdlm_cfg.sampling import Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.atomic import atomic_write
from mdlm_cfg.targets import toys
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.data import TableData

SETTINGS = {"command": "eval.py data=toy <a> & 'b'", "w": [0, 2], "nested": {"x": 1}}


def plan(*strengths, num_samples=1000):
    return Plan(tuple(Guidance(w) for w in strengths), Sampler(), num_samples=num_samples)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    target = toys.toy_2d_overlap()
    learned = TableMixture(0.95 * target.class_pmfs + 0.05 / 256, target.class_weights).denoiser()
    data = TableData(target, "toy", batch_size=8, num_val=8, num_test=8)
    data.setup("fit")
    folder = tmp_path_factory.mktemp("report")
    (folder / "stale.png").write_bytes(b"of an earlier report")
    (folder / "report.json").write_text('{"files": ["stale.png"]}')
    quiet = Console(file=io.StringIO(), width=120)
    asked = Report(folder, "A <title>", SETTINGS, data.describe(), {"test/nelbo": 1.5}, quiet)
    written = evaluate(data, learned, plan(0, 2), asked, Tables())
    return evaluate_table(target, learned, plan(0, 2)), folder, written


def tv(p, q):
    return 0.5 * np.abs(p - q).sum()


def test_numbers_in_json_are_those_of_the_laws_in_npz(report):
    _, folder, _ = report
    read = json.loads((folder / "report.json").read_text())
    laws = np.load(folder / "laws.npz")
    assert sorted(read["laws"]) == sorted(laws.files)
    for result in read["distances"]:
        w = int(result["w"])
        law = {name: laws[f"{name}_rate_w{w}"] for name in ("exact", "learned", "samples")}
        law |= {"class": laws["class"], "tilted": laws[f"tilted_w{w}"]}
        assert all(p.sum() == pytest.approx(1, abs=1e-12) for p in law.values())
        for first, second in [
            ("class", "exact"), ("tilted", "exact"), ("exact", "learned"),
            ("exact", "samples"), ("learned", "samples"),
        ]:  # fmt: skip
            assert result[f"tv_{first}_{second}"] == pytest.approx(tv(law[first], law[second]), abs=1e-14)
        mean = [(law["learned"].sum(axis=1 - i) * np.arange(16)).sum() for i in range(2)]
        assert result["moments"]["learned"]["mean"] == pytest.approx(mean)
    assert read["title"] == "A <title>" and read["run"] == SETTINGS and read["version"] == 2
    assert read["test"] == {"test/nelbo": 1.5} and read["data"]["name"] == "toy"


def test_csv_round_trips(report):
    evaluation, folder, _ = report
    with (folder / "report.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    for row, expected in zip(read, evaluation.rows(), strict=True):
        assert row.pop("kind") == expected.pop("kind")
        assert {k: float(v) if v else None for k, v in row.items()} == expected


def test_the_page_holds_every_picture_and_loads_nothing(report):
    _, folder, written = report
    text = written.path.read_text()
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    pictures = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert "stale.png" not in pictures  # of an earlier report in the same folder
    assert {"laws.png", "distances.png", "regions.png", "decay.png", "ledger.png"} <= set(pictures)
    assert {base64.b64decode(data) for data in embedded} == set(pictures.values())
    assert not re.search(r"https?:|@import|url\(|<link|<iframe|src=\"(?!data:)", text)
    assert "default-src 'none'" in text  # and a browser is told to load nothing


def test_every_picture_has_its_numbers_in_a_csv_file_beside_it(report):
    evaluation, folder, written = report
    files = json.loads((folder / "report.json").read_text())["files"]
    page = written.path.read_text()
    for picture in written.pictures:
        name = f"{picture.stem}.csv"
        assert name in files and f'href="{name}"' in page
        with (folder / name).open(newline="") as file:
            assert len(list(csv.DictReader(file))) > 1
    with (folder / "laws.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["w"] == "2"]
    exact = evaluation.results[1].laws["exact"]
    assert [float(row["exact"]) for row in rows] == exact.flatten().tolist()
    assert [(int(row["x1"]), int(row["x2"])) for row in rows] == [(i, j) for i in range(16) for j in range(16)]
    with (folder / "ledger.csv").open(newline="") as file:
        total = [float(row["total variation"]) for row in csv.DictReader(file) if row["series"] == "total"]
    assert total == [entry["tv"]["total"] for entry in written.ledger[::3]]


def test_the_page_shows_everything_escaped_and_the_verdict_first(report):
    evaluation, folder, written = report
    text = written.path.read_text()
    for expected in ("A &lt;title&gt;", "toy &lt;a&gt; &amp; &#39;b&#39;"):
        assert expected in text
    for cell in distance_table(evaluation).rows[1]:
        assert f"<td>{cell}</td>" in text
    verdict = json.loads((folder / "report.json").read_text())["verdict"]
    assert len(verdict) == 4 and text.index("<h2>Verdict</h2>") < text.index("<h2>Distances</h2>")
    assert all(f"<p>{escape(sentence)}</p>" in text for sentence in verdict)


def test_a_page_escapes_its_sections():
    table = Table(["a", "b"], [["1", "<2>"]], "A note.")
    text = render_page("T", [Section("More to come", "One & two.\n\nThree <b>.", table)])
    for expected in (
        "More to come",
        "<p>One &amp; two.</p>",
        "<p>Three &lt;b&gt;.</p>",
        "<td>&lt;2&gt;</td>",
        "A note.",
    ):
        assert expected in text


def drawn(evaluation, folder):
    """The page of the laws alone, and the names of its pictures."""
    page = write_page(folder / "report.html", "T", table_sections(evaluation, overlap_of(evaluation), folder))
    return page.read_text(), {path.stem for path in folder.glob("*.png")}


def test_no_half_written_files_are_left(report, tmp_path):
    assert not list(report[1].glob(".*"))
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("toy", "pictures"),
    [
        ("toy_1d_disjoint", {"laws", "distances", "differences"}),
        ("toy_1d_overlap", {"laws", "distances", "differences"}),
        pytest.param("toy_2d_projection", {"laws", "distances", "differences"}, marks=pytest.mark.slow),
        pytest.param("toy_5d_hypercube", {"laws", "distances", "overlap", "pairs"}, marks=pytest.mark.slow),
    ],
)
def test_every_toy_is_reported_exactly_without_a_network(toy, pictures, tmp_path):
    page, names = drawn(evaluate_table(getattr(toys, toy)(), None, plan(0, 4, num_samples=200)), tmp_path)
    assert names == pictures
    for path in tmp_path.glob("*.png"):
        image = matplotlib.image.imread(path)
        assert min(image.shape[:2]) > 300 and image[..., :3].std() > 0.01
    assert "score error" not in page.lower() and "the network" not in page.lower()


def test_no_overlap_curve_where_every_coordinate_overlaps(tmp_path):
    pmfs = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    target = TableMixture(pmfs / pmfs.sum(dim=(1, 2, 3), keepdim=True), torch.tensor([0.5, 0.5]))
    _, pictures = drawn(evaluate_table(target, None, plan(0, 1, num_samples=50)), tmp_path)
    assert pictures == {"laws", "distances", "pairs"}


def test_one_strength_needs_no_curve(tmp_path):
    _, pictures = drawn(evaluate_table(toys.toy_1d_overlap(), None, plan(1, num_samples=50)), tmp_path)
    assert pictures == {"laws", "differences"}


@pytest.mark.parametrize("learned", [False, True])
def test_the_terminal_table_fits_80_columns_with_every_number(learned):
    target = toys.toy_2d_overlap()
    evaluation = evaluate_table(target, target.denoiser() if learned else None, plan(0, 2, num_samples=100))
    table, text = distance_table(evaluation), io.StringIO()
    print_table(table, "Title", Console(file=text, width=80))
    assert all(cell in text.getvalue() for row in table.rows for cell in row)
    assert ("score" in text.getvalue()) == learned


def test_numbers_for_people():
    values = [None, 0.0, 3e-16, 2e-5, 0.12345, 1.0, float("inf"), 3e7]
    assert [format_number(v) for v in values] == ["-", "0", "0", "2.0e-05", "0.1235", "1.0000", "inf", "3.0e+07"]


def test_json_and_csv_of_anything(tmp_path):
    value = {"a": torch.tensor([1.0, -float("inf")]), "b": None}
    assert json.loads(write_json(value, tmp_path / "a.json").read_text()) == {"a": [1.0, "-inf"], "b": None}
    text = write_csv([{"a": 0.1}, {"a": None, "b": "x,y"}], tmp_path / "a.csv").read_text()
    assert text == 'a,b\n0.1,\n,"x,y"\n'


def test_a_page_of_sections_alone(tmp_path):
    line_plot({"a": ([0, 1], [1, 2])}, tmp_path / "a.png", "x", "y")
    text = render_page("T", [Section("S", pictures=[Picture(tmp_path / "a.png", "what it shows")])])
    assert '<figcaption>what it shows Numbers: <a href="a.csv">a.csv</a></figcaption>' in text and "<h2>S</h2>" in text


def test_curves(tmp_path):
    x = [1.0, 2.0, 3.0]
    draw_nelbo({"train": (x, [300.0, 100.0, 80.0])}, tmp_path / "a.png", best=70.0)
    line_plot({"a": (x, x), "b": (x, [0.1, 1.0, 10.0])}, tmp_path / "b.png", "x", "y", "t", log_x=True, log_y=True)
    for name in ("a.png", "b.png"):
        assert matplotlib.image.imread(tmp_path / name)[..., :3].std() > 0.01


def test_mosaic_keeps_every_pixel():
    images = np.random.default_rng(0).random((3, 4, 28, 14))
    out = mosaic(images)
    assert out.shape == (3 * 30 + 2, 4 * 16 + 2)
    for i in range(3):
        for j in range(4):
            np.testing.assert_array_equal(out[2 + 30 * i : 30 + 30 * i, 2 + 16 * j : 16 + 16 * j], images[i, j])


def test_sample_grid(tmp_path):
    images = {w: np.full((2, 3, 8, 8), k) for k, w in enumerate((0.0, 2.0))}
    path = sample_grid(images, tmp_path / "grid.png", class_names=["zero", "one"], title="Samples")
    picture = matplotlib.image.imread(path)
    middle = picture.shape[1] // 2
    assert picture[:, :middle, :3].mean() > picture[:, middle:, :3].mean() + 0.2  # ones are ink, zeros are paper
    with pytest.raises(ValueError, match="one shape"):
        sample_grid({0.0: np.zeros((2, 3, 8, 8)), 1.0: np.zeros((2, 4, 8, 8))}, tmp_path / "bad.png")
    with pytest.raises(ValueError, match="one shape"):
        sample_grid({}, tmp_path / "bad.png")
    with pytest.raises(ValueError, match="class names"):
        sample_grid(images, tmp_path / "bad.png", class_names=["zero"])


def test_wandb_offline(report, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    _, _, written = report
    logged, axes = [], {}
    with wandb.init(mode="offline", dir=str(tmp_path), project="test") as run:
        monkeypatch.setattr(run, "log", logged.append)
        monkeypatch.setattr(run, "define_metric", lambda name, **options: axes.update({name: options}))
        log_evaluation(run, written.rows, written.ledger, written.pictures)
    assert axes["eval/*"]["step_metric"] == "eval/w" in axes
    curves = [row for row in logged if "eval/w" in row]
    assert [row["eval/w"] for row in curves] == [0.0, 2.0]
    assert curves[1]["eval/tv_exact_learned"] == written.rows[1]["tv_exact_learned"]
    tables = {name: value for row in logged for name, value in row.items() if name.startswith("eval_tables/")}
    assert set(tables) == {"eval_tables/distances", "eval_tables/ledger"}
    ledger = tables["eval_tables/ledger"]
    closes = [row[ledger.columns.index("closes")] for row in ledger.data]
    assert closes == [entry["closes"] for entry in written.ledger] and len(closes) == 6
    shown = {name for row in logged for name in row if name.startswith("eval_pictures/")}
    assert shown == {f"eval_pictures/{path.stem}" for path in written.pictures}
