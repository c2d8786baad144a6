"""Laws of samplers, kinds and schedules against the oracle's brute force (tests/oracle.py).

The laws of no class, of visits, the tilted law and weights of paths are judged by `mdlm_cfg.verify` (tests/verify).
"""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Inconsistent, Opaque, every_pair, random_target
from oracle import Chain, event_counts, fractions, grid_fractions

from mdlm_cfg import Guidance, law_at, stepped_law, terminal_law
from mdlm_cfg.chain.guidance import Interval, LinearRamp
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.compare.decay import log_still_masked, time_to_tv
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.sampling import Sampler

KINDS = ("rate", "normalized")
RAMP = LinearRamp(-0.5, 4.0)
STRENGTHS = {
    "-1": -1.0,
    "-0.5": -0.5,
    "0": 0.0,
    "1": 1.0,
    "7.5": 7.5,
    "50": 50.0,
    "ramp": RAMP,
    "interval": Interval(3.0, 0.3, 0.7),
    "smooth": lambda progress: 3 * math.sin(math.pi * progress) - 1,
}


DENOISERS = {  # N != D in all but one; the class asked for is the last and not the first
    "full-2-3": lambda: random_target(2, 3, k=2, seed=7).denoiser(),
    "zeros-3-2": lambda: random_target(3, 2, k=3, seed=8, zeros=0.5).denoiser(),
    "zeros-2-4": lambda: random_target(2, 4, k=3, seed=9, zeros=0.4).denoiser(),
    "zeros-3-3": lambda: random_target(3, 3, k=2, seed=10, zeros=0.6).denoiser(),
    "line-5-1": lambda: random_target(5, 1, k=2, seed=11, zeros=0.2).denoiser(),
    "opaque-4-2": lambda: Opaque(random_target(4, 2, k=4, seed=12, zeros=0.3).denoiser()),
    "incoherent-2-3": lambda: Inconsistent(2, 3, 3, seed=1),
    "incoherent-4-2": lambda: Inconsistent(4, 2, 2, seed=2),
    "tabulated-3-2": lambda: TabulatedDenoiser(Inconsistent(3, 2, 2, seed=3)),
    "one-value": lambda: random_target(1, 3, k=2).denoiser(),
    "one-class": lambda: random_target(3, 2, k=1, seed=4).denoiser(),
}
SOME = ("zeros-3-2", "incoherent-2-3", "zeros-3-3")
LONG = ("zeros-3-2", "incoherent-2-3")


def last_class(denoiser) -> int:
    return denoiser.num_classes - 1


def assert_laws_equal(ours, truth, tolerance=1e-12) -> None:
    assert ours.dtype == torch.float64 and ours.shape == truth.shape
    assert abs(float(truth.sum()) - 1) < 1e-9  # the oracle itself has lost nothing
    assert float((ours - truth).abs().max()) < tolerance


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", STRENGTHS.values(), ids=STRENGTHS)
def test_terminal_law(name, kind, w) -> None:
    denoiser = DENOISERS[name]()
    z = last_class(denoiser)
    chain = Chain(denoiser, w, kind, z)
    ours = terminal_law(denoiser, Guidance(w, kind), z)
    truth = chain.terminal_by_orders()
    assert_laws_equal(ours, truth)
    assert_laws_equal(chain.terminal_by_generator(), truth, 1e-10)  # two ways, one truth
    assert_laws_equal(Sampler().law(denoiser, Guidance(w, kind), z), truth)


@pytest.mark.parametrize("z", [0, 1, 2])
def test_classes_are_told_apart(z) -> None:
    denoiser = DENOISERS["zeros-2-4"]()
    truths = [Chain(denoiser, 2.0, "rate", k).terminal_by_orders() for k in range(3)]
    assert_laws_equal(terminal_law(denoiser, Guidance(2.0), z), truths[z])
    assert all(float((truths[z] - truths[k]).abs().sum()) > 0.1 for k in range(3) if k != z)


@pytest.mark.parametrize("name", ["full-2-3", *LONG])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", [-1.0, 0.0, 4.0, RAMP, STRENGTHS["smooth"]], ids=["-1", "0", "4", "ramp", "smooth"])
def test_law_at_clock_times(name, kind, w) -> None:
    denoiser = DENOISERS[name]()
    z = last_class(denoiser)
    chain = Chain(denoiser, w, kind, z)
    guidance = Guidance(w, kind)
    taus = [0.0, 0.01, *torch.linspace(0.1, 3.0, 9, dtype=torch.float64).tolist(), 40.0]
    ours = law_at(denoiser, guidance, z, taus)
    masked = log_still_masked(denoiser, guidance, z, taus[1:]).exp().tolist()
    inside = (slice(0, denoiser.num_tokens),) * denoiser.num_dims
    for tau, law in zip(taus, ours):
        truth = chain.law_at(tau)
        assert_laws_equal(law, truth, 1e-12)
        assert tau == 0 or abs(masked.pop(0) - (1 - float(truth[inside].sum()))) < 1e-12
    crossing = time_to_tv(denoiser, guidance, z, 0.2)
    assert abs(float(chain.law_at(crossing)[inside].sum()) - 0.8) < 1e-8


