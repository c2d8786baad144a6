"""The training objective: the continuous-time negative ELBO in nats (theory, section 9).

In its schedule-free form: draw the number of masked coordinates m uniformly from 1..D, mask a uniform subset of that
size, and weight the summed cross entropy of the masked coordinates by D / m.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.masking import mask_uniform, stratified_counts
from mdlm_cfg.partial_states import Lattice, flat_index, strides

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


class AveragedObjective:
    """The negative ELBO averaged exactly over every mask, every partial state and every label, null included.

    Where (N+1)^D is small, the network is evaluated once a step on all partial states with a mask and all K + 1
    labels, and the cross entropies are weighted by the batch's histogram. Its cost does not depend on the batch size,
    and nothing but the batch is left random.

    Args:
        num_tokens, num_dims, num_classes: N, D, K.
        null_weight: the share of the null class (the label-dropout probability).

    Raises:
        ValueError: a null_weight outside [0, 1].
    """

    def __init__(self, num_tokens: int, num_dims: int, num_classes: int, null_weight: float) -> None:
        if not 0 <= null_weight <= 1:
            raise ValueError(f"label dropout {null_weight} must lie between 0 and 1")
        self.lattice = Lattice(num_tokens, num_dims)
        self.num_classes, self.null_weight = num_classes, null_weight
        self.tokens = torch.cat([self.lattice.tokens(level) for level in range(num_dims)])
        self.num_evaluations = len(self.tokens) * (num_classes + 1)
        state = flat_index(self.tokens, num_tokens + 1)
        masked = self.tokens == num_tokens
        moves = (torch.arange(num_tokens) - num_tokens) * strides(num_tokens + 1, num_dims)[
            :, None
        ]  # (D, N): unmask coordinate i to v
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
        """The expected NELBO under `histogram`: (conditional, null) in nats; train on their weighted sum `combine`.

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

    def combine(self, conditional: Tensor, null: Tensor) -> Tensor:
        """The training loss in nats: the null class weighted by the label-dropout probability."""
        return (1 - self.null_weight) * conditional + self.null_weight * null
