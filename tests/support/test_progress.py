"""What people who wait are told."""

from __future__ import annotations

import csv
import io
import re
import time
from pathlib import Path

import pytest
from harness import small_data, small_module, small_trainer
from rich.console import Console
from rich.progress import Progress

from mdlm_cfg.support import progress
from mdlm_cfg.support.progress import Lines, Pieces, share_shown, signs_of_life, time_left
from mdlm_cfg.training.callbacks import RunProgress, _columns
from mdlm_cfg.training.metrics import MetricsLog


def test_time_left_is_in_proportion() -> None:
    assert time_left(10, 0) == ""
    assert time_left(10, 0.25) == "0:30 left"
    assert time_left(50, 0.5) == "0:50 left"
    assert time_left(2, 1 / 64) == "2:06 left"
    assert time_left(3, 1) == "0:00 left"
    assert time_left(3600, 0.5) == "1:00:00 left" and time_left(3599, 0.5) == "59:59 left"


def test_pieces_estimate_by_their_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 10.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    said: list[str] = []
    say = Pieces([1, 3, 6], said.append)
    for name in "abc":
        say(name)
    assert said == ["a", "b (about 1:30 left)", "c (about 1:00 left)"]


def test_shares_are_told_now_and_then_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "LINES", Lines())
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    progress.LINES.say("training")
    capsys.readouterr()
    with share_shown("fitting") as show:
        for now[0], done in ((1.0, 0.1), (20.0, 0.5), (21.0, 0.6)):  # too soon, and too soon after
            show(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.fullmatch(r"fitting\D+50%\D+0:20\D*", lines[0])


def test_a_test_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUIET", 0.0)
    data = small_data(num_test=64)
    trainer = small_trainer(tmp_path, callbacks=[RunProgress()], enable_progress_bar=True)
    trainer.test(small_module(data), datamodule=data, verbose=False)
    assert re.findall(r"(\d+)%", capsys.readouterr().err) == ["50", "100"]


def test_work_that_says_nothing_is_told_of_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUIET", 0.05)
    with signs_of_life(every=0.01) as say:
        say("laws (about 1:00 left)")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "laws (about 1:00 left)" and len(lines) > 1
    assert all(re.fullmatch(r"laws\D+0:01\D*", line) for line in lines[1:])


def test_steps_that_are_counted_give_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUIET", 0.05)
    with signs_of_life(every=0.01) as say:
        say("samples")
        step = progress.CountedSteps(4)
        for _ in range(3):  # the start, and two steps
            step(None)
        time.sleep(0.3)
        say("other work")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    of_samples, of_other = lines[1 : lines.index("other work")], lines[lines.index("other work") + 1 :]
    assert of_samples and all(re.fullmatch(r"samples\D+0:0\d\D+0:0\d\D*", line) for line in of_samples)
    assert of_other and all(re.fullmatch(r"other work\D+0:0\d\D*", line) for line in of_other)


def test_training_is_told_of_within_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUIET", 0.0)
    data = small_data()
    trainer = small_trainer(
        tmp_path,
        1,
        callbacks=[RunProgress()],
        enable_progress_bar=True,
        enable_checkpointing=False,
        log_every_n_steps=1,
        logger=MetricsLog(tmp_path),
    )
    trainer.fit(small_module(data), datamodule=data)
    lines = [line for line in capsys.readouterr().err.splitlines() if re.match(r"step +\d+ .*%", line)]
    assert len(lines) == trainer.global_step > 1
    shown = float(re.search(r" nelbo ([\d.]+)", lines[-1])[1])  # type: ignore[index]
    with (tmp_path / "metrics.csv").open() as file:
        logged = [row["train/nelbo"] for row in csv.DictReader(file) if row["train/nelbo"]]
    assert len(logged) == len(lines) and shown == pytest.approx(float(logged[-1]), rel=1e-3)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_bar_of_training_keeps_its_width_on_a_narrow_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    bar = Progress(*_columns(), console=console)
    bar.add_task(
        "training", total=1.0, completed=1.0, left="12:05 left", numbers="step 12500  nelbo 4.583  val/nelbo 4.4"
    )
    console.print(bar.get_renderable())
    assert console.file.getvalue().count("━") == 20  # type: ignore[attr-defined]
