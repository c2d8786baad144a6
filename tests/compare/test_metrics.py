"""Distances, moments and noise floors against direct computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import random_target

from mdlm_cfg.compare.metrics import (
    difference_of_shares,
    expected_sampling_tv,
    expected_share_tv,
    histogram,
    kl_divergence,
    least_tv,
    mean_and_covariance,
    most_tv,
    multinomial_counts,
    recognised,
    relative_difference,
    sampled_tv,
    sign_beyond,
    total_variation,
)
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for


def test_total_variation_and_kl():
    p = torch.tensor([0.5, 0.5, 0.0]).double()
    q = torch.tensor([0.25, 0.5, 0.25]).double()
    assert total_variation(p, q) == 0.25
    assert abs(kl_divergence(p, q) - 0.5 * math.log(2)) < 1e-15
    assert kl_divergence(q, p) == math.inf and kl_divergence(p, p) == 0


def test_a_histogram_names_the_value_that_it_does_not_know():
    assert histogram(torch.tensor([[0, 1], [1, 1]]), 2).tolist() == [[0, 0.5], [0, 0.5]]
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=f" {wrong}, .* 0 to 1: 2 "):
            histogram(torch.tensor([[0, 1], [0, wrong]]), 2)


def test_a_weighted_histogram_counts_weights():
    x = torch.tensor([[0, 1], [0, 1], [1, 0]])
    found = histogram(x, 2, torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    assert found.tolist() == [[0, 0.75], [0.25, 0]]
    assert torch.equal(histogram(x, 2, torch.ones(3, dtype=torch.float64)), histogram(x, 2))
    for wrong in ([1.0, math.nan, 1.0], [1.0, -0.5, 1.0], [1.0, math.inf, 1.0], [0.0, 0.0, 0.0]):
        with pytest.raises(UserError, match=f" {wrong[1]:g}: "):
            histogram(x, 2, torch.tensor(wrong))


def test_moments_against_all_points():
    target = random_target(4, 3, seed=1)
    law = target.pmf
    points = torch.cartesian_prod(*[torch.arange(4.0).double()] * 3)
    mean = law.flatten() @ points
    covariance = (points - mean).T @ ((points - mean) * law.flatten()[:, None])
    ours = mean_and_covariance(law)
    assert torch.allclose(ours[0], mean) and torch.allclose(ours[1], covariance)


def test_expected_sampling_tv_against_simulation_and_the_normal_approximation():
    target = random_target(5, 2, seed=2)
    generator = torch.Generator().manual_seed(0)
    n = 400
    draws = [total_variation(target.pmf, histogram(target.sample(n, generator)[0], 5)) for _ in range(400)]
    draws = torch.tensor(draws)
    expected = expected_sampling_tv(target.pmf, n)
    assert abs(float(draws.mean()) - expected) < 4 * float(draws.std()) / 20
    q = target.pmf
    approximation = float((q * (1 - q) / (2 * math.pi * 1e6)).sqrt().sum())
    assert abs(expected_sampling_tv(q, 1_000_000) / approximation - 1) < 0.01


def test_relative_difference():
    a = torch.diag(torch.tensor([2.0, 3.0])).double()
    b = torch.diag(torch.tensor([1.0, 3.0])).double()
    out = relative_difference(a, b)
    assert abs(out["frobenius"] - 1 / math.sqrt(10)) < 1e-15 and abs(out["spectral"] - 1 / 3) < 1e-15
    a, b = torch.randn(2, 3, 3, generator=generator_for("matrices"), dtype=torch.float64)
    for name, order in (("frobenius", "fro"), ("spectral", 2)):
        expected = np.linalg.norm((a - b).numpy(), order) / np.linalg.norm(b.numpy(), order)
        assert relative_difference(a, b)[name] == pytest.approx(expected, rel=1e-12)
    a = torch.tensor([3.0, 4.0]).double()
    b = torch.tensor([0.0, 2.0]).double()
    assert relative_difference(a, b) == {"euclidean": pytest.approx(math.sqrt(13) / 2)}
    zero = torch.zeros(2, 2, dtype=torch.float64)  # the covariance of a law of one point
    assert relative_difference(zero, zero) == {"frobenius": 0, "spectral": 0}
    assert relative_difference(zero[0], zero[0]) == {"euclidean": 0}
    assert set(relative_difference(zero + 1, zero).values()) == {math.inf}
    assert relative_difference(zero + 1e-30, zero) == {"frobenius": 0, "spectral": 0}  # what many steps leave of it


@pytest.mark.parametrize("n", [1, 7, 50])
def test_expected_sampling_tv_is_the_sum_over_binomials(n):
    law = torch.tensor([[0.5, 0.0], [1 / 7, 5 / 14]], dtype=torch.float64)
    ks = torch.arange(n + 1).double()
    expected = 0.0
    for q in law.flatten().tolist():
        chances = torch.from_numpy(scipy.stats.binom.pmf(ks.numpy(), n, q))
        expected += float((chances * (ks / n - q).abs()).sum()) / 2
    assert expected_sampling_tv(law, n) == pytest.approx(expected, rel=1e-12)
    assert expected_sampling_tv(torch.tensor([0.0, 1.0], dtype=torch.float64), n) == 0


def test_classes_that_tie_are_recognised_by_lot():
    """Equal classes: what rounding makes of their probabilities decides nothing, and no class is the first."""
    in_float32 = torch.tensor([0.1] * 784).cumsum(0)[-1].item()  # 78.4, but for rounding
    rows = [[-2.0, -2.0 - 4e-16, -5.0], [-7.0, -1.0, -3.0], [-4.0] * 3, [-math.inf] * 3, [-99.0, -78.4, -in_float32]]
    log_probs = torch.tensor(rows, dtype=torch.float64)
    found = torch.stack([recognised(log_probs, k) for k in range(3)], dim=1)
    chances = [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [1 / 3] * 3, [0.0] * 3, [0.0, 0.5, 0.5]]
    assert torch.allclose(found, torch.tensor(chances, dtype=torch.float64), rtol=0, atol=1e-15)
    assert torch.equal(recognised(log_probs, torch.tensor([1, 1, 0, 2, 1])), found[range(5), [1, 1, 0, 2, 1]])


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 1000.0])
def test_the_noise_of_mean_shares_is_that_of_simulated_samples(sharpness):
    generator = generator_for("shares")
    shares = (sharpness * torch.randn(50, 4, generator=generator, dtype=torch.float64)).softmax(dim=1)
    weights = torch.rand(50, generator=generator, dtype=torch.float64)
    weights /= weights.sum()
    drawn = torch.multinomial(weights, 400 * 100, replacement=True, generator=generator).view(400, 100)
    tvs = (shares[drawn].mean(dim=1) - weights @ shares).abs().sum(dim=1) / 2
    assert abs(float(tvs.mean()) - expected_share_tv(shares, weights, 100)) < 4 * float(tvs.std()) / 20
    certain = torch.eye(4, dtype=torch.float64)
    law = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)
    assert expected_share_tv(certain, law, 7) == pytest.approx(expected_sampling_tv(law, 7), rel=1e-12)


def test_multinomial_counts_have_the_moments_of_a_multinomial():
    p = torch.tensor([0.2, 0.0, 0.5, 0.0, 0.3, 0.0], dtype=torch.float64)
    counts = multinomial_counts(p, 40, 20_000, generator_for("counts"))
    assert counts.shape == (20_000, 6) and counts.dtype == torch.float64
    assert bool((counts.sum(dim=1) == 40).all()) and float(counts[:, p == 0].abs().max()) == 0
    assert torch.allclose(counts.mean(dim=0), 40 * p, atol=0.1)
    covariance = 40 * (torch.diag(p) - p[:, None] * p)
    assert torch.allclose(torch.cov(counts.T), covariance, atol=0.25)
    sure = multinomial_counts(torch.tensor([0.0, 1.0], dtype=torch.float64), 5, 2)
    assert sure.tolist() == [[0.0, 5.0]] * 2


def test_the_bootstrap_resamples_the_histogram_and_centres_it():
    law = torch.tensor([[0.3, 0.2, 0.1], [0.1, 0.1, 0.2], [0.0, 0.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 2], [1, 2], [1, 2], [1, 0], [0, 0]])
    found = sampled_tv(law, x, 500, generator_for("bootstrap"))
    empirical = histogram(x, 3)
    assert found.value == total_variation(law, empirical)
    seen = empirical.flatten() > 0
    counts = multinomial_counts(empirical.flatten()[seen], 8, 500, generator_for("bootstrap"))
    again = torch.zeros(500, 9, dtype=torch.float64)
    again[:, seen] = counts / 8
    distances = torch.tensor([total_variation(law.flatten(), row) for row in again], dtype=torch.float64)
    centred = distances - distances.mean() + found.value
    assert found.low == pytest.approx(max(0.0, float(centred.quantile(0.025))), abs=1e-12)
    assert found.high == pytest.approx(float(centred.quantile(0.975)), abs=1e-12)
    assert sampled_tv(law, x, generator=generator_for("b")) == sampled_tv(law, x, 200, generator_for("b"))
    line = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert sampled_tv(line, torch.tensor([[0], [1], [1], [1]]), 10).value == pytest.approx(0.05)
    # of samples that are all alike nothing is left to chance
    one = sampled_tv(law, torch.zeros(5, 2, dtype=torch.int64), 10)
    assert (one.low, one.value, one.high) == pytest.approx((0.7, 0.7, 0.7))


def test_moments_in_one_dimension_and_by_hand():
    law = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    mean, covariance = mean_and_covariance(law)
    assert mean.tolist() == [0.75] and covariance.tolist() == [[0.6875]]
    pair = torch.tensor([[0.5, 0.0], [0.25, 0.25]], dtype=torch.float64)
    mean, covariance = mean_and_covariance(pair)
    assert mean.tolist() == [0.5, 0.25] and covariance.tolist() == [[0.25, 0.125], [0.125, 0.1875]]


def test_distances_stay_in_their_range_whatever_rounding_does() -> None:
    for seed in range(300):
        p = torch.rand(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        p /= p.sum()
        near = p * (1 + 1e-16 * torch.randn(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        q = (near.sqrt() ** 2) / (near.sqrt() ** 2).sum()
        assert kl_divergence(p, q) >= 0 and 0 <= total_variation(p, q) < 1e-14
        zeros = torch.zeros_like(p)
        assert 1 - 1e-12 < total_variation(torch.cat([p, zeros]), torch.cat([zeros, q])) <= 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_number_stays_visible_and_nothing_has_no_law(place: int) -> None:
    law = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64)
    broken = law.index_fill(0, torch.tensor(place), math.nan)
    for distance in (total_variation, kl_divergence):
        assert math.isnan(distance(law, broken)) and math.isnan(distance(broken, law))
    assert math.isnan(total_variation(law, broken.nan_to_num(nan=math.inf)))
    with pytest.raises(UserError):
        histogram(torch.zeros(0, 2, dtype=torch.int64), 3)
    with pytest.raises(UserError):
        expected_sampling_tv(law, 0)


def test_a_divergence_hides_no_zero() -> None:
    nearly = torch.tensor([1.0, 1e-300, 0.0], dtype=torch.float64)
    assert kl_divergence(nearly, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)) == math.inf


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 2), (3, 3), (5, 20), (60, 60)])
@pytest.mark.parametrize("p", [0.02, 0.2, 0.5, 0.9])
def test_equal_shares_differ_by_two_standard_errors_in_one_of_twenty_draws_at_most(p: float, n: int, m: int) -> None:
    """Summed over all outcomes. Two standard errors of normal values are exceeded in 4.6%."""
    chance = 0.0
    for a in range(n + 1):
        for b in range(m + 1):
            difference, error = difference_of_shares(a / n, n, b / m, m)
            if abs(difference) > 2 * error:
                chance += scipy.stats.binom.pmf(a, n, p) * scipy.stats.binom.pmf(b, m, p)
    assert chance < 0.06


def test_shares_of_many_differ_by_their_own_difference_and_error() -> None:
    difference, error = difference_of_shares(0.3, 10**6, 0.1, 10**6)
    assert difference == pytest.approx(0.2, abs=1e-5)
    assert error == pytest.approx(math.sqrt((0.3 * 0.7 + 0.1 * 0.9) / 10**6), rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("cells", "num"), [(3, 1000), (81, 100), (600, 100), (600, 1000)])
def test_the_distance_behind_samples_is_in_its_interval_however_few_they_are(
    cells: int, num: int, share: float
) -> None:
    """Between `least_tv` and `most_tv`, also where samples leave out states."""
    g = generator_for("interval", cells, num)
    law, other = torch.rand(2, cells, generator=g, dtype=torch.float64).log().neg()
    reference = law / law.sum() * (1 - share) + other / other.sum() * share
    truth = total_variation(law / law.sum(), reference)
    held = 0
    for _ in range(40):
        x = torch.multinomial(law, num, replacement=True, generator=g)[:, None]
        held += least_tv(reference, x) <= truth <= most_tv(sampled_tv(reference, x, 50, g), num)
    assert held >= 34  # of 40, where at least 38 are expected; below 34 by chance once in 400


@pytest.mark.parametrize("num", [2, 5, 20, 200])
@pytest.mark.parametrize("rare", [0.01, 0.1])
@pytest.mark.parametrize("usual", [0.0, 0.03])
def test_samples_without_rare_states_do_not_show_that_there_are_none(num: int, rare: float, usual: float) -> None:
    """Of all counts of a rare state, those whose interval leaves out the truth have 1 of 20 together at most."""
    law = torch.tensor([1 - usual, usual], dtype=torch.float64)
    missed = 0.0
    for count in range(num + 1):
        x = (torch.arange(num) < count).long()[:, None]
        high = most_tv(sampled_tv(law, x, generator=generator_for("rare", count)), num)
        chance = math.comb(num, count) * rare**count * (1 - rare) ** (num - count)
        missed += chance * (high < abs(rare - usual))
    assert missed < 0.05


def test_few_samples_show_a_large_distance() -> None:
    x = torch.zeros(40, 1, dtype=torch.int64)
    assert least_tv(torch.tensor([0.05, 0.95], dtype=torch.float64), x) > 0.7
    assert least_tv(torch.tensor([0.05, 0.95], dtype=torch.float64), x[:1]) == 0


@pytest.mark.parametrize("chance", [0.0, 0.5, math.inf])
@pytest.mark.parametrize("difference", [0.0, 0.25, 0.5, 0.75, math.inf])
def test_a_difference_has_a_sign_only_beyond_chance(difference: float, chance: float) -> None:
    expected = int(difference > chance)
    assert sign_beyond(difference, chance) == expected == -sign_beyond(-difference, chance)
