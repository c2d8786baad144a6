"""Which coordinates a step unmasks: drawn by samplers, and summed over by laws (theory, sections 10, 16 and 17).

A selection orders the masked coordinates by tiers, lowest first, and sets how many of them are taken. Within a tier
they come one by one, without replacement, in proportion to their weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import constant_on, is_on_cpu
from mdlm_cfg.chain.policies import log_first

NEG_INF = float("-inf")
Subset = tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """How many coordinates are taken, and in which order.

    Attributes:
        count: one number for all states, or int64 (...), one for each.
        tier: int64 (..., m), lower first; None where no coordinate goes before another.
        log_weight: (..., m), the coordinates of a tier are drawn in proportion to its exponential; -inf where one
            cannot be taken. Where `count` differs by state, the weights of those that can be taken must be equal.
    """

    count: int | Tensor
    tier: Tensor | None
    log_weight: Tensor

    def draw(self, generator: torch.Generator | None) -> Tensor:
        """The coordinates that are taken, bool (B, m), by the order of exponential clocks of these weights."""
        able = self.log_weight > NEG_INF
        if isinstance(self.count, int):
            return torch.zeros_like(able).scatter_(1, self.draw_places(generator), True) & able
        order = self._order(self._clocks(generator))
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return (torch.empty_like(order).scatter_(1, order, places) < self.count[:, None]) & able

    def draw_places(self, generator: torch.Generator | None) -> Tensor:
        """The coordinates taken under one count for all states, int64 (B, count), by the same clocks as `draw`.

        Where fewer can be taken, the others among them have log-weight -inf.
        """
        assert isinstance(self.count, int)
        clocks = self._clocks(generator)
        if self.count == 1:
            if self.tier is not None:
                clocks = clocks.masked_fill(self.tier > self.tier.amin(dim=1, keepdim=True), float("inf"))
            return clocks.argmin(dim=1, keepdim=True)
        if self.tier is not None:
            return self._order(clocks)[:, : self.count]
        return clocks.topk(min(self.count, clocks.shape[1]), dim=1, largest=False, sorted=False).indices

    def _order(self, clocks: Tensor) -> Tensor:
        """All coordinates in the order of their tiers, and of their clocks within a tier, int64 (B, m)."""
        order = clocks.argsort(dim=1)
        return order if self.tier is None else order.gather(1, self.tier.gather(1, order).argsort(dim=1, stable=True))

    def _clocks(self, generator: torch.Generator | None) -> Tensor:
        """Logarithms of independent exponential clocks of the weights, (B, m)."""
        u = uniform(self.log_weight.shape, generator, self.log_weight.device)
        return u.neg_().log1p_().neg_().log_().sub_(self.log_weight)

    def chances(self) -> dict[Subset, Tensor]:
        """The probability (S,) of every subset of the m coordinates that may be taken, from rows (S, m)."""
        if isinstance(self.count, Tensor):
            return _tied_subset_chances(self.count, self.tier, self.log_weight)
        return subset_chances(self.log_weight, min(self.count, self.log_weight.shape[1]), self.tier)


def subset_chances(log_weight: Tensor, count: int, tier: Tensor | None = None) -> dict[Subset, Tensor]:
    """The probability of every set of `count` coordinates drawn one by one without replacement.

    P(A) = sum_{i in A} P(A - i) pi(i | all but A - i), from smaller sets to larger ones.

    Args:
        log_weight: (S, m), coordinates are drawn in proportion to its exponential. tier: int64 (S, m), lower first;
            None where no coordinate goes before another.

    Returns:
        the probability (S,) of every subset of range(m) of size `count`, and of smaller ones after which no other
        coordinate has a weight.
    """
    m = log_weight.shape[1]
    chances: dict[Subset, Tensor] = {(): torch.ones_like(log_weight[:, 0])}
    ended: dict[Subset, Tensor] = {}
    for size in range(1, count + 1):
        grown = {subset: torch.zeros_like(log_weight[:, 0]) for subset in combinations(range(m), size)}
        for before, chance in chances.items():
            left = [k for k in range(m) if k not in before]
            nothing = (log_weight[:, left] == NEG_INF).all(dim=1)
            if not is_on_cpu(nothing) or bool(nothing.any()):
                ended[before] = chance * nothing
            first = log_first(None if tier is None else tier[:, left], log_weight[:, left]).exp()
            for place, i in enumerate(left):
                grown[tuple(sorted((*before, i)))] += chance * first[:, place]
        chances = grown
    return {**chances, **ended}


def _tied_subset_chances(count: Tensor, tier: Tensor | None, log_weight: Tensor) -> dict[Subset, Tensor]:
    """The same for counts that differ by row, where all weights of a tier are equal.

    A row takes all coordinates of the tiers before the one in which its count is reached, and from that one as many as
    are missing, every such set with the same probability.
    """
    m = log_weight.shape[1]
    device = log_weight.device
    able = log_weight > NEG_INF
    count = torch.minimum(count, able.sum(dim=1))
    place = (torch.zeros_like(able, dtype=torch.int64) if tier is None else tier).masked_fill(~able, m + 1)
    last = place.sort(dim=1).values.gather(1, (count - 1).clamp(min=0)[:, None])
    bits = 2 ** torch.arange(m, device=device)
    before = (place < last) & able
    tied = (place == last) & able
    missing = count - before.sum(dim=1)
    ways = constant_on(tuple(float(comb(n, k)) for n in range(m + 1) for k in range(m + 1)), device)
    share = 1 / ways[tied.sum(dim=1) * (m + 1) + missing.clamp(min=0)]
    must = (before * bits).sum(dim=1)
    may = ((before | tied) * bits).sum(dim=1)
    found: dict[Subset, Tensor] = {(): (count == 0).double()}
    for size in range(1, m + 1):
        of_size = torch.where(count == size, share, 0.0)
        for subset in combinations(range(m), size):
            own = sum(2**i for i in subset)
            found[subset] = of_size * (((must & own) == must) & ((may & own) == own))
    return found


def uniform(shape: torch.Size, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform draws on [0, 1), float64."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
