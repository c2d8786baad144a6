"""A time limit of the whole command: training leaves what the rest is estimated to take."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness import small_data, small_module, small_trainer
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import draws_of, seconds_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.limit import Afterwards, WholeTime, parse_time, seconds_per_row


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Slow:
    """A denoiser that takes some seconds a row."""

    num_tokens, num_dims, num_classes = 2, 3, 2

    def __init__(self, clock: Clock, each: float) -> None:
        self.clock, self.each, self.rows = clock, each, 0

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        self.clock.now += self.each * len(tokens)
        self.rows += len(tokens)
        return torch.full((len(tokens), 3, 2), 0.5).log()


@pytest.mark.parametrize(("text", "seconds"), [("00:00:30:00", 1800.0), ("01:02:03:04", 93784.0), (None, None)])
def test_times_are_read(text: str | None, seconds: float | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["soon", "30:00", "00:00:00:00", "1800"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=rf"max_time={text} is no time: give DD:HH:MM:SS"):
        parse_time(text)


def test_rows_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds_per_row(Slow(Clock(monkeypatch), 0.25)) == 0.25


class Called(Slow):
    """A denoiser that takes as long for few rows as for many."""

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        self.clock.now += self.each - self.each * len(tokens)
        return super().__call__(tokens, classes).double().log_softmax(-1)


@pytest.mark.parametrize(("made", "seconds"), [(Slow, 7 * 2 * (3 + 3) + 7 * 3), (Called, 2 * 3 + 3)])
def test_draws_are_timed_by_their_first_step(monkeypatch: pytest.MonkeyPatch, made: type[Slow], seconds: int) -> None:
    """Twice guided, in two rows a sample, and once not; the calls of the second kind take a second each."""
    slow, guidances = made(Clock(monkeypatch), 1.0), (Guidance(1.0), Guidance(2.0), Guidance(0.0))
    plan = Plan(guidances, num_samples=7, sampler=Sampler())
    draws = [draw for guidance in guidances for draw in draws_of(plan, slow, guidance, 0)]
    assert seconds_of(draws) == seconds


def test_the_estimate_follows_the_median_of_how_fast_the_network_was(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(Clock(monkeypatch), 0.5)
    after = Afterwards(60.0, slow)
    assert after() == 60
    for each, expected in ((1.0, 90.0), (1.0, 120.0), (4.0, 120.0), (1.0, 120.0)):  # one burst of slowness is none
        slow.each = each
        after.measure()
        assert after() == expected


def test_what_is_left_to_train_is_the_limit_less_what_is_gone_and_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    slow = Slow(clock, 0.0)
    slow.each = 1 / 256
    after = Afterwards(100.0, slow)
    timer = WholeTime(600.0, begun=clock.now, after=after)
    trainer: Any = SimpleNamespace(should_stop=False, strategy=SimpleNamespace(broadcast=lambda value: value))
    module: Any = None
    clock.now += 50
    timer.on_fit_start(trainer)
    timer.on_train_start(trainer, module)
    assert timer.time_remaining() == 450
    clock.now += 200
    slow.each = 2 / 256  # what follows takes twice as long as it seemed, in one measurement of two: half as much more
    timer.on_validation_end(trainer, module)
    assert timer.time_remaining() == pytest.approx(600 - 250 - 150 - 4)  # measuring took 4 seconds
    clock.now += timer.time_remaining() - 1
    timer.on_train_batch_end(trainer)
    assert not trainer.should_stop
    clock.now += 1
    timer.on_train_batch_end(trainer)
    assert trainer.should_stop


def test_a_run_that_goes_on_has_the_time_of_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timer = WholeTime(600.0, clock.now, Afterwards(100.0, Slow(clock, 1 / 256)))
    timer.load_state_dict({"time_elapsed": {"train": 5000.0}})
    trainer: Any = SimpleNamespace(should_stop=False, strategy=SimpleNamespace(broadcast=lambda value: value))
    clock.now = timer.begun
    timer.on_fit_start(trainer)
    assert not trainer.should_stop and timer.time_remaining() == 500 and timer.time_elapsed() == 5000


def test_training_ends_and_the_learning_rate_falls_by_the_limit(tmp_path: Path) -> None:
    data, module = small_data(), small_module(small_data())
    after = Afterwards(0.5, Free())
    timer = WholeTime(1.5, time.monotonic(), after)
    trainer = small_trainer(tmp_path, epochs=-1)
    trainer.callbacks.append(timer)
    begun = time.monotonic()
    trainer.fit(module, datamodule=data)
    assert trainer.global_step > 0 and module.progress() == 1.0
    assert time.monotonic() - begun < 60  # and not for ever


class Free:
    """A denoiser that takes no time to speak of."""

    num_tokens, num_dims, num_classes = 2, 1, 1

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        return torch.full((len(tokens), 1, 2), 0.5).log()
