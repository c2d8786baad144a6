"""What a report leaves behind: the findings and nothing else, every key documented, nothing of an earlier report."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import random_target
from rich.console import Console

from mdlm_cfg import Guidance, Sampler, TableMixture
from mdlm_cfg.app.earlier import files_of, remove_earlier
from mdlm_cfg.app.evaluation import Report, Written, evaluate
from mdlm_cfg.reports.wandb_log import log_evaluation
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table.study import Tables, study_table

ROOT = Path(__file__).parent.parent.parent
KINDS = ("rate", "normalized")


def plan_of(kind: str = "rate", sampler: Sampler | None = None, w: tuple[float, ...] = (0.0, 2.0)) -> Plan:
    return Plan(tuple(Guidance(v, kind) for v in w), sampler or Sampler("euler", 3, "cosine"), 200, classes=(1,))


def target() -> TableMixture:
    return random_target(3, 2, seed=1)


def network() -> Any:
    return TableMixture(0.8 * target().class_pmfs + 0.2 / 9, target().class_weights).denoiser()


def write(folder: Path, denoiser: Any, plan: Plan) -> Written:
    data = SimpleNamespace(target=target(), name="small", num_classes=2, num_tokens=3, grid_shape=(2,))
    report = Report(
        folder, "A title", {"command": "x"}, {"name": "small"}, {"test/nelbo": 1.5}, Console(file=io.StringIO())
    )
    return evaluate(data, denoiser, plan, report, Tables())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(tmp_path_factory.mktemp("report"), network(), plan_of())


def read(written: Written) -> dict[str, Any]:
    return json.loads((written.path.parent / "report.json").read_text())


def test_report_json_is_the_findings_under_a_head(written: Written) -> None:
    found = read(written)
    expected = json.loads(json.dumps(study_table(target(), network(), plan_of()).to_dict()))
    assert {key: found[key] for key in expected} == expected
    assert found["version"] == 2 and found["title"] == "A title" and found["test"] == {"test/nelbo": 1.5}
    assert found["run"] == {"command": "x"} and found["data"] == {"name": "small"}


def numbers_in_text(value: Any, path: str = "") -> list[str]:
    """Where a string stands that a program would have to parse as a number."""
    if isinstance(value, dict):
        return [p for key, item in value.items() for p in numbers_in_text(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [p for item in value for p in numbers_in_text(item, path)]
    is_number = isinstance(value, str) and re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?%?", value)
    return [path] if is_number else []


def test_numbers_are_numbers(written: Written) -> None:
    assert numbers_in_text(read(written)) == []
    assert numbers_in_text({"a": ["0.12", "w"]}) == [".a"]


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in keys_of(item)}
    return {key for item in value for key in keys_of(item)} if isinstance(value, list) else set()


def documented_keys() -> set[str]:
    """Every name in code on the page, its dotted parts, the ledger's lines, and what `..._low` and `X` stand for."""
    text = (ROOT / "docs" / "report.md").read_text()
    names = set(re.findall(r"`([^`\n]+)`", text))
    names |= {part for name in names for part in re.split(r"\.|\[\]", name)}
    names |= set(re.findall(r"^\| ([a-z ,]+?) \| L\d", text, flags=re.MULTILINE))
    names |= {f"{name}{suffix}" for name in names for suffix in ("_low", "_high") if f"..._{suffix[1:]}" in names}
    laws = ("class", "tilted", "exact", "learned", "samples")
    names |= {name.replace("_X_", f"_{law}_") for name in names for law in laws}
    return names | set(laws)  # under `moments`


def test_every_key_is_documented(written: Written) -> None:
    documented = documented_keys()
    assert "overlap" in documented and "nothing" not in documented
    assert keys_of(read(written)) - documented == set()


