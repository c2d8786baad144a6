"""The objectives against entropies and brute force (theory, section 9), and under autocast."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from helpers import random_target

from mdlm_cfg import Guidance, TableMixture, terminal_law
from mdlm_cfg.chain.classifier_rule import ByClassifier
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.masking import mask_uniform, stratified_counts
from mdlm_cfg.chain.rules import CFG
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.nets import GridTransformer, NetClassifier
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets import toys
from mdlm_cfg.targets.posterior import TablePosterior
from mdlm_cfg.training.averaged import AveragedObjective, all_marginals
from mdlm_cfg.training.elbo import (
    class_cross_entropy,
    drop_labels,
    exactly,
    nelbo,
    paired_nelbo,
    smoothed,
    smoothed_targets,
    stratified_draws,
)
from mdlm_cfg.training.objectives import Averaged, Classifying, Objective, Pooled, Sampled
from mdlm_cfg.training.pooled import agreement, pool_of, pooled_conditionals, pooled_nelbo
from mdlm_cfg.training.watching import exact_nelbos


def test_the_exact_denoiser_reaches_the_entropy():
    target = random_target(3, 3, k=3, seed=1, zeros=0.3)
    numbers = exact_nelbos(target.denoiser(), target)
    joint = target.class_weights.reshape(-1, 1, 1, 1) * target.class_pmfs
    entropies = [-float(torch.special.xlogy(p, p).sum()) for p in (joint, target.class_weights, target.pmf)]
    expected = {"exact_nelbo": entropies[0] - entropies[1], "exact_nelbo_null": entropies[2]}
    assert numbers == pytest.approx(expected | {"excess": 0, "excess_null": 0}, abs=1e-12)


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
    pool = pool_of(x, classes, 3, 2)
    assert int(pool.counts.sum()) == 500 and len(pool.points) == len(pool.points.unique(dim=0)) < 28
    every = pooled_conditionals(agreement(tokens, pool), pool)
    for labels in (classes, torch.full_like(classes, 2)):
        found = every[torch.arange(500), labels]
        expected = batch(tokens, labels).exp()
        assert torch.allclose(found[masked].double(), expected[masked], atol=1e-6)
        known = found[~masked]  # the value itself, with certainty
        assert torch.equal(known.argmax(dim=1), x[~masked]) and bool((known.amax(dim=1) == 1).all())


def test_too_many_states_to_pool_are_refused():
    x = torch.zeros(2, 784, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"2\^784 .*objective=sampled"):
        pool_of(x, torch.zeros(2, dtype=torch.int64), 2, 10)


def test_smoothing_is_cross_entropy_with_smoothed_targets():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(1, 1, 5, dtype=torch.float64, generator=generator).log_softmax(-1)
    targets = torch.softmax(torch.randn(5, dtype=torch.float64, generator=generator), 0)
    mixed = 0.9 * targets + 0.1 / 5
    found = -(targets * smoothed(log_probs, torch.tensor([[5]]), 0.1)[0, 0]).sum()
    assert found.item() == pytest.approx(-(mixed * log_probs[0, 0]).sum().item())


def test_smoothing_leaves_copied_rows_alone():
    copied = torch.tensor([[[0.0, -math.inf]]])
    assert torch.equal(smoothed(copied, torch.tensor([[0]]), 0.1), copied)


def test_the_class_is_smoothed_towards_the_null_class():
    conditional = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]], dtype=torch.float64)
    null = torch.tensor([[[0.2, 0.1, 0.7, 0.0]]], dtype=torch.float64)
    found, found_null = smoothed_targets(conditional, null, 0.1)
    assert torch.allclose(found.sum(-1), torch.ones(1, 1).double())
    assert torch.allclose(found_null, 0.9 * null + 0.1 / 4)
    # what guidance amplifies: s wherever the class has no probability, also where the data have none
    assert torch.allclose((found / found_null)[..., 2:], torch.tensor(0.1).double())
    assert torch.allclose((found / found_null)[..., :2], 0.9 * conditional[..., :2] / found_null[..., :2] + 0.1)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_pooled_targets_are_smoothed(share):
    target = random_target(3, 2, k=2, seed=7, zeros=0.3)
    x, classes = target.sample(300, torch.Generator().manual_seed(0))
    logits = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def net(tokens, labels):
        return logits[labels].log_softmax(-1)

    pool = pool_of(x, classes, 3, 2)
    found = pooled_nelbo(net, pool, 50, torch.Generator().manual_seed(2), smoothing=share)[0]
    cells = stratified_draws(pool.counts.T.flatten(), 50, generator := torch.Generator().manual_seed(2))
    own = cells % 2
    counts = stratified_counts(50, 2, generator)
    tokens = mask_uniform(pool.points[cells // 2], counts, 3, generator)
    batch = AveragedObjective(3, 2, 2).histogram(x, classes)
    weights = batch.flatten(1).sum(dim=1)
    exact = TableMixture(batch / weights.reshape(-1, 1, 1), weights).denoiser()
    null = (1 - share) * exact(tokens, None).exp() + share / 3
    conditional = (1 - share) * exact(tokens, own).exp() + share * null
    for labels, targets, costs in zip((own, torch.full((50,), 2)), (conditional, null), found):
        each = -(targets * net(tokens, labels)).sum(-1)
        expected = torch.where(tokens == 3, each, 0.0).sum(dim=1) * 2 / counts
        assert torch.allclose(costs, expected, atol=1e-5)


def test_marginals_are_those_of_the_lattice():
    target = random_target(3, 3, k=2, seed=8, zeros=0.4)
    lattice = Lattice(3, 3)
    found = all_marginals(target.class_pmfs)
    for pmf, marginals in zip(target.class_pmfs, found):
        assert torch.allclose(marginals, lattice.to_dense(lattice.marginals(pmf)).flatten(), atol=1e-15)


def test_the_averaged_objective_asks_only_where_there_is_weight():
    target = toys.toy_2d_overlap()
    asked = []
    net = GridTransformer(target.num_tokens, (2,), target.num_classes, width=16, depth=1, num_heads=2).double()
    joint = target.class_weights.reshape(-1, 1, 1) * target.class_pmfs

    def watched(tokens, classes):
        asked.append((tokens, classes))
        return net(tokens, classes)

    averaged = AveragedObjective(target.num_tokens, target.num_dims, target.num_classes)
    conditional, null = averaged(watched, joint)
    assert len(asked) == 1 and len(asked[0][0]) < averaged.num_evaluations
    # by hand: every state and label, whatever its weight
    states = torch.cartesian_prod(torch.arange(17), torch.arange(17))
    totals = []
    for labels in ([0, 1], [2]):
        total = 0.0
        for k in labels:
            pmf = joint[k] if k < 2 else joint.sum(0)
            log_probs = net(states, torch.full((len(states),), k)).detach()
            shares = all_marginals(pmf[None])[0].reshape(17, 17)
            for s, (a, b) in enumerate(states.tolist()):
                for i in range(2):
                    if (a, b)[i] < 16:
                        continue
                    both = a == b == 16  # counts 1 and 2 have probability 1/2; of the two subsets of size 1 each 1/2
                    weight = 0.5 * (2 / 2) if both else 0.25 * 2
                    for v in range(16):
                        q = shares[(v, b) if i == 0 else (a, v)]
                        total -= float(weight * q * log_probs[s, i, v]) if q > 0 else 0.0
        totals.append(total)
    assert [conditional.item(), null.item()] == pytest.approx(totals, abs=1e-9)


@pytest.mark.parametrize("label_heads", [False, True])
def test_paired_losses_are_on_one_mask(label_heads):
    target = random_target(3, 3, seed=2)
    net = GridTransformer(3, (3,), 2, width=16, depth=1, num_heads=2, stem_channels=4, label_heads=label_heads)
    x, classes = target.sample(32, torch.Generator().manual_seed(0))
    found = paired_nelbo(net, x, classes, 3, 2, torch.Generator().manual_seed(1))
    for labels, value in zip((classes, torch.full_like(classes, 2)), found):
        assert torch.allclose(nelbo(net, x, labels, 3, torch.Generator().manual_seed(1)), value, atol=1e-5)
    objective = Sampled(label_dropout=0.25, paired=True)
    rows = []
    net.patch_in.register_forward_hook(lambda *_: rows.append(len(_[2])))
    losses = objective.loss(net, x, classes, torch.Generator().manual_seed(1))
    assert losses["loss"].item() == pytest.approx((0.75 * found[0].mean() + 0.25 * found[1].mean()).item(), rel=1e-5)
    assert rows == [32 if label_heads else 64]


def test_rows_of_unmasked_coordinates_do_not_count():
    target = random_target(3, 3, seed=3)
    x, classes = target.sample(64, torch.Generator().manual_seed(0))

    def copied(tokens, classes):
        return target.denoiser()(tokens, classes)

    def uncopied(tokens, classes):
        log_probs = copied(tokens, classes)
        return torch.where((tokens == 3)[..., None], log_probs, -math.log(3.0))

    for loss in (nelbo, lambda *a: pooled_nelbo(a[0], pool_of(*a[1:3], 3, 2), 64, a[4])[0][0]):
        first, second = (loss(net, x, classes, 3, torch.Generator().manual_seed(1)) for net in (copied, uncopied))
        assert torch.allclose(first, second)


# under autocast


def test_pooled_targets_are_exact_under_autocast():
    target = toys.toy_5d_hypercube()
    x, classes = target.sample(4096, torch.Generator().manual_seed(0))
    tokens = mask_uniform(x[:256], stratified_counts(256, 5, torch.Generator().manual_seed(1)), 5)
    pool = pool_of(x, classes, 5, 2)
    expected = pooled_conditionals(agreement(tokens, pool), pool)
    with torch.autocast("cpu", torch.bfloat16), exactly(lambda *a: None, tokens.device):
        found = pooled_conditionals(agreement(tokens, pool), pool)
    assert found.dtype == torch.float32 and (found - expected).abs().max() < 1e-6
    assert (found[:, 2].double().sum(dim=2) - 1).abs().max() < 1e-6


class Rounded(torch.nn.Module):
    """Log-probabilities that say what matrix products were done in, and do not depend on it."""

    num_tokens = 5
    num_dims = 5
    num_classes = 2

    def __init__(self):
        super().__init__()
        self.seen = []
        self.logits = torch.nn.Parameter(torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens, classes):
        self.seen.append((torch.eye(2) @ torch.eye(2)).dtype)
        return self.logits.log_softmax(-1)[classes]


@pytest.mark.parametrize(
    "objective",
    [
        Averaged(0.3, 0.1),
        Pooled(0.3, 0.1, rows=256),
        Sampled(0.3, 0.1, paired=True),
        Sampled(0.3, 0.1, paired=False),
    ],
)
def test_nothing_but_the_network_is_rounded_under_autocast(objective):
    x, classes = toys.toy_5d_hypercube().sample(2048, torch.Generator().manual_seed(0))
    losses = []
    gradients = []
    for enabled in (False, True):
        net = Rounded()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = objective.loss(net, x, classes, torch.Generator().manual_seed(1))
        assert set(net.seen) == {torch.bfloat16 if enabled else torch.float32}
        found["loss"].backward()
        losses.append({name: float(value) for name, value in found.items()})
        gradients.append(net.logits.grad)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert torch.allclose(*gradients, atol=1e-7)


def test_exactly_is_exact_outside_the_network_and_leaves_autocast_as_it_was():
    net = Rounded()
    with torch.autocast("cpu", torch.bfloat16):
        with exactly(net, torch.device("cpu")) as ask:
            assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32
            ask(torch.full((1, 5), 5), torch.zeros(1, dtype=torch.int64))
            assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16
    assert net.seen == [torch.bfloat16]


# the objects


def test_too_many_evaluations_are_refused():
    net = GridTransformer(2, (4, 4), 10, width=8, depth=1, num_heads=1)
    with pytest.raises(UserError, match=r"\b200000\b.*objective=pooled"):
        Averaged().prepare(net)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_conditional_that_is_not_trained_is_warned_of(share):
    with pytest.warns(UserWarning, match=f"objective.label_dropout={share:g} "):
        Objective(label_dropout=share)


def class_entropy(target: TableMixture, classify) -> float:
    """The mean of -log q(z | x_U) over m uniform on 0..D, all subsets of that size, and (x, z), by sums."""
    n, d = target.num_tokens, target.num_dims
    total = 0.0
    for known in product((False, True), repeat=d):
        weight = 1 / ((d + 1) * math.comb(d, sum(known)))
        for x in product(range(n), repeat=d):
            state = torch.tensor([[v if here else n for v, here in zip(x, known)]])
            log_q = classify(torch.nn.functional.one_hot(state, n + 1).float())[0]
            joint = [float(a * pmf[x]) for a, pmf in zip(target.class_weights, target.class_pmfs)]
            total -= weight * sum(mass * float(log) for mass, log in zip(joint, log_q) if mass)
    return total


def random_classifier(n: int, d: int, k: int, seed: int):
    weight = torch.randn(k, d, n + 1, generator=torch.Generator().manual_seed(seed))
    return lambda one_hot: torch.einsum("bdn,kdn->bk", one_hot, weight).log_softmax(-1)


def test_the_cross_entropy_of_the_class_is_unbiased_and_least_at_the_exact_posterior():
    target = random_target(3, 2, k=3, seed=4)
    generator = torch.Generator().manual_seed(0)
    x, classes = target.sample(40_000, generator)
    exact = TablePosterior(target)
    posterior = lambda one_hot: exact.of_one_hot(one_hot.double())  # noqa: E731
    least = class_entropy(target, posterior)
    for seed, classify in enumerate((posterior, *(random_classifier(3, 2, 3, seed) for seed in range(3)))):
        draws = class_cross_entropy(classify, x, classes, 3, generator)
        expected = class_entropy(target, classify)
        assert abs(float(draws.mean()) - expected) < 4 * float(draws.std()) / len(x) ** 0.5
        assert expected > least + 1e-3 or seed == 0


def test_classifying_adds_the_class_to_the_sampled_objective():
    net = GridTransformer(3, (2,), 3, width=16, depth=1, num_heads=2, class_head=True)
    target = random_target(3, 2, k=3, seed=4)
    x, classes = target.sample(64, torch.Generator().manual_seed(1))
    losses = [
        objective.loss(net, x, classes, torch.Generator().manual_seed(2))
        for objective in (Sampled(0.3), Classifying(0.3, class_weight=2.0))
    ]
    assert (losses[1]["loss"] - losses[0]["loss"]).item() == pytest.approx(2 * losses[1]["class"].item(), abs=1e-5)
    losses[1]["loss"].backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.class_out.parameters())
    with pytest.raises(UserError):
        Classifying().prepare(GridTransformer(3, (2,), 3, width=16, depth=1, num_heads=2))
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError):
            Classifying(class_weight=weight)


@pytest.mark.slow
def test_a_trained_classifier_is_the_exact_posterior_within_its_training_error():
    """Trained by the objective of train.py on a table: its cross entropy is near H(z | x_U), its guidance near CFG."""
    target = random_target(2, 3, k=3, seed=6)
    torch.manual_seed(0)
    net = GridTransformer(2, (3,), 3, patch_size=3, width=32, depth=2, num_heads=1, class_head=True)
    objective = Classifying()
    objective.prepare(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        x, classes = target.sample(512, generator, stratified=True)
        optimizer.zero_grad()
        objective.loss(net, x, classes, generator)["loss"].backward()
        optimizer.step()
        schedule.step()
    classifier = NetClassifier(net)
    exact = TablePosterior(target)
    states = torch.tensor(list(product(range(3), repeat=3)))
    assert float((classifier(states).exp() - exact(states).exp()).abs().max()) < 0.06
    least = class_entropy(target, lambda one_hot: exact.of_one_hot(one_hot.double()))
    with torch.no_grad():
        excess = class_entropy(target, classifier.of_one_hot) - least
    assert -1e-6 < excess < 2e-3
    denoiser = target.denoiser()
    laws = [terminal_law(denoiser, Guidance(2.0, rule=rule), 1) for rule in (ByClassifier(classifier), CFG())]
    assert total_variation(*laws) < 0.05
