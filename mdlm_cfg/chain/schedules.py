"""Noise schedules alpha(t), the clock tau they all share, and step grids (theory, sections 1, 2 and 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """A noise schedule: alpha(t) is the probability that a coordinate is still clean at noise time t in [0, T].

    `name` is "linear" (alpha = 1 - t, log-linear in the clock), "cosine" (alpha = 1 - sin(pi t / 2)) or "exponential"
    (alpha = exp(-t), the paper's, with horizon T).
    """

    name: str = "linear"
    horizon: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ALPHA:
            raise UserError(f"noise schedule {self.name!r} is unknown; choose one of {', '.join(ALPHA)}")
        if not 0 < self.horizon < math.inf or (self.name != "exponential" and self.horizon != 1):
            raise UserError(
                f"horizon T = {self.horizon} is not allowed: T must be 1 for {self.name!r}"
                if self.name != "exponential"
                else f"horizon T = {self.horizon} is not allowed: T must be positive and finite"
            )

    def alpha(self, t: Tensor | float) -> Tensor:
        """alpha_t: the probability that a coordinate is still clean at noise time t (0 is data, T is noise)."""
        t = torch.as_tensor(t, dtype=torch.float64)
        if bool(((t < 0) | (t > self.horizon)).any()):
            raise UserError(f"noise time {t.tolist()} is outside [0, {self.horizon}]")
        return ALPHA[self.name](t)

    def tau(self, t: Tensor | float) -> Tensor:
        """The clock tau(t) = ln[(1 - alpha(T)) / (1 - alpha(t))]: 0 at t = T, infinite at t = 0."""
        return torch.log1p(-self.alpha(self.horizon)) - torch.log1p(-self.alpha(t))


ALPHA = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: 1 - torch.sin(t * (math.pi / 2)),
    "exponential": lambda t: torch.exp(-t),
}


def linear() -> Schedule:
    """alpha = 1 - t."""
    return Schedule("linear")


def cosine() -> Schedule:
    """alpha = 1 - sin(pi t / 2): equal steps in t unmask few coordinates at the start and more later."""
    return Schedule("cosine")


def exponential(horizon: float = 10.0) -> Schedule:
    """alpha = exp(-t) on [0, T], the paper's."""
    return Schedule("exponential", horizon)


def step_fractions(steps: int | Sequence[float] | Tensor | None, schedule: Schedule | None = None) -> Tensor:
    """u_k = (alpha_s - alpha_t) / (1 - alpha_t) = 1 - exp(-d_tau) of every step (theory, section 2).

    Args:
        steps: a number of steps K: equal steps in noise time from T to 0, so that the last has u = 1 and leaves
            nothing masked; or your own grid of clock times tau, increasing from 0 (the last may be inf).
        schedule: the noise schedule of the K equal steps; default linear.

    Returns:
        float64 (K,), values in (0, 1].
    """
    if steps is None:
        raise UserError("this sampler needs steps: a number of steps, or a grid of clock times from 0 to inf")
    if isinstance(steps, int):
        if steps < 1:
            raise UserError(f"the number of steps is {steps}, and must be at least 1")
        schedule = schedule or linear()
        times = torch.linspace(schedule.horizon, 0, steps + 1, dtype=torch.float64)
        alpha = schedule.alpha(times.clamp(0, schedule.horizon))
        return ((alpha[1:] - alpha[:-1]) / (1 - alpha[:-1])).clamp(max=1.0)
    taus = torch.as_tensor(steps, dtype=torch.float64)
    if taus.ndim != 1 or len(taus) < 2 or taus[0] != 0 or not bool((taus[1:] > taus[:-1]).all()):
        raise UserError(f"a grid of clock times must start at 0 and increase, got {taus.tolist()}")
    return -torch.expm1(-(taus[1:] - taus[:-1]))


def event_counts(
    steps: int | Sequence[float] | Tensor | None, num_dims: int, schedule: Schedule | None = None
) -> list[int]:
    """How many coordinates each of K steps unmasks when the fraction unmasked follows alpha (event-leaping).

    The default is the cosine schedule: one event at a time at first, where the class is still in doubt and guidance
    acts, many at the end. Each of the first min(K, D) steps unmasks at least one coordinate, and they sum to D: with
    K >= D every step is one event, and event-leaping is exact.
    """
    fractions = step_fractions(steps, schedule or cosine())
    counts, left = [], num_dims
    for u in fractions.tolist():
        if left == 0:
            break
        counts.append(max(1, min(round(left * u), left)))
        left -= counts[-1]
    if left:
        raise UserError("a grid of clock times must end at inf to sample: before that, masks are left")
    return counts
