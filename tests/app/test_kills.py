"""A run that is killed or interrupted at any moment ends, gone on with, in the same bits as one that never was."""

from __future__ import annotations

import csv
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TOY
from forks import ended_at, run_forked

from mdlm_cfg.training.runs import CHECKPOINT

pytestmark = pytest.mark.slow
# many epochs, a checkpoint as often as can be: a third of the time is spent in saving
LONG = (*TOY, "logger=csv", "trainer.max_epochs=8", "data.steps_per_epoch=12", "save_minutes=0.0003", "num_samples=50")
AGAIN = ("ckpt_path=auto",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of a run that nothing disturbs, and how long it takes in seconds."""
    root = tmp_path_factory.mktemp("whole")
    took = []
    for part in ("first", "second"):  # the first also reads what the second has at hand
        start = time.monotonic()
        assert run_forked("train", *LONG, f"runs={root / part}", log=root / "log") == 0, (root / "log").read_text()
        took.append(time.monotonic() - start)
    return only_run(root / "second"), took[-1]


def only_run(root: Path) -> Path:
    """The folder of the one run that was finished."""
    found = [path.parent.parent for path in root.glob("toy_1d_overlap/*/report/report.json")]
    assert len(found) == 1, sorted(root.rglob("*"))
    return found[0]


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run has found out, apart from where and when."""
    saved = torch.load(folder / CHECKPOINT, weights_only=True)
    report = json.loads((folder / "report" / "report.json").read_text())
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "val/minutes"} for row in csv.DictReader(file)]
    states = [value for group in saved["optimizer_states"][0]["state"].values() for value in group.values()]
    return {
        "step": saved["global_step"], "rows": rows,
        "weights": [*saved["state_dict"].values(), *saved["current_model_state"].values(), *states],
        "report": {key: report[key] for key in ("test", "distances", "ledger", "verdict")},
    }  # fmt: skip


def assert_same(folder: Path, other: Path) -> None:
    found, expected = outcome(folder), outcome(other)
    assert all(torch.equal(a, b) for a, b in zip(found.pop("weights"), expected.pop("weights"), strict=True))
    assert found == expected
    best = [torch.load(f / "checkpoints" / "best.ckpt", weights_only=True) for f in (folder, other)]
    assert best[0]["global_step"] == best[1]["global_step"]
    assert all(torch.equal(value, best[1]["state_dict"][name]) for name, value in best[0]["state_dict"].items())
    left = {path.name for path in folder.rglob("*") if path.name.endswith(".part") or path.name == "unfinished"}
    assert left == set()


@pytest.mark.parametrize("number", range(20))
def test_kill_9_at_a_random_moment(whole: tuple[Path, float], tmp_path: Path, number: int) -> None:
    moments = random.Random(number)
    arguments, log = (*LONG, *AGAIN, f"runs={tmp_path}"), tmp_path / "log"
    deaths = 0
    while deaths < 2:  # the run that goes on is killed as well
        code = ended_at(moments.uniform(0.05, 0.95) * whole[1], signal.SIGKILL, "train", *arguments, log=log)
        assert code in (0, -signal.SIGKILL), log.read_text()
        if code == 0:
            break
        deaths += 1
    if deaths == 2:
        assert run_forked("train", *arguments, log=log) == 0, log.read_text()
    assert_same(only_run(tmp_path), whole[0])


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_at_a_random_moment(whole: tuple[Path, float], tmp_path: Path, name: str, number: int) -> None:
    moments = random.Random(100 + number)
    arguments, log = (*LONG, *AGAIN, f"runs={tmp_path}", "save_minutes=null"), tmp_path / "log"
    seconds = moments.uniform(0.05, 0.95) * whole[1]
    code = ended_at(seconds, getattr(signal, name), "train", *arguments, log=log)
    # a SIGTERM before and after training is as good as a kill
    assert code in (0, 130) or (name == "SIGTERM" and code == -signal.SIGTERM), log.read_text()
    if code != 0:
        assert run_forked("train", *arguments, log=log) == 0, log.read_text()
    assert_same(only_run(tmp_path), whole[0])
