"""The stated errors of what is measured level by level, on few samples and on many partial states of each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mdlm_cfg import calibrate
from mdlm_cfg.compare.levels import drawn_levels, level_means
from mdlm_cfg.studies.fitting import masks_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture

NORMAL = 1.96  # standard errors that cover 95%


def test_the_error_of_a_total_is_that_of_the_samples() -> None:
    """A partial state of every level of each sample: the sum over levels is then a mean of n numbers."""
    values = torch.randn(120, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.full((120,), 1 / 120, dtype=torch.float64)
    _, covariance = level_means(values.flatten(), torch.arange(5).repeat(120), weights, 5, 5)
    assert float(covariance.sum().sqrt()) == pytest.approx(float(values.sum(dim=1).std()) / math.sqrt(120), rel=1e-12)


def rarely_large(levels: Tensor, num_dims: int, g: torch.Generator) -> Tensor:
    """-ln p of certain and of improbable values: means of D - l coordinates, each 4 with probability 0.05, else 0."""
    rare = torch.rand(*levels.shape, num_dims, generator=g, dtype=torch.float64) < 0.05
    masked = torch.arange(num_dims) < num_dims - levels[..., None]
    return 4.0 * (rare & masked).sum(dim=-1) / masked.sum(dim=-1)


@pytest.mark.parametrize("num", [12, 60])
def test_the_last_level_of_few_samples_has_an_error_that_covers_the_truth(num: int) -> None:
    """The few partial states of a level mostly hold no rare value: alone they vary little, and around a wrong mean."""
    d = 30
    masks = masks_for(num, d)
    weights = torch.full((num,), 1 / num, dtype=torch.float64)
    hits = []
    for seed in range(100):
        g = torch.Generator().manual_seed(seed)
        levels = drawn_levels(num, d, masks, g)
        values = rarely_large(levels, d, g)
        means, covariance = level_means(values.flatten(), levels.flatten(), weights, masks, d)
        hits.append((means - 0.2).abs() <= NORMAL * covariance.diagonal().sqrt())
    covered = torch.stack(hits).double().mean(dim=0)
    assert covered[-5:].mean() > 0.9 and covered.mean() > 0.9


def test_partial_states_of_one_sample_count_as_one() -> None:
    """Pixels follow one hidden part of the class, which the network does not know: states of a sample err alike."""
    parts = torch.tensor([[0.05] * 4, [0.95] * 4], dtype=torch.float64)
    data = BernoulliMixture(parts[None], torch.tensor([[0.3, 0.7]]), torch.ones(1))
    network = BernoulliMixture(torch.tensor([[[0.55] * 4], [[0.45] * 4]]), torch.ones(2, 1), torch.full((2,), 0.5))
    found = []
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        x, _ = data.sample(400, g, 0)
        fit = calibrate(network.denoiser(), 0, x, None, g, masks=4, groups=1)
        found.append((fit.strengths[0], fit.standard_errors[0]))
    strengths, errors = torch.tensor(found).T
    assert 0.65 < float(strengths.std() / errors.mean()) < 1.45


@pytest.mark.parametrize("sharpness", [0.1, 0.4, 1.2])
def test_a_prior_that_holds_a_strength_is_in_its_error(sharpness: float) -> None:
    """Networks that are too flat: the right strength is 1, the prior is around 0, and samples say little to much."""
    signs = torch.tensor([[1.0] * 6, [-1.0] * 6], dtype=torch.float64)[:, None]
    data = BernoulliMixture(torch.sigmoid(sharpness * signs), torch.ones(2, 1), torch.full((2,), 0.5))
    flat = BernoulliMixture(torch.sigmoid(sharpness * signs / 2), torch.ones(2, 1), torch.full((2,), 0.5)).denoiser()
    everything = data.sample(20_000, torch.Generator().manual_seed(0), 0)[0]
    g = torch.Generator().manual_seed(0)
    (truth,) = set(calibrate(flat, 0, everything, None, g, masks=6, groups=1).strengths)
    hits = []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        x, _ = data.sample(12, g, 0)
        fit = calibrate(flat, 0, x, None, g, masks=6, groups=1, spread=1.0)
        hits.append(abs(fit.strengths[0] - truth) <= NORMAL * fit.standard_errors[0])
    assert sum(hits) >= 50  # 95% of 60 are 57


def test_without_evidence_the_error_of_a_strength_is_the_prior() -> None:
    equal = BernoulliMixture(torch.full((2, 1, 4), 0.3, dtype=torch.float64), torch.ones(2, 1), torch.full((2,), 0.5))
    x, _ = equal.sample(50, torch.Generator().manual_seed(0), 0)
    g = torch.Generator().manual_seed(0)
    fit = calibrate(equal.denoiser(), 0, x, None, g, masks=4, centre=2.0, spread=0.7)
    assert fit.strengths == (2.0,) * 4
    assert fit.standard_errors == pytest.approx([0.7] * 4, rel=1e-12)
