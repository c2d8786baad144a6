"""Samplers follow their laws, by the oracle (theory, section 6); an option changes what is drawn or is refused."""

from __future__ import annotations

import itertools
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Inconsistent, chi_square_p_value, every_pair, random_target
from hypothesis import given, settings, strategies as st
from oracle import Chain, fractions
from torch.utils._python_dispatch import TorchDispatchMode

from mdlm_cfg import Correction, Guidance, UserError, sample, stepped_law, terminal_law
from mdlm_cfg.chain.policies import Blocks
from mdlm_cfg.chain.product_rules import Negative
from mdlm_cfg.chain.rules import CFG, Rule
from mdlm_cfg.chain.schedules import Schedule, cosine, event_counts, exponential, linear
from mdlm_cfg.chain.steps import JUMPS
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.sampling import SAMPLERS, WITH_STEPS, Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets import toys
from mdlm_cfg.targets.bernoulli import BernoulliMixture


def draw(denoiser, guidance, sampler, steps, schedule=None, seed=0, n=40_000, target_class=0):
    generator = torch.Generator().manual_seed(seed)
    return sample(denoiser, guidance, target_class, n, sampler, steps, schedule, generator=generator)


KINDS = ("rate", "normalized")
STEPPED = (*JUMPS, "event_leaping")
GRID = [0.0, 0.4, 1.5, math.inf]


def holm(p_values):
    """The p-values in ascending order, corrected for having looked at all of them (Holm 1979)."""
    ranked = sorted(p_values)
    corrected = [min(1.0, (len(ranked) - k) * p) for k, p in enumerate(ranked)]
    return list(itertools.accumulate(corrected, max))


def shipped():
    """The denoisers of every target that the package ships, and of a Bernoulli mixture, by name."""
    toy = {name: getattr(toys, name)() for name in dir(toys) if name.startswith("toy_")}
    g = torch.Generator().manual_seed(5)
    probabilities = torch.rand(3, 2, 6, generator=g)
    weights = torch.rand(3, 2, generator=g)
    bernoulli = BernoulliMixture(
        probabilities, weights / weights.sum(1, keepdim=True), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    )
    return {name: target.denoiser() for name, target in toy.items()} | {"bernoulli": bernoulli.denoiser()}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_on_every_shipped_target(sampler, kind):
    # three strengths and every target; the laws themselves are held against the oracle in tests/laws
    p_values = {}
    for name, exact in shipped().items():
        z = exact.num_classes - 1
        denoiser = TabulatedDenoiser(exact)
        for w in (0.0, 1.5, 6.0):
            made = Sampler(sampler, 3 if sampler in WITH_STEPS else None, None)
            guidance = Guidance(w, kind)
            generator = generator_for(name, sampler, kind, w)
            law = made.law(denoiser, guidance, z)
            x = made.draw(denoiser, guidance, z, 20_000, generator)
            p_values[name, w] = chi_square_p_value(x, law)
    level = 0.05 / (len(SAMPLERS) * len(KINDS))  # of all these tests together
    assert holm(p_values.values())[0] > level, sorted(p_values.items(), key=lambda item: item[1])[:3]


def test_holm_corrects():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([0.9, 0.8]) == [1.0, 1.0]


class Draws(TorchDispatchMode):
    """Every random number that torch draws: which operator, and of which type."""

    RANDOM = (
        "rand",
        "uniform",
        "exponential",
        "multinomial",
        "normal",
        "bernoulli",
        "randint",
        "randperm",
        "geometric",
    )

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__.strip("_")
        if name in self.RANDOM:
            self.found.add((name, out.dtype))
        return out


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_are_uniform_and_float64(sampler):
    # a float32 Gumbel-max cuts the tails of rare values (arXiv 2409.02908): no sample of a test's size would show it
    denoiser = random_target(3, 3, seed=1).denoiser()
    with Draws() as draws:
        draw(denoiser, Guidance(2.0), sampler, 2 if sampler in WITH_STEPS else None, n=10)
    assert draws.found == {("rand", torch.float64)}


@pytest.mark.slow
def test_two_values_are_not_biased_by_small_steps():
    denoiser = TabulatedDenoiser(random_target(2, 2, seed=13).denoiser())
    guidance = Guidance(4.0)
    law = Chain(denoiser, 4.0, "rate", 1).stepped("tau_leaping", fractions("exponential", 200, 8.0))
    x = draw(denoiser, guidance, "tau_leaping", 200, exponential(8.0), n=30_000, target_class=1)
    assert chi_square_p_value(x, law[:2, :2]) > 1e-3


