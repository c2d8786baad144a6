"""The tilted law from weighted samples of the class, and what sequential Monte Carlo says of its way."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import random_target, table_of

from mdlm_cfg import Guidance, UserError, sequential_monte_carlo, tilted_law
from mdlm_cfg.compare.metrics import histogram, total_variation
from mdlm_cfg.compare.weighted import weighted_tv
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling.reference import tilted_reference
from mdlm_cfg.sampling.smc import group_ess
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.posterior import posterior_of


def mixture(dims: int = 4, seed: int = 0, weights: tuple[float, ...] = (0.2, 0.5, 0.3)) -> BernoulliMixture:
    g = generator_for("reference mixture", seed)
    p = torch.rand(3, 2, dims, generator=g, dtype=torch.float64)
    w = torch.rand(3, 2, generator=g, dtype=torch.float64) + 0.2
    return BernoulliMixture(p, w / w.sum(1, keepdim=True), torch.tensor(weights))


@pytest.mark.parametrize(("w", "z"), [(1.0, 0), (3.0, 2), (-0.5, 1)])
def test_the_identity_by_brute_force(w: float, z: int) -> None:
    """sum_x p^-w p_z^(1+w) f = E_{p_z} [(p_z / p)^w f] for every f, and (p_z / p)^w = (p(z|x) / p(z))^w."""
    target = mixture()
    states = torch.cartesian_prod(*[torch.arange(2)] * 4)
    own = target.log_prob(states, torch.full((16,), z))
    whole = target.log_prob(states)
    tilted = (1 + w) * own - w * whole
    ratio = posterior_of(target)(states)[:, z] - math.log(float(target.class_weights[z]))
    assert torch.allclose(own + w * ratio, tilted, atol=1e-12)
    exact = tilted_weights(table_of(target).denoiser(), Guidance(w), z)
    assert float(tilted.logsumexp(0)) == pytest.approx(exact.log_normalizer, abs=1e-12)
    assert torch.allclose((own + w * ratio).softmax(0), tilted_law(table_of(target), w, z).flatten(), atol=1e-13)


@pytest.mark.parametrize("w", [1.0, 3.0])
def test_the_reference_is_the_tilted_law(w: float) -> None:
    target = mixture(seed=1)
    z = 1
    n = 100_000
    found = tilted_reference(target, w, z, n, generator_for("reference"))
    table = table_of(target)
    assert total_variation(histogram(found.x, 2, found.weights), tilted_law(table, w, z)) < 0.02
    exact = tilted_weights(table.denoiser(), Guidance(w), z).log_normalizer
    assert abs(found.log_normalizer - exact) < 4 * found.relative_error
    assert 0 < found.relative_error < 0.02
    assert float(found.log_weights.max()) <= -w * math.log(float(target.class_weights[z])) + 1e-12


def test_its_error_is_the_spread_of_repeats() -> None:
    target = mixture(seed=2)
    exact = tilted_weights(table_of(target).denoiser(), Guidance(2.0), 0).log_normalizer
    runs = [tilted_reference(target, 2.0, 0, 400, generator_for("repeats", k)) for k in range(200)]
    z = torch.tensor([(r.log_normalizer - exact) / r.relative_error for r in runs])
    assert 0.8 < float(z.std()) < 1.25 and abs(float(z.mean())) < 0.35


def test_the_error_of_a_weighted_mean_and_of_a_distance_is_the_spread_of_repeats() -> None:
    """Of resampled samples, which depend on each other within their group."""
    target = random_target(2, 3, seed=4)
    far = target.class_pmf(1)  # from which the samples are far, so that the error is right to first order
    drawn = [
        sequential_monte_carlo(target.denoiser(), Guidance(3.0), 0, 200, threshold=1.0, generator=generator_for(seed))
        for seed in range(60)
    ]
    of_means = [(float(one.weights @ one.x[:, 0].double()), one.error_of(one.x[:, 0].double())) for one in drawn]
    assert all(sum(one.num_resampled) > 0 for one in drawn)
    for pairs in (of_means, [weighted_tv(one, far) for one in drawn]):
        values, errors = torch.tensor(pairs, dtype=torch.float64).T
        assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.35)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r" 50 .* 20$"):
        tilted_reference(mixture(), 1.0, 0, 50)
    with pytest.raises(UserError, match=r"class 1 .* 0 .*target_class"):
        tilted_reference(mixture(weights=(0.4, 0.0, 0.6)), 1.0, 1, 100)
    with pytest.raises(UserError, match=r"class 7 .* 3 .* 0 to 2"):
        tilted_reference(mixture(), 1.0, 7, 100)


def test_effective_sizes_on_the_way() -> None:
    target = random_target(3, 4, seed=3)
    never = sequential_monte_carlo(
        target.denoiser(), Guidance(2.0), 0, 4000, threshold=0.0, num_groups=4, generator=generator_for("never")
    )
    assert never.num_resampled == (0, 0, 0, 0)
    last = group_ess(never.log_weights.view(4, -1)).mean()
    assert never.ess_on_the_way[-1] == pytest.approx(float(last))
    assert never.ess_on_the_way[-1] == pytest.approx(tilted_weights(target.denoiser(), Guidance(2.0), 0).ess, rel=0.1)
    often = sequential_monte_carlo(
        target.denoiser(), Guidance(2.0), 0, 4000, threshold=1.0, num_groups=4, generator=generator_for("often")
    )
    assert min(often.ess_on_the_way) > never.ess_on_the_way[-1]  # every step begins with even weights
    assert group_ess(torch.zeros(2, 5, dtype=torch.float64)).tolist() == pytest.approx([1.0, 1.0])
    assert all(0.999 < float(group_ess(torch.full((1, m), 0.3)).max()) <= 1 for m in range(1, 100))
    one = torch.tensor([[0.0, -math.inf, -math.inf, -math.inf]], dtype=torch.float64)
    assert group_ess(one).tolist() == pytest.approx([0.25])
