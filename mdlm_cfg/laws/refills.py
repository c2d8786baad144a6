"""One move of a correction for one set S of coordinates: how it is refilled, and the effect on a law (theory, 19).

All quantities of a set are held for all finished states x, at the values of x: the terminal law q_S of
the slice in which S is free (section 13) is q_S[x] = q_S(x_S | x_{S^c}).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.selections import Subset

NEG_INF = float("-inf")
IMPOSSIBLE = -1e300  # in place of ln 0 as the log-weight of a path: it is never proposed, and left at once
ROUNDING = 1e-12  # of a probability that is 0


@dataclass(frozen=True)
class Choice:
    """The next transition of the chain if the coordinates of a set S are masked, over all finished states x.

    Attributes:
        pi: the policy's probability that i in S is next, (|S|, N^D). log_value: ln r_i(x_i), finite even where
            r_i(x_i) underflows. log_z: ln Z_i.
    """

    pi: Tensor
    log_value: Tensor
    log_z: Tensor

    @property
    def value(self) -> Tensor:
        """r_i(x_i)."""
        return self.log_value.exp()


@dataclass(frozen=True)
class Paths:
    """The fills of a set S by every order of its coordinates, over all finished states x.

    Attributes:
        orders: the probability of the order given the values, (|S|!, N^D).
        fills: that of the order and the values. log_weight: log W of the path; -inf where a value is impossible.
    """

    orders: Tensor
    fills: Tensor
    log_weight: Tensor


@dataclass(frozen=True)
class Refill:
    """The kernel of a move that masks the coordinates S.

    Attributes:
        subset: S. chance: that a move chooses S, a number, or (N,)*D where it depends on the state.
        stay: the probability of no change because the fill cannot finish or is rejected, (N,)*D.
        fill: q_S(x_S | x_{S^c}), (N,)*D; None with accept. accepted: in its place, with accept.
    """

    subset: Subset
    chance: float | Tensor
    stay: Tensor
    fill: Tensor | None
    accepted: AcceptedFills | None

    def push(self, law: Tensor) -> Tensor:
        """The law (N,)*D after a move on this set, weighted by the chance that it is chosen."""
        mass = law * self.chance
        if self.fill is not None:
            return mass.sum(dim=self.subset, keepdim=True) * self.fill + mass * self.stay
        assert self.accepted is not None
        return self.accepted.push(mass) + mass * self.stay


@dataclass(frozen=True)
class AcceptedFills:
    """The accepted moves of a set S, in every slice sorted by the weight W of their paths.

    From a path of weight W to one of weight W' a move is accepted with min(1, W' / W). With the paths of a slice
    sorted, what they all send to one path takes two cumulative sums, and no matrix of pairs.

    Attributes:
        axes: the order of the D axes in which slices come first. order: int64 (slices, paths), by rising W.
        log_weight: ln of W over the slice's largest W, sorted: under strong guidance W spans more than float64 does.
        orders, fills: as in `Paths`, (slices, paths), sorted.
        place: the index, in its slice, of the state of each sorted path, int64.
        shape: the shape of the law with those axes.
    """

    axes: tuple[int, ...]
    log_weight: Tensor
    orders: Tensor
    fills: Tensor
    place: Tensor
    shape: tuple[int, ...]

    def push(self, mass: Tensor) -> Tensor:
        """The accepted mass at its destinations, (N,)*D, from non-negative masses."""
        slices = len(self.log_weight)
        sent = mass.permute(self.axes).reshape(slices, -1).gather(1, self.place) * self.orders
        lighter = sent.cumsum(dim=1)
        over = sent.log() - self.log_weight
        from_here_on = (over.flip(1).logcumsumexp(dim=1).flip(1) + self.log_weight).exp()
        arrived = self.fills * (lighter + (from_here_on - sent).clamp_(min=0))
        found = mass.new_zeros(slices, mass.numel() // slices).scatter_add_(1, self.place, arrived)
        back = sorted(range(len(self.axes)), key=lambda axis: self.axes[axis])
        return found.view(self.shape).permute(back)

    def leave(self) -> Tensor:
        """The probability that the move from a state is accepted, in the order of the slices' states."""
        gained = ((self.fills.log() + self.log_weight).logcumsumexp(dim=1) - self.log_weight).exp()
        heavier = self.fills.flip(1).cumsum(dim=1).flip(1) - self.fills
        leaving = self.orders * (gained + heavier)
        states = math.prod(self.shape) // len(self.log_weight)
        found = leaving.new_zeros(len(leaving), states).scatter_add_(1, self.place, leaving)
        back = sorted(range(len(self.axes)), key=lambda axis: self.axes[axis])
        return found.view(self.shape).permute(back)


