"""Temperature and top-p, value by value in plain Python (theory, section 10)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch

from mdlm_cfg import Confidence, Guidance, Sampler, UserError
from mdlm_cfg.chain.decoders import DrawFirstStep
from mdlm_cfg.chain.nucleus import check_filter, filter_values

NEG_INF = -math.inf


def by_hand(log_rho: list[float], temperature: float, top_p: float) -> list[float]:
    """log of Z times what is left of r^(1/temperature)."""
    rho = [math.exp(value) for value in log_rho]
    z = sum(rho)
    if z == 0:
        return log_rho
    r = [(value / z) ** (1 / temperature) for value in rho]
    r = [value / sum(r) for value in r]
    best = sorted(r, reverse=True)
    held = 0.0
    for last in best:
        held += last
        if held >= top_p - 1e-13:
            break
    kept = [value if value >= last * (1 - 1e-8) else 0.0 for value in r]
    return [math.log(z * value / sum(kept)) if value > 0 else NEG_INF for value in kept]


@pytest.mark.parametrize(("temperature", "top_p"), [*product([0.5, 1.0, 3.0], [0.1, 0.5, 0.75, 0.9, 1.0])])
def test_every_row_is_filtered_by_itself(temperature: float, top_p: float) -> None:
    log_rho = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    log_rho[0, 0, 1:3] = NEG_INF
    log_rho[1, 2] = NEG_INF  # nowhere to go
    log_rho[2, 1] = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0]).log()  # ties
    log_rho[3, 1] = torch.tensor([0.2] * 5).log()
    found = filter_values(log_rho, temperature, top_p)
    for row, expected in zip(found.flatten(0, 1).tolist(), log_rho.flatten(0, 1).tolist(), strict=True):
        assert row == pytest.approx(by_hand(expected, temperature, top_p), abs=1e-12)


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, 1), (0.5, 1), (0.5001, 3), (0.75, 3), (1 - 1e-6, 3), (1.0, 4)])
def test_the_fewest_that_hold_the_share_and_what_ties_with_the_last(top_p: float, kept: int) -> None:
    rare = 1e-12  # only all of it holds all
    log_rho = torch.tensor([0.25, 0.5, rare, 0.25], dtype=torch.float64).log()
    assert int((filter_values(log_rho, 1.0, top_p) > NEG_INF).sum()) == kept


def test_large_rates_keep_the_differences_of_their_values() -> None:
    # log rho may be large: dividing it by the temperature first would lose digits
    apart = torch.tensor([0.0, -(2.0**-7)], dtype=torch.float64)
    found = filter_values(1e8 + apart, 0.03, 1.0)
    exact = filter_values(apart, 0.03, 1.0)
    assert float((found.softmax(dim=0) - exact.softmax(dim=0)).abs().max()) < 1e-8


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (math.inf, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_what_is_out_of_range_is_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(ValueError, match=f"temperature = {temperature} " if temperature != 1 else f"top_p = {top_p} "):
        check_filter(temperature, top_p)
    check_filter(1e-3, 1.0)


EQUALS = torch.tensor([0.1 + 0.2, 0.3, 0.4], dtype=torch.float64).log()  # the first two, up to rounding


def by_values(temperature: float) -> torch.Tensor:
    return filter_values(EQUALS, Guidance(1.0, temperature=temperature).temperature, 1.0)[:2]


def by_policy(temperature: float) -> torch.Tensor:
    policy = Confidence(temperature)
    return policy.log_choice(torch.zeros(2).double(), lambda: EQUALS[:2, None], torch.arange(2))


def by_draws(temperature: float) -> torch.Tensor:
    (step, _) = Sampler("sampled_confidence", events=1, choice_temperature=temperature).plan(2)
    assert isinstance(step, DrawFirstStep)
    return step.keeping.selection(EQUALS[:2]).log_weight


@pytest.mark.parametrize("temperature", [1e-4, 1e-5, 1e-9, 1e-15, 5e-324])
@pytest.mark.parametrize("choice", [by_values, by_policy, by_draws])
def test_rounding_decides_between_equals_at_no_temperature(choice: Callable, temperature: float) -> None:
    """It is divided by the temperature."""
    if temperature < 1e-4:
        with pytest.raises(UserError, match=r"temperature = .*0\.0001"):
            choice(temperature)
    else:
        one, other = choice(temperature).tolist()
        assert one == pytest.approx(other, abs=1e-10)
