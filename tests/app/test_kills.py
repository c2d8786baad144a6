"""A run that is killed or interrupted at any moment ends, gone on with, in the same bits as one that never was."""

from __future__ import annotations

import csv
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from commands import TOY, findings_in, report_in
from forks import ended_at, run_forked

from mdlm_cfg.training.checkpoints import CHECKPOINT
from mdlm_cfg.training.saving import BEST, LAST
from mdlm_cfg.training.unfinished import MARK

pytestmark = pytest.mark.slow
# many epochs, and a checkpoint as often as can be: much of the time is spent in saving
LONG = (*TOY, "logger=csv", "trainer.max_epochs=6", "data.steps_per_epoch=12", "save_minutes=0.0003", "evaluate=false")
AUTO = "ckpt_path=auto"
STATES = ("state_dict", "current_model_state")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of a run that nothing disturbs, and how long it takes in seconds."""
    root = tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    assert run_forked("train", *LONG, f"runs={root}", log=root / "log") == 0, (root / "log").read_text()
    return finished(root), time.monotonic() - start


def finished(root: Path) -> Path:
    """The folder of the one run that was finished: a kill before the first checkpoint leaves one with nothing in it."""
    found = [path.parent.parent for path in root.glob(f"toy_1d_overlap/*/{CHECKPOINT}")]
    assert len(found) == 1 and not (found[0] / MARK).exists(), sorted(root.rglob("*"))
    return found[0]


def assert_same(folder: Path, other: Path) -> None:
    """That two runs have found the same: weights, moments of the optimiser, the best, and every logged number."""
    for name in (LAST, BEST):
        found, expected = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (folder, other))
        assert found["global_step"] == expected["global_step"]
        for key in STATES:
            assert all(torch.equal(value, found[key][part]) for part, value in expected[key].items())
        assert str(found["optimizer_states"]) == str(expected["optimizer_states"])
    assert logged(folder) == logged(other)
    assert not list(folder.rglob("*.part"))


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "val/minutes"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("number", range(20))
def test_kill_9_at_a_random_moment(whole: tuple[Path, float], tmp_path: Path, number: int) -> None:
    moments = random.Random(number)
    arguments = (*LONG, AUTO, f"runs={tmp_path}")
    log = tmp_path / "log"
    deaths = 0
    while deaths < 2:  # the run that goes on is killed as well
        code = ended_at(moments.uniform(0.05, 0.95) * whole[1], signal.SIGKILL, "train", *arguments, log=log)
        assert code in (0, -signal.SIGKILL), log.read_text()
        if code == 0:
            break
        deaths += 1
    if deaths == 2:
        assert run_forked("train", *arguments, log=log) == 0, log.read_text()
    assert_same(finished(tmp_path), whole[0])


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_at_a_random_moment(whole: tuple[Path, float], tmp_path: Path, name: str, number: int) -> None:
    moments = random.Random(100 + number)
    arguments = (*LONG, AUTO, f"runs={tmp_path}")
    log = tmp_path / "log"
    seconds = moments.uniform(0.05, 0.95) * whole[1]
    code = ended_at(seconds, getattr(signal, name), "train", *arguments, log=log)
    # a SIGTERM before and after training is as good as a kill
    assert code in (0, 130) or (name == "SIGTERM" and code == -signal.SIGTERM), log.read_text()
    if code != 0:
        assert run_forked("train", *arguments, log=log) == 0, log.read_text()
    assert_same(finished(tmp_path), whole[0])


JUDGED = ("denoiser=exact", "data=toy_2d_overlap", "num_samples=20000", "w=[0,0.5,1,2,4,8]")


@pytest.fixture(scope="module")
def short_reports() -> None:
    """None: an evaluation is killed at any moment of a whole one."""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of an evaluation that nothing disturbs, and how long it takes in seconds."""
    root = tmp_path_factory.mktemp("judged")
    start = time.monotonic()
    assert run_forked("eval", *JUDGED, f"out={root / 'out'}", log=root / "log") == 0, (root / "log").read_text()
    return root / "out", time.monotonic() - start


@pytest.mark.parametrize("number", range(10))
def test_kill_9_while_a_report_is_made(judged: tuple[Path, float], tmp_path: Path, number: int) -> None:
    moments = random.Random(200 + number)
    log = tmp_path / "log"
    arguments = (*JUDGED, f"out={tmp_path / 'out'}")
    for _ in range(2):
        code = ended_at(moments.uniform(0.05, 0.95) * judged[1], signal.SIGKILL, "eval", *arguments, log=log)
        assert code in (0, -signal.SIGKILL), log.read_text()
    assert run_forked("eval", *arguments, log=log) == 0, log.read_text()
    for name in ("report.csv", "laws.npz"):
        assert (tmp_path / "out" / name).read_bytes() == (judged[0] / name).read_bytes()
    assert findings_in(tmp_path / "out") == findings_in(judged[0])
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(report_in(tmp_path / "out")["files"])
