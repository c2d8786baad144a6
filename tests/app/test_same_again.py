"""The same seed on the same machine gives the same numbers, whatever the batches of an evaluation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from commands import TOY, run

from mdlm_cfg.training.runs import newest_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of one run, done twice."""
    roots = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for root in roots:
        assert run("train", *TOY, "logger=csv", "seed=3", f"runs={root}") == 0
    return [newest_run(root).parent.parent for root in roots]


@pytest.mark.slow
def test_losses_and_the_report_are_the_same(runs: list[Path]) -> None:
    logged = []
    for folder in runs:
        with (folder / "metrics.csv").open() as file:
            logged.append([{k: v for k, v in row.items() if k != "val/minutes"} for row in csv.DictReader(file)])
    assert logged[0] == logged[1] and any(row["train/loss"] for row in logged[0])
    first, second = (report(folder / "report") for folder in runs)
    assert first == second


@pytest.mark.slow
def test_batches_of_an_evaluation_change_rounding_alone(runs: list[Path], tmp_path: Path) -> None:
    found = []
    for size in (1, 7, 1024):
        out = tmp_path / str(size)
        assert run("eval", f"batch_size={size}", f"out={out}", f"runs={runs[0].parent.parent}") == 0
        found.append(report(out))
    for other in found[:2]:
        assert numbers(other) == pytest.approx(numbers(found[2]), abs=1e-5)
        drawn = [[row["tv_exact_samples"] for row in one["distances"]] for one in (other, found[2])]
        assert drawn[0] == drawn[1]


def report(folder: Path) -> dict[str, Any]:
    """report.json without what names places and times."""
    found = json.loads((folder / "report.json").read_text())
    return {key: value for key, value in found.items() if key not in ("run", "files", "test")}


def numbers(value: Any) -> list[float]:
    """All numbers of a report, in their order."""
    if isinstance(value, dict):
        return [one for key in sorted(value) for one in numbers(value[key])]
    if isinstance(value, list):
        return [one for item in value for one in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []
