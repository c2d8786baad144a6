"""The objective against entropies and brute force (theory, section 9)."""

from __future__ import annotations

import pytest
import torch
from helpers import Inconsistent, random_target

from mdlm_cfg import TableMixture
from mdlm_cfg.chain.masking import mask_uniform, stratified_counts
from mdlm_cfg.training.objectives import AveragedObjective, drop_labels, nelbo, pooled_conditionals, pooled_nelbo


def test_the_exact_denoiser_reaches_the_entropy():
    target = random_target(3, 3, k=3, seed=1, zeros=0.3)
    averaged = AveragedObjective(3, 3, 3)
    joint = target.class_weights.reshape(-1, 1, 1, 1) * target.class_pmfs
    conditional, null = averaged(target.denoiser(), joint)
    assert abs(float(conditional) - target.conditional_entropy()) < 1e-12
    assert abs(float(null) - target.entropy()) < 1e-12


def test_sampled_nelbo_is_unbiased_for_the_averaged_one():
    target, net = random_target(3, 3, seed=2), Inconsistent(3, 3, 2, seed=2)

    def copied(tokens, classes):  # the contract's copied rows
        from mdlm_cfg.chain.masking import copy_unmasked

        return copy_unmasked(net(tokens, classes), tokens)

    generator = torch.Generator().manual_seed(0)
    x, classes = target.sample(2000, generator)
    averaged = AveragedObjective(3, 3, 2)
    expected = averaged(net, averaged.histogram(x, classes))[0]
    draws = torch.stack([nelbo(copied, x, classes, 3, generator).mean() for _ in range(200)])
    assert abs(float(draws.mean() - expected)) < 4 * float(draws.std()) / 200**0.5


def test_exact_nelbo_by_samples_of_the_exact_denoiser():
    target = random_target(4, 2, seed=3)
    generator = torch.Generator().manual_seed(1)
    x, classes = target.sample(50_000, generator)
    values = nelbo(target.denoiser(), x, classes, 4, generator)
    assert abs(float(values.mean()) - target.conditional_entropy()) < 4 * float(values.std()) / 50_000**0.5


def test_a_worse_denoiser_has_a_larger_nelbo_by_its_kl():
    # in one dimension the NELBO is the cross entropy: its excess is KL(p || p_theta)
    target, other = random_target(5, 1, seed=4), random_target(5, 1, seed=5)
    joint = target.class_weights[:, None] * target.class_pmfs
    conditional, _ = AveragedObjective(5, 1, 2)(other.denoiser(), joint)
    kl = (joint * (target.class_pmfs.log() - other.class_pmfs.log())).sum()
    assert abs(float(conditional) - target.conditional_entropy() - float(kl)) < 1e-12


def test_masks_are_uniform_and_stratified():
    generator = torch.Generator().manual_seed(0)
    counts = stratified_counts(1000, 5, generator)
    assert torch.bincount(counts, minlength=6).tolist() == [0, 200, 200, 200, 200, 200]
    x = torch.arange(5).repeat(60_000, 1)
    before = x.clone()
    tokens = mask_uniform(x, torch.full((60_000,), 2), 9, generator)
    assert torch.equal(x, before)
    masked = tokens == 9
    assert bool((masked.sum(1) == 2).all()) and bool((tokens[~masked] == x[~masked]).all())
    pairs = (masked.double().T @ masked.double()) / 60_000  # every pair has probability 1 / C(5, 2)
    off = pairs[~torch.eye(5, dtype=torch.bool)]
    assert (off - 0.1).abs().max() < 5 * (0.1 * 0.9 / 60_000) ** 0.5


def test_label_dropout_is_per_sample_and_leaves_the_batch_alone():
    classes = torch.arange(4).repeat(2500)
    before = classes.clone()
    dropped = drop_labels(classes, 4, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(classes, before)
    share = float((dropped == 4).double().mean())
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 10_000) ** 0.5
    assert torch.equal(dropped[dropped != 4], classes[dropped != 4])


def test_pooled_conditionals_of_a_batch_are_those_of_its_histogram():
    target = random_target(3, 3, k=2, seed=6, zeros=0.4)
    x, classes = target.sample(500, torch.Generator().manual_seed(2))
    shares = AveragedObjective(3, 3, 2).histogram(x, classes)
    weights = shares.flatten(1).sum(dim=1)
    batch = TableMixture(shares / weights.reshape(-1, 1, 1, 1), weights).denoiser()
    tokens = mask_uniform(x, stratified_counts(len(x), 3, torch.Generator().manual_seed(3)), 3)
    masked = tokens == 3
    for labels in (classes, torch.full_like(classes, 2)):
        found = pooled_conditionals(tokens, labels, x, classes, 3, 2)
        expected = batch(tokens, labels).exp()
        assert torch.allclose(found[masked].double(), expected[masked], atol=1e-6)
        known = found[~masked]  # the value itself, with certainty
        assert torch.equal(known.argmax(dim=1), x[~masked]) and bool((known.amax(dim=1) == 1).all())


def test_pooled_nelbo_is_unbiased_for_the_averaged_one_and_less_noisy_than_samples():
    target, net = random_target(3, 3, seed=2), Inconsistent(3, 3, 2, seed=2)
    generator = torch.Generator().manual_seed(0)
    x, classes = target.sample(1000, generator)
    averaged = AveragedObjective(3, 3, 2)
    draws = torch.stack(
        [torch.stack([v.mean() for v in pooled_nelbo(net, x, classes, 3, 2, 1000, generator)]) for _ in range(200)]
    )
    expected = torch.stack(averaged(net, averaged.histogram(x, classes)))
    assert bool(((draws.mean(dim=0) - expected).abs() < 4 * draws.std(dim=0) / 200**0.5).all())
    plain = torch.stack([nelbo(net, x, classes, 3, generator).mean() for _ in range(200)])
    assert float(draws[:, 0].std()) < 0.7 * float(plain.std())


def test_rows_are_the_first_points_of_a_pooled_batch():
    target = random_target(3, 2, seed=7)
    x, classes = target.sample(64, torch.Generator().manual_seed(0))
    conditional, null = pooled_nelbo(target.denoiser(), x, classes, 3, 2, 5)
    assert conditional.shape == null.shape == (5,)


def test_too_many_states_to_pool_are_refused():
    x = torch.zeros(2, 784, dtype=torch.int64)
    with pytest.raises(ValueError, match="use objective=sampled"):
        pooled_conditionals(x, torch.zeros(2), x, torch.zeros(2), 2, 10)
