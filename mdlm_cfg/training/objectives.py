"""The training objective: the continuous-time negative ELBO in nats (theory, section 9).

In its schedule-free form: draw the number of masked coordinates m uniformly from 1..D, mask a uniform subset of that
size, and weight the summed cross entropy of the masked coordinates by D / m.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mdlm_cfg.chain.lattice import Lattice, flat_index, points_at, strides
from mdlm_cfg.chain.masking import mask_uniform, stratified_counts
from mdlm_cfg.support.errors import UserError

Net = Callable[[Tensor, Tensor], Tensor]


def drop_labels(classes: Tensor, null_class: int, probability: float, generator: torch.Generator | None) -> Tensor:
    """The classes, each replaced by the null class with `probability`: int64 (B,), a new tensor."""
    drop = torch.rand(classes.shape, generator=generator) < probability
    return classes.masked_fill(drop.to(classes.device), null_class)


def nelbo(net: Net, x: Tensor, classes: Tensor, mask_id: int, generator: torch.Generator | None = None) -> Tensor:
    """One unbiased draw of the negative ELBO of every sample, in nats (theory, section 9).

    Args:
        net: (tokens, classes) -> log-probs (B, D, N) with unmasked rows copied, so that they cost exactly 0.
        x: clean data, int64 (B, D).
        classes: int64 (B,), the null class included.
        mask_id: N.

    Returns:
        (B,), in nats per sample; its expectation bounds -log p(x | class) from above.
    """
    counts = stratified_counts(len(x), x.shape[1], generator)
    tokens = mask_uniform(x, counts, mask_id, generator)
    cross_entropy = -net(tokens, classes).gather(2, x[..., None]).squeeze(2).sum(dim=1)
    return cross_entropy * (x.shape[1] / counts.to(cross_entropy))


def pooled_nelbo(
    net: Net,
    x: Tensor,
    classes: Tensor,
    mask_id: int,
    null_class: int,
    num_rows: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """`nelbo` with the class and without it, on the same masks, each with the whole batch for its target.

    Given the batch and a partial state, the value of a masked coordinate is distributed as among those points of the
    batch that agree with the partial state: putting that distribution in place of the one value of the point that was
    masked leaves the expectation as it is, and takes its noise away (Rao and Blackwell).

    Args:
        net: (tokens, classes) -> log-probs (B, D, N).
        x: clean data, int64 (B, D); many points that are few different ones, or nothing is gained.
        classes: int64 (B,), values 0..K-1.
        mask_id: N. null_class: K.
        num_rows: the first so many points are masked; the batch must be in random order.

    Returns:
        conditional and null, (num_rows,) each, in nats per sample.
    """
    own = classes[:num_rows]
    counts = stratified_counts(len(own), x.shape[1], generator)
    tokens = mask_uniform(x[: len(own)], counts, mask_id, generator)
    losses = []
    for labels in (own, torch.full_like(own, null_class)):
        targets = pooled_conditionals(tokens, labels, x, classes, mask_id, null_class)
        log_probs = net(tokens, labels)
        live = (targets > 0) & (tokens == mask_id)[..., None]  # a cross entropy of weight 0 is 0, also of -inf
        cross_entropy = -torch.where(live, targets * torch.where(live, log_probs, 0.0), 0.0).sum(dim=(1, 2))
        losses.append(cross_entropy * (x.shape[1] / counts.to(cross_entropy)))
    return losses[0], losses[1]


def pooled_conditionals(
    tokens: Tensor, labels: Tensor, x: Tensor, classes: Tensor, num_tokens: int, null_class: int
) -> Tensor:
    """p(x_i = v | x_U, z) among the points of a batch, float32 (R, D, N); NaN where none agrees.

    Args:
        tokens: partial states, int64 (R, D). labels: z, int64 (R,), the null class included.
        x: the batch, int64 (B, D), and its classes, int64 (B,).

    Raises:
        UserError: more states than an int64 can number.
    """
    n, d = num_tokens, x.shape[1]
    if null_class * n**d >= 2**63:
        raise UserError(f"N^D = {n}^{d} states are too many to pool a batch by; use objective=sampled")
    cells, counts = torch.unique(classes * n**d + flat_index(x, n), return_counts=True)
    values = one_hot(points_at(cells, n, d), n).flatten(1).float()  # (S, D * N), of the S different points
    known = (tokens[..., None] == torch.arange(n, device=tokens.device)).flatten(1).float()
    agree = known @ values.T == (tokens != n).sum(dim=1, keepdim=True)
    agree &= (labels[:, None] == cells // n**d) | (labels == null_class)[:, None]
    found = ((agree * counts.float()) @ values).unflatten(1, (d, n))
    return found / found.sum(dim=2, keepdim=True)


class AveragedObjective:
    """The negative ELBO averaged exactly over every mask, every partial state and every label, null included.

    Where (N+1)^D is small, the network is evaluated once a step on all partial states with a mask and all K + 1
    labels, and the cross entropies are weighted by the batch's histogram. Its cost does not depend on the batch size,
    and nothing but the batch is left random.

    Args:
        num_tokens, num_dims, num_classes: N, D, K.
    """

    def __init__(self, num_tokens: int, num_dims: int, num_classes: int) -> None:
        self.lattice, self.num_classes = Lattice(num_tokens, num_dims), num_classes
        self.tokens = torch.cat([self.lattice.tokens(level) for level in range(num_dims)])
        self.num_evaluations = len(self.tokens) * (num_classes + 1)
        state = flat_index(self.tokens, num_tokens + 1)
        masked = self.tokens == num_tokens
        # (D, N): how far unmasking coordinate i to v goes
        moves = (torch.arange(num_tokens) - num_tokens) * strides(num_tokens + 1, num_dims)[:, None]
        self.children = (state[:, None, None] + moves).masked_fill(~masked[..., None], 0)
        num_masked = masked.sum(dim=1)
        # count m has probability 1/D, a subset of it 1/C(D, m), and its cross entropy the weight D/m
        weight = 1 / (num_masked * torch.tensor([comb(num_dims, int(m)) for m in num_masked])).double()
        self.weights = masked * weight[:, None]

    def histogram(self, x: Tensor, classes: Tensor) -> Tensor:
        """The batch's distribution over labels and points, float64 (K, N, ..., N), summing to 1."""
        n, d = self.lattice.num_tokens, self.lattice.num_dims
        cells = classes * n**d + flat_index(x, n)
        counts = torch.bincount(cells, minlength=self.num_classes * n**d).double()
        return (counts / len(x)).reshape(self.num_classes, *[n] * d)

    def __call__(self, net: Net, histogram: Tensor) -> tuple[Tensor, Tensor]:
        """The expected NELBO under `histogram`: (conditional, null) in nats; train on a weighted sum of the two.

        Args:
            net: (tokens, classes) -> log-probs (B, D, N).
            histogram: float64 (K, N, ..., N): of a batch, or a known distribution itself.
        """
        labels = [*histogram, histogram.sum(dim=0)]
        targets = torch.stack(
            [self.lattice.to_dense(self.lattice.marginals(h)).flatten()[self.children] for h in labels]
        )
        targets = targets * self.weights[:, :, None]  # (K + 1, S, D, N)
        classes = torch.arange(self.num_classes + 1).repeat_interleave(len(self.tokens))
        log_probs = net(self.tokens.repeat(self.num_classes + 1, 1), classes).reshape(targets.shape)
        live = targets > 0  # a cross entropy of weight 0 is 0, also where log_probs is -inf
        cost = -torch.where(live, targets * torch.where(live, log_probs, 0.0), 0.0).flatten(1).sum(dim=1)
        return cost[:-1].sum(), cost[-1]
