"""Likelihoods side by side, against sums over all orders (theory, section 14)."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from helpers import Inconsistent, brute_bound, log_prob_along, random_target

from mdlm_cfg import Guidance, terminal_law
from mdlm_cfg.chain.policies import Confidence, FixedOrder, Policy
from mdlm_cfg.compare.likelihood import (
    Bound,
    Likelihood,
    _by_policy,
    exact_likelihood,
    exact_nll,
    likelihood,
    nelbo_bound,
)
from mdlm_cfg.support.seeds import generator_for


@pytest.mark.parametrize("seed", [0, 1])
def test_exactly_against_brute_force(seed):
    target = random_target(2, 3, seed=seed)
    denoiser = Inconsistent(2, 3, 2, seed=seed)
    found = exact_likelihood(target, denoiser, 1)
    nll, two, nelbo = (brute_bound(target, denoiser, 1, orders) for orders in (0, 2, 1))
    assert found.nll == pytest.approx(nll, abs=1e-12) and found.nelbo == pytest.approx(nelbo, abs=1e-12)
    assert exact_nll(target, denoiser, 1) == found.nll and found.entropy == target.entropy(1) != target.entropy(None)
    assert found.entropy < nll < two < nelbo and found.order_gap == pytest.approx(nelbo - nll, abs=1e-12)


def test_some_states_at_a_time_are_all_states(monkeypatch):
    target = random_target(2, 3, seed=1, zeros=0.6)
    denoiser = Inconsistent(2, 3, 2, seed=1)
    x, _ = target.sample(9, generator_for("x"))
    exact = []
    bounds = []
    for rows in (4096, 5, 1):
        monkeypatch.setattr("mdlm_cfg.compare.likelihood.MAX_ROWS", rows)
        exact.append(exact_likelihood(target, denoiser, 0).nelbo)
        bounds.append(likelihood(denoiser, x, 0, orders=2, policy=FixedOrder()).nelbo.value)
    assert exact == pytest.approx([brute_bound(target, denoiser, 0, 1)] * 3, abs=1e-12)
    assert bounds == pytest.approx(bounds[:1] * 3, abs=1e-12)


def test_exact_conditionals_are_coherent_and_reach_the_entropy():
    target = random_target(3, 3, seed=2, zeros=0.3)
    for k in (None, 0):
        found = exact_likelihood(target, target.denoiser(), k)
        assert abs(found.order_gap) < 1e-12 and abs(found.nll - target.entropy(k)) < 1e-12


def test_a_deterministic_order_has_its_own_likelihood():
    target = random_target(2, 3, seed=3)
    denoiser = Inconsistent(2, 3, 2, seed=3)
    expected = -sum(
        float(target.class_pmfs[0][x]) * log_prob_along(denoiser, x, (1, 2, 0), 0) for x in product(range(2), repeat=3)
    )
    assert exact_likelihood(target, denoiser, 0, FixedOrder([1, 2, 0])).nll == pytest.approx(expected, abs=1e-12)


def test_bounds_from_orders_are_within_their_errors_and_fall():
    target = random_target(2, 3, seed=0)
    denoiser = Inconsistent(2, 3, 2, seed=0)
    g = generator_for("likelihood")
    x, _ = target.sample(20_000, g, 1)
    found = likelihood(denoiser, x, 1, orders=4, generator=g)
    assert list(found.bounds) == [1, 2, 4] and found.log_probs.shape == (20_000, 4)
    assert found.nelbo is found.bounds[1]
    for orders in (1, 2, 4):
        bound = found.bounds[orders]
        assert 0 < bound.standard_error < 0.02
        assert abs(bound.value - brute_bound(target, denoiser, 1, orders)) < 4 * bound.standard_error
    assert found.bounds[1].value > found.bounds[2].value > found.bounds[4].value


def test_exact_conditionals_need_one_order():
    target = random_target(3, 3, seed=4)
    x, _ = target.sample(50, torch.Generator().manual_seed(0))
    for k in (None, 1):
        found = likelihood(target.denoiser(), x, k, orders=3, generator=generator_for("one"))
        index = tuple(x.T)
        assert (found.log_probs - target.class_pmf(k)[index].log()[:, None]).abs().max() < 1e-12
        assert list(found.bounds) == [1, 2, 3]
    assert list(likelihood(target.denoiser(), x, 1).bounds) == [1]
    classes = torch.arange(50) % 2
    each = likelihood(target.denoiser(), x, classes, orders=1)
    assert torch.allclose(
        each.log_probs[:, 0], torch.stack([target.class_pmfs[k][tuple(v)] for k, v in zip(classes, x)]).log()
    )


@pytest.mark.parametrize("policy", [FixedOrder([1, 2, 0]), Confidence(), Confidence(temperature=0.5)], ids=str)
def test_the_mean_along_a_policys_orders_is_its_law(policy):
    denoiser = Inconsistent(2, 3, 2, seed=3)
    law = terminal_law(denoiser, Guidance(0.0), 0, policy)
    x = torch.tensor(list(product(range(2), repeat=3)))
    found = likelihood(denoiser, x, 0, orders=4000, policy=policy, generator=generator_for("policy")).log_probs.exp()
    error = found.std(dim=1) / 4000**0.5
    assert ((found.mean(dim=1) - law.flatten()).abs() <= 4 * error + 1e-12).all()
    assert bool((error > 1e-4).any()) == (str(policy) == "confidence(temperature=0.5)")  # the others leave no chance


def test_the_nelbo_by_masks_is_the_bound_from_one_order():
    target = random_target(2, 3, seed=0)
    denoiser = Inconsistent(2, 3, 2, seed=0)
    x, classes = target.sample(20_000, generator_for("masks"))
    for labels, parts in ((None, [(1.0, None)]), (classes, list(zip(target.class_weights.tolist(), range(2))))):
        found = nelbo_bound(denoiser, x, labels, num_draws=2, generator=generator_for("draws"))
        exact = sum(a * exact_likelihood(target, denoiser, k).nelbo for a, k in parts)
        assert abs(found.value - exact) < 4 * found.standard_error and found.standard_error < 0.02
    found = nelbo_bound(denoiser, x[:9], classes[:9], generator=generator_for("draws"))
    assert found == nelbo_bound(denoiser, x[:9], classes[:9], 4, generator_for("draws"))


def test_what_is_told_of_progress_rises_to_all():
    told = []
    x, _ = random_target(2, 3).sample(7, generator_for("x"))
    likelihood(Inconsistent(2, 3, 2), x, 0, orders=2, progress=told.append)
    assert told == pytest.approx([1 / 3, 2 / 3, 1])


def test_a_bound_is_a_mean_with_its_standard_error():
    two = torch.tensor([1.0, 2.0])
    three = torch.tensor([1.0, 2.0, 6.0])
    assert Bound.of(two) == Bound(1.5, pytest.approx(0.5))
    assert Bound.of(three) == Bound(3.0, pytest.approx(three.std().item() / math.sqrt(3)))


@pytest.mark.parametrize("orders", [1, 2, 3, 5, 8])
def test_bounds_and_their_falls_are_those_of_groups_of_orders(orders):
    rows = torch.randn(6, orders, generator=generator_for("orders", orders), dtype=torch.float64) - 3
    found = Likelihood.of(rows)
    each = {}
    for size in sorted({1, 2, 4, 8, orders}):
        if size <= orders:  # the orders that fill no group are left out
            starts = range(0, orders // size * size, size)
            groups = [[sum(map(math.exp, row[k : k + size])) / size for k in starts] for row in rows.tolist()]
            each[size] = torch.tensor([-sum(map(math.log, row)) / len(row) for row in groups], dtype=torch.float64)
    assert list(found.bounds) == list(each)
    for size, values in each.items():
        for bound, apart in ((found.bounds[size], values), (found.fall(size), each[1] - values)):
            assert bound.value == pytest.approx(float(apart.mean()), abs=1e-12)
            assert bound.standard_error == pytest.approx(float(apart.std()) / math.sqrt(6), abs=1e-12)


def test_many_orders_and_many_masks_of_few_samples_are_allowed():
    # more rows a sample than are asked for at once
    target = random_target(2, 3, seed=4)
    x = torch.tensor([[0, 1, 1], [1, 0, 1]])
    exact = [float(target.class_pmfs[0][tuple(row)].log()) for row in x.tolist()]
    found = likelihood(target.denoiser(), x, 0, orders=5000, generator=generator_for("many"))
    assert found.log_probs.shape == (2, 5000)
    assert torch.allclose(found.log_probs, torch.tensor(exact, dtype=torch.float64)[:, None], rtol=1e-10)
    bound = nelbo_bound(target.denoiser(), x, None, num_draws=5000, generator=generator_for("many"))
    assert bound.value == pytest.approx(-float(target.pmf[tuple(x.T)].log().mean()), abs=0.05)


def test_coordinates_come_in_proportion_to_a_policys_choice():
    # of three coordinates, a policy with the weights 1, 3 and 6 (masked ones alone)
    class Weighted(Policy):
        def preference(self, log_z, log_r, coordinates):
            return None, torch.tensor([1.0, 3.0, 6.0], dtype=torch.float64).log()[coordinates].expand_as(log_z)

    next_of = _by_policy(Weighted(), 2, generator_for("next"))
    log_probs = torch.full((20_000, 3, 2), 0.5, dtype=torch.float64).log()
    for state, expected in (([2, 2, 2], [0.1, 0.3, 0.6]), ([2, 0, 2], [1 / 7, 0, 6 / 7]), ([1, 2, 0], [0, 1, 0])):
        drawn = next_of(0, torch.tensor([state]).expand(20_000, 3), log_probs)
        shares = torch.bincount(drawn, minlength=3).double() / 20_000
        assert torch.allclose(shares, torch.tensor(expected, dtype=torch.float64), atol=0.015)


def test_refusals():
    denoiser = Inconsistent(2, 3, 2)
    x = torch.zeros(4, 3, dtype=torch.int64)
    for arguments, message in (
        ((x, 0, 0), "orders = 0"),
        ((x[:1], 0), r"x .*\(1, 3\).* 2 .* 3 "),
        ((x + 2, 0), r" 0\.\.1, "),
        ((x, 5), "class 5 .* 2 .* 0 to 1"),
        ((x, torch.tensor([0, 1, 3, 0])), r"class 3 .* row 2: .* 0\.\.1, "),
        ((x[0], 0), r"x .*\(3,\).* 2 .* 3 "),
        ((x[:, :2], 0), r"x .*\(4, 2\).* 2 .* 3 "),
        ((x - 1, 0), r" 0\.\.1, "),
    ):
        with pytest.raises(ValueError, match=message):
            likelihood(denoiser, *arguments)
