"""What survives: a run that is gone on with, a full disk, a folder that vanishes, an evaluation that is interrupted."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import EXACT, QUICK, TINY, Draws, findings_in, refusal, report_in, run
from helpers import every_pair
from idx_files import write_images

from mdlm_cfg import load_run
from mdlm_cfg.app import eval_command, session
from mdlm_cfg.app.folders import AUTO
from mdlm_cfg.app.jobs import Outcome
from mdlm_cfg.support.atomic import PART, part_name
from mdlm_cfg.support.schema import EvalSchema
from mdlm_cfg.training.checkpoints import BEST, CHECKPOINT, newest_run
from mdlm_cfg.training.module import MaskedDiffusion
from mdlm_cfg.training.unfinished import LOCK, MARK

GOING_ON = (*QUICK, f"ckpt_path={AUTO}")


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, happens: Callable[[], Any]) -> None:
    """Let something happen, once, at the beginning of a step."""
    begin = MaskedDiffusion.on_train_batch_start

    def watched(self: MaskedDiffusion, batch: Any, batch_idx: int) -> None:
        if self.global_step == step and left:
            left.pop()()
        begin(self, batch, batch_idx)

    left = [happens]
    monkeypatch.setattr(MaskedDiffusion, "on_train_batch_start", watched)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


# going on


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs of a training of six steps that was interrupted in its fifth."""
    runs = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert run("train", *GOING_ON, f"runs={runs}") == 130
    return runs


@pytest.fixture
def unfinished(interrupted: Path, tmp_path: Path) -> Path:
    """The folder of such a run, a copy, below tmp_path."""
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    return newest_run(tmp_path).parent.parent


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.mark.parametrize(("count", "step"), [(1, 5), (2, 3)])  # the step that it comes in is finished, or nothing is
def test_an_interrupt_saves_what_a_second_one_does_not_wait_for(
    tmp_path: Path, count: int, step: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_step(monkeypatch, 4, lambda: [interrupt() for _ in range(count)])
    assert run("train", *QUICK, f"runs={tmp_path}") == 130
    path = newest_run(tmp_path)
    assert f"ckpt_path={path}" in capsys.readouterr().err
    assert step_of(path) == step


def test_a_run_that_ends_between_training_and_its_test_logs_each_validation_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logged(name: str) -> list[dict[str, str]]:
        with next(tmp_path.glob(f"{name}/*/metrics.csv")).open(newline="") as file:
            return [{key: row[key] for key in row if key != "val/minutes"} for row in csv.DictReader(file)]

    assert run("train", *GOING_ON, f"runs={tmp_path}", "name=whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(MaskedDiffusion, "on_test_epoch_start", lambda self: interrupt())
        assert run("train", *GOING_ON, f"runs={tmp_path}", "name=again") == 130
    assert run("train", *GOING_ON, f"runs={tmp_path}", "name=again") == 0
    assert logged("again") == logged("whole")
    assert run("train", *GOING_ON, f"runs={tmp_path}", "name=again") == 0
    assert len(list(tmp_path.glob("again/*"))) == 2  # what is finished is not resumed


HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print(flush=True)
time.sleep(60)
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that works on the run in a folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder / LOCK)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def held_by_the_dead(folder: Path) -> Iterator[None]:
    with holding(folder) as process:
        process.kill()
        process.wait()
        yield


@contextmanager
def not_writable(folder: Path) -> Iterator[None]:
    """With a lock of another user; root, who runs tests in a container, may write everywhere."""
    access = os.access
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: access(path, mode) and Path(path) != folder / LOCK)
        yield


