"""A time limit of a whole command: training ends so early that what follows it is done by then."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from statistics import median
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.masking import all_masked
from mdlm_cfg.support.errors import UserError

ROWS = 256  # of a denoiser, in the call that is measured


class Afterwards:
    """How long what follows training will take, in seconds, corrected by how fast the network turns out to be.

    Args:
        seconds: as estimated at the start. denoiser: the network. what: it is.
    """

    def __init__(self, seconds: float, denoiser: Denoiser, what: str = "test and report") -> None:
        self.seconds, self.denoiser, self.what = seconds, denoiser, what
        self._each = [seconds_per_row(denoiser)]

    def __call__(self) -> float:
        """The estimate now: machines that others use are slow for a while, so that the median of all counts."""
        return self.seconds * median(self._each) / self._each[0]

    def measure(self) -> None:
        """See how fast the network is now."""
        self._each.append(seconds_per_row(self.denoiser))


class WholeTime(Timer):
    """Lightning's timer, whose limit of training is what is left of a whole command's time less what will follow.

    Both are estimated anew at every validation. What follows is not cut short: the command ends in time as far as the
    estimate holds.

    Args:
        seconds: of the whole command, from `begun` on, a time of time.monotonic().
        after: what follows training.
    """

    def __init__(self, seconds: float, begun: float, after: Afterwards) -> None:
        super().__init__(timedelta(seconds=seconds), interval="step", verbose=False)
        self.seconds, self.begun, self.after = seconds, begun, after

    def left(self) -> float:
        """Seconds that are left to train."""
        return self.seconds - (time.monotonic() - self.begun) - self.after()

    def on_fit_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._estimate()
        super().on_fit_start(trainer, *args, **kwargs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self.after.measure()
        self._estimate()

    def _estimate(self) -> None:
        """The limit counts from the beginning of the run, also where this command goes on with one."""
        self._duration = self.time_elapsed() + max(self.left(), 0.0)


def parse_time(text: str | None, name: str = "max_time") -> float | None:
    """Seconds of a time DD:HH:MM:SS; None for None.

    Raises:
        UserError: another form, or no time at all.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", text.strip())
    days, hours, minutes, seconds = map(int, found.groups()) if found else (0, 0, 0, 0)
    whole = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    if whole == 0:
        raise UserError(f"{name}={text} is no time: give DD:HH:MM:SS, such as 00:00:30:00 for half an hour")
    return whole


def seconds_per_row(denoiser: Denoiser) -> float:
    """How long a denoiser takes for one partial state, measured on `ROWS` of them where they are asked for."""
    device = device_of(denoiser)
    tokens = all_masked(ROWS, denoiser.num_dims, denoiser.num_tokens, device)
    classes = torch.arange(ROWS, device=device) % denoiser.num_classes
    return seconds_of_call(lambda: denoiser(tokens, classes)) / ROWS


def seconds_of_call(call: Callable[[], Tensor]) -> float:
    """How long the second of two calls takes, until its numbers are there; the first one warms up."""
    found = []
    for _ in range(2):
        begun = time.monotonic()
        call().flatten()[0].item()  # waits for an accelerator
        found.append(time.monotonic() - begun)
    return found[-1]
