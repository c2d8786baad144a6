"""The negative ELBO averaged over every mask, partial state and label (theory, section 9)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import is_on_cpu
from mdlm_cfg.chain.lattice import flat_index, points_at, strides
from mdlm_cfg.nets.wrapper import has_label_heads, of_labels
from mdlm_cfg.training.elbo import Net, cross_entropy_of, exact_dtype, exactly, smoothed, stratified_draws


class AveragedObjective:
    """The negative ELBO averaged exactly over every mask, every partial state and every label, null included.

    Where (N+1)^D is small, the network is evaluated once a step on all partial states with a mask and all K + 1
    labels, and the cross entropies are weighted by the batch's histogram. Its cost does not depend on the batch size,
    and only the batch is random.

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
        # (D, N): change of the state's index when coordinate i is unmasked to v
        moves = (torch.arange(n) - n) * strides(n + 1, d)[:, None]
        children = (states[:, None, None] + moves).masked_fill(~is_masked[..., None], 0)
        num_masked = is_masked.sum(dim=1)
        # a count m has probability 1/D, a subset of that size 1/C(D, m), and its cross entropy has weight D/m
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
        """The expected cross entropy if the partial states come from distributions other than that of the targets.

        The conditionals of `histogram` minimise it, whatever is visited; if the histogram itself is visited, it is the
        NELBO.

        Args:
            net: (tokens, classes) -> log-probs (B, D, N).
            histogram: float64 (K, N, ..., N), whose conditionals are the targets.
            visited: distributions of the same shape, each 0 where the histogram is 0.
            smoothing: share of the uniform distribution in the targets (`smoothed`).
            most: the largest number of pairs of a partial state and a label; if there are more, this many are drawn by
                their weights in the mean of `visited`, which leaves the expectation unchanged. None: no limit.
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
            elif given.device.type == "cpu":  # pairs of probability 0 have weight 0
                rows = given.nonzero().squeeze(1)
            tokens = self.tokens[rows]
            classes = self.classes[rows]
            states = rows % len(self.states)
            likely = torch.where(given > 0, given, 1.0)[rows, None, None]
            targets = shares[classes[:, None, None], self.children[states]] / likely * self.weights[states]
            log_probs = smoothed(self._log_probs(ask, rows, has_label_heads(net)), tokens, smoothing)
            cost = weights[:, rows] * cross_entropy_of(targets, log_probs)
            is_null = classes == self.num_classes
            conditional = cost.masked_fill(is_null, 0.0).sum(dim=1)
            null = cost.masked_fill(~is_null, 0.0).sum(dim=1)
            return list(zip(conditional, null, strict=True))

    def _log_probs(self, ask: Net, rows: Tensor, at_once: bool) -> Tensor:
        """log p of pairs of a partial state and a label, (R, D, N).

        Args:
            ask: as `of_labels`. rows: which pairs, int64 (R,).
            at_once: whether all labels of a state cost as much as one: the network is then evaluated once per state,
                unless the host would have to wait for a device to find the distinct states.
        """
        classes = self.classes[rows]
        places = rows % len(self.states)
        if at_once and len(rows) == len(self.tokens):
            return ask(self.tokens[: len(self.states)], None)[places, classes]
        if at_once and is_on_cpu(rows):
            states, places = places.unique(return_inverse=True)
            return ask(self.tokens[states], None)[places, classes]
        return ask(self.tokens[rows], classes[:, None])[:, 0]


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
