"""Weighted samples: their histogram, and how far they are expected to be from a law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import Inconsistent, random_target
from scipy.stats import binom, foldnorm

from mdlm_cfg import Guidance, Sampler, TableMixture, terminal_law, tilted_law
from mdlm_cfg.compare.metrics import (
    expected_sampling_tv,
    expected_tv as expected_tv_of_samples,
    histogram,
    total_variation,
)
from mdlm_cfg.compare.weighted import break_even_samples, expected_tv, expected_weighted_tv
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.support.seeds import generator_for


def test_a_weighted_histogram_counts_weights() -> None:
    x = torch.tensor([[0, 1], [0, 1], [1, 0]])
    found = histogram(x, 2, torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    assert found.tolist() == [[0, 0.75], [0.25, 0]]
    assert torch.equal(histogram(x, 2, torch.ones(3, dtype=torch.float64)), histogram(x, 2))


HARD = {
    "few states": (2, 3, 2, 1.0),
    "rare states": (3, 3, 7, 4.0),
    "many states": (4, 4, 6, 1.0),
    "many rare states": (2, 8, 8, 2.0),
    "two coordinates": (3, 2, 11, 3.0),
}


@pytest.mark.parametrize(
    ("name", "w"),
    [(name, 0.0) for name in HARD]
    + [("few states", 2.0), ("few states", 6.0), ("rare states", 0.5), ("many states", 1.0), ("many states", 1.5)]
    + [("many rare states", 0.5), ("two coordinates", 1.0), ("two coordinates", 2.0)],
)
def test_the_expected_distance_is_the_mean_of_many_sets(name: str, w: float) -> None:
    """Within 10% where 100 samples carry the second moment of the weights, and exactly without weights."""
    n, d, seed, skew = HARD[name]
    pmfs = random_target(n, d, seed=seed).class_pmfs ** skew
    pmfs /= pmfs.flatten(1).sum(dim=1).view(2, *[1] * d)
    target = TableMixture(pmfs, torch.tensor([0.4, 0.6], dtype=torch.float64))
    guidance = Guidance(w)
    weights = tilted_weights(target.denoiser(), guidance, 0)
    num = math.ceil(100 / weights.heavy)
    sets = 100
    tilted = tilted_law(target, w, 0)
    x, log_w = Sampler().draw_weighted(target.denoiser(), guidance, 0, num * sets, generator_for("sets", name))
    shares = log_w.view(sets, num).softmax(dim=1)
    tvs = torch.tensor([total_variation(histogram(p, n, s), tilted) for p, s in zip(x.view(sets, num, d), shares)])
    expected = expected_weighted_tv(weights, tilted, num)
    error = float(tvs.std()) / math.sqrt(sets)
    assert abs(float(tvs.mean()) - expected) < 4 * error + (0.1 * expected if w else 0.0)


def test_heavy_samples_are_counted_by_the_third_moment() -> None:
    target = random_target(2, 3, seed=5)
    weights = tilted_weights(target.denoiser(), Guidance(4.0), 0, "confidence")
    _, log_w = Sampler(policy="confidence").draw_weighted(
        target.denoiser(), Guidance(4.0), 0, 100_000, generator_for("third")
    )
    for power, found in enumerate((weights.log_normalizer, weights.log_second_moment, weights.log_third_moment), 1):
        moments = (power * log_w).exp()
        assert abs(math.exp(found) - float(moments.mean())) < 5 * float(moments.std()) / 100_000**0.5
    heavy = math.exp(3 * weights.log_second_moment - 2 * weights.log_third_moment)
    assert weights.heavy == pytest.approx(heavy) and weights.heavy < weights.ess < 1
    assert tilted_weights(target.denoiser(), Guidance(0.0), 0).heavy == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 3, 40, 1000])
def test_the_expected_distance_is_that_of_binomials_of_effective_samples(n: int) -> None:
    law = random_target(2, 2, seed=1).pmf
    reference = random_target(2, 2, seed=2, zeros=0.3).pmf
    assert expected_tv(law, reference, n) == pytest.approx(expected_tv_of_samples(law, reference, n), rel=1e-9)
    weights = tilted_weights(random_target(2, 2, seed=1).denoiser(), Guidance(1.0), 0)
    q = weights.law
    second = weights.squares / weights.ess  # E [W^2; x] / (E W)^2
    variance = second * (1 - q) ** 2 + (second.sum() - second) * q**2
    trials = (n * q * (1 - q) / variance).clamp(min=1)

    def deviation(m: float, q: float, p: float) -> float:
        few = math.floor(m)
        ends = [float(binom.pmf(np.arange(k + 1), k, q) @ abs(np.arange(k + 1) / k - p)) for k in (few, few + 1)]
        return ends[0] + (m - few) * (ends[1] - ends[0])

    cells = zip(trials.flatten().tolist(), q.flatten().tolist(), reference.flatten().tolist())
    assert expected_weighted_tv(weights, reference, n) == pytest.approx(
        0.5 * sum(deviation(*cell) for cell in cells), rel=1e-9
    )
    certain = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert expected_tv(certain, torch.tensor([0.4, 0.6], dtype=torch.float64), n) == pytest.approx(0.6)
    assert expected_tv(certain, certain, n) == 0  # of a cell that neither has, nothing is uncertain


def test_binomials_that_are_too_large_to_sum_are_normal() -> None:
    law = random_target(2, 2, seed=1).pmf
    reference = random_target(2, 2, seed=2).pmf
    spread = (law * (1 - law) / 1e7) ** 0.5
    cells = zip((law - reference).abs().flatten().tolist(), spread.flatten().tolist())
    folded = 0.5 * sum(foldnorm.mean(bias / s, scale=s) for bias, s in cells)
    assert expected_tv(law, reference, 1e7) == pytest.approx(folded, rel=1e-9)
    assert expected_tv(law, law, 30_000) == pytest.approx(
        expected_sampling_tv(law, 30_000), rel=1e-4
    )  # some are normal


def test_weights_of_one_are_no_weights() -> None:
    target = random_target(3, 2)
    weights = tilted_weights(target.denoiser(), Guidance(0.0), 0)
    law = target.class_pmf(0)
    assert expected_weighted_tv(weights, law, 500) == pytest.approx(expected_tv(law, law, 500), rel=1e-9)
    assert expected_tv(law, law, 10_000) == pytest.approx(expected_sampling_tv(law, 10_000), rel=1e-9)
    assert break_even_samples(weights, law, law) is None


def test_weights_pay_from_where_the_expected_distances_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    target = random_target(3, 3, seed=1)
    guidance = Guidance(2.0)
    weights = tilted_weights(target.denoiser(), guidance, 0)
    law = terminal_law(target.denoiser(), guidance, 0)
    tilted = tilted_law(target, 2.0, 0)
    n = break_even_samples(weights, law, tilted)
    assert n is not None
    assert expected_weighted_tv(weights, tilted, n) < expected_tv(law, tilted, n)
    assert expected_weighted_tv(weights, tilted, n / 1.5) > expected_tv(law, tilted, n / 1.5)
    # on a grid of eight a decade it is the first, and rounded up
    steps = [10 ** (k / 8) for k in range(97)]
    pays = [expected_weighted_tv(weights, tilted, m) < expected_tv(law, tilted, m) for m in steps]
    assert n == math.ceil(min(m for k, m in enumerate(steps) if all(pays[k:])))
    # looked for up to the last of its numbers, and no further
    monkeypatch.setattr("mdlm_cfg.compare.weighted.PER_DECADE", 1)
    last = math.ceil(math.log10(n))
    for decades, expected in ((last - 1, None), (last, 10**last), (last + 1, 10**last)):
        monkeypatch.setattr("mdlm_cfg.compare.weighted.MOST_DECADES", decades)
        assert break_even_samples(weights, law, tilted) == expected
    assert expected_weighted_tv(weights, tilted, 1e14) < 1e-6  # the bias of exact conditionals is none
    assert expected_tv(law, tilted, 1e14) == pytest.approx(total_variation(law, tilted), abs=1e-6)


def test_biased_weights_may_never_pay() -> None:
    target = random_target(2, 3, seed=1)
    denoiser = Inconsistent(2, 3, 2)
    weights = tilted_weights(denoiser, Guidance(1.0), 0)
    tilted = tilted_law(target, 1.0, 0)
    assert total_variation(weights.law, tilted) > total_variation(tilted, tilted)
    assert break_even_samples(weights, tilted, tilted) is None  # unweighted samples of the tilted law itself


@pytest.mark.parametrize("n", [1, 2, 7, 100, 3000, 200_000])
def test_the_expected_distance_of_samples_is_the_sum_over_all_counts(n: int) -> None:
    law = torch.tensor([0.0, 1e-7, 1e-3, 0.02, 0.3, 1 - 1e-7 - 1e-3 - 0.02 - 0.3], dtype=torch.float64)
    reference = torch.tensor([1e-4, 0.0, 0.4, 0.02, 0.2799, 0.3], dtype=torch.float64)
    counts = np.arange(n + 1)
    cells = zip(law.tolist(), reference.tolist(), strict=True)
    expected = 0.5 * sum(float(binom.pmf(counts, n, q) @ abs(counts / n - p)) for q, p in cells)
    assert expected_tv_of_samples(law, reference, n) == pytest.approx(expected, rel=1e-8)
    assert expected_tv_of_samples(law, law, n) == pytest.approx(expected_sampling_tv(law, n), rel=1e-8)
    certain = torch.eye(6, dtype=torch.float64)[0]
    assert expected_tv_of_samples(certain, reference, n) == pytest.approx(total_variation(certain, reference))
