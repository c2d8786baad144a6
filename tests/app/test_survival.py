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
from commands import EXACT, QUICK, TINY, findings_in, refusal, report_in, run
from helpers import every_pair
from idx_files import write_images

from mdlm_cfg import Sampler, load_run
from mdlm_cfg.app import eval_command, session
from mdlm_cfg.app.folders import AUTO
from mdlm_cfg.app.jobs import Outcome
from mdlm_cfg.support.atomic import PART
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


def test_auto_goes_on_in_the_folder_of_the_run_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = f"runs={tmp_path}"
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert run("train", *GOING_ON, runs) == 130
    path = newest_run(tmp_path)
    assert f"ckpt_path={path}" in capsys.readouterr().err
    assert torch.load(path, weights_only=True)["global_step"] == 5  # the step that it came in is finished
    rows = (path.parent.parent / "metrics.csv").read_text().splitlines()

    other = (*GOING_ON, runs, "optimizer.lr=1e-4")  # another configuration is another run
    assert run("train", *other) == 0 and str(path) not in capsys.readouterr().err
    assert run("train", *GOING_ON, runs, "threads=null") == 0  # how many threads is no part of it
    assert str(path) in capsys.readouterr().err
    folder = path.parent.parent
    assert torch.load(path, weights_only=True)["global_step"] == 6
    assert (folder / "metrics.csv").read_text().splitlines()[: len(rows) - 1] != [] and not (folder / MARK).exists()
    steps = [line.split(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()]
    assert len(steps) > len(rows)
    assert run("train", *GOING_ON, runs) == 0 and str(path) not in capsys.readouterr().err  # it is finished
    assert len(list(tmp_path.glob(f"*/*/{CHECKPOINT}"))) == 3


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


@pytest.mark.parametrize("is_killed", [False, True])
def test_auto_leaves_a_run_alone_that_another_process_works_on(
    tmp_path: Path, is_killed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert run("train", *GOING_ON, f"runs={tmp_path}") == 130
    folder = newest_run(tmp_path).parent.parent
    with holding(folder) as process:
        if is_killed:
            process.kill()
            process.wait()
        assert run("train", *GOING_ON, f"runs={tmp_path}") == 0
    assert (folder / MARK).exists() is not is_killed
    assert len(list(tmp_path.glob(f"*/*/{CHECKPOINT}"))) == 2 - is_killed


def test_auto_leaves_a_run_alone_in_which_the_user_may_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert run("train", *GOING_ON, f"runs={tmp_path}") == 130
    folder = newest_run(tmp_path).parent.parent
    access = os.access
    # a lock of another user; root, who runs tests in a container, may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and Path(path) != folder / LOCK)
    assert run("train", *GOING_ON, f"runs={tmp_path}") == 0
    assert (folder / MARK).exists() and len(list(tmp_path.glob(f"*/*/{CHECKPOINT}"))) == 2


@pytest.mark.parametrize(("changes", "is_held"), [(("seed=5",), False), (("trainer.max_steps=5",), False), ((), True)])
def test_a_branch_leaves_the_run_it_began_from_unfinished(
    tmp_path: Path, changes: tuple[str, ...], is_held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert run("train", *QUICK, f"runs={tmp_path}", "name=a") == 130
    path = newest_run(tmp_path)
    folder = path.parent.parent
    content = path.read_bytes()
    with holding(folder) if is_held else nullcontext():
        assert run("train", *QUICK, f"runs={tmp_path}", "name=b", f"ckpt_path={folder}", *changes) == 0
    assert (folder / MARK).is_file() and path.read_bytes() == content
    assert run("train", *QUICK, f"runs={tmp_path}", "name=a", f"ckpt_path={AUTO}") == 0
    assert not (folder / MARK).exists() and torch.load(path, weights_only=True)["global_step"] == 6
    assert [one.name for one in (tmp_path / "a").iterdir()] == [folder.name]


def test_a_run_that_another_one_has_ended_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert run("train", *QUICK, f"runs={tmp_path}", "name=a") == 130
    folder = newest_run(tmp_path).parent.parent
    assert run("train", *QUICK, f"runs={tmp_path}", "name=b", f"ckpt_path={folder}") == 0
    assert not (folder / MARK).exists()


@pytest.mark.parametrize(("how", "given"), every_pair(["missing", "cut", "empty"], ["auto", "folder", "newest"]))
def test_the_best_checkpoint_is_used_where_the_last_is_not_whole(
    tmp_path: Path, how: str, given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert run("train", *QUICK, f"runs={tmp_path}") == 130
    last = newest_run(tmp_path)
    best = last.with_name(BEST)
    if how == "missing":
        last.unlink()
    else:
        last.write_bytes(b"" if how == "empty" else last.read_bytes()[:-100])
    capsys.readouterr()
    if given == "newest":
        assert newest_run(tmp_path) == best and load_run(best.parent.parent).path == best
    else:
        path = AUTO if given == "auto" else last.parent.parent
        assert run("train", *QUICK, f"runs={tmp_path}", f"ckpt_path={path}") == 0
        assert torch.load(newest_run(tmp_path), weights_only=True)["global_step"] == 6
        assert len(list(tmp_path.glob("*/*"))) == 1 + (given == "folder")  # auto went on in the folder
        with (newest_run(tmp_path).parent.parent / "metrics.csv").open() as file:
            steps = [int(line.split(",")[0]) for line in file if line[0].isdigit()]
        assert given == "folder" or sorted(steps) == steps
    assert str(best) in capsys.readouterr().err
    if given != "auto":  # the file that was named is not replaced by another one, which the refusal names
        assert str(best) in refusal(capsys, "eval", f"ckpt_path={last}")


def test_a_second_interrupt_does_not_wait_and_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    at_step(monkeypatch, 4, twice)
    assert run("train", *QUICK, f"runs={tmp_path}") == 130
    assert torch.load(newest_run(tmp_path), weights_only=True)["global_step"] == 3  # of the epoch before


# the disk


class FullDisk:
    """Finds no space for files of some name from now on: nothing of them reaches the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.name = name
        self.is_full = True
        self.fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, file: int) -> None:
        if self.is_full and self.name in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fsync(file)


def test_a_disk_that_becomes_full_while_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good: list[bytes] = []

    def fill() -> None:
        good.append(newest_run(tmp_path).read_bytes())
        FullDisk(monkeypatch, "last.ckpt")

    at_step(monkeypatch, 4, fill)
    said = refusal(capsys, "train", *QUICK, f"runs={tmp_path}")
    path = newest_run(tmp_path)
    assert "No space left on device" in said and said.count(str(path)) == 2 and said.endswith(str(path))
    assert path.read_bytes() == good[0] and not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    assert run("train", *GOING_ON, f"runs={tmp_path}") == 0  # once there is room
    assert torch.load(path, weights_only=True)["global_step"] == 6


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


@pytest.mark.slow
def test_a_real_disk_that_becomes_full(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ballast = small_disk / "ballast"
    good = []

    def fill() -> None:
        good.append(newest_run(small_disk).read_bytes())
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    at_step(monkeypatch, 4, fill)
    said = refusal(capsys, "train", *QUICK, f"runs={small_disk}")
    path = newest_run(small_disk)
    assert "No space left on device" in said and said.endswith(str(path))
    assert path.read_bytes() == good[0] and not list(small_disk.rglob("*.part"))
    ballast.unlink()
    assert run("train", *GOING_ON, f"runs={small_disk}") == 0
    assert torch.load(path, weights_only=True)["global_step"] == 6


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
    drawn: list[tuple[float, int]] = []
    draw = Sampler.draw

    def counted(self: Sampler, denoiser: Any, guidance: Any, target_class: Any, *rest: Any, **options: Any) -> Any:
        if len(drawn) == stop_at:
            raise KeyboardInterrupt
        drawn.append((guidance.w, target_class))
        return draw(self, denoiser, guidance, target_class, *rest, **options)

    monkeypatch.setattr(Sampler, "draw", counted)
    out = tmp_path / "out"
    stop_at = 3
    arguments = ("eval", f"runs={images}")
    assert run(*arguments, f"out={out}") == 130
    said = capsys.readouterr().err
    assert f"out={out}" in said and {path.name for path in out.iterdir()} == {"cache"}
    assert drawn == [(0, 0), (0, 1), (1, 0)]
    drawn = []
    stop_at = -1
    assert run(*arguments, f"out={out}") == 0
    assert drawn == [(1, 1)]
    drawn = []
    assert run(*arguments, f"out={tmp_path / 'whole'}") == 0
    assert len(drawn) == 4
    assert findings_in(out) == findings_in(tmp_path / "whole")
    assert {path.name for path in out.iterdir()} == set(report_in(out)["files"])


def test_what_a_killed_report_left_half_written_is_gone_and_nothing_else(tmp_path: Path) -> None:
    dead, alive = (f".pictures.png.{process}{PART}" for process in (2**30, os.getppid()))
    theirs = {"notes.part", ".hidden", ".notes.part", ".pictures.png.12345.part", f".notes{PART}", alive}
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
