"""The information profile and the best steps, against sums over subsets and all compositions (theory, section 22)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, product

import pytest
import torch
from helpers import random_target
from torch import Tensor

from mdlm_cfg import (
    FunctionDenoiser,
    Guidance,
    TableMixture,
    UserError,
    exact_information_profile,
    information_profile,
    tilted_law,
)
from mdlm_cfg.chain.policies import Uniform
from mdlm_cfg.chain.steps import EventStep
from mdlm_cfg.compare.metrics import kl_divergence
from mdlm_cfg.compare.profile import InformationProfile
from mdlm_cfg.laws.stepped import freeze
from mdlm_cfg.verify.oracle.tables import entropy, profile


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        yield from ((first, *rest) for rest in compositions(total - first, parts - 1))


def step_cost(target: TableMixture, w: float, z: int, a: int, k: int, s: float) -> float:
    """E KL(p_{z,w}(x_A | x_S) || prod_i r_i(.; s)) over sets S of size a and A of size k outside it, by plain sums."""
    n = target.num_tokens
    d = target.num_dims
    tilted = tilted_law(target, w, z)
    own = target.class_pmf(z)
    whole = target.pmf

    def at(pmf: torch.Tensor, known: dict[int, int]) -> float:
        return float(pmf[tuple(known.get(i, slice(None)) for i in range(d))].sum())

    costs = []
    for known_set in combinations(range(d), a):
        for new_set in combinations([i for i in range(d) if i not in known_set], k):
            cost = 0.0
            for values in product(range(n), repeat=a):
                known = dict(zip(known_set, values))
                if (base := at(tilted, known)) == 0:
                    continue
                r = {}
                for i in new_set:
                    ratios = [(at(own, known | {i: v}) / at(own, known)) for v in range(n)]
                    mixed = [(at(whole, known | {i: v}) / at(whole, known)) for v in range(n)]
                    rho = [p * (p / q) ** s if p > 0 else 0.0 for p, q in zip(ratios, mixed)]
                    r[i] = [v / sum(rho) for v in rho]
                for new in product(range(n), repeat=k):
                    if (mass := at(tilted, known | dict(zip(new_set, new)))) > 0:
                        cost += mass * math.log(mass / base / math.prod(r[i][v] for i, v in zip(new_set, new)))
            costs.append(cost)
    return sum(costs) / len(costs)


@pytest.mark.parametrize("z", [0, None])
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_the_profile_by_sets(z, zeros) -> None:
    target = random_target(3, 4, k=2, seed=1, zeros=zeros)
    pmf = target.class_pmf(z).numpy()
    found = exact_information_profile(target, z)
    assert found.entropies.tolist() == pytest.approx(profile(pmf), abs=1e-12)
    whole = entropy(pmf, (0, 1, 2, 3))
    assert found.total_entropy.value == pytest.approx(whole, abs=1e-12)
    alone = sum(entropy(pmf, (i,)) for i in range(4))
    assert found.total_correlation.value == pytest.approx(alone - whole, abs=1e-12)
    given_others = sum(whole - entropy(pmf, tuple(j for j in range(4) if j != i)) for i in range(4))
    assert found.dual_total_correlation.value == pytest.approx(whole - given_others, abs=1e-12)
    assert found.plan([4]).cost.value == pytest.approx(alone - whole, abs=1e-12)  # one step costs the total correlation
    assert found.plan([1, 1, 1, 1]).cost.value == pytest.approx(0.0, abs=1e-12)
    assert bool((found.entropies.diff() < 1e-12).all())  # to know more never hurts


@pytest.mark.parametrize("w", [0.0, 1.5])
def test_the_cost_of_a_step_by_plain_sums(w) -> None:
    target = random_target(2, 3, k=2, seed=2)
    found = exact_information_profile(target, 0, w)
    costs = found.step_costs()
    for a in range(3):
        for k in range(1, 4 - a):
            s = float(found.strengths[a])
            assert float(costs[a, a + k]) == pytest.approx(step_cost(target, w, 0, a, k, s), abs=1e-12)
            assert min(step_cost(target, w, 0, a, k, s + e) for e in (-1e-2, 1e-2)) >= float(costs[a, a + k]) - 1e-14


@pytest.mark.parametrize("w", [0.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_steps_of_all_compositions(w, seed) -> None:
    found = exact_information_profile(random_target(2, 6, k=2, seed=seed, zeros=0.3), 0, w)
    for steps in range(1, 7):
        best = found.best(steps)
        costs = {sizes: found.plan(sizes).cost.value for sizes in compositions(6, steps)}
        assert best.sizes in costs and best.cost.value == pytest.approx(min(costs.values()), abs=1e-12)
        assert best.strengths == tuple(float(found.strengths[sum(best.sizes[:j])]) for j in range(steps))
    for schedule in ("linear", "cosine", "exponential"):
        planned = found.scheduled(3, schedule)
        assert planned.cost.value >= found.best(len(planned.sizes)).cost.value - 1e-12


def test_any_profile_has_its_best_steps() -> None:
    g = torch.Generator().manual_seed(0)
    for d in (1, 2, 7):
        h = torch.rand(d, generator=g, dtype=torch.float64)  # estimates need not fall
        found = InformationProfile(h, h + torch.rand(d, generator=g), torch.zeros(d), torch.zeros(d, d).double())
        for steps in range(1, d + 1):
            least = min(found.plan(sizes).cost.value for sizes in compositions(d, steps))
            assert found.best(steps).cost.value == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize("w", [0.0, 2.0])
@pytest.mark.parametrize("sizes", [(3,), (1, 2), (2, 1), (1, 1, 1)])
def test_the_law_of_the_sampler_costs_no_more_than_is_predicted(w, sizes) -> None:
    target = random_target(3, 3, k=2, seed=5)
    found = exact_information_profile(target, 0, w)
    plan = found.plan(sizes)
    # frozen rates at the strengths of the levels where the steps begin
    chain = freeze(target.denoiser(), Guidance(found.strengths.tolist()), 0)
    law = chain.law_after([EventStep(k, Uniform()) for k in sizes])[:3, :3, :3]
    kl = kl_divergence(tilted_law(target, w, 0), law)
    assert kl <= plan.cost.value + 1e-12
    if len(sizes) == 1:
        assert kl == pytest.approx(plan.cost.value, abs=1e-12)  # one step has one order


def test_data_give_the_exact_profile_with_the_errors_that_are_stated() -> None:
    """Of one mask and without guidance: tests/verify."""
    target = random_target(3, 3, k=2, seed=4)
    w = 1.0
    exact = exact_information_profile(target, 0, w)
    posterior = target.class_weights[0] * target.class_pmf(0) / target.pmf
    scores = []
    for seed in range(60):
        x, _ = target.sample(2000, torch.Generator().manual_seed(seed), 0)
        log_weights = w * posterior[tuple(x.T)].log()
        g = torch.Generator().manual_seed(seed)
        found = information_profile(target.denoiser(), 0, x, log_weights, g, masks=2, guided=True)
        truth = exact.cross_entropies
        pairs = [(found.entropies[level], truth[level], found.standard_errors[level]) for level in range(3)]
        total = found.total_correlation
        pairs.append((total.value, 3 * truth[0] - truth.sum(), total.standard_error))
        scores.append([float((estimate - true) / error) for estimate, true, error in pairs])
    found_scores = torch.tensor(scores)
    assert bool((found_scores.mean(dim=0).abs() < 5 / math.sqrt(60) + 0.1).all())
    assert bool(((found_scores.std(dim=0) > 0.62) & (found_scores.std(dim=0) < 1.42)).all()), found_scores.std(dim=0)


@pytest.mark.parametrize(
    "refused",
    [
        lambda p: p.best(0),
        lambda p: p.best(4),
        lambda p: p.plan([1, 1]),
        lambda p: p.plan([0, 3]),
        lambda p: p.plan([]),
        lambda p: p.scheduled(0),
    ],
)
def test_steps_that_do_not_fit_are_refused(refused) -> None:
    with pytest.raises(UserError):
        refused(exact_information_profile(random_target(2, 3, seed=0), 0))


def test_without_guidance_it_does_not_matter_what_the_mixture_excludes() -> None:
    target = random_target(2, 2, seed=3)
    exact = target.denoiser()

    def ask(tokens: Tensor, classes: Tensor | None) -> Tensor:
        """The exact conditionals of the classes; without one the value 0 is certain."""
        has_none = torch.full(tokens.shape[:1], True) if classes is None else classes == target.num_classes
        certain = torch.tensor([0.0, -math.inf], dtype=torch.float64)
        return torch.where((has_none[:, None] & (tokens == 2))[..., None], certain, exact(tokens, classes))

    found = exact_information_profile(target, 0, 0.0, FunctionDenoiser(ask, 2, 2, target.num_classes))
    assert torch.allclose(found.cross_entropies, exact_information_profile(target, 0).entropies, atol=1e-12)


def test_guidance_without_a_class_is_refused() -> None:
    target = random_target(2, 3, seed=0)
    x, _ = target.sample(100, torch.Generator().manual_seed(0))
    with pytest.raises(UserError):
        information_profile(target.denoiser(), None, x, guided=True)
    assert information_profile(target.denoiser(), None, x, None, torch.Generator()).num_dims == 3


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 12])
def test_steps_that_cost_the_same_are_even(steps: int) -> None:
    """Independent coordinates: all steps cost nothing, and what rounding adds to their costs chooses none."""
    flat = torch.full((12,), 0.3, dtype=torch.float64)
    flat[::5] = 0.1 + 0.2  # another number by rounding
    profile = InformationProfile(flat, flat, torch.zeros(12).double(), torch.zeros(12, 12).double())
    assert max(profile.best(steps).sizes) == math.ceil(12 / steps)


@pytest.mark.parametrize("w", [0.0, 2.0])
def test_independent_coordinates_cost_nothing_and_no_less(w: float) -> None:
    """Equal entropies differ by rounding, which may be below 0 as no divergence is; noise may be, and stays."""
    for seed in range(6):
        marginals = torch.rand(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
        pmf = torch.ones(1, dtype=torch.float64)
        for p in marginals / marginals.sum(dim=1, keepdim=True):
            pmf = pmf[..., None] * p
        found = exact_information_profile(TableMixture(pmf.expand(2, *[3] * 5), torch.full((2,), 0.5)), 0, w)
        costs = [found.best(k).cost.value for k in range(1, 6)] + [found.scheduled(2, "cosine").cost.value]
        costs += [found.total_correlation.value, found.dual_total_correlation.value]
        costs += found.step_costs()[found.step_costs() < math.inf].tolist()
        assert min(costs) >= 0 and max(costs) < 1e-12
    rising = torch.tensor([1.0, 1.1], dtype=torch.float64)
    noisy = InformationProfile(rising, rising, torch.zeros(2), torch.eye(2, dtype=torch.float64))
    assert noisy.plan([2]).cost.value == pytest.approx(-0.1) == noisy.total_correlation.value
