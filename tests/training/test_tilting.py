"""Partial states of tilted classes: the tilt by hand, and that the exact conditionals stay the best for every tilt."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import random_target

from mdlm_cfg.laws.terminal import tilted_law
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.averaged import AveragedObjective
from mdlm_cfg.training.elbo import stratified_draws
from mdlm_cfg.training.objectives import Averaged, Pooled
from mdlm_cfg.training.pooled import pool_of, pooled_nelbo
from mdlm_cfg.training.tilting import check_tilts, tilted

TILTS = (0.0, 1.0, 3.0)


def joint_of(target):
    return target.class_weights.reshape(-1, *[1] * target.num_dims) * target.class_pmfs


class Table(torch.nn.Module):
    """A network that is a table of logits: any conditionals at all, of every partial state and label."""

    def __init__(self, n: int, d: int, k: int, logits: torch.Tensor | None = None) -> None:
        super().__init__()
        self.num_tokens = n
        self.num_dims = d
        self.num_classes = k
        shape = (k + 1, *[n + 1] * d, d, n)
        self.logits = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64) if logits is None else logits)

    def forward(self, tokens, classes):
        return self.logits[(classes, *tokens.T)].log_softmax(-1)


class Heads(Table):
    """The same with label heads: asked once for each partial state."""

    label_heads = True

    def under_labels(self, tokens, labels=None):
        every = self.logits[(slice(None), *tokens.T)].log_softmax(-1).transpose(0, 1)
        return every if labels is None else every.take_along_dim(labels[:, :, None, None], dim=1)

    def forward(self, tokens, classes):
        raise AssertionError("it is asked under every label at once")


class CountedHeads(Heads):
    """The rows that it was asked for."""

    rows = 0

    def under_labels(self, tokens, labels=None):
        self.rows += len(tokens)
        return super().under_labels(tokens, labels)


def exact_table(target) -> Table:
    """The exact conditionals; impossible values have the logit -60 in place of -inf."""
    n = target.num_tokens
    d = target.num_dims
    k = target.num_classes
    axes = [torch.arange(k + 1), *[torch.arange(n + 1)] * d]
    asked = torch.cartesian_prod(*axes)
    log_probs = target.denoiser()(asked[:, 1:], asked[:, 0]).clamp(min=-60)
    return Table(n, d, k, log_probs.reshape(k + 1, *[n + 1] * d, d, n))


@pytest.mark.parametrize("tilt", TILTS)
def test_a_tilted_class_is_the_tilted_distribution_of_guidance(tilt):
    target = random_target(3, 2, k=3, seed=1, zeros=0.3)
    found = tilted(joint_of(target), [tilt])
    for k, weight in enumerate(target.class_weights.tolist()):
        assert torch.allclose(found[k], weight * tilted_law(target, tilt, k), atol=1e-12)


def test_several_tilts_are_averaged_and_a_class_without_weight_has_none():
    joint = joint_of(random_target(3, 2, k=3, seed=2, zeros=0.3))
    joint[1] = 0
    joint = joint / joint.sum()
    parts = torch.stack([tilted(joint, [tilt]) for tilt in TILTS])
    assert torch.allclose(tilted(joint, TILTS), parts.mean(dim=0), atol=1e-14)
    assert bool((parts[:, 1] == 0).all()) and bool(parts.isfinite().all())


def test_a_pool_and_its_tilts_are_those_of_the_histogram():
    target = random_target(3, 2, k=2, seed=3, zeros=0.3)
    x, classes = target.sample(400, torch.Generator().manual_seed(0))
    pool = pool_of(x, classes, 3, 2)
    place = (slice(None), *pool.points.T)
    histogram = AveragedObjective(3, 2, 2).histogram(x, classes)
    assert torch.equal(pool.counts, (histogram[place] * 400).round()) and int(pool.counts.sum()) == 400
    assert torch.allclose(tilted(pool.counts, TILTS) / 400, tilted(histogram, TILTS)[place], atol=1e-12)


def test_stratified_draws_are_as_many_as_their_weights_say():
    weights = torch.tensor([0.0, 0.003, 0.5, 0.0, 0.25, 0.247, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    counts = torch.stack([stratified_draws(weights, 100, generator).bincount(minlength=7) for _ in range(2000)])
    assert bool(((counts - 100 * weights).abs() < 2).all()) and bool((counts[:, weights == 0] == 0).all())
    errors = counts.double().std(dim=0) / 2000**0.5
    assert bool(((counts.double().mean(dim=0) - 100 * weights).abs() <= 4 * errors).all())


@pytest.mark.parametrize("tilts", [(0.0,), TILTS, (4.0,)])
def test_exact_conditionals_are_the_minimum_under_every_tilt(tilts):
    target = random_target(3, 2, k=2, seed=5)
    joint = joint_of(target)
    averaged = AveragedObjective(3, 2, 2)
    visited = tilted(joint, tilts)
    exact = exact_table(target)
    ((conditional, null),) = averaged.under(exact, joint, [visited])
    (conditional + null).backward()
    assert float(exact.logits.grad.abs().max()) < 1e-12  # stationary; the loss is convex in the logits of a table
    # and by hand: the entropies of the exact conditionals, weighted by the tilted classes' partial states
    total = 0.0
    null_total = 0.0
    for a in range(4):
        for b in range(4):
            masked = [i for i, token in enumerate((a, b)) if token == 3]
            if not masked:
                continue
            weight = 0.5 / len(masked) * 2 * (1 if len(masked) == 2 else 0.5)
            at = tuple(slice(None) if token == 3 else token for token in (a, b))
            for k in range(3):
                pmf = joint[k] if k < 2 else joint.sum(dim=0)
                visits = float((visited[k] if k < 2 else visited.sum(dim=0))[at].sum())
                for i in masked:
                    other = [j for j in masked if j != i]
                    q = pmf[at].sum(dim=other[0]) if other and i == 0 else pmf[at].sum(dim=0) if other else pmf[at]
                    q = q / q.sum()
                    entropy = -float((q * q.log()).sum())
                    total += weight * visits * entropy if k < 2 else 0.0
                    null_total += weight * visits * entropy if k == 2 else 0.0
    assert (float(conditional.detach()), float(null.detach())) == pytest.approx((total, null_total), abs=1e-10)


@pytest.mark.parametrize("kind", [Table, Heads])
def test_pooled_draws_have_the_expectation_of_the_tilt_and_of_the_data(kind):
    target = random_target(3, 2, k=2, seed=6, zeros=0.2)
    generator = torch.Generator().manual_seed(0)
    net = kind(3, 2, 2, torch.randn(3, 4, 4, 2, 3, generator=generator, dtype=torch.float64))
    x, classes = target.sample(1000, generator)
    averaged = AveragedObjective(3, 2, 2)
    histogram = averaged.histogram(x, classes)
    pool = pool_of(x, classes, 3, 2)
    visits = tilted(pool.counts, [1.0, 4.0])
    expected = averaged.under(net, histogram, [tilted(histogram, [1.0, 4.0]), histogram])
    by_table = averaged.under(Table(3, 2, 2, net.logits), histogram, [tilted(histogram, [1.0, 4.0]), histogram])
    expected, by_table = (torch.stack([v.detach() for pair in pairs for v in pair]) for pairs in (expected, by_table))
    assert torch.allclose(expected, by_table, atol=1e-12)
    laws = [tilted(histogram, [1.0, 4.0]), histogram]
    for draw in (
        lambda: pooled_nelbo(net, pool, 100, generator, visits=visits),
        lambda: averaged.under(net, histogram, laws, most=10, generator=generator),
    ):
        draws = [torch.stack([part.detach().mean() for pair in draw() for part in pair]) for _ in range(300)]
        found = torch.stack(draws)
        assert bool(((found.mean(dim=0) - expected).abs() < 4 * found.std(dim=0) / len(draws) ** 0.5).all())
    assert float((expected[:2] - expected[2:]).abs().max()) > 0.01  # the test can fail: the tilt is not the data


@pytest.mark.parametrize("make", [lambda tilts: Averaged(tilts=tilts), lambda tilts: Pooled(rows=200, tilts=tilts)])
def test_the_nelbo_beside_a_tilted_loss_is_that_of_the_data(make):
    target = random_target(3, 2, k=2, seed=7)
    x, classes = target.sample(2000, torch.Generator().manual_seed(0))
    net = Table(3, 2, 2, torch.randn(3, 4, 4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    averaged = AveragedObjective(3, 2, 2)
    expected = float(averaged(net, averaged.histogram(x, classes))[0].detach())
    objective = make((0.0, 4.0))
    found = [
        {
            name: float(value.detach())
            for name, value in objective.loss(net, x[order], classes[order], generator).items()
        }
        for generator in [torch.Generator().manual_seed(s) for s in range(100)]
        for order in [torch.randperm(2000, generator=generator)]
    ]
    nelbos = torch.tensor([losses["nelbo"] for losses in found], dtype=torch.float64)
    spread = float(nelbos.std()) / len(found) ** 0.5
    assert abs(float(nelbos.mean()) - expected) < 4 * spread + 1e-9
    assert all(math.isfinite(losses["loss"]) for losses in found)


@pytest.mark.parametrize("tilts", [[], [-1.0], [math.nan], [0.0, 17.0]])
def test_tilts_out_of_range_are_refused(tilts):
    with pytest.raises(UserError, match=r"objective\.tilts"):
        check_tilts(tilts)


@pytest.mark.parametrize("rows", [None, 60])
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_label_heads_are_asked_once_for_a_state_by_the_averaged_objective(rows, zeros):
    n, d, k = 3, 3, 4
    torch.manual_seed(0)
    logits = torch.randn(k + 1, *[n + 1] * d, d, n, dtype=torch.float64)
    x, classes = random_target(n, d, k=k, seed=4, zeros=zeros).sample(500, torch.Generator().manual_seed(0))
    found = []
    for net in (CountedHeads(n, d, k, torch.nn.Parameter(logits.clone())), Table(n, d, k, torch.nn.Parameter(logits))):
        losses = Averaged(rows=rows, tilts=(0.0, 1.0)).loss(net, x, classes, torch.Generator().manual_seed(1))
        losses["loss"].backward()
        found.append((net, losses))
    (heads, ours), (table, expected) = found
    assert all(torch.allclose(ours[name], value, rtol=1e-12) for name, value in expected.items())
    assert torch.allclose(heads.logits.grad, table.logits.grad, atol=1e-14)
    states = (n + 1) ** d - n**d
    assert 0 < heads.rows <= (states if rows is None else min(states, rows))
