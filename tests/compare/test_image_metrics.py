"""Metrics of sets of images, against loops over pairs, identities and known answers."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from helpers import bernoulli_mixture
from torch import Tensor

from mdlm_cfg import FunctionDenoiser
from mdlm_cfg.compare.images import (
    class_nelbos,
    draw_counts,
    energy_by_chance,
    energy_distance,
    energy_error,
    mean_pixel_distance,
    moment_difference,
    nearest_image,
    pixel_distance,
    pixel_moments,
    precision_and_recall,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, d: int, p: float = 0.4, seed: int = 0) -> Tensor:
    return (torch.rand(n, d, generator=generator(seed)) < p).long()


def test_distances_of_black_and_white_count_differing_pixels() -> None:
    x = images(5, 9)
    y = images(7, 9, seed=1)
    assert torch.equal(pixel_distance(x, y), (x[:, None] != y[None]).sum(-1).float())


def test_mean_pixel_distance_equals_the_loop_over_pairs() -> None:
    x = images(8, 11)
    pairs = [float((a != b).sum()) for a, b in combinations(x, 2)]
    assert mean_pixel_distance(x) == pytest.approx(sum(pairs) / len(pairs))
    assert mean_pixel_distance(x[:2]) == float((x[0] != x[1]).sum())
    with pytest.raises(ValueError, match=r" 2 .* 1$"):
        mean_pixel_distance(x[:1])


@pytest.mark.parametrize("top", [1, 3, 255])
def test_a_shade_counts_by_its_square(top: int) -> None:
    x, y = (torch.randint(top + 1, (n, 12), generator=generator(n)) for n in (6, 7))
    apart = ((x[:, None] - y[None]).double() / top).square().sum(-1)
    assert torch.allclose(pixel_distance(x, y, top).double(), apart, atol=1e-6)
    assert torch.allclose(nearest_image(x, y, top)[0].double(), apart.min(dim=1).values, atol=1e-6)
    pairs = [float(((a - b) / top).square().sum()) for a, b in combinations(x, 2)]
    assert mean_pixel_distance(x, top) == pytest.approx(sum(pairs) / len(pairs))
    assert mean_pixel_distance(top * (x > 0), top) == mean_pixel_distance((x > 0).long()), "black and white stay so"


def test_the_nearest_image_is_found_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_cfg.compare.images.CHUNK", 4)
    reference = images(10, 30)
    distance, index = nearest_image(reference[[8, 3]], reference)
    assert distance.tolist() == [0, 0]
    assert index.tolist() == [8, 3]
    x = images(6, 30, seed=2)
    assert torch.equal(nearest_image(x, reference)[0], pixel_distance(x, reference).min(1).values)
    assert nearest_image(x[:1], x[:1].repeat(9, 1))[1].tolist() == [0]  # of equals, the first
    assert index.dtype == torch.int64  # what places are asked for by


def test_moments_are_those_of_the_sample_and_differences_relative() -> None:
    x = images(50, 4)
    mean, covariance = pixel_moments(x)
    assert torch.allclose(mean, x.double().mean(dim=0)) and torch.allclose(covariance, torch.cov(x.T.double()))
    assert torch.allclose(pixel_moments(x[:2])[1], torch.cov(x[:2].T.double()))
    assert pixel_moments(x[:1])[1].tolist() == [[0.0] * 4] * 4
    assert moment_difference(x, mean, covariance) == {"mean_rms": 0.0, "covariance": 0.0}
    shifted = moment_difference(x, mean + 0.5, 2 * covariance)
    assert shifted["mean_rms"] == pytest.approx(0.5)
    assert shifted["covariance"] == pytest.approx(0.5)
    same = x[:1].expand(3, -1)  # its covariance is 0
    assert moment_difference(same, *pixel_moments(same)) == {"mean_rms": 0.0, "covariance": 0.0}


def slow_share(points: Tensor, manifold: Tensor, k: int) -> float:
    """The share of points in the manifold, by loops."""
    inside = 0
    for point in points:
        for j, centre in enumerate(manifold):
            others = sorted(float((centre - m).norm()) for i, m in enumerate(manifold) if i != j)
            if float((point - centre).norm()) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


def test_precision_and_recall_equal_the_loops() -> None:
    data = torch.randn(12, 3, generator=generator(), dtype=torch.float64)
    samples = 0.5 * torch.randn(9, 3, generator=generator(1), dtype=torch.float64) + 0.3
    expected = (slow_share(samples, data, 2), slow_share(data, samples, 2))
    assert precision_and_recall(data, samples, k=2) == pytest.approx(expected)
    for k in (1, 3, 8):
        expected = (slow_share(samples, data, k), slow_share(data, samples, k))
        assert precision_and_recall(data, samples, k) == pytest.approx(expected)
    assert precision_and_recall(data, samples) == precision_and_recall(data, samples, 3)
    for k in (0, 9):
        with pytest.raises(ValueError, match=f"k = {k} .* 9$"):
            precision_and_recall(data, samples, k)
    # a ball reaches to its k-th neighbour and holds it
    line = torch.tensor([[0.0], [1.0]])
    assert precision_and_recall(line, line + 1, 1) == (1.0, 1.0) == precision_and_recall(line + 1, line, 1)
    assert precision_and_recall(line, line + 2, 1) == (0.5, 0.5)


def test_energy_distance_equals_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_cfg.compare.images.CHUNK", 4)
    x = images(6, 9)
    y = images(5, 9, 0.7, seed=1)

    def mean(a: Tensor, b: Tensor, num: int) -> float:
        return sum(float((p - q).double().norm()) for p in a for q in b) / num

    expected = 2 * mean(x, y, 30) - mean(x, x, 30) - mean(y, y, 20)
    assert energy_distance(x, y) == pytest.approx(expected)
    two = 2 * mean(x[:2], y[:2], 4) - mean(x[:2], x[:2], 2) - mean(y[:2], y[:2], 2)
    assert energy_distance(x[:2], y[:2]) == pytest.approx(two)
    for a, b in ((x[:1], y), (x, y[:1])):
        with pytest.raises(ValueError, match=f" 2 .* {len(a)} and {len(b)}$"):
            energy_distance(a, b)


def test_the_counts_of_one_images_draws_are_stratified_and_uniform() -> None:
    counts = draw_counts(2000, 4, 8, generator())
    assert all(set(counts[:, k].tolist()) == {2 * k + 1, 2 * k + 2} for k in range(4))
    assert torch.bincount(counts.flatten(), minlength=9)[1:].min() > 900


def test_class_nelbos_of_the_exact_denoiser_are_log_likelihoods_on_average() -> None:
    target = bernoulli_mixture(6, 2, sharpness=1.0)
    x, _ = target.sample(4, generator())
    found = class_nelbos(target.denoiser(), x, 20_000, generator(1))
    exact = torch.stack([-target.log_prob(x, torch.full((4,), k)) for k in range(3)], dim=1)
    assert torch.allclose(found, exact, atol=0.05)


def test_nelbos_are_of_masked_pixels_alone() -> None:
    target = bernoulli_mixture(6, 2, sharpness=1.0)
    exact = target.denoiser()

    def careless(tokens: Tensor, classes: Tensor | None) -> Tensor:  # unmasked coordinates are not copied
        return torch.where((tokens == 2)[..., None], exact(tokens, classes), -1.0)

    x, _ = target.sample(5, generator())
    found = class_nelbos(FunctionDenoiser(careless, 2, 6, 3), x, 3, generator(1))
    assert torch.equal(found, class_nelbos(exact, x, 3, generator(1)))


def test_the_error_of_an_energy_distance_is_its_spread_over_samples() -> None:
    """Over 400 sets from another distribution than the reference's, to 15%: four standard errors of a spread."""
    g = torch.Generator().manual_seed(0)
    reference = torch.randn(100, 2, generator=g, dtype=torch.float64)
    sets = [1 + 2 * torch.randn(60, 2, generator=g, dtype=torch.float64) for _ in range(400)]
    spread = float(torch.tensor([energy_distance(x, reference) for x in sets]).std())
    errors = torch.tensor([energy_error(x, reference) for x in sets])
    assert float(errors.square().mean().sqrt()) == pytest.approx(spread, rel=0.15)


def test_the_energy_distance_by_chance_is_that_of_independent_sets_of_one_distribution() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(num: int) -> torch.Tensor:
        return (torch.rand(num, 12, generator=generator) < 0.3).to(torch.uint8)

    by_chance = [energy_by_chance(drawn(60), generator) for _ in range(100)]
    known = [energy_distance(drawn(30), drawn(30)) for _ in range(400)]
    expected = (sum(value**2 for value in known) / len(known)) ** 0.5
    assert abs((sum(value**2 for value in by_chance) / len(by_chance)) ** 0.5 / expected - 1) < 0.2


def test_the_energy_distance_by_chance_of_many_falls_as_one_over_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    x = (torch.rand(400, 12, generator=torch.Generator().manual_seed(1)) < 0.3).to(torch.uint8)
    whole = energy_by_chance(x, torch.Generator().manual_seed(2))
    monkeypatch.setattr("mdlm_cfg.compare.images.MAX_SPLIT", 100)
    assert 0.5 < energy_by_chance(x, torch.Generator().manual_seed(2)) / whole < 2
    assert energy_by_chance(x[:2]) == 0
