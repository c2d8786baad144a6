"""Decay of TV in time and in w (theory, section 5)."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from helpers import random_target, rarely_slow
from oracle import Chain

from mdlm_cfg import FunctionDenoiser, Guidance, TableMixture
from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.compare.decay import log_still_masked, neutral_states, time_to_tv, tv_decay, waiting
from mdlm_cfg.laws import visit_law
from mdlm_cfg.targets import toys


def test_full_support_decays_double_exponentially():
    target = random_target(4, 2, seed=6)
    assert neutral_states(target, 0) == []
    # as w grows, every exit rate grows like (largest ratio p(v | x_U, z) / p(v | x_U))^w: the slowest one wins
    ratio = (target.class_pmfs[0] / target.pmf).log()
    rows = ratio - (target.class_pmfs[0].sum(1) / target.pmf.sum(1)).log()[:, None]
    columns = ratio - (target.class_pmfs[0].sum(0) / target.pmf.sum(0)).log()[None, :]
    slowest = min(float(rows.amax(1).min()), float(columns.amax(0).min()))
    decay = tv_decay(target, 0, [Guidance(w) for w in (500.0, 550.0, 600.0, 650.0)], [0.1], fit_tau=0.5)
    assert abs(decay.fit_slope[1] / slowest - 1) < 0.02 and decay.growth == "exponential"


def test_overlapping_squares_saturate_at_the_unguided_rate():
    target = toys.toy_2d_overlap()
    found = neutral_states(target, 0)
    # a private first (or second) coordinate settles the class while the other is still masked
    assert {c.state for c in found} == {(v, 16) for v in range(1, 6)} | {(16, v) for v in range(1, 6)}
    assert all(abs(c.probability - 1 / 9) < 1e-12 for c in found)
    decay = tv_decay(target, 0, [Guidance(w) for w in (0, 1, 2, 4, 8, 16)], [0.5])
    values = (-decay.log_tv[:, 0]).tolist()
    assert abs(values[0] + math.log(1 - (1 - math.exp(-0.5)) ** 2)) < 1e-12
    assert values == sorted(values) and abs(values[-1] - 0.5) < 1e-3
    assert decay.fit_slope[1] < 0.05 < decay.fit_slope[0] and decay.growth == "bounded"


@pytest.mark.parametrize("level", [-0.5, 0.0, 1.0, 1.5])
def test_a_level_outside_zero_one_is_refused(level):
    with pytest.raises(ValueError, match=f" 0 and 1, .* {level}$"):
        time_to_tv(toys.toy_1d_overlap().denoiser(), Guidance(0.0), 0, level)


def test_a_time_is_found_however_far_below_the_slowest_exit_it_lies(monkeypatch):
    # strong guidance leaves quickly but where the chain hardly ever comes
    target = random_target(2, 2, seed=3)
    w = 400.0
    tau = time_to_tv(target.denoiser(), Guidance(w), 0, 0.05)
    assert tau < 1e-24 / waiting(target.denoiser(), Guidance(w), 0).slowest
    law = Chain(target.denoiser(), w, "rate", 0).law_at_by_paths(tau)
    assert 1 - float(law[:2, :2].sum()) == pytest.approx(0.05, rel=1e-7)
    monkeypatch.setattr("mdlm_cfg.compare.decay.BRACKETS", 2)
    with pytest.raises(ArithmeticError, match=r" 0\.05 .* tau = .*e-3"):
        time_to_tv(target.denoiser(), Guidance(w), 0, 0.05)


def test_neutral_states_of_all_levels_come_the_likeliest_first():
    # the first coordinate says all there is to know of the class
    first = torch.tensor([[0.6, 0.1, 0.3], [0.0, 0.0, 1.0]], dtype=torch.float64)
    other = torch.tensor([0.3, 0.7, 0.0], dtype=torch.float64)
    n = 3
    target = TableMixture(torch.einsum("ka,b,c->kabc", first, other, other), torch.tensor([0.5, 0.5]))
    found = neutral_states(target, 0)
    chances = [[0.6, 0.1, 0.3, 0.0], [0.3, 0.7, 0.0, 1.0], [0.3, 0.7, 0.0, 1.0]]  # by value, the last being the mask
    expected = {}
    for state in product(range(n + 1), repeat=3):
        chance = math.prod(row[v] for row, v in zip(chances, state))
        if chance > 0 and n in state:
            expected[state] = chance
    assert {c.state: pytest.approx(c.probability) for c in found} == expected
    assert [c.probability for c in found] == sorted((c.probability for c in found), reverse=True)
    assert {sum(v != n for v in c.state) for c in found} == {1, 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num", [2, 4, 5])
def test_a_decay_is_made_of_its_parts(kind, num):
    target = random_target(2, 2, seed=8)
    taus = [0.25, 1, 2]
    guidances = [Guidance(w, kind) for w in (0.0, 0.5, 1.0, 2.0, 3.0)[:num]]
    decay = tv_decay(target, 1, guidances, taus, fit_tau=0.7)
    strengths = [g.constant for g in guidances]
    assert decay.strengths == strengths and decay.taus.tolist() == taus and decay.taus.dtype == torch.float64
    assert str(decay.kind) == kind and decay.fit_tau == 0.7 and decay.num_tokens == 2
    assert (decay.growth == "exponential") == (kind == "rate") and decay.neutral == []
    values = []
    for k, guidance in enumerate(guidances):
        assert torch.allclose(decay.log_tv[k], log_still_masked(target.denoiser(), guidance, 1, taus), rtol=1e-12)
        assert decay.time_to_5_percent[k] == time_to_tv(target.denoiser(), guidance, 1, 0.05)
        values.append(math.log(-float(log_still_masked(target.denoiser(), guidance, 1, [0.7])[0])))
    half = {2: 2, 4: 2, 5: 3}[num]  # the middle one of an odd number belongs to both
    for found, part in zip(decay.fit_slope, (slice(half), slice(num - half, None)), strict=True):
        assert found == pytest.approx(np.polyfit(strengths[part], values[part], 1)[0], abs=1e-10)
    assert tv_decay(target, 1, guidances, taus).fit_tau == 0.5
    alone = tv_decay(target, 1, guidances[:1], taus)
    assert all(math.isnan(slope) for slope in alone.fit_slope)


def test_what_saturates_under_one_kind_is_not_asked_under_the_other():
    target = toys.toy_2d_overlap()
    rate, normalized = (tv_decay(target, 0, [Guidance(1.0, kind)], [0.5]) for kind in KINDS)
    assert rate.neutral and rate.growth == "bounded"
    assert not normalized.neutral and normalized.growth == "bounded"
    with pytest.raises(ValueError, match=r"(rate|normalized), (rate|normalized)$"):
        tv_decay(target, 0, [Guidance(1.0, kind) for kind in KINDS], [0.5])


def test_the_slowest_exit_is_that_of_the_visited_states():
    # after the value 0 the class is certain: there Z = 1; elsewhere it is larger
    first = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    second = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    target = TableMixture(first[:, :, None] * second[:, None, :], torch.tensor([0.5, 0.5]))
    for k in (0, 1):
        chain = Chain(target.denoiser(), 2.0, "rate", k)
        exits = [
            sum(chain.totals(state).values())
            for state in chain.states
            if 2 in state and float(target.class_pmfs[k][tuple(slice(None) if v == 2 else v for v in state)].sum()) > 0
        ]
        assert waiting(target.denoiser(), Guidance(2.0), k).slowest == pytest.approx(min(exits))


def test_the_slowest_exit_may_be_that_of_a_state_that_is_hardly_ever_visited():
    for rare in (1e-60, 0.0):
        first = torch.tensor([[rare, 0.9, 0.1], [0.0, 0.1, 0.9]], dtype=torch.float64)
        second = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]], dtype=torch.float64)
        target = TableMixture(first[:, :, None] * second[:, None, :], torch.tensor([0.5, 0.5]))
        slowest = waiting(target.denoiser(), Guidance(2.0), 0).slowest
        # after the value 0 alone the class is certain
        assert slowest == pytest.approx(1.0) if rare else slowest > 1.1


def test_a_chain_that_stops_short_is_refused_by_the_name_of_its_class():
    # the second coordinate is always 0 under class 1, and always 1 in the mixture
    def answer(tokens, classes):
        rows = torch.full((*tokens.shape, 2), 0.5, dtype=torch.float64)
        rows[:, 1] = torch.where((classes == 1)[:, None], torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        return rows.log()

    with pytest.raises(ValueError, match=r"class 1 .* 1: "):
        waiting(FunctionDenoiser(answer, 2, 2, 2), Guidance(-0.5), 1)


def noise_beside() -> TableMixture:
    """The second coordinate is noise: every state in which the first is known is neutral, and no class certain."""
    first = torch.tensor([[0.7, 0.3], [0.1, 0.9]], dtype=torch.float64)
    return TableMixture(first[:, :, None] * torch.tensor([0.4, 0.6]).double(), torch.tensor([0.5, 0.5]))


def nearly_disjoint() -> TableMixture:
    """Private values but for an overlap of 1e-11."""
    rows = torch.tensor([[1.0, 0.0], [1e-11, 1 - 1e-11]], dtype=torch.float64)
    return TableMixture(rows[:, :, None] * rows[:, None, :], torch.tensor([0.5, 0.5]))


def likeliest_avoided() -> TableMixture:
    """Of the neutral states, the likeliest without guidance is one that strong guidance avoids, and others are not."""
    pmfs = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
    pmfs[0, [0, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]] = torch.tensor([0.1, 0.2, 0.2, 0.5]).double()
    pmfs[1, [0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 0, 0]] = torch.tensor([0.4, 0.3, 0.05, 0.25]).double()
    return TableMixture(pmfs, [0.6, 0.4])


GROWTHS = {
    "equal classes": (lambda: TableMixture(random_target(3, 2, 1).class_pmfs.repeat(2, 1, 1), [0.5, 0.5]), "bounded"),
    "one class": (lambda: random_target(3, 2, k=1), "bounded"),
    "noise": (noise_beside, "bounded"),
    "overlapping squares": (toys.toy_2d_overlap, "bounded"),
    "avoided": (rarely_slow, "linear"),
    "likeliest avoided": (likeliest_avoided, "bounded"),
    "full support": (lambda: random_target(3, 2, seed=4), "exponential"),
    "nearly disjoint": (nearly_disjoint, "exponential"),
}


@pytest.mark.parametrize("name", GROWTHS)
def test_growth_in_w_is_what_neutral_states_say(name: str) -> None:
    make, growth = GROWTHS[name]
    target = make()
    decay = tv_decay(target, 0, [Guidance(1.0)], [0.5])
    assert decay.growth == growth
    limits = {name_state(list(one.state), target.num_tokens): round(one.limit, 9) for one in decay.neutral}
    named = {limit for state, limit in limits.items() if state in decay.statement}
    assert named == ({max(limits.values())} if limits else set())
    if name != "nearly disjoint":  # there exit rates grow with (1 + 1e-11)^w
        values = [-float(log_still_masked(target.denoiser(), Guidance(w), 0, [0.5])) for w in (64.0, 128.0, 256.0)]
        ratios = [later / earlier for earlier, later in pairwise(values)]
        assert {
            "bounded": max(ratios) < 1.001,
            "linear": min(ratios) > 1.95 and max(ratios) < 2.05,
            "exponential": ratios[0] > 4 and ratios[1] > 1.5 * ratios[0],
        }[growth]


@pytest.mark.parametrize("name", GROWTHS)
def test_neutral_states_are_those_whose_rates_do_not_depend_on_w(name: str) -> None:
    target = GROWTHS[name][0]()
    found = {one.state: one.limit for one in neutral_states(target, 0)}
    weak, strong = (Chain(target.denoiser(), w, "rate", 0) for w in (0.0, 50.0))
    for state in weak.states:
        chance = float(target.class_pmfs[0][tuple(slice(None) if v == target.num_tokens else v for v in state)].sum())
        if target.num_tokens in state and chance > 0 and name != "nearly disjoint":
            totals = [sorted(chain.totals(state).values()) for chain in (weak, strong)]
            assert (state in found) == (totals[0] == pytest.approx(totals[1], rel=1e-9))
    if found:
        visits = dict(zip(map(tuple, _states(target)), _visits(target)))
        assert all(visits[state] == pytest.approx(limit, abs=1e-6) for state, limit in found.items())


def _states(target: TableMixture) -> list[list[int]]:
    lattice = Lattice(target.num_tokens, target.num_dims)
    return torch.cat([lattice.tokens(level) for level in range(target.num_dims + 1)]).tolist()


def _visits(target: TableMixture) -> list[float]:
    """At a w so large that it is the limit."""
    return torch.cat([level.flatten() for level in visit_law(target.denoiser(), Guidance(2000.0), 0)]).tolist()
