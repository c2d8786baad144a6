"""Noise schedules, clocks and steps, against the oracle's formulas."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import oracle
import pytest
import torch

from mdlm_cfg.chain.schedules import Schedule, check_steps, cosine, event_counts, exponential, linear, step_fractions

SCHEDULES = [linear(), cosine(), exponential(), exponential(3.0)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_alpha_and_the_clock(schedule: Schedule) -> None:
    times = [schedule.end * k / 7 for k in range(8)]
    alpha = [oracle.alpha(schedule.name, t) for t in times]
    assert schedule.alpha(torch.tensor(times)).tolist() == pytest.approx(alpha, abs=1e-6)  # float32 times
    assert schedule.alpha(torch.tensor(times, dtype=torch.float64)).tolist() == pytest.approx(alpha, abs=1e-15)
    for t, a in zip(times[1:], alpha[1:]):
        assert float(schedule.tau(t)) == pytest.approx(math.log((1 - alpha[-1]) / (1 - a)), abs=1e-12)
    assert float(schedule.tau(0)) == math.inf and float(schedule.alpha(0)) == 1
    for outside in (-1e-9, schedule.end * (1 + 1e-9), [0.0, -1.0], [0.5, schedule.end + 1]):
        with pytest.raises(ValueError, match=rf"\[0, {schedule.end}\]"):
            schedule.alpha(torch.tensor(outside, dtype=torch.float64))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_fractions_of_equal_steps(schedule: Schedule, steps: int) -> None:
    found = step_fractions(steps, schedule)
    assert found.dtype == torch.float64 and found[-1] == 1 and float(found.max()) <= 1
    assert found.tolist() == pytest.approx(oracle.fractions(schedule.name, steps, schedule.end), rel=1e-12)
    if schedule == linear():
        assert torch.equal(found, step_fractions(steps))


@pytest.mark.parametrize("horizon", [1e-3, 0.1, 1 / 3, math.sqrt(2), math.pi, 29.7, 1e300])
def test_equal_steps_stay_within_any_horizon(horizon: float) -> None:
    for steps in (1, 3, 10, 49, 1000):
        found = step_fractions(steps, exponential(horizon))  # a time outside would be refused
        assert found.tolist() == pytest.approx(oracle.fractions("exponential", steps, horizon), rel=1e-9)
        assert float(found.max()) == 1


@pytest.mark.parametrize("grid", [[0.0, 0.5, 2.0], (0, 1, math.inf), torch.tensor([0.0, 3.0]), np.array([0.0, 1e-3])])
def test_fractions_of_a_grid(grid) -> None:
    expected = oracle.grid_fractions([float(tau) for tau in grid])
    assert step_fractions(grid).tolist() == pytest.approx(expected, rel=1e-12)
    assert check_steps(grid) == tuple(float(tau) for tau in grid)


@pytest.mark.parametrize("dims", [1, 2, 5, 18])
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_counts_of_events_follow_the_schedule(dims: int, steps: int) -> None:
    for schedule in SCHEDULES:
        shares = oracle.fractions(schedule.name, steps, schedule.end)
        assert event_counts(steps, dims, schedule) == oracle.event_counts(shares, dims)
    assert event_counts(steps, dims) == event_counts(steps, dims, cosine())
    assert event_counts([0.0, 0.5, math.inf], dims) == oracle.event_counts([1 - math.exp(-0.5), 1.0], dims)


@pytest.mark.parametrize("dims", [3, 7, 9, 64, 784])
def test_halves_of_an_event_are_rounded_to_even_numbers(dims: int) -> None:
    """Linear steps unmask 1/K, 1/(K-1), ..., 1 of what is left, which rounding of u must not make more or less."""
    for steps in range(1, 30):
        counts: list[int] = []
        for still in range(steps, 0, -1):
            left = dims - sum(counts)
            if left:
                counts.append(max(1, min(round(Fraction(left, still)), left)))
        shares = oracle.fractions("linear", steps, 1.0)
        assert event_counts(steps, dims, linear()) == counts == oracle.event_counts(shares, dims)


@pytest.mark.parametrize(
    "steps", [0, -1, True, False, 2.5, "3", [0.0], [1.0, 2.0], [0.0, 0.0], [0.0, 2.0, 1.0], [[0, 1]], {}]
)
def test_what_are_no_steps_is_refused(steps) -> None:
    with pytest.raises(ValueError, match="steps"):
        check_steps(steps)


def test_a_grid_that_ends_before_everything_is_unmasked_has_no_counts() -> None:
    with pytest.raises(ValueError, match=r"\[0\.0, 0\.1\] .* inf "):
        event_counts([0.0, 0.1], 5)
    assert check_steps(np.int64(3)) == 3 == check_steps(torch.tensor(3))


@pytest.mark.parametrize("horizon", [0.0, -1.0, 1e-16, 9e-4, math.inf, math.nan])
def test_a_horizon_is_positive_and_finite_and_1_where_it_must_be(horizon: float) -> None:
    with pytest.raises(ValueError, match=f"T = {horizon} "):
        exponential(horizon)
    with pytest.raises(ValueError, match=r"T = 2\.0 .* 1 .*'cosine'"):
        Schedule("cosine", 2.0)
    assert Schedule("linear", 1.0) == linear() and Schedule("exponential", 10.0) == exponential()
    assert [s.end for s in SCHEDULES] == [1.0, 1.0, 10.0, 3.0]
    assert [str(s) for s in SCHEDULES] == ["linear", "cosine", "exponential", "exponential(T=3)"]
