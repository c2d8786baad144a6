"""Noise schedules alpha(t), the clock tau they all share, and step grids (theory, sections 1, 2 and 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.support.arguments import Reals, checked
from mdlm_cfg.support.by_value import exact_number
from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.support.numeric import is_whole, number, numbers, whole_number

MAX_STEPS = 10**6
Grid = tuple[float, ...]  # clock times tau, increasing from 0; the last may be inf
Steps = int | Sequence[float] | Tensor  # a number of equal steps in noise time, or a grid
HORIZONS = {"linear": 1.0, "cosine": 1.0, "exponential": 10.0}  # T where none is given
COUNT_DIGITS = 9  # decimals to which a number of events is rounded first, against the rounding error of u_k
LEAST_HORIZON = 1e-3  # leaves nine correct digits of a step; below, 1 - alpha loses them
ALPHA: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: 1 - torch.sin(t * (math.pi / 2)),
    "exponential": lambda t: torch.exp(-t),
}


@dataclass(frozen=True)
class Schedule:
    """A noise schedule: alpha(t) is the probability that a coordinate is still clean at noise time t in [0, T].

    `name` is "linear" (alpha = 1 - t, log-linear in the clock), "cosine" (alpha = 1 - sin(pi t / 2)) or "exponential"
    (alpha = exp(-t), the paper's, with a horizon T of your own; default 10).

    Raises:
        UserError: an unknown name, or a horizon that the schedule does not allow.
    """

    name: str = "linear"
    horizon: float | None = None  # None is replaced by the schedule's own

    def __post_init__(self) -> None:
        one_of("noise schedule", self.name, ALPHA)
        if self.horizon is None:
            object.__setattr__(self, "horizon", HORIZONS[self.name])
        object.__setattr__(self, "horizon", number("horizon T", self.horizon, LEAST_HORIZON))
        if self.name != "exponential" and self.horizon != 1:
            raise UserError(f"horizon T = {self.horizon} is not allowed: T must be 1 for {self.name!r}")

    @property
    def end(self) -> float:
        """T, the noise time at which everything is noise."""
        assert self.horizon is not None  # since __post_init__
        return self.horizon

    @checked
    def alpha(self, t: Reals | float) -> Tensor:
        """alpha_t: the probability that a coordinate is still clean at noise time t (0 is data, T is noise)."""
        t = torch.as_tensor(t, dtype=torch.float64)
        if not bool(((t >= 0) & (t <= self.end)).all()):
            raise UserError(f"noise time {t.tolist()} is outside [0, {self.end}]")
        return ALPHA[self.name](t)

    @checked
    def tau(self, t: Reals | float) -> Tensor:
        """The clock tau(t) = ln[(1 - alpha(T)) / (1 - alpha(t))]: 0 at t = T, infinite at t = 0."""
        return torch.log1p(-self.alpha(self.end)) - torch.log1p(-self.alpha(t))

    def __str__(self) -> str:
        return self.name if self.horizon == HORIZONS[self.name] else f"{self.name}(T={exact_number(self.end)})"


def schedule_of(schedule: Schedule | str) -> Schedule:
    """A noise schedule by its name, or itself.

    Raises:
        UserError: neither.
    """
    return schedule if isinstance(schedule, Schedule) else Schedule(schedule)


def linear() -> Schedule:
    """alpha = 1 - t."""
    return Schedule("linear")


def cosine() -> Schedule:
    """alpha = 1 - sin(pi t / 2): equal steps in t unmask few coordinates at the start and more later."""
    return Schedule("cosine")


def exponential(horizon: float = 10.0) -> Schedule:
    """alpha = exp(-t) on [0, T], the paper's."""
    return Schedule("exponential", horizon)


def check_steps(steps: Steps) -> int | Grid:
    """A number of steps, or a grid as plain numbers.

    Raises:
        UserError: fewer than one step or more than `MAX_STEPS`, or a grid that does not start at 0 and increase.
    """
    return whole_number("the number of steps", steps, 1, MAX_STEPS) if is_whole(steps) else _check_grid(steps)


def _check_grid(steps: Steps) -> Grid:
    taus = numbers("steps", steps, 0, math.inf)
    if taus.ndim != 1 or len(taus) < 2 or taus[0] != 0 or not bool((taus[1:] > taus[:-1]).all()):
        raise UserError(
            f"steps = {taus.tolist()} must be a whole number of steps, or a grid of clock times that starts at 0 and "
            "increases"
        )
    return tuple(taus.tolist())


@checked
def step_fractions(steps: Steps, schedule: Schedule | None = None) -> Tensor:
    """u_k = (alpha_s - alpha_t) / (1 - alpha_t) = 1 - exp(-d_tau) of every step (theory, section 2).

    Args:
        steps: a number of steps K: equal steps in noise time from T to 0, so that the last has u = 1 and leaves
            nothing masked; or your own grid of clock times tau, increasing from 0 (the last may be inf).
        schedule: the noise schedule of the K equal steps; default linear.

    Returns:
        float64 (K,), values in (0, 1].
    """
    steps = check_steps(steps)
    if isinstance(steps, int):
        schedule = schedule or linear()
        times = torch.linspace(schedule.end, 0, steps + 1, dtype=torch.float64)
        alpha = schedule.alpha(times)
        return (alpha[1:] - alpha[:-1]) / (1 - alpha[:-1])
    taus = torch.tensor(steps, dtype=torch.float64)
    return -torch.expm1(-(taus[1:] - taus[:-1]))


@checked
def event_counts(steps: Steps, num_dims: int, schedule: Schedule | None = None) -> list[int]:
    """How many coordinates each of K steps unmasks when the fraction unmasked follows alpha (event-leaping).

    The default is the cosine schedule: one event at a time at first, where the class is still in doubt and guidance
    acts, many at the end. Each of the first min(K, D) steps unmasks at least one coordinate, and they sum to D: with
    K >= D every step is one event, and event-leaping is exact.

    A step unmasks u_k times the number of masked coordinates, rounded to the nearest whole number. A half (to
    `COUNT_DIGITS` digits) is rounded to the even one: linear steps with K = 3, D = 7 unmask 2, 2 and 3.
    """
    fractions = step_fractions(steps, schedule or cosine())
    counts = []
    left = num_dims
    for u in fractions.tolist():
        if left == 0:
            break
        counts.append(max(1, min(round(round(left * u, COUNT_DIGITS)), left)))
        left -= counts[-1]
    if left:
        raise UserError(f"steps = {steps} must end at inf to sample: at any finite time some masks remain")
    return counts
