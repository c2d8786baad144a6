"""The (N+1)^D partial states, laid out level by level (theory, section 4).

Level l holds the partial states with l unmasked coordinates as one tensor (C(D, l), N^l): the first axis runs over the
subsets U of unmasked coordinates in lexicographic order, the second over their values in C order. A law over
partial states is a list of D + 1 such tensors ("levels"), or, for users, one dense tensor (N+1,)*D with index N the
mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.chain.reductions import unrolled_sum

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Lattice:
    """The partial states of N values in D dimensions, and which states precede which."""

    num_tokens: int
    num_dims: int
    device: torch.device = CPU  # of all tensors made here

    @property
    def num_states(self) -> int:
        """(N+1)^D."""
        return (self.num_tokens + 1) ** self.num_dims

    @cached_property
    def subsets(self) -> list[list[tuple[int, ...]]]:
        """subsets[l]: the subsets of unmasked coordinates of size l, in lexicographic order."""
        return [list(combinations(range(self.num_dims), size)) for size in range(self.num_dims + 1)]

    @cached_property
    def parent_rows(self) -> list[list[list[int]]]:
        """parent_rows[l][c][j]: the index, on level l, of subset c of level l + 1 without its j-th coordinate."""
        out = []
        for size in range(self.num_dims):
            index = {subset: k for k, subset in enumerate(self.subsets[size])}
            out.append([[index[c[:j] + c[j + 1 :]] for j in range(size + 1)] for c in self.subsets[size + 1]])
        return out

    @cached_property
    def parents(self) -> list[Tensor]:
        """`parent_rows` as tensors, int64 (C(D, l+1), l + 1)."""
        return [torch.tensor(rows, dtype=torch.int64, device=self.device) for rows in self.parent_rows]

    @cached_property
    def coordinates(self) -> list[Tensor]:
        """coordinates[l][c]: the unmasked coordinates of subset c of level l, int64 (C(D, l), l)."""
        return [torch.tensor(subsets, dtype=torch.int64, device=self.device) for subsets in self.subsets]

    @cached_property
    def masked(self) -> list[Tensor]:
        """masked[l][c]: the masked coordinates of subset c of level l, int64 (C(D, l), D - l)."""
        every = range(self.num_dims)
        return [
            torch.tensor([[i for i in every if i not in one] for one in subsets], dtype=torch.int64, device=self.device)
            for subsets in self.subsets
        ]

    @cached_property
    def rows(self) -> list[list[Tensor]]:
        """rows[l][j][c]: the row, in a table (subset, masked coordinate) of level l, of subset c of level l + 1 without
        its j-th coordinate, and of that coordinate: parent * (D - l) + its place among the parent's masked ones."""
        out = []
        for size, parents in enumerate(self.parents):
            children = self.coordinates[size + 1]
            # the j-th coordinate i of the child has i coordinates before it, j of them unmasked in the parent
            place = children - torch.arange(size + 1, device=self.device)
            out.append(list((parents * (self.num_dims - size) + place).T.contiguous()))
        return out

    def insert(self, parent_values: Tensor, level: int, position: int) -> Tensor:
        """View (C, N^l) values of parents as (C, N^j, 1, N^(l-j)): ready to broadcast over a new j-th coordinate."""
        n = self.num_tokens
        return parent_values.reshape(parent_values.shape[0], n**position, 1, n ** (level - position))

    def split(self, child_values: Tensor, level: int, position: int) -> Tensor:
        """View (C, N^(l+1)) values of children as (C, N^j, N, N^(l-j)): axis 2 runs over the j-th coordinate."""
        n = self.num_tokens
        return child_values.reshape(child_values.shape[0], n**position, n, n ** (level - position))

    def tokens(self, level: int) -> Tensor:
        """The partial states of one level as tokens, int64 (C(D, l) * N^l, D), the mask being N."""
        n = self.num_tokens
        d = self.num_dims
        values = (
            torch.cartesian_prod(*[torch.arange(n, device=self.device)] * level).reshape(-1, level) if level else None
        )
        out = torch.full((comb(d, level), n**level, d), n, dtype=torch.int64, device=self.device)
        for c, subset in enumerate(self.subsets[level]):
            if values is not None:
                out[c][:, list(subset)] = values
        return out.flatten(0, 1)

    def to_dense(self, levels: list[Tensor]) -> Tensor:
        """One tensor (..., N+1, ..., N+1) from levels (..., C(D, l), N^l); index N of an axis is the mask."""
        n = self.num_tokens
        d = self.num_dims
        lead = levels[0].shape[:-2]
        dense = levels[0].new_zeros(*lead, *([n + 1] * d))
        for values, subsets in zip(levels, self.subsets, strict=True):
            for c, subset in enumerate(subsets):
                index = tuple(slice(0, n) if i in subset else n for i in range(d))
                dense[(..., *index)] = values[..., c, :].reshape([*lead, *[n] * len(subset)])
        return dense

    def marginals(self, pmf: Tensor) -> list[Tensor]:
        """The marginal probability of every partial state: levels (C(D, l), N^l) from a pmf (N,)*D."""
        levels = [pmf.reshape(1, -1)]
        for level in reversed(range(self.num_dims)):
            children = levels[0]
            values = pmf.new_empty(comb(self.num_dims, level), self.num_tokens**level)
            # Any one child of each parent will do: sum it over the coordinate that the parent lacks.
            flat = {p: (c, j) for c, row in enumerate(self.parent_rows[level]) for j, p in enumerate(row)}
            for j in range(level + 1):
                chosen = [(p, c) for p, (c, position) in flat.items() if position == j]
                if chosen:
                    p, c = (torch.tensor(column, device=pmf.device) for column in zip(*chosen))
                    values[p] = unrolled_sum(self.split(children[c], level, j), dim=2).flatten(1)
            levels.insert(0, values)
        return levels


@lru_cache(maxsize=16)
def lattice_of(num_tokens: int, num_dims: int, device: torch.device = CPU) -> Lattice:
    """The lattice of a shape, built once: building it takes longer than a small push."""
    return Lattice(num_tokens, num_dims, device)


def flat_index(values: Tensor, base: int) -> Tensor:
    """The place in C order of points (..., D) with values 0..base-1, int64 (...): coordinate 1 varies slowest."""
    return (values * strides(base, values.shape[-1], values.device)).sum(dim=-1)


def points_at(index: Tensor, base: int, num_dims: int) -> Tensor:
    """The inverse of `flat_index`: int64 (..., D) from (...), an index being taken modulo base^D."""
    return index[..., None] // strides(base, num_dims, index.device) % base


def strides(base: int, num_dims: int, device: torch.device = CPU) -> Tensor:
    """How far one step of each coordinate goes in C order, int64 (D,)."""
    return base ** torch.arange(num_dims - 1, -1, -1, device=device)
