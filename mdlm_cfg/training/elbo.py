"""The continuous-time negative ELBO in nats, drawn, pooled over a batch, and averaged (theory, section 9).

In its schedule-free form: draw the number of masked coordinates m uniformly from 1..D, mask a uniform subset of that
size, and weight the summed cross entropy of the masked coordinates by D / m.

Everything here follows the device of the data, and nothing waits for it there (on a CPU, where waiting costs nothing,
work without effect is left out). A network is called as it is; the rest is exact, under autocast too (`exactly`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

from mdlm_cfg.chain.lattice import flat_index, points_at, strides
from mdlm_cfg.chain.masking import mask_uniform, stratified_counts
from mdlm_cfg.nets.wrapper import has_label_heads, of_labels
from mdlm_cfg.support.errors import UserError

Net = Callable[..., Tensor]  # (tokens, classes) -> log-probs


@contextmanager
def exactly(net: Net, device: torch.device) -> Iterator[Net]:
    """Autocast off inside, and for the network alone what it was outside.

    Under autocast every matrix product is rounded to half precision: in the network this is intended, but
    in targets and weights it would be a bias larger than the error of the network to be reached.
    """
    enabled = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type)

    def ask(tokens: Tensor, classes: Tensor | None) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=enabled):
            log_probs = net(tokens, classes)
        return log_probs if log_probs.dtype == torch.float64 else log_probs.float()

    with torch.autocast(device.type, enabled=False):
        yield ask


def smoothed(log_probs: Tensor, tokens: Tensor, share: float) -> Tensor:
    """Log-probabilities whose cross entropy is that of targets mixed with a share of the uniform distribution.

    The cross entropy is linear in log p, so targets (1 - s) q + s / N are the same as (1 - s) log p + s mean log p.
    Without it nothing says how small a probability outside the support is, and guidance, which raises the ratio of
    two such numbers to the power w, blows up on what the two conditionals happen to have left there.

    Args:
        log_probs: (B, D, N).
        tokens: int64 (B, D); rows of unmasked coordinates are left alone.
        share: s, the label smoothing.
    """
    if share == 0:
        return log_probs
    mixed = (1 - share) * log_probs + share * log_probs.mean(dim=-1, keepdim=True)
    return torch.where((tokens == log_probs.shape[-1])[..., None], mixed, log_probs)


def smoothed_targets(conditional: Tensor, null: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The null class mixed with a share of the uniform distribution, and the class with a share of that mixture.

    p' = (1 - s) p + s / N and p_z' = (1 - s) p_z + s p'. Where the data have no probability the ratio p_z' / p',
    which guidance amplifies, is s, and guidance does not go there. If both are mixed with the uniform distribution
    (`smoothed`) the ratio is 1 there, and the network has to learn it from two numbers as small as s / N.

    Args:
        conditional: p(x_i = v | x_U, z), (B, D, N). null: p(x_i = v | x_U), likewise.
        share: s, the label smoothing.
    """
    null = (1 - share) * null + share / null.shape[-1]
    return (1 - share) * conditional + share * null, null


def drop_labels(classes: Tensor, null_class: int, probability: float, generator: torch.Generator | None) -> Tensor:
    """The classes, each replaced by the null class with `probability`: int64 (B,), a new tensor."""
    drop = torch.rand(classes.shape, generator=generator, device=classes.device) < probability
    return classes.masked_fill(drop, null_class)


def nelbo(net: Net, x: Tensor, classes: Tensor, mask_id: int, generator: torch.Generator | None = None) -> Tensor:
    """One unbiased draw of the negative ELBO of every sample, in nats (theory, section 9).

    Args:
        net: (tokens, classes) -> log-probs (B, D, N); rows of unmasked coordinates do not count.
        x: clean data, int64 (B, D).
        classes: int64 (B,), the null class included.
        mask_id: N.
        generator: of the masks, on the device of `x`.

    Returns:
        (B,), in nats per sample; its expectation bounds -log p(x | class) from above.
    """
    tokens, counts = masked(x, mask_id, generator)
    with exactly(net, x.device) as ask:
        return weighted_cross_entropy(ask(tokens, classes), x, tokens, counts)


