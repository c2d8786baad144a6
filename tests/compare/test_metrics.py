"""Distances, moments and noise floors against direct computation."""

from __future__ import annotations

import math

import torch
from helpers import random_target

from mdlm_cfg.compare.metrics import (
    expected_sampling_tv,
    histogram,
    kl_divergence,
    mean_and_covariance,
    relative_difference,
    sampled_tv,
    total_variation,
)


def test_total_variation_and_kl():
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.25, 0.5, 0.25]).double()
    assert total_variation(p, q) == 0.25
    assert abs(kl_divergence(p, q) - 0.5 * math.log(2)) < 1e-15
    assert kl_divergence(q, p) == math.inf and kl_divergence(p, p) == 0


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


def test_sampled_tv_interval_covers_the_expectation():
    target = random_target(4, 2, seed=3)
    generator = torch.Generator().manual_seed(1)
    expected = expected_sampling_tv(target.pmf, 2000)
    covered = 0
    for _ in range(60):
        estimate = sampled_tv(target.pmf, target.sample(2000, generator)[0], 100, generator)
        assert estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= expected <= estimate.high
    assert covered >= 50  # 95% nominal


def test_relative_difference():
    a, b = torch.diag(torch.tensor([2.0, 3.0])).double(), torch.diag(torch.tensor([1.0, 3.0])).double()
    out = relative_difference(a, b)
    assert abs(out["frobenius"] - 1 / math.sqrt(10)) < 1e-15 and abs(out["spectral"] - 1 / 3) < 1e-15
