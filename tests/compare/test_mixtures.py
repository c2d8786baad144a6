"""What guidance does to pixels and components, against numpy and scipy, and sums over all images."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import bernoulli_mixture, table_of

from mdlm_cfg.compare.mixtures import (
    component_picture,
    component_shares,
    component_usage,
    components_in_use,
    distinctness,
    pixel_log_ratios,
    pixel_picture,
    uncertain_pixels,
)
from mdlm_cfg.laws import tilted_law
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture


def test_one_pixel_is_tilted_as_theory_says() -> None:
    p = torch.tensor([[[0.8]], [[0.3]]], dtype=torch.float64)
    target = BernoulliMixture(p, torch.ones(2, 1), torch.tensor([0.5, 0.5]))
    ratio = pixel_log_ratios(target, 0)[0]
    assert ratio.tolist() == pytest.approx([math.log(0.2 / 0.45), math.log(0.8 / 0.55)])
    ones = round(1000 * float(tilted_law(table_of(target), 1.0, 0)[1]))
    picture = pixel_picture(target, [0], (torch.arange(1000) < ones)[None, :, None])
    assert picture.correlation == pytest.approx(1.0)
    assert picture.change.tolist() == pytest.approx([0.8 - ones / 1000, ones / 1000 - 0.8])


def test_pixels_that_carry_nothing_are_left_out() -> None:
    p = torch.tensor([0.0, 0.019, 0.02, 0.5, 0.98, 0.981, 1.0], dtype=torch.float64)
    target = BernoulliMixture(p[None, None], torch.ones(1, 1), torch.ones(1))
    assert uncertain_pixels(target).tolist() == [False, False, True, True, True, False, False]


def test_the_picture_of_pixels_is_that_of_all_values_by_hand() -> None:
    p = torch.tensor([[[0.9, 0.001, 0.3, 0.5]], [[0.2, 0.001, 0.4, 0.8]]], dtype=torch.float64)  # the second is certain
    target = BernoulliMixture(p, torch.ones(2, 1), torch.tensor([0.5, 0.5]))
    samples = torch.randint(2, (2, 7, 4), generator=generator_for("pixels"))
    means = samples.double().mean(dim=1)
    picture = pixel_picture(target, [1, 0], samples)
    ratios = []
    changes = []
    whole = target.mean().tolist()
    for k, mean in zip([1, 0], means.tolist()):
        own = target.mean(k).tolist()
        for i in (0, 2, 3):
            on = math.log(own[i] / whole[i])
            off = math.log((1 - own[i]) / (1 - whole[i]))
            ratios += [off, on]
            changes += [own[i] - mean[i], mean[i] - own[i]]
    assert picture.log_ratio.tolist() == pytest.approx(ratios)
    assert picture.change.tolist() == pytest.approx(changes)
    assert picture.correlation == pytest.approx(np.corrcoef(ratios, changes)[0, 1])
    edge = math.log(1.5)
    inside = {
        "private": [c for c, r in zip(changes, ratios) if r > edge],
        "shared": [c for c, r in zip(changes, ratios) if -edge <= r <= edge],
        "foreign": [c for c, r in zip(changes, ratios) if r < -edge],
    }
    assert all(inside.values()) and list(picture.groups) == list(inside)
    for name, values in inside.items():
        assert picture.groups[name] == pytest.approx(np.mean(values))


def test_the_picture_of_components_is_that_of_scipy() -> None:
    target = bernoulli_mixture(4, sharpness=3.0)
    samples = torch.randint(2, (2, 50, 4), generator=generator_for("images"))
    usage = torch.stack([component_usage(target, x, k)[:-1] for x, k in zip(samples, (1, 0))])
    distinct = torch.rand(2, 3, generator=generator_for("d"), dtype=torch.float64)
    distinct[:, :2] = 0.3  # a tie
    assert math.isnan(component_picture(target, [1, 0], samples, torch.full_like(distinct, 0.1)).rank_correlation)
    picture = component_picture(target, [1, 0], samples, distinct)
    weights = np.stack([target.weights(1).numpy(), target.weights(0).numpy()])
    gain = np.log((50 * usage.numpy() + 0.5) / (50 * weights + 0.5))
    assert np.allclose(picture.log_gain, gain)

    def centred(values):
        values = np.asarray(values)
        return (values - values.mean(axis=1, keepdims=True)).ravel()

    expected = scipy.stats.spearmanr(centred(gain), centred(distinct)).statistic
    assert picture.rank_correlation == pytest.approx(expected)
    assert picture.in_use == pytest.approx(np.mean([math.exp(scipy.stats.entropy(row)) for row in usage.numpy()]))


def test_equal_classes_have_no_pixel_and_no_component_that_is_distinct() -> None:
    """One class twice, its components in another order: log-ratios are 0 but for rounding, and relate to none."""
    p = bernoulli_mixture(4, sharpness=3.0).probabilities[:1]
    target = BernoulliMixture(torch.cat([p, p[:, [2, 0, 1]]]), torch.full((2, 3), 1 / 3), torch.full((2,), 0.5))
    samples = torch.stack([target.sample(50, generator_for("equal", k), k)[0] for k in range(2)])
    assert math.isnan(pixel_picture(target, [0, 1], samples).correlation)
    distinct = torch.stack([distinctness(target, k, 20, generator_for("distinct", k)) for k in range(2)])
    assert 0 < float(distinct.abs().max()) < 1e-14
    picture = component_picture(target, [0, 1], samples, distinct)
    assert math.isnan(picture.rank_correlation) and math.isnan(picture.gain_in_errors)


def test_errors_of_pixels_and_components_are_the_spread_over_sets_of_samples() -> None:
    """Of samples of the classes themselves: changes are 0 on average, and gains of distinct components too."""
    p = torch.tensor([[[0.9, 0.3, 0.5], [0.6, 0.1, 0.5]], [[0.2, 0.4, 0.8], [0.1, 0.7, 0.9]]], dtype=torch.float64)
    target = BernoulliMixture(p, torch.tensor([[0.5, 0.5], [0.2, 0.8]]), torch.tensor([0.5, 0.5]))
    partial = torch.tensor([[0.1, 0.4], [0.2, 0.3]], dtype=torch.float64)
    changes = []
    errors = []
    in_errors = []
    for seed in range(100):
        samples = torch.stack([target.sample(60, generator_for("set", seed, k), k)[0] for k in (1, 0)])
        picture = pixel_picture(target, [1, 0], samples)
        changes.append(picture.groups["private"])
        errors.append(picture.private_error)
        in_errors.append(component_picture(target, [1, 0], samples, partial).gain_in_errors)
    assert np.mean(changes) == pytest.approx(0, abs=4 * np.std(changes) / 10)
    assert np.std(changes) == pytest.approx(np.mean(errors), rel=0.3)  # 4 errors of a deviation of 100
    assert np.mean(in_errors) == pytest.approx(0, abs=0.4) and np.std(in_errors) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("target_class", [0, 1])
def test_distinctness_equals_the_sum_over_images_and_masks(target_class: int) -> None:
    target = bernoulli_mixture(3, sharpness=3.0)
    num = 40_000
    states = torch.cartesian_prod(*[torch.arange(2)] * 3)
    subsets = [s for m in (1, 2, 3) for s in combinations(range(3), m)]
    by_component = target.log_likelihood(states, target_class).exp()  # (8, C)

    def ratio(tokens: torch.Tensor) -> torch.Tensor:
        return target.log_prob(tokens, torch.full((len(tokens),), target_class)) - target.log_prob(tokens)

    partial = torch.zeros(3, dtype=torch.float64)
    for s in subsets:
        masked = states.clone()
        masked[:, list(s)] = 2
        partial += by_component.T @ ratio(masked) / 3 / math.comb(3, len(s))
    found = distinctness(target, target_class, num, generator_for("d"))
    assert found.shape == (3,) and torch.allclose(found, partial, atol=0.015), (found, partial)


def test_usage_is_the_mean_posterior() -> None:
    target = bernoulli_mixture(4, sharpness=3.0)
    x, _ = target.sample(40, generator_for("x"), 1)
    joint = target.component_probabilities(1).log() @ x.T.double()
    joint += (1 - target.component_probabilities(1)).log() @ (1 - x.T).double()
    posterior = (joint.exp() * target.weights(1)[:, None]).T
    posterior /= posterior.sum(dim=1, keepdim=True)
    assert component_usage(target, x, 1).tolist() == pytest.approx([*posterior.mean(dim=0).tolist(), 0.0])
    weights = torch.linspace(0, 1, 40, dtype=torch.float64) / 20
    assert component_usage(target, x, 1, weights)[:-1].tolist() == pytest.approx((weights @ posterior).tolist())
    # an image that the class cannot be is of none of its components
    p = torch.tensor([[[0.0, 0.2], [0.0, 0.9]]], dtype=torch.float64)
    strict = BernoulliMixture(p, torch.tensor([[0.5, 0.5]]), torch.ones(1))
    x = torch.tensor([[0, 1], [1, 1]])
    usage = component_usage(strict, x, 0)
    assert usage.tolist() == pytest.approx([0.1 / 1.1, 0.45 / 1.1, 0.5])
    entropy = -sum(p * math.log(p) for p in (0.2 / 1.1, 0.9 / 1.1))
    assert components_in_use(usage) == pytest.approx(math.exp(entropy)) and components_in_use(usage[-1:]) == 0.0
    shares = component_shares(strict, x, 0)
    assert shares.tolist() == [pytest.approx([0.2 / 1.1, 0.9 / 1.1, 0.0]), [0.0, 0.0, 1.0]]