def fills_of(choices: dict[Subset, Choice], size: int, parallel: bool) -> dict[Subset, Tensor]:
    """q_S[x] of every set of `size` coordinates, (N^D,): sums over the first of them, smaller sets first."""
    if parallel:
        return {subset: choice.value.prod(dim=0) for subset, choice in choices.items() if len(subset) == size}
    known: dict[Subset, Tensor] = {}
    for masks in range(1, size + 1):
        grown: dict[Subset, Tensor] = {}
        for subset, choice in choices.items():
            if len(subset) != masks:
                continue
            first = choice.pi * choice.value
            rest = [known.get(subset[:j] + subset[j + 1 :]) for j in range(masks)]
            grown[subset] = sum((p if q is None else p * q for p, q in zip(first, rest)), torch.zeros_like(first[0]))
        known = grown
    return known


def accepted_refills(
    sets: list[Subset], chances: list[float | Tensor], choices: dict[Subset, Choice], n: int, d: int
) -> Iterator[Refill]:
    """The kernels of moves with accept."""
    for subset, chance in zip(sets, chances):
        accepted = _sorted(_paths(choices, subset), subset, n, d)
        yield Refill(subset, chance, missing(accepted.leave()), None, accepted)


def _paths(choices: dict[Subset, Choice], subset: Subset) -> Paths:
    """The fills of a set by every order."""
    choice = choices[subset]
    values = choice.value
    log_zs = choice.log_z.masked_fill(choice.log_value == NEG_INF, NEG_INF)
    found = []
    for j in range(len(subset)):
        pi = choice.pi[j : j + 1]
        value = values[j : j + 1]
        log_z = log_zs[j : j + 1]
        if len(subset) == 1:
            return Paths(pi, pi * value, log_z)
        rest = _paths(choices, subset[:j] + subset[j + 1 :])
        found.append((pi * rest.orders, pi * value * rest.fills, log_z + rest.log_weight))
    return Paths(*(torch.cat(parts) for parts in zip(*found)))


def _sorted(paths: Paths, subset: Subset, n: int, d: int) -> AcceptedFills:
    """Paths by slice, and in each by their weight."""
    axes = (*(i for i in range(d) if i not in subset), *subset)
    states = n ** len(subset)

    def by_slice(values: Tensor) -> Tensor:
        moved = values.view(-1, *[n] * d).permute(0, *(axis + 1 for axis in axes))
        return moved.reshape(len(values), -1, states).transpose(0, 1).flatten(1)

    log_weight, orders, fills = (by_slice(part) for part in (paths.log_weight, paths.orders, paths.fills))
    log_weight, order = log_weight.sort(dim=1)
    top = log_weight[:, -1:]  # relative to the heaviest, which then keeps all its digits
    log_weight = (log_weight - top.masked_fill(top == NEG_INF, 0.0)).clamp_(min=IMPOSSIBLE)
    return AcceptedFills(axes, log_weight, orders.gather(1, order), fills.gather(1, order), order % states, (n,) * d)


def missing(share: Tensor) -> Tensor:
    """1 - share, and 0 where it is only rounding."""
    missing = 1 - share
    return missing.masked_fill(missing < ROUNDING, 0.0)
