"""Reports are judged by whether the files say the same as the laws."""

import base64
import csv
import io
import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console

from mdlm_cfg.app.evaluation import Report, evaluate
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.reports.curves import draw_nelbo, line_plot
from mdlm_cfg.reports.images import mosaic, sample_grid
from mdlm_cfg.reports.page import Picture, Section, render_page
from mdlm_cfg.reports.tables import Table, distance_table, format_number, print_table, write_csv, write_json
from mdlm_cfg.reports.wandb_log import log_evaluation
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table.distances import evaluate_table
from mdlm_cfg.support.atomic import atomic_write
from mdlm_cfg.targets import toys
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.data import TableData

SETTINGS = {"command": "eval.py data=toy <a> & 'b'", "w": [0, 2], "nested": {"x": 1}}


SECTIONS = {"laws", "distances", "decay", "ledger", "regions"}  # pictures of every small table


def plan(strengths, num_samples=200):
    return Plan(tuple(Guidance(w) for w in strengths), Sampler(), num_samples=num_samples)


def written(target, learned, asked, folder, title="A toy", test=None):
    """The report of a table, as the commands write it."""
    data = TableData(target, "toy")
    data.setup("fit")
    report = Report(folder, title, SETTINGS, {"name": "toy"}, test or {}, Console(file=io.StringIO()))
    return evaluate(data, learned, asked, report)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    target = toys.toy_2d_overlap()
    learned = TableMixture(0.95 * target.class_pmfs + 0.05 / 256, target.class_weights).denoiser()
    folder, asked = tmp_path_factory.mktemp("report"), plan([0, 2], 1000)
    found = written(target, learned, asked, folder, "A <title>", {"test/nelbo": 4.25, "test/odd": float("nan")})
    return evaluate_table(target, learned, asked), folder, found.path


def tv(p, q):
    return 0.5 * np.abs(p - q).sum()


def test_numbers_in_json_are_those_of_the_laws_in_npz(report):
    _, folder, _ = report
    read = json.loads((folder / "report.json").read_text())
    laws = np.load(folder / "laws.npz")
    assert sorted(read["laws"]) == sorted(laws.files)
    assert len(read["distances"]) == 2
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
    assert read["title"] == "A <title>" and read["run"] == SETTINGS and read["data"] == {"name": "toy"}
    assert read["test"] == {"test/nelbo": 4.25, "test/odd": "nan"}


def test_csv_round_trips(report):
    evaluation, folder, _ = report
    with (folder / "report.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    for row, expected in zip(read, evaluation.rows(), strict=True):
        assert row.pop("kind") == expected["kind"] == "rate"
        numbers = {k: v for k, v in expected.items() if k != "kind"}
        assert {k: float(v) if v else None for k, v in row.items()} == numbers


def test_the_page_holds_every_picture_and_loads_nothing(report):
    _, folder, page = report
    text = page.read_text()
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    pictures = {path.read_bytes() for path in folder.glob("*.png")}
    samplers = {"samplers_exact_w2", "samplers_learned_w0", "samplers_learned_w2"}  # exact at w = 0: steps do no harm
    assert {path.stem for path in folder.glob("*.png")} == SECTIONS | samplers
    assert len(pictures) == 8 and {base64.b64decode(data) for data in embedded} == pictures
    assert "http" not in text and "<script" not in text


def test_the_page_shows_the_tables_escaped(report):
    evaluation, _, page = report
    text = page.read_text()
    for expected in ("A &lt;title&gt;", "toy &lt;a&gt; &amp; &#39;b&#39;", "<td>nelbo</td>", "<td>4.2500</td>"):
        assert expected in text
    for cell in distance_table(evaluation).rows[1]:
        assert f"<td>{cell}</td>" in text


def test_sections_are_escaped():
    more = Section("More to come", "One & two.\n\nThree <b>.", Table(["a", "b"], [["1", "<2>"]], "A note."))
    text = render_page("T", [more])
    assert "More to come" in text and "<p>One &amp; two.</p>" in text
    assert "<p>Three &lt;b&gt;.</p>" in text and "<td>&lt;2&gt;</td>" in text and "A note." in text


def test_no_half_written_files_are_left(report, tmp_path):
    assert not list(report[1].glob(".*"))
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("toy", "more"),
    [
        ("toy_1d_disjoint", set()),
        ("toy_1d_overlap", set()),
        ("toy_2d_projection", set()),
        ("toy_5d_hypercube", {"overlap"}),
    ],
)
def test_every_toy_is_reported_exactly_without_a_network(toy, more, tmp_path):
    page = written(getattr(toys, toy)(), None, plan([0, 4]), tmp_path).path
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert {stem for stem in pictures if not stem.startswith("samplers_")} == SECTIONS | more
    assert not [stem for stem in pictures if "learned" in stem]
    for path in tmp_path.glob("*.png"):
        image = matplotlib.image.imread(path)
        assert min(image.shape[:2]) > 300 and image[..., :3].std() > 0.01
    assert "score error" not in page.read_text().lower()