@pytest.mark.parametrize("name", ["zeros-3-3", "zeros-3-2", "line-5-1"])
@pytest.mark.parametrize("w", [4.0, 50.0])
def test_law_at_clock_times_where_rates_differ_by_many_orders_of_magnitude(name, w) -> None:
    denoiser = DENOISERS[name]()
    z = last_class(denoiser)
    chain = Chain(denoiser, w, "rate", z)
    if name == "zeros-3-3":
        assert float(-chain.generator().diagonal().min()) > 1e12
    for tau in (1e-15, 0.03, 0.7):
        assert_laws_equal(law_at(denoiser, Guidance(w), z, tau), chain.law_at_by_paths(tau), 1e-12)


PLANS = {  # what is asked of the product, and the lengths of the steps as the oracle says them
    "linear-1": (1, Schedule("linear"), fractions("linear", 1)),
    "linear-4": (4, Schedule("linear"), fractions("linear", 4)),
    "cosine-3": (3, Schedule("cosine"), fractions("cosine", 3)),
    "exponential-5": (5, Schedule("exponential", 3.0), fractions("exponential", 5, 3.0)),
    "default-exponential-4": (4, Schedule("exponential"), fractions("exponential", 4, 10.0)),
    "grid": ([0.0, 0.2, 1.1, math.inf], None, grid_fractions([0.0, 0.2, 1.1, math.inf])),
}
SAMPLERS = ("tau_leaping", "euler", "d_cfg", "event_leaping")


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sampler", "w"), every_pair(SAMPLERS, [-0.5, 3.0, RAMP]), ids=str)
def test_stepped_laws(name, kind, sampler, w) -> None:
    denoiser = DENOISERS[name]()
    z = last_class(denoiser)
    chain = Chain(denoiser, w, kind, z)
    guidance = Guidance(w, kind)
    plans = PLANS if name in LONG else {key: PLANS[key] for key in ("linear-1", "cosine-3")}
    inside = (slice(0, denoiser.num_tokens),) * denoiser.num_dims
    for steps, schedule, shares in plans.values():
        truth = chain.stepped(sampler, shares)
        assert_laws_equal(stepped_law(denoiser, guidance, z, sampler, steps, schedule), truth)
        assert_laws_equal(Sampler(sampler, steps, schedule).law(denoiser, guidance, z), truth[inside])


@pytest.mark.parametrize("kind", KINDS)
def test_event_leaping_on_every_schedule(kind) -> None:
    # four coordinates in two steps: 2 + 2 events on the linear schedule, 1 + 3 on the others, 3 + 1 on the grid
    denoiser = DENOISERS["zeros-2-4"]()
    chain = Chain(denoiser, 3.0, kind, 1)
    guidance = Guidance(3.0, kind)
    laws = []
    for name, horizon, counts in (("linear", 1.0, [2, 2]), ("cosine", 1.0, [1, 3]), ("exponential", 10.0, [1, 3])):
        shares = fractions(name, 2, horizon)
        assert event_counts(shares, 4) == counts
        laws.append(chain.stepped("event_leaping", shares))
        assert_laws_equal(stepped_law(denoiser, guidance, 1, "event_leaping", 2, Schedule(name, horizon)), laws[-1])
    grid = [0.0, 1.5, math.inf]
    laws.append(chain.stepped("event_leaping", grid_fractions(grid)))
    assert event_counts(grid_fractions(grid), 4) == [3, 1]
    assert_laws_equal(stepped_law(denoiser, guidance, 1, "event_leaping", grid), laws[-1])
    assert float((laws[0] - laws[1]).abs().sum()) > 1e-3 and float((laws[0] - laws[3]).abs().sum()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS[:3])
def test_a_grid_that_ends_early(kind, sampler) -> None:
    denoiser = DENOISERS["zeros-3-2"]()
    truth = Chain(denoiser, 2.0, kind, 1).stepped(sampler, grid_fractions([0.0, 0.03, 0.09]))
    assert_laws_equal(stepped_law(denoiser, Guidance(2.0, kind), 1, sampler, [0.0, 0.03, 0.09]), truth)
    assert float(truth[-1, -1]) > 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_default_schedules(sampler) -> None:
    denoiser = DENOISERS["incoherent-2-3"]()
    name = "cosine" if sampler == "event_leaping" else "linear"
    truth = Chain(denoiser, 2.0, "rate", 1).stepped(sampler, fractions(name, 2))
    assert_laws_equal(stepped_law(denoiser, Guidance(2.0), 1, sampler, 2), truth)