SECOND: dict[str, tuple[Any, tuple[str, ...], bool, int]] = {
    # what is around a second run, its options, whether it ends the unfinished one, and how many runs there are then
    "auto": (nullcontext, (), True, 1),
    "auto, other threads": (nullcontext, ("threads=null",), True, 1),
    "auto, another rate": (nullcontext, ("optimizer.lr=1e-4",), False, 2),
    "auto, beside another process": (holding, (), False, 2),
    "auto, after a process that was killed": (held_by_the_dead, (), True, 1),
    "auto, where the user may not write": (not_writable, (), False, 2),
    "from the folder": (nullcontext, (), True, 2),
    "from the folder, another seed": (nullcontext, ("seed=5",), False, 2),
    "from the folder, and no step more": (nullcontext, ("trainer.max_steps=5",), False, 1),
    "from the folder, beside another process": (holding, (), False, 2),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_run_ends_an_unfinished_one_or_leaves_it_as_it_is(
    unfinished: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    around, options, ends, count = SECOND[name]
    path = unfinished / CHECKPOINT
    kept = [file.read_bytes() for file in (path, unfinished / "metrics.csv")]
    is_auto = name.startswith("auto")
    resumed = ends and is_auto  # in its own folder
    with around(unfinished):
        given = AUTO if is_auto else unfinished
        assert run("train", *QUICK, f"runs={tmp_path}", f"ckpt_path={given}", *options) == 0
    assert not resumed or str(path) in capsys.readouterr().err
    assert (unfinished / MARK).exists() is not ends
    now = [file.read_bytes() for file in (path, unfinished / "metrics.csv")]
    assert [a == b for a, b in zip(kept, now)] == [not resumed] * 2
    if not ends:
        assert run("train", *GOING_ON, f"runs={tmp_path}") == 0
        assert not (unfinished / MARK).exists()
    assert step_of(path) == (5 if ends and not is_auto else 6)
    assert len(list(tmp_path.glob(f"*/*/{CHECKPOINT}"))) == count


@pytest.mark.parametrize(("how", "given"), every_pair(["missing", "cut", "empty"], ["auto", "folder", "newest"]))
def test_the_best_checkpoint_is_used_where_the_last_is_not_whole(
    unfinished: Path, tmp_path: Path, how: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    last = unfinished / CHECKPOINT
    best = last.with_name(BEST)
    if how == "missing":
        last.unlink()
    else:
        last.write_bytes(b"" if how == "empty" else last.read_bytes()[:-100])
    if given == "newest":
        assert newest_run(tmp_path) == best and load_run(best.parent.parent).path == best
    else:
        path = AUTO if given == "auto" else unfinished
        assert run("train", *QUICK, f"runs={tmp_path}", f"ckpt_path={path}") == 0
        assert step_of(newest_run(tmp_path)) == 6
        assert len(list(tmp_path.glob("*/*"))) == 1 + (given == "folder")  # auto went on in the folder
        with (newest_run(tmp_path).parent.parent / "metrics.csv").open() as file:
            steps = [int(line.split(",")[0]) for line in file if line[0].isdigit()]
        assert given == "folder" or sorted(steps) == steps
    assert str(best) in capsys.readouterr().err
    if given != "auto":  # the file that was named is not replaced by another one, which the refusal names
        assert str(best) in refusal(capsys, "eval", f"ckpt_path={last}")


# the disk


class FullDisk:
    """Finds no space for files of some name from now on: nothing of them reaches the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.name = name
        self.is_full = True
        self.fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, file: int) -> None:
        if self.is_full and self.name in Path(os.readlink(f"/proc/self/fd/{file}")).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fsync(file)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes of its own, where the machine lets the tests mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("is_real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_disk_that_becomes_full_while_training(
    is_real: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: Path = request.getfixturevalue("small_disk" if is_real else "tmp_path")
    ballast = runs / "ballast"
    good = []

    def fill() -> None:
        good.append(newest_run(runs).read_bytes())
        if not is_real:
            FullDisk(monkeypatch, "last.ckpt")
            return
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    at_step(monkeypatch, 4, fill)
    said = refusal(capsys, "train", *QUICK, f"runs={runs}")
    path = newest_run(runs)
    of_the_run = said.count(str(path.parent.parent))  # the file that did not fit, any of the run's, and this one
    assert "No space left on device" in said and of_the_run == 2 and said.endswith(str(path))
    assert path.read_bytes() == good[0] and not list(runs.rglob("*.part"))
    monkeypatch.undo()
    ballast.unlink(missing_ok=True)
    assert run("train", *GOING_ON, f"runs={runs}") == 0  # once there is room
    assert step_of(path) == 6


def test_a_disk_that_becomes_full_leaves_the_checkpoints_of_single_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FullDisk(monkeypatch, "best.ckpt")
    said = refusal(capsys, "train", *QUICK, "keep_steps=[2]", f"runs={tmp_path}")
    (kept,) = tmp_path.rglob("*.ckpt")
    assert said.endswith(str(kept))


@pytest.mark.parametrize("is_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_folder_that_vanishes_while_training(
    tmp_path: Path, is_first: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    at_step(monkeypatch, 1 if is_first else 4, lambda: shutil.rmtree(runs))
    said = refusal(capsys, "train", *QUICK, f"runs={runs}")
    assert "No such file or directory" in said and said.count(str(runs)) == (1 if is_first else 2)
    assert not runs.exists()


@pytest.mark.parametrize("name", ["pictures.png", pytest.param("report.json", marks=pytest.mark.slow)])
def test_a_disk_that_becomes_full_while_a_report_is_written(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*EXACT, f"out={tmp_path}")
    if name == "report.json":  # an earlier report is still there
        assert run("eval", *arguments, "w=[0,1]") == 0
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        FullDisk(patch, name)
        said = refusal(capsys, "eval", *arguments, "w=[0]")
    assert f"{tmp_path / name} " in said and "No space left on device" in said
    left = {path.name for path in tmp_path.iterdir()}
    assert not any(file.endswith(".part") for file in left)
    if name == "report.json":
        assert left == {*before, "cache"}  # what was drawn, for the same command once there is room
        assert (tmp_path / name).read_bytes() == before[name]
    else:
        assert name not in left


# an evaluation that is interrupted


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on random images of 8 x 8, not judged."""
    root = tmp_path_factory.mktemp("images")
    write_images(root)
    arguments = (
        *(*TINY, "experiment=mnist", "data=idx", f"data.path={root}", f"+data.root={root}", "threads=1"),
        *("data.batch_size=20", "net.patch_size=4", "net.stem_channels=4", "num_draws=2"),
        *("num_samples=2", "w=[0,1]", "steps=3"),
    )
    assert run("train", *arguments, "logger=csv", "evaluate=false", f"runs={root}") == 0
    return root


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_from_what_it_has(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = Draws(monkeypatch)
    out = tmp_path / "out"
    draws.most = 3
    arguments = ("eval", f"runs={images}")
    assert run(*arguments, f"out={out}") == 130
    said = capsys.readouterr().err
    assert f"out={out}" in said and {path.name for path in out.iterdir()} == {"cache"}
    assert draws.drawn == [(0, 0), (0, 1), (1, 0)]
    draws.drawn.clear()
    draws.most = None
    assert run(*arguments, f"out={out}") == 0
    assert draws.drawn == [(1, 1)]
    draws.drawn.clear()
    assert run(*arguments, f"out={tmp_path / 'whole'}") == 0
    assert len(draws.drawn) == 4
    assert findings_in(out) == findings_in(tmp_path / "whole")
    assert {path.name for path in out.iterdir()} == set(report_in(out)["files"])


def test_what_a_killed_report_left_half_written_is_gone_and_nothing_else(tmp_path: Path) -> None:
    dead, alive = (part_name("pictures.png", process) for process in (2**30, os.getppid()))
    elsewhere = part_name("pictures.png", 2**30, host="0123abcd")  # may be alive: a disk of several machines
    theirs = {"notes.part", ".hidden", ".notes.part", ".pictures.png.12345.part", f".notes{PART}", alive, elsewhere}
    for name in (dead, *theirs):
        (tmp_path / name).write_text("")
    assert run("eval", *EXACT, "w=[1]", f"out={tmp_path}") == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert {"pictures.png", "report.html"} | theirs <= left and dead not in left


# sweeps


def test_threads_of_one_job_are_not_those_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def judged(config: EvalSchema, *_: Any) -> Outcome:
        session.start(config)
        found.append(torch.get_num_threads())
        return Outcome()

    monkeypatch.setattr(eval_command, "judge", judged)
    monkeypatch.setattr(session, "THREADS", 3)
    before = torch.get_num_threads()
    try:
        assert run("eval", "-m", "threads=1,null,2,null", f"runs={tmp_path}") == 0
    finally:
        torch.set_num_threads(before)
    assert found == [1, 3, 2, 3]


def test_two_sweeps_in_a_second_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_command, "judge", lambda *_: Outcome())
    for _ in range(3):
        assert run("eval", "-m", "seed=1", f"runs={tmp_path}") == 0
    assert len(list((tmp_path / "multirun").iterdir())) == 3