SLOW_KINDS = [kind if kind == "rate" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_page_csv_and_laws_say_the_same(kind: str, tmp_path: Path) -> None:
    done = write(tmp_path, network(), plan_of(kind, Sampler("d_cfg", (0.0, 0.4, math.inf))))
    found, laws = read(done), np.load(tmp_path / "laws.npz")
    assert sorted(found["laws"]) == sorted(laws.files)
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, cells in zip(found["distances"], rows, strict=True):
        flat = {key: value for key, value in row.items() if key != "moments"}
        assert {k: v if k == "kind" else float(v) for k, v in cells.items()} == flat
        exact, learned = (laws[f"{name}_{kind}_w{row['w']:g}"] for name in ("exact", "learned"))
        assert row["tv_exact_learned"] == pytest.approx(0.5 * np.abs(exact - learned).sum(), abs=1e-14)
    page = done.path.read_text()
    for entry in found["ledger"]:
        assert f"<td>{entry['tv']['total']:.4f}</td>" in page
    assert found["decay"]["statement"].split(":")[0] in page
    assert "2 steps on the grid" in page and f"“{kind}”" in page
    for sentence in found["verdict"]:
        assert sentence.replace("'", "&#39;") in page


@pytest.mark.slow
def test_a_later_report_leaves_nothing_of_an_earlier_one_and_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "report.txt").write_text("mine too")
    first = write(tmp_path, network(), plan_of())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == set(read(first)["files"]) | {"mine.png", "report.txt"}
    assert {path.name for path in first.pictures} >= {"laws.png", "ledger.png", "samplers_learned_w2.png"}
    second = write(tmp_path, None, plan_of(w=(1.0,)))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == set(read(second)["files"]) | {"mine.png", "report.txt"}
    assert "samplers_learned_w2.png" not in left and (tmp_path / "mine.png").read_bytes() == b"mine"


@pytest.mark.parametrize("text", ["no json", "[]", '{"files": null}', '{"files": ["../outside.png"]}'])
def test_another_report_json_removes_nothing(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(b"")
    (folder / "report.json").write_text(text)
    remove_earlier(folder, files_of(folder) | {"report.html"})
    assert (tmp_path / "outside.png").exists() and (folder / "report.json").read_text() == text


@pytest.mark.slow
def test_the_ledgers_picture_is_of_the_sampler_that_was_run(tmp_path: Path) -> None:
    page = write(tmp_path, network(), plan_of(sampler=Sampler("tau_leaping", 4, "exponential"))).path.read_text()
    assert "lines against w, tau_leaping, 4 steps, exponential." in page


class Recorder:
    """A wandb run that only remembers."""

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []

    def define_metric(self, name: str, step_metric: str | None = None, **more: Any) -> None:
        self.metrics[name] = step_metric

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)


def test_wandb_gets_the_same_numbers_over_w(written: Written) -> None:
    recorder, found = Recorder(), read(written)
    log_evaluation(recorder, written.rows, written.ledger, written.pictures)  # type: ignore[arg-type]
    assert recorder.metrics["eval/*"] == "eval/w" and "eval/w" in recorder.metrics
    curves = [values for values in recorder.logged if "eval/w" in values]
    assert [values["eval/w"] for values in curves] == [0, 2]
    for values, row in zip(curves, found["distances"], strict=True):
        assert values["eval/tv_exact_learned"] == row["tv_exact_learned"]
        assert values["eval/tv_exact_samples"] == row["tv_exact_samples"]
    everything = {key: value for values in recorder.logged for key, value in values.items()}
    table = everything["eval_tables/ledger"]
    total = table.columns.index("tv.total")
    assert [row[total] for row in table.data] == [entry["tv"]["total"] for entry in found["ledger"]]
    assert {f"eval_pictures/{path.stem}" for path in written.pictures} <= set(everything)


def test_wandb_keeps_sets_apart() -> None:
    rows = [{"w": 1.0, "set": name, "class": "all", "energy": k} for k, name in enumerate(("learned", "floor"))]
    recorder = Recorder()
    log_evaluation(recorder, rows, [], [])  # type: ignore[arg-type]
    curves = {key: value for values in recorder.logged for key, value in values.items()}
    assert (curves["eval/learned/energy"], curves["eval/floor/energy"]) == (0, 1)