def test_no_overlap_curve_where_every_coordinate_overlaps(tmp_path):
    pmfs = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    target = TableMixture(pmfs / pmfs.sum(dim=(1, 2, 3), keepdim=True), torch.tensor([0.5, 0.5]))
    written(target, None, plan([0, 1], 50), tmp_path)
    assert (tmp_path / "laws.png").is_file() and not (tmp_path / "overlap.png").exists()


def test_one_strength_needs_no_curve_and_an_earlier_report_is_gone(tmp_path):
    for stale in ("distances.png", "samples.npz", "paper.md"):
        (tmp_path / stale).write_text("of an earlier report")
    (tmp_path / "notes.txt").write_text("mine")
    written(toys.toy_2d_overlap(), None, plan([1], 50), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "laws.npz", "laws.png", "report.csv", "report.html", "report.json", "notes.txt",
        "decay.png", "samplers_exact_w1.png",
    }  # fmt: skip


@pytest.mark.parametrize("learned", [False, True])
def test_the_terminal_table_fits_80_columns_with_every_number(learned):
    target = toys.toy_2d_overlap()
    evaluation = evaluate_table(target, target.denoiser() if learned else None, plan([0, 2], 100))
    table, text = distance_table(evaluation), io.StringIO()
    print_table(table, "Title", Console(file=text, width=80))
    assert all(cell in text.getvalue() for row in table.rows for cell in row)
    assert ("score" in text.getvalue()) == learned


def test_numbers_for_people():
    values = [None, 0.0, 3e-16, 2e-5, 0.12345, 1.0, float("inf"), 3e7]
    assert [format_number(v) for v in values] == ["-", "0", "0", "2.0e-05", "0.1235", "1.0000", "inf", "3.0e+07"]


def test_json_and_csv_of_anything(tmp_path):
    value = {"a": torch.tensor([1.0, -float("inf")]), "b": None}
    assert json.loads(write_json(value, tmp_path / "new" / "a.json").read_text()) == {"a": [1.0, "-inf"], "b": None}
    text = write_csv([{"a": 0.1}, {"a": None, "b": "x,y"}], tmp_path / "a.csv").read_text()
    assert text == 'a,b\n0.1,\n,"x,y"\n'


def test_a_page_of_sections_alone(tmp_path):
    line_plot({"a": ([0, 1], [1, 2])}, tmp_path / "a.png", "x", "y")
    text = render_page("T", [Section("S", pictures=[Picture(tmp_path / "a.png", "what it shows")])])
    assert "<figcaption>what it shows</figcaption>" in text and "<h2>S</h2>" in text


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


class Recorder:
    """Stands for a run of wandb: keeps what is logged."""

    def __init__(self) -> None:
        self.logged = []

    def define_metric(self, *_, **__) -> None:
        pass

    def log(self, values) -> None:
        self.logged.append(values)


def test_wandb_gets_the_rows_of_the_report(report):
    evaluation, folder, _ = report
    read = json.loads((folder / "report.json").read_text())
    run = Recorder()
    log_evaluation(run, read["distances"], read["ledger"], folder)
    curves = [entry for entry in run.logged if "eval/w" in entry]
    assert [entry["eval/w"] for entry in curves] == [0, 2]
    for entry, row in zip(curves, evaluation.rows(), strict=True):
        assert entry["eval/tv_exact_learned"] == row["tv_exact_learned"]
        assert all(isinstance(value, float | int) for value in entry.values())
    tables = {name: value for entry in run.logged for name, value in entry.items() if name.startswith("eval_tables/")}
    ledger = tables["eval_tables/ledger"]
    at = ledger.columns.index("tv.score error")
    assert [row[at] for row in ledger.data] == [entry["tv"]["score error"] for entry in read["ledger"]]
    pictures = {name for entry in run.logged for name in entry if name.startswith("eval_pictures/")}
    assert pictures == {f"eval_pictures/{path.stem}" for path in folder.glob("*.png")}


def test_wandb_shows_the_curve_of_all_classes():
    rows = [{"w": w, "class": k, "found": w + (k == "all")} for w in (0, 1) for k in (0, "all")]
    run = Recorder()
    log_evaluation(run, rows, [], Path("no such folder"))
    assert [entry for entry in run.logged if "eval/w" in entry] == [
        {"eval/w": 0.0, "eval/found": 1}, {"eval/w": 1.0, "eval/found": 2},
    ]  # fmt: skip
    (table,) = [entry["eval_tables/distances"] for entry in run.logged if "eval_tables/distances" in entry]
    assert len(table.data) == 4


def test_wandb_offline(report, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    read = json.loads((report[1] / "report.json").read_text())
    with wandb.init(mode="offline", dir=tmp_path, project="test") as run:
        log_evaluation(run, read["distances"], read["ledger"], report[1])
        assert run.summary["eval/tv_exact_learned"] == report[0].rows()[1]["tv_exact_learned"]
        assert {"eval_tables/distances", "eval_tables/ledger", "eval_pictures/laws"} <= set(run.summary.keys())
