"""Remasking samplers: ReMDM, and the forward-backward corrector (arXiv 2503.00307; theory, section 18).

From alpha_t, the share that is kept, to alpha_s > alpha_t, with a remasking probability sigma <= sigma_max =
min(1, (1 - alpha_s) / alpha_t), independently for every coordinate:

    masked:    value v with probability r_i(v) (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), else it stays masked;
    unmasked:  masked again with probability sigma, else it stays as it is.

The published code does the same, with these differences. Where its sigma may exceed sigma_max (`forward_backward` and
`loop`), here it is cut to sigma_max, so that no probability is negative. A step of `loop` that crosses a border of its
window has the alphas of its two ends; the published code keeps the formula of the side where it began. There is neither
an argmax nor a nucleus at the end: the last step has alpha_s = 1, and leaves no mask. The variant `conf` is left out:
it uses the confidence at the time of drawing, and is not Markov in x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from mdlm_cfg.chain.forms import read_form, with_numbers
from mdlm_cfg.chain.schedules import Schedule, linear
from mdlm_cfg.chain.steps import RemaskingStep
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import number

ALLOWED = "cap(0.2), rescale(0.5), loop(0.02), loop(0.02, on=0.55, off=0.05, alpha=0.9) or forward_backward"


class Remasking(ABC):
    """The probability with which unmasked coordinates are remasked at every step."""

    takes_schedule = True  # whether alpha is that of a noise schedule; else it has one of its own

    @abstractmethod
    def sigma(self, alpha_t: float, alpha_s: float, time: float, largest: float) -> float:
        """The remasking probability of the step from alpha_t to alpha_s, which begins at the share `time` of T.

        Args:
            largest: sigma_max.
        """

    def alphas(self, num_steps: int, schedule: Schedule | None) -> list[float]:
        """alpha at the K + 1 ends of K steps of equal length in noise time; the last is 1."""
        made = schedule or linear()
        times = torch.linspace(made.end, 0, num_steps + 1, dtype=torch.float64)
        return [float(alpha) for alpha in made.alpha(times)]

    def steps(self, num_steps: int, schedule: Schedule | None = None) -> list[RemaskingStep]:
        """K steps, in order."""
        alphas = self.alphas(num_steps, schedule)
        found = []
        for k, (alpha_t, alpha_s) in enumerate(pairwise(alphas)):
            largest = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0
            sigma = min(self.sigma(alpha_t, alpha_s, 1 - k / num_steps, largest), largest)
            u = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
            found.append(RemaskingStep(1.0 if k + 1 == num_steps else min(u, 1.0), sigma))
        return found


@dataclass(frozen=True)
class Cap(Remasking):
    """sigma = min(eta, sigma_max): ReMDM-cap, and ancestral sampling with eta = 0."""

    eta: float

    def __post_init__(self) -> None:
        number("eta of a remasking", self.eta, 0, 1)

    def sigma(self, alpha_t: float, alpha_s: float, time: float, largest: float) -> float:
        """See `Remasking.sigma`."""
        return min(self.eta, largest)

    def __str__(self) -> str:
        return f"cap({self.eta!r})"


@dataclass(frozen=True)
class Rescale(Remasking):
    """sigma = eta sigma_max: ReMDM-rescale."""

    eta: float

    def __post_init__(self) -> None:
        number("eta of a remasking", self.eta, 0, 1)

    def sigma(self, alpha_t: float, alpha_s: float, time: float, largest: float) -> float:
        """See `Remasking.sigma`."""
        return self.eta * largest

    def __str__(self) -> str:
        return f"rescale({self.eta!r})"


@dataclass(frozen=True)
class ForwardBackward(Remasking):
    """sigma = (alpha_s - alpha_t) / alpha_t, at most sigma_max: a step back for every step forward (Campbell et al.
    2022, arXiv 2205.14987, as ReMDM's published code has it)."""

    def sigma(self, alpha_t: float, alpha_s: float, time: float, largest: float) -> float:
        """See `Remasking.sigma`."""
        return min((alpha_s - alpha_t) / alpha_t, largest) if alpha_t > 0 else 0.0

    def __str__(self) -> str:
        return "forward_backward"


@dataclass(frozen=True)
class Loop(Remasking):
    """ReMDM-loop: unmask to a share `alpha`, mask and unmask again at that share, and finish.

    With noise time from 1 to 0, alpha grows linearly to `alpha` until time `on`, stays until time `off`, where sigma =
    min(eta, sigma_max), and grows linearly to 1.

    Args:
        eta: of the window. on, off: its borders, 1 > on > off > 0. alpha: the share kept in it, in (0, 1).
    """

    eta: float
    on: float = 0.55
    off: float = 0.05
    alpha: float = 0.9
    takes_schedule = False

    def __post_init__(self) -> None:
        number("eta of a remasking", self.eta, 0, 1)
        if not 0 < self.off < self.on < 1:
            raise UserError(f"loop has on = {self.on} and off = {self.off}, and needs 1 > on > off > 0")
        if not 0 < self.alpha < 1:
            raise UserError(f"loop has alpha = {self.alpha}, the share kept in its window, which must be in (0, 1)")

    def alphas(self, num_steps: int, schedule: Schedule | None) -> list[float]:
        """See `Remasking.alphas`."""
        return [self._alpha(1 - k / num_steps) for k in range(num_steps + 1)]

    def _alpha(self, time: float) -> float:
        if time > self.on:
            return (1 - time) * self.alpha / (1 - self.on)
        return self.alpha if time > self.off else 1 - time * (1 - self.alpha) / self.off

    def sigma(self, alpha_t: float, alpha_s: float, time: float, largest: float) -> float:
        """See `Remasking.sigma`."""
        return min(self.eta, largest) if self.off < time <= self.on else 0.0

    def __str__(self) -> str:
        values = ((name, getattr(self, name), getattr(Loop, name)) for name in ("on", "off", "alpha"))
        return f"loop({self.eta!r}{''.join(f', {name}={own!r}' for name, own, usual in values if own != usual)})"


def parse_remasking(text: Any) -> Remasking:
    """A remasking as a user writes it, such as "cap(0.2)", or itself; `str` of one is read back.

    Raises:
        UserError: anything else, or numbers out of range.
    """
    if isinstance(text, Remasking):
        return text
    forms: Mapping[str, Callable[[str], Remasking]] = {
        "cap": with_numbers(Cap),
        "rescale": with_numbers(Rescale),
        "loop": with_numbers(Loop),
    }
    return read_form("remasking", text, {"forward_backward": ForwardBackward}, forms, ALLOWED)
