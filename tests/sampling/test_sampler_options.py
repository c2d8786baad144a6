"""What is labelled X was X: every option of every sampler either changes what it does or is refused."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from helpers import Inconsistent, chi_square_p_value, random_target
from hypothesis import given, settings, strategies as st

from mdlm_cfg import Guidance, UserError
from mdlm_cfg.chain.policies import Blocks
from mdlm_cfg.chain.schedules import Schedule, cosine, event_counts, linear
from mdlm_cfg.chain.steps import JUMPS
from mdlm_cfg.sampling.sampler import SAMPLERS, Sampler
from mdlm_cfg.studies.plan import Plan

TARGET = random_target(2, 4, seed=3)
GUIDANCE = Guidance(2.0)
NEEDS_STEPS = (*JUMPS, "event_leaping", "sampled_confidence", "remdm")
GRID = (0.0, 0.4, float("inf"))


def half(log_z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """A jump rule of one's own, all but at the end of time: half as many jumps."""
    return torch.where(u == 1, 1.0, u / 2).expand_as(log_z)


VALUES: dict[str, tuple[Any, Any]] = {
    "steps": (2, 3),
    "schedule": (linear(), cosine()),
    "jump": (half, None),
    "policy": (Blocks([[3], [2], [1, 0]]), Blocks([[0], [1], [2, 3]])),
    "events": (2, 3),
    "choice_temperature": (0.5, 4.0),
    "annealed": (True, False),
    "threshold": (0.6, 0.99),
    "factor": (0.3, 3.0),
    "gamma": (0.01, 0.9),
    "remasking": ("cap(0.1)", "cap(0.9)"),
    "correction": ("correction(size=1, moves=1)", "correction(size=1, moves=3)"),
}
BESIDE = {"annealed": {"choice_temperature": 2.0}}  # an option that only says something beside another


def law(sampler: Sampler) -> torch.Tensor:
    return sampler.law(TARGET.denoiser(), GUIDANCE, 0)


def made(name: str, option: str, value: Any) -> Sampler:
    """A sampler of the name with one option, and what else it needs."""
    settings = {"steps": 3} if name in NEEDS_STEPS and option not in ("steps", "events") else {}
    return Sampler(name, **settings, **BESIDE.get(option, {}), **{option: value})


@pytest.mark.parametrize(("name", "option"), list(product(SAMPLERS, VALUES)))
def test_an_option_changes_the_law_or_is_refused(name, option) -> None:
    first, second = VALUES[option]
    try:
        sampler = made(name, option, first)
    except UserError as error:
        assert option in str(error) or name in str(error)
        return
    assert option != "jump"  # no sampler of this package takes another's rule under its own name
    other = made(name, option, second)
    assert sampler != other and sampler.label != other.label
    assert float((law(sampler) - law(other)).abs().max()) > 1e-9


def test_a_jump_of_ones_own_has_a_name_of_its_own_and_is_followed() -> None:
    mine = Sampler("mine", 3, jump=half)
    assert mine != Sampler("mine", 3, jump=JUMPS["euler"]) and "mine" in mine.label
    euler = Sampler("mine", 3, jump=JUMPS["euler"])
    assert float((law(euler) - law(Sampler("euler", 3))).abs().max()) < 1e-15
    assert float((law(mine) - law(euler)).abs().max()) > 1e-3
    for name in JUMPS:
        assert Sampler(name, 3, jump=JUMPS[name]) == Sampler(name, 3)


def test_labels_tell_grids_apart() -> None:
    long = [(0.0, *(k * step for k in range(1, 20)), float("inf")) for step in (0.1, 0.100000001)]
    samplers = [Sampler("euler", grid) for grid in (GRID, (0.0, 0.5, float("inf")), *long)]
    assert len({sampler.label for sampler in samplers}) == 4 and max(len(one.label) for one in samplers) < 80


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), steps=st.integers(1, 5), seed=st.integers(0, 99))
def test_events_in_turn_are_the_steps_that_they_say(sizes: list[int], steps: int, seed: int) -> None:
    denoiser = Inconsistent(2, 4, 2, seed=seed)
    guidance = Guidance(1.0)
    for schedule in ("linear", "cosine"):
        counts = event_counts(steps, 4, Schedule(schedule))
        own = Sampler("event_leaping", events=counts)
        on_schedule = Sampler("event_leaping", steps, schedule)
        assert torch.equal(own.law(denoiser, guidance, 0), on_schedule.law(denoiser, guidance, 0))
        assert own.calls(4) == len(counts) and own != on_schedule
    sampler = Sampler("event_leaping", events=sizes)
    if sum(sizes) == 4:
        x = sampler.draw(denoiser, guidance, 0, 2000, torch.Generator().manual_seed(seed))
        assert chi_square_p_value(x, sampler.law(denoiser, guidance, 0)) > 1e-6
    else:
        for refused in (sampler.law, sampler.calls, Plan((guidance,), sampler).check_dims):
            with pytest.raises(UserError, match=str(sum(sizes))):
                refused(*((denoiser, guidance, 0) if refused == sampler.law else (4,)))
        with pytest.raises(UserError, match=str(sum(sizes))):
            sampler.draw(denoiser, guidance, 0, 10)