def test_the_trajectory_only_unmasks():
    states = []
    sample(
        toys.toy_5d_hypercube().denoiser(),
        Guidance(1.0),
        1,
        50,
        "tau_leaping",
        8,
        generator=torch.Generator().manual_seed(0),
        on_step=states.append,
    )
    assert len(states) == 9 and bool((states[0] == 5).all()) and bool((states[-1] < 5).all())
    for before, after in itertools.pairwise(states):
        assert torch.equal(torch.where(before == 5, after, before), after)


@pytest.mark.parametrize(("sampler", "kind"), every_pair(SAMPLERS, KINDS))
def test_batches_of_a_network_change_nothing(sampler, kind):
    torch.manual_seed(0)
    net = GridTransformer(4, (3,), 2, width=16, depth=1, num_heads=2).double()
    for parameter in net.parameters():  # what starts at zero would answer the same to all
        torch.nn.init.normal_(parameter, std=0.3)
    guidance = Guidance(2.0, kind)
    steps = 2 if sampler in WITH_STEPS else None
    whole, *parts = (NetDenoiser(net, batch_size=size) for size in (1024, 7, 1))
    assert float((terminal_law(whole, guidance, 1) - 1 / 64).abs().max()) > 0.01
    for part in parts:
        assert torch.equal(*(draw(d, guidance, sampler, steps, n=60, target_class=1) for d in (whole, part)))
        laws = [Sampler(sampler, steps).law(d, guidance, 1) for d in (whole, part)]
        assert float((laws[0] - laws[1]).abs().max()) < 1e-12


def test_a_schedule_by_its_name_is_the_schedule():
    denoiser = random_target(3, 2, seed=15).denoiser()
    guidance = Guidance(2.0)
    assert Schedule("exponential") == exponential() and Schedule("exponential").end == 10
    assert Schedule("linear") != Schedule("cosine") and str(Schedule("exponential")) == "exponential"
    for name, made in (("exponential", exponential()), ("cosine", cosine())):
        for sampler in STEPPED:
            laws = [stepped_law(denoiser, guidance, 1, sampler, 3, s) for s in (name, made)]
            assert torch.equal(*laws)
            assert torch.equal(*(draw(denoiser, guidance, sampler, 3, s, n=100) for s in (name, made)))
            assert Sampler(sampler, 3, name) == Sampler(sampler, 3, made)
    linear_law = stepped_law(denoiser, guidance, 1, "d_cfg", 3, "linear")
    assert float((stepped_law(denoiser, guidance, 1, "d_cfg", 3, "exponential") - linear_law).abs().max()) > 0.01


@pytest.mark.parametrize("sampler", STEPPED)
@pytest.mark.parametrize("kind", [np.int64, np.int32, torch.tensor, int])
def test_whole_numbers_of_any_type_are_steps(sampler, kind):
    made = Sampler(sampler, kind(3))
    assert made == Sampler(sampler, 3) and type(made.steps) is int and made.calls(5) == 3
    assert made.describe() == Sampler(sampler, 3).describe()
    with pytest.raises(UserError, match=r"steps = 0 .* 1 to 1000000"):
        Sampler(sampler, kind(0))


def test_grids_of_any_type_are_one():
    for grid in (tuple(GRID), torch.tensor(GRID, dtype=torch.float64), np.array(GRID)):
        made = Sampler("euler", grid)
        assert made == Sampler("euler", GRID) and made.steps == tuple(GRID) and made.schedule is None
        assert made.describe() == {"sampler": "euler", "schedule": None, "steps": GRID} and made.calls(9) == 3
    with pytest.raises(UserError):  # samples have no masks
        draw(random_target(3, 2).denoiser(), Guidance(1.0), "tau_leaping", [0.0, 1.0], n=10)


TARGET = random_target(2, 4, seed=3)
GUIDANCE = Guidance(2.0)
NEEDS_STEPS = (*JUMPS, "event_leaping", "sampled_confidence", "remdm")


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
    samplers = [Sampler("euler", grid) for grid in (tuple(GRID), (0.0, 0.5, float("inf")), *long)]
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


@pytest.mark.parametrize("name", [*SAMPLERS, "corrections"])
@pytest.mark.parametrize("rule", [CFG(), Negative(1)])
def test_a_schedule_is_asked_once_for_a_draw(name: str, rule: Rule) -> None:
    target = random_target(2, 6, k=2)
    asked = []

    def ramp(progress: float) -> float:
        asked.append(progress)
        return 1 + progress

    guidance = Guidance(ramp, rule=rule)
    if name == "corrections":
        Correction(2, 3).draw(target.denoiser(), guidance, 0, torch.zeros(5, 6, dtype=torch.int64))
    else:
        sample(target.denoiser(), guidance, 0, 5, name, 3 if name in WITH_STEPS else None)
    assert len(asked) == 6  # the values for 0, ..., 5 unmasked coordinates
