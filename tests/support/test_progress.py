"""What people who wait are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import small_data, small_module, small_trainer

from mdlm_cfg.support import progress
from mdlm_cfg.support.progress import Pieces, share_shown, time_left
from mdlm_cfg.training.callbacks import RunProgress


def test_time_left_is_in_proportion() -> None:
    assert time_left(10, 0) == ""
    assert time_left(10, 0.25) == "0:30 left"
    assert time_left(50, 0.5) == "0:50 left"
    assert time_left(2, 1 / 64) == "2:06 left"
    assert time_left(3, 1) == "0:00 left"


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
    clock = iter([0.0, 1.0, 20.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with share_shown("fitting") as show:
        show(0.1)  # too soon
        show(0.5)
        show(0.6)  # too soon after
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.fullmatch(r"fitting: 50%\s+0:20 left", lines[0])


def test_a_test_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUIET", 0.0)
    data = small_data(num_test=64)
    trainer = small_trainer(tmp_path, callbacks=[RunProgress()], enable_progress_bar=True)
    trainer.test(small_module(data), datamodule=data, verbose=False)
    assert re.findall(r"testing: (\d+)%", capsys.readouterr().err) == ["50", "100"]
