"""The ideal guided conditionals, and how far a rule departs from them (theory, section 11; the sums: tests/verify)."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from helpers import Inconsistent, random_target
from policy_oracle import rho_of

from mdlm_cfg import Guidance, terminal_law, tilted_law
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.compare.path_kl import ideal_denoiser, path_kl


@pytest.mark.parametrize("policy", [None, "uniform", "confidence"])
def test_the_ideal_conditionals_end_in_the_tilted_law(policy):
    target = random_target(3, 3, k=3, seed=1, zeros=0.3)
    ideal = ideal_denoiser(target, 2.0, 1)
    assert (terminal_law(ideal, Guidance(0.0), 0, policy) - tilted_law(target, 2.0, 1)).abs().max() < 1e-12


def test_one_dimension_never_departs():
    found = path_kl(random_target(5, 1, seed=2), Guidance(3.0), 0)
    assert abs(found.total) < 1e-14 and len(found.by_level) == 1


@pytest.mark.parametrize("policy", [None, "confidence", "fixed_order"])
@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_the_last_level_never_departs_and_the_first_ones_do(policy, kind):
    found = path_kl(random_target(3, 3, seed=3, zeros=0.2), Guidance(2.0, kind), 0, policy)
    assert abs(found.by_level[-1]) < 1e-13 and min(found.by_level[:-1]) > 1e-3
    assert abs(path_kl(random_target(3, 3, seed=3, zeros=0.2), Guidance(0.0, kind), 0, policy).total) < 1e-13


def test_what_an_order_never_asks_for_is_no_departure():
    # the second coordinate follows the first; the other way round the rule lacks what the ideal has
    target = random_target(2, 2, seed=4)
    guidance = Guidance(1.5)
    rule = Inconsistent(2, 2, 2)
    impossible = torch.tensor([-math.inf, 0.0], dtype=torch.float64)
    rule.table[:, 8, 1] = rule.table[:, 6:8, 0] = impossible  # of (mask, mask), and of (mask, v)
    tilted = tilted_law(target, 1.5, 0)
    total = 0.0
    for x in product(range(2), repeat=2):
        first, second = (rho_of(rule, guidance, 0, state)[i] for i, state in ((0, (2, 2)), (1, (x[0], 2))))
        chance = first[x[0]] / sum(first) * second[x[1]] / sum(second)
        total += float(tilted[x]) * math.log(float(tilted[x]) / chance)
    found = path_kl(target, guidance, 0, "fixed_order", denoiser=rule)
    assert found.total == pytest.approx(total, abs=1e-12)
    assert {s.state for s in found.states} == {(2, 2), (0, 2), (1, 2)}
    assert path_kl(target, guidance, 0, "uniform", denoiser=rule).total == math.inf


def test_the_worst_states_of_all_levels_come_first_and_none_that_is_never_passed():
    # learned conditionals are wrong at every level, and the class does not reach every state
    target = random_target(3, 3, seed=5, zeros=0.6)
    found = path_kl(target, Guidance(1.0), 1, denoiser=Inconsistent(3, 3, 2), most=10**6)
    weights = [s.visits * s.kl for s in found.states]
    levels = [sum(v != 3 for v in s.state) for s in found.states]
    assert weights == sorted(weights, reverse=True) and levels != sorted(levels)
    for level, value in enumerate(found.by_level):
        assert sum(w for w, at in zip(weights, levels) if at == level) == pytest.approx(value, abs=1e-14)
    visited = sum(int((p > 0).sum()) for p in Lattice(3, 3).marginals(tilted_law(target, 1.0, 1))[:-1])
    assert all(s.visits > 0 for s in found.states) and len(found.states) == visited < 4**3 - 3**3
    assert len(path_kl(target, Guidance(1.0), 1, denoiser=Inconsistent(3, 3, 2)).states) == 20


def test_learned_conditionals_and_schedules_can_be_held_against_it():
    target = random_target(2, 2, seed=6)
    found = path_kl(target, Guidance([0.5, 2.0]), 0, w=2.0, denoiser=Inconsistent(2, 2, 2))
    assert found.by_level[1] > 1e-3  # learned conditionals are wrong at the last level too
    with pytest.raises(ValueError, match=r"\[0\.5,2\]"):
        path_kl(target, Guidance([0.5, 2.0]), 0)