def masked(x: Tensor, mask_id: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Partial states of the data, int64 (B, D), and how many coordinates of each are masked, int64 (B,)."""
    counts = stratified_counts(len(x), x.shape[1], generator).to(x.device)
    return mask_uniform(x, counts, mask_id, generator), counts


def weighted_cross_entropy(log_probs: Tensor, x: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
    """D / m times the cross entropy of the m masked coordinates of each sample, (B,) in nats."""
    own = log_probs.gather(2, x[..., None]).squeeze(2)
    cross_entropy = -torch.where(tokens == log_probs.shape[-1], own, 0.0).sum(dim=1)
    return cross_entropy * (x.shape[1] / counts.to(cross_entropy))


def class_cross_entropy(
    classify: Callable[[Tensor], Tensor],
    x: Tensor,
    classes: Tensor,
    mask_id: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """-log q(class | x_U) of one partial state of every sample, m of whose coordinates are masked, m uniform on 0..D.

    Args:
        classify: one-hot rows (B, D, N + 1), the mask last, to log-probabilities (B, K).
        x: clean data, int64 (B, D). classes: int64 (B,), values 0..K-1. mask_id: N.
        generator: of the masks, on the device of `x`.

    Returns:
        (B,), in nats.
    """
    counts = stratified_counts(len(x), x.shape[1] + 1, generator).to(x.device) - 1
    tokens = mask_uniform(x, counts, mask_id, generator)
    log_probs = classify(one_hot_of(tokens, mask_id + 1))
    return -log_probs.gather(1, classes[:, None])[:, 0]


def paired_nelbo(
    net: Net, x: Tensor, classes: Tensor, mask_id: int, null_class: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """`nelbo` with the class and without it, on the same masks: conditional and null, (B,) each, in nats."""
    tokens, counts = masked(x, mask_id, generator)
    with exactly(partial(of_labels, net), x.device) as ask:
        both = ask(tokens, torch.stack([classes, torch.full_like(classes, null_class)], dim=1)).unbind(1)
        conditional, null = (weighted_cross_entropy(log_probs, x, tokens, counts) for log_probs in both)
    return conditional, null


class Pool(NamedTuple):
    """The different points of a batch.

    Attributes:
        points: int64 (S, D). On a CPU S is their number; elsewhere to know it is to wait for the device, and S is that
            of the batch, the rest counted 0 times.
        counts: how many of each class are at a point, float64 (K, S).
        num_tokens: N.
    """

    points: Tensor
    counts: Tensor
    num_tokens: int


def pool_of(x: Tensor, classes: Tensor, num_tokens: int, num_classes: int) -> Pool:
    """The pool of a batch x, int64 (B, D), of classes int64 (B,).

    Raises:
        UserError: more states than an int64 can number.
    """
    n = num_tokens
    d = x.shape[1]
    if n**d >= 2**63:
        raise UserError(f"N^D = {n}^{d} states are too many to pool a batch by; use objective=sampled")
    states, order = flat_index(x, n).sort()
    place = states.diff(prepend=states[:1]).ne(0).cumsum(0)
    num = int(place[-1]) + 1 if x.device.type == "cpu" else len(x)
    cells = classes[order] * num + place
    counts = torch.zeros(num_classes * num, dtype=exact_dtype(x.device), device=x.device)
    counts.index_add_(0, cells, torch.ones_like(cells, dtype=counts.dtype))
    points = points_at(states.new_zeros(num).scatter_(0, place, states), n, d)
    return Pool(points, counts.unflatten(0, (num_classes, num)), n)


def pooled_nelbo(
    net: Net,
    pool: Pool,
    num_rows: int,
    generator: torch.Generator | None = None,
    *,
    visits: Tensor | None = None,
    smoothing: float = 0.0,
) -> list[tuple[Tensor, Tensor]]:
    """Draws of the NELBO with the class and without it, with the whole batch for targets.

    Given the batch and a partial state, the value of a masked coordinate is distributed as among those points of the
    batch that agree with the partial state: putting that distribution in place of the one value of the point that was
    masked leaves the expectation as it is, and takes its noise away (Rao and Blackwell). The target depends on the
    partial state and the label alone, so the points that are masked may be chosen by any rule
    (`mdlm_cfg.training.tilting`): the exact conditionals still have the least expectation. Where the network has label
    heads, the label is averaged likewise: every class counts by its share among the visits that agree.

    Args:
        net: (tokens, classes) -> log-probs (B, D, N), with or without label heads.
        pool: of the batch; few different points, or nothing is gained.
        num_rows: R, partial states.
        visits: how often each point of each class is masked, (K, S), with the sum of `pool.counts`, and 0 where they
            are; None: as often as it is in the batch.
        smoothing: of the targets (`smoothed_targets`).

    Returns:
        conditional and null, (R,) each in nats per sample, under the visits and under the batch itself: draws whose
        means are the expected NELBOs.
    """
    visits = pool.counts if visits is None else visits
    k = len(visits)
    cells = stratified_draws(visits.T.flatten(), num_rows, generator)
    tokens, num_masked = masked(pool.points[cells // k], pool.num_tokens, generator)
    with exactly(partial(of_labels, net), tokens.device) as ask:
        agree = agreement(tokens, pool)
        targets = pooled_conditionals(agree, pool)
        targets = torch.cat(smoothed_targets(targets[:, :k], targets[:, k:], smoothing), dim=1)
        laws = [agree.to(visits.dtype) @ law.T for law in (visits, pool.counts)]  # (R, K)
        null_shares = [law.sum(dim=1) / laws[0].sum(dim=1) for law in laws]
        labels = None
        if not has_label_heads(net):
            own = (cells % k)[:, None]
            labels = torch.cat([own, torch.full_like(own, k)], dim=1)
            targets = targets.take_along_dim(labels[:, :, None, None], dim=1)
            laws = [law.gather(1, own) for law in laws]
        shares = [law / laws[0].sum(dim=1, keepdim=True) for law in laws]
        is_masked = (tokens == pool.num_tokens)[:, None, :, None]
        costs = cross_entropy_of(targets * is_masked, ask(tokens, labels)) * (tokens.shape[1] / num_masked)[:, None]
    return [((costs[:, :-1] * s).sum(dim=1), costs[:, -1] * null) for s, null in zip(shares, null_shares)]


def stratified_draws(weights: Tensor, num: int, generator: torch.Generator | None = None) -> Tensor:
    """Numbers of cells, int64 (num,): each as often as its weight (C,) says, up to rounding, in ascending order."""
    uniform = torch.rand(num, generator=generator, dtype=weights.dtype, device=weights.device)
    ends = weights.cumsum(0)
    places = (torch.arange(num, device=weights.device) + uniform) / num * ends[-1]
    return torch.searchsorted(ends, places, right=True).clamp_(max=len(ends) - 1)  # never a cell of weight 0


def agreement(tokens: Tensor, pool: Pool) -> Tensor:
    """1 where a point of the pool has what is unmasked in a partial state, float32 (R, S), from int64 (R, D)."""
    known = one_hot_of(tokens, pool.num_tokens).flatten(1)
    values = one_hot_of(pool.points, pool.num_tokens).flatten(1)
    return (known @ values.T == known.sum(dim=1, keepdim=True)).float()


def pooled_conditionals(agree: Tensor, pool: Pool) -> Tensor:
    """p(x_i = v | x_U, z) among the points of a batch, the null class last, float32 (R, K + 1, D, N).

    It is 0 where no point of the class agrees. Under autocast it is not exact: `exactly`.

    Args:
        agree: `agreement` of partial states with the pool, (R, S).
    """
    values = one_hot_of(pool.points, pool.num_tokens)  # (S, D, N)
    weighted = pool.counts.T.float()[:, :, None, None] * values[:, None]
    found = (agree @ weighted.flatten(1)).unflatten(1, weighted.shape[1:])  # whole numbers: float32 is exact
    found = torch.cat([found, found.sum(dim=1, keepdim=True)], dim=1)
    return found / found.sum(dim=-1, keepdim=True).clamp(min=1)


def cross_entropy_of(targets: Tensor, log_probs: Tensor) -> Tensor:
    """-sum q log p over the last two axes, (...) from (..., D, N) each: 0 where q is 0, also where log p is -inf."""
    live = targets > 0
    return -torch.where(live, targets * torch.where(live, log_probs, 0.0), 0.0).sum(dim=(-2, -1))


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, but for a device that does not have it."""
    return torch.float32 if device.type == "mps" else torch.float64


def one_hot_of(tokens: Tensor, num_tokens: int) -> Tensor:
    """float32 (..., N) from (...); 0 everywhere for a mask."""
    return (tokens[..., None] == torch.arange(num_tokens, device=tokens.device)).float()


class AveragedObjective:
    """The negative ELBO averaged exactly over every mask, every partial state and every label, null included.

    Where (N+1)^D is small, the network is evaluated once a step on all partial states with a mask and all K + 1
    labels, and the cross entropies are weighted by the batch's histogram. Its cost does not depend on the batch size,
    and nothing but the batch is left random.

    Args:
        num_tokens, num_dims, num_classes: N, D, K.
        device: of the data and the network.
    """

    def __init__(self, num_tokens: int, num_dims: int, num_classes: int, device: torch.device | str = "cpu") -> None:
        n, d, k = self.num_tokens, self.num_dims, self.num_classes = num_tokens, num_dims, num_classes
        device = torch.device(device)
        self.dtype = exact_dtype(device)
        states = torch.arange((n + 1) ** d)
        tokens = points_at(states, n + 1, d)
        is_masked = tokens == n
        states, tokens, is_masked = (t[is_masked.any(dim=1)] for t in (states, tokens, is_masked))
        # (D, N): how far unmasking coordinate i to v goes
        moves = (torch.arange(n) - n) * strides(n + 1, d)[:, None]
        children = (states[:, None, None] + moves).masked_fill(~is_masked[..., None], 0)
        num_masked = is_masked.sum(dim=1)
        # count m has probability 1/D, a subset of it 1/C(D, m), and its cross entropy the weight D/m
        subsets = torch.tensor([comb(d, m) for m in range(d + 1)])
        weights = is_masked / (num_masked * subsets[num_masked])[:, None].double()
        self.states = states.to(device)
        self.children = children.to(device)
        self.weights = weights.to(self.dtype).to(device)[..., None]
        self.shares = self.weights.sum(dim=(1, 2)).repeat(k + 1)  # of the pairs of a label and a partial state
        self.tokens = tokens.repeat(k + 1, 1).to(device)  # (L, D), of all pairs of a label and a partial state
        self.classes = torch.arange(k + 1).repeat_interleave(len(tokens)).to(device)
        self.num_evaluations = len(self.tokens)

    def histogram(self, x: Tensor, classes: Tensor) -> Tensor:
        """The batch's distribution over labels and points, float64 (K, N, ..., N), summing to 1."""
        n = self.num_tokens
        d = self.num_dims
        k = self.num_classes
        cells = classes * n**d + flat_index(x, n)
        counts = torch.zeros(k * n**d, dtype=self.dtype, device=x.device)
        counts.scatter_add_(0, cells, torch.ones_like(cells, dtype=self.dtype))
        return (counts / len(x)).reshape(k, *[n] * d)

    def __call__(self, net: Net, histogram: Tensor) -> tuple[Tensor, Tensor]:
        """The expected NELBO under `histogram`: (conditional, null) in nats; train on a weighted sum of the two.

        Args:
            net: (tokens, classes) -> log-probs (B, D, N).
            histogram: float64 (K, N, ..., N): of a batch, or a known distribution itself.
        """
        ((conditional, null),) = self.under(net, histogram, [histogram])
        return conditional, null

    def under(
        self,
        net: Net,
        histogram: Tensor,
        visited: Sequence[Tensor],
        smoothing: float = 0.0,
        most: int | None = None,
        generator: torch.Generator | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """The expected cross entropy where partial states are those of other distributions than the targets are.

        It is smallest for the conditionals of `histogram`, whatever is visited; where that is the histogram itself it
        is the NELBO.

        Args:
            net: (tokens, classes) -> log-probs (B, D, N).
            histogram: float64 (K, N, ..., N), whose conditionals are the targets.
            visited: of the same shape, each 0 where the histogram is.
            smoothing: share of the uniform distribution in the targets (`smoothed`).
            most: pairs of a partial state and a label; where there are more, as many are drawn, by their weights in the
                mean of `visited`, and the results have the same expectation. None: no limit.
            generator: of these draws.

        Returns:
            (conditional, null) in nats, for each of `visited`.
        """
        with exactly(partial(of_labels, net), histogram.device) as ask:
            shares = labelled_marginals(histogram.to(self.dtype))
            weights = torch.stack([labelled_marginals(law.to(self.dtype))[:, self.states] for law in visited])
            weights = weights.flatten(1)
            given = shares[:, self.states].flatten()
            rows = torch.arange(len(given), device=given.device)
            if most is not None and len(given) > most:
                chances = (weights * self.shares).mean(dim=0)
                rows = stratified_draws(chances, most, generator)
                weights = weights * (chances.sum() / (most * chances))
            elif given.device.type == "cpu":  # a pair without probability has no weight
                rows = given.nonzero().squeeze(1)
            tokens = self.tokens[rows]
            classes = self.classes[rows]
            states = rows % len(self.states)
            likely = torch.where(given > 0, given, 1.0)[rows, None, None]
            targets = shares[classes[:, None, None], self.children[states]] / likely * self.weights[states]
            log_probs = smoothed(ask(tokens, classes[:, None])[:, 0], tokens, smoothing)
            cost = weights[:, rows] * cross_entropy_of(targets, log_probs)
            is_null = classes == self.num_classes
            conditional = cost.masked_fill(is_null, 0.0).sum(dim=1)
            null = cost.masked_fill(~is_null, 0.0).sum(dim=1)
            return list(zip(conditional, null, strict=True))


def labelled_marginals(joint: Tensor) -> Tensor:
    """The probability of every partial state with every label, null last, (K + 1, (N+1)^D), from (K, N, ..., N)."""
    return all_marginals(torch.cat([joint, joint.sum(dim=0, keepdim=True)]))


def all_marginals(pmfs: Tensor) -> Tensor:
    """The probability of every partial state, (K, (N+1)^D) in C order, from pmfs (K, N, ..., N)."""
    for axis in range(1, pmfs.ndim):
        pmfs = torch.cat([pmfs, pmfs.sum(dim=axis, keepdim=True)], dim=axis)
    return pmfs.flatten(1)


@lru_cache(maxsize=4)
def averaged_objective(
    num_tokens: int, num_dims: int, num_classes: int, device: torch.device | str = "cpu"
) -> AveragedObjective:
    """An `AveragedObjective`, made once for each shape and device."""
    return AveragedObjective(num_tokens, num_dims, num_classes, device)
