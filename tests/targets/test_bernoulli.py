"""Bernoulli mixtures against brute-force tables, and EM against its own objective and a known truth."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from helpers import table_of

from mdlm_cfg.targets.bernoulli import BernoulliMixture, _log_mean
from mdlm_cfg.targets.bernoulli_fit import fit_em
from mdlm_cfg.verify.oracle.tables import bernoulli_table


def make(num_classes: int = 3, components: int = 4, dims: int = 6, seed: int = 0, zeros: bool = False):
    gen = torch.Generator().manual_seed(seed)
    p = torch.rand(num_classes, components, dims, generator=gen, dtype=torch.float64)
    if zeros:
        kind = torch.randint(3, p.shape, generator=gen)
        p = torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, p))
    weights = torch.rand(num_classes, components, generator=gen, dtype=torch.float64).softmax(1)
    class_weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[:num_classes]
    return BernoulliMixture(p, weights, class_weights / class_weights.sum())


def all_partial_states(dims: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(3)] * dims)


def by_hand(mixture: BernoulliMixture, target_class: int | None) -> torch.Tensor:
    """The pmf, term by term."""
    parts = zip(mixture.probabilities.numpy(), mixture.component_weights.numpy())
    pmfs = torch.stack([torch.from_numpy(bernoulli_table(*part)) for part in parts])
    return torch.tensordot(mixture.class_weights, pmfs, 1) if target_class is None else pmfs[target_class]


@pytest.mark.parametrize("zeros", [False, True])
def test_table_is_the_sum_over_components(zeros: bool) -> None:
    mixture = make(zeros=zeros)
    for k in (None, 0, 1, 2):
        torch.testing.assert_close(table_of(mixture).class_pmf(k), by_hand(mixture, k), rtol=0, atol=1e-14)


def test_class_of_weight_zero_still_has_conditionals() -> None:
    p = torch.tensor([[[0.2, 0.9]], [[0.7, 0.4]]])
    mixture = BernoulliMixture(p, torch.ones(2, 1), torch.tensor([1.0, 0.0]))
    masked = torch.full((3, 2), 2)
    probs = mixture.denoiser()(masked, torch.tensor([0, 1, 2])).exp()[..., 1]
    torch.testing.assert_close(probs, torch.tensor([[0.2, 0.9], [0.7, 0.4], [0.2, 0.9]]).double(), rtol=0, atol=1e-7)


def test_support_survives_underflow() -> None:
    """A component whose posterior is e^-1386 is the only one that allows the last pixel to be 1."""
    dims = 2001
    p = torch.full((1, 2, dims), 0.5, dtype=torch.float64)
    p[0, 1] = 0.25
    p[0, 0, -1] = 0.0
    p[0, 1, -1] = 0.5
    mixture = BernoulliMixture(p, torch.tensor([[0.5, 0.5]]), torch.ones(1))
    tokens = torch.ones(1, dims, dtype=torch.int64)
    tokens[0, -1] = 2
    log_probs = mixture.denoiser()(tokens, None)[0, -1]
    assert log_probs[1].item() == pytest.approx(2000 * math.log(0.5) + math.log(0.5), rel=1e-12)
    assert log_probs[0].item() == pytest.approx(0.0, abs=1e-12)
    assert _log_mean(torch.tensor([[-math.inf, -900.0]]), torch.tensor([[1.0, 0.0]]).T)[0, 0] == -math.inf


def test_log_prob_of_partial_images_is_the_marginal() -> None:
    mixture = make(dims=4)
    states = all_partial_states(4)
    for k in (None, 1):
        classes = None if k is None else torch.full((len(states),), k)
        want = [by_hand(mixture, k)[tuple(slice(None) if t == 2 else int(t) for t in s)].sum() for s in states]
        torch.testing.assert_close(mixture.log_prob(states, classes).exp(), torch.stack(want), rtol=0, atol=1e-14)


def test_mean_and_covariance_are_the_tables() -> None:
    mixture = make(dims=5)
    states = torch.cartesian_prod(*[torch.arange(2)] * 5).double()
    for k in (None, 0, 2):
        pmf = by_hand(mixture, k).flatten()
        mean = pmf @ states
        covariance = (pmf[:, None] * (states - mean)).T @ (states - mean)
        torch.testing.assert_close(mixture.mean(k), mean, rtol=0, atol=1e-14)
        torch.testing.assert_close(mixture.covariance(k), covariance, rtol=0, atol=1e-14)


def test_component_posterior_is_bayes_rule() -> None:
    mixture = make(num_classes=1, components=3, dims=3)
    tokens = torch.tensor([[1, 2, 0]])
    p = mixture.probabilities[0]
    want = mixture.component_weights[0] * p[:, 0] * (1 - p[:, 2])
    torch.testing.assert_close(mixture.component_posterior(tokens, 0)[0], want / want.sum(), rtol=0, atol=1e-14)


def test_samples_use_components_as_their_weights_say() -> None:
    mixture = make(dims=4, zeros=True, seed=5)
    x, classes, components = mixture.sample_components(200_000, torch.Generator().manual_seed(2))
    usage = torch.bincount(components[classes == 1], minlength=4) / (classes == 1).sum()
    torch.testing.assert_close(usage.double(), mixture.component_weights[1], rtol=0, atol=0.01)
    again = mixture.sample(200_000, torch.Generator().manual_seed(2))
    assert torch.equal(again[0], x) and torch.equal(again[1], classes)


def test_em_never_lowers_its_objective_and_finds_the_truth() -> None:
    p = torch.tensor([[[0.9] * 6 + [0.1] * 6, [0.1] * 6 + [0.9] * 6], [[0.9, 0.1] * 6, [0.5] * 12]]).double()
    truth = BernoulliMixture(p, torch.tensor([[0.7, 0.3], [0.4, 0.6]]), torch.tensor([0.5, 0.5]))
    x, classes = truth.sample(20_000, torch.Generator().manual_seed(0))
    history: dict[int, list[float]] = {0: [], 1: []}
    fit = fit_em(x, classes, 2, 60, 0.5, torch.Generator().manual_seed(1), lambda k, _, value: history[k].append(value))
    for values in history.values():
        assert len(values) == 60 and values[-1] > values[0] + 100
        assert all(b >= a - 1e-9 * abs(a) for a, b in pairwise(values))
    held_out, labels = truth.sample(20_000, torch.Generator().manual_seed(9))
    loss = (truth.log_prob(held_out, labels) - fit.log_prob(held_out, labels)).mean()
    assert 0 <= loss < 0.005, "KL from the truth is about (number of parameters) / 2n = 0.0013 nats"
    torch.testing.assert_close(fit.class_weights, torch.bincount(classes).double() / 20_000)


def test_smoothing_counts_extra_images() -> None:
    images = torch.tensor([[1, 0], [1, 1], [1, 0]])
    fit = fit_em(images, torch.zeros(3, dtype=torch.int64), 1, 1, 2.0)
    torch.testing.assert_close(fit.probabilities[0, 0], torch.tensor([5 / 7, 3 / 7]).double())


def test_bad_mixtures_are_refused() -> None:
    p = torch.full((2, 3, 4), 0.5)
    w = torch.full((2, 3), 1 / 3)
    a = torch.tensor([0.5, 0.5])
    for args, complaint in (
        ((p[0], w, a), r"probabilities .*\(K, C, D\).*\(3, 4\)"),
        ((p * 3, w, a), "probabilities .* 0 and 1, "),
        ((p * math.nan, w, a), "probabilities .* 0 and 1, "),
        ((p, w[:1], a), r"component_weights .*\(2, 3\).*\(1, 3\)"),
        ((p, w, torch.tensor([1.5, -0.5])), r"class_weights .* -0\.5: "),
        ((p, w * 2, a), r"component_weights\[0\] .* 2 "),
    ):
        with pytest.raises(ValueError, match=complaint):
            BernoulliMixture(*args)
    with pytest.raises(ValueError, match=r"class 7 .* 0 to 1"):
        BernoulliMixture(p, w, a).mean(7)


def test_bad_fits_are_refused() -> None:
    x = torch.zeros(4, 3)
    labels = torch.tensor([0, 0, 2, 2])
    for images, classes, smoothing, complaint in (
        (x, labels, 1.0, r"classes \[1\] "),
        (x + 0.5, labels, 1.0, "images .* 0 and 1: "),
        (x, labels, 0.0, r"smoothing = 0\.0 "),
        (x, labels[:2], 1.0, r"labels .* 4 .*\(2,\)"),
    ):
        with pytest.raises(ValueError, match=complaint):
            fit_em(images, classes, 2, smoothing=smoothing)
