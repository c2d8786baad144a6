"""The negative ELBO with the conditionals of a whole batch as targets (theory, section 9)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mdlm_cfg.chain.lattice import flat_index, points_at
from mdlm_cfg.nets.wrapper import has_label_heads, of_labels
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.elbo import (
    Net,
    cross_entropy_of,
    exact_dtype,
    exactly,
    masked,
    one_hot_of,
    smoothed_targets,
    stratified_draws,
)


class Pool(NamedTuple):
    """The distinct points of a batch.

    Attributes:
        points: int64 (S, D). On a CPU S is the number of distinct points; elsewhere that number would have to wait for
            the device, so S is the batch size, and the spare rows have count 0.
        counts: the number of examples of each class at each point, float64 (K, S).
        num_tokens: N.
    """

    points: Tensor
    counts: Tensor
    num_tokens: int


def pool_of(x: Tensor, classes: Tensor, num_tokens: int, num_classes: int) -> Pool:
    """The pool of a batch x, int64 (B, D), with classes int64 (B,).

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
    """Draws of the NELBO with the class and without it; the whole batch provides the targets.

    Given the batch and a partial state, the value of a masked coordinate is distributed as among those points of the
    batch that agree with the partial state: replacing the single value of the masked point by that distribution
    leaves the expectation unchanged and removes its noise (Rao and Blackwell). The target depends only on the partial
    state and the label, so the points to mask may be chosen by any rule (`mdlm_cfg.training.tilting`): the exact
    conditionals still minimise the expectation. If the network has label heads, the label is averaged likewise: each
    class is weighted by its share among the visits that agree.

    Args:
        net: (tokens, classes) -> log-probs (B, D, N), with or without label heads.
        pool: of the batch; useful only with few distinct points.
        num_rows: R, the number of partial states.
        visits: how often each point of each class is masked, (K, S), with the same sum as `pool.counts`, and 0 where
            those are 0; None: as often as it occurs in the batch.
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


def agreement(tokens: Tensor, pool: Pool) -> Tensor:
    """1 where a point of the pool agrees with a partial state's unmasked values, float32 (R, S), from int64 (R, D)."""
    known = one_hot_of(tokens, pool.num_tokens).flatten(1)
    values = one_hot_of(pool.points, pool.num_tokens).flatten(1)
    return (known @ values.T == known.sum(dim=1, keepdim=True)).float()


def pooled_conditionals(agree: Tensor, pool: Pool) -> Tensor:
    """p(x_i = v | x_U, z) among the points of a batch, the null class last, float32 (R, K + 1, D, N).

    It is 0 where no point of the class agrees. Under autocast it is not exact; use `exactly`.

    Args:
        agree: `agreement` of partial states with the pool, (R, S).
    """
    values = one_hot_of(pool.points, pool.num_tokens)  # (S, D, N)
    weighted = pool.counts.T.float()[:, :, None, None] * values[:, None]
    found = (agree @ weighted.flatten(1)).unflatten(1, weighted.shape[1:])  # whole numbers: float32 is exact
    found = torch.cat([found, found.sum(dim=1, keepdim=True)], dim=1)
    return found / found.sum(dim=-1, keepdim=True).clamp(min=1)
