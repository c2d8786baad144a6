"""The (N+1)^D partial states as one matrix, processed by few large products and sums (theory, section 4).

The first D - m coordinates are outer ones and the last m inner ones. A row of the matrix is a partial state of the
outer coordinates, a column one of the inner; both are ordered by level (number of unmasked coordinates), and within one
as in `Lattice`. A move of an inner coordinate is then a product with a small matrix of zeros and ones, and a move of an
outer coordinate a sum of long contiguous pieces, of several subsets at once where they are adjacent. On a GPU, where a
call takes longer than its arithmetic, all outer moves into a level are one sum of gathered rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from mdlm_cfg.chain.lattice import Lattice, flat_index, lattice_of

MAX_WIDTH = 256  # columns: fewer need more calls, and more take longer to multiply
MIN_WIDTH = 32  # columns, with many states: adding shorter pieces takes longer than products would
FEW_VALUES = 10  # of all inner coordinates, m N: up to here, products are faster than adding pieces
MANY = 2**20  # number of states from which calls cost less than products
PRODUCT_WIDTH = 12  # columns of a result: MKL computes multiples of so many in half the time that others take
SLOW_PRODUCT = 400  # numbers of the second factor below which torch multiplies matrices in a loop of its own
CHUNK = 2**19  # numbers processed together, level by level, so that they stay in the processor's cache

Run = tuple[slice, int, slice]  # subsets, the position of a coordinate, and as many subsets of another level
PassOn = Callable[[slice], Callable[[Tensor, int], object]]  # rows -> ((values (r, K, c), inner level), in place)


@dataclass(frozen=True)
class BlockedLattice:
    """The partial states of N values in D coordinates, as rows and columns.

    Attributes:
        num_tokens: N. num_dims: D. device: where all matrices are made.
    """

    num_tokens: int
    num_dims: int
    device: torch.device

    @cached_property
    def num_inner(self) -> int:
        """m >= 1: as many as `MAX_WIDTH` allows; with many states, no more than `MIN_WIDTH` or `FEW_VALUES` needs."""
        n = self.num_tokens + 1
        least = MIN_WIDTH if n**self.num_dims > MANY else MAX_WIDTH
        found = 1
        while found < self.num_dims and n ** (found + 1) <= MAX_WIDTH:
            if n**found >= least and (found + 1) * self.num_tokens > FEW_VALUES:
                break
            found += 1
        return found

    @cached_property
    def outer(self) -> Lattice:
        """The lattice of the outer coordinates."""
        return lattice_of(self.num_tokens, self.num_dims - self.num_inner)

    @cached_property
    def rows(self) -> list[slice]:
        """The slices of the rows of each outer level."""
        return _slices(self.outer)

    @cached_property
    def columns(self) -> list[slice]:
        """The slices of the columns of each inner level."""
        return _slices(lattice_of(self.num_tokens, self.num_inner))

    @cached_property
    def at_once(self) -> bool:
        """Whether all outer moves into a level are one call."""
        return self.device.type != "cpu"

    @cached_property
    def parent_rows(self) -> list[Tensor]:
        """parent_rows[q - 1][r]: rows, in outer level q - 1, of the q parents of row r of level q, int64 (rows, q)."""
        n = self.num_tokens
        found = []
        for q, parents in enumerate(self.outer.parents, start=1):
            values = torch.arange(n**q)[:, None]
            after = n ** torch.arange(q - 1, -1, -1)
            without = values // (n * after) * after + values % after  # the j-th value left out, (N^q, q)
            found.append((parents[:, None] * n ** (q - 1) + without).flatten(0, 1).to(self.device))
        return found

    @cached_property
    def child_rows(self) -> list[Tensor]:
        """child_rows[q - 1][r]: rows, in outer level q, of the children of row r of level q - 1, int64 (rows, ...).

        Children that differ only in the value of one coordinate are adjacent.
        """
        counts = ((self.outer.num_dims - level) * self.num_tokens for level in range(self.outer.num_dims))
        return [
            rows.flatten().argsort(stable=True).view(-1, count) // rows.shape[1]
            for count, rows in zip(counts, self.parent_rows)
        ]

    @cached_property
    def incidence(self) -> list[Tensor]:
        """incidence[p][x, y]: 1 where column y of inner level p + 1 is column x of level p with one more value.

        These matrices, `parents_of_columns` and `within` are padded with columns of zeros; see `_widened`.
        """
        return [self._widened(known, self.columns[p + 1]) for p, known in enumerate(self._one_more)]

    @cached_property
    def _one_more(self) -> list[Tensor]:
        lattice = lattice_of(self.num_tokens, self.num_inner)
        levels = [lattice.tokens(p) for p in range(self.num_inner + 1)]
        return [self._agree(fewer, more) for fewer, more in pairwise(levels)]

    def _widened(self, known: Tensor, columns: slice) -> Tensor:
        """Pad a matrix whose products give `columns` of a row with columns of zeros, to a multiple that is fast."""
        count = known.shape[1]
        more = -count % PRODUCT_WIDTH
        has_room = columns.start + count + more <= self.columns[-1].stop
        return pad(known, (0, more)) if has_room and more < count else known

    @cached_property
    def one(self) -> Tensor:
        """1 for every value, (1, 1, N): a product with it sums faster than a reduction of an inner axis."""
        return torch.ones(1, 1, self.num_tokens, dtype=torch.float64, device=self.device)

    @cached_property
    def parents_of_columns(self) -> list[Tensor]:
        """The transposes of `incidence` before padding, contiguous in memory and then padded too."""
        return [self._widened(known.T.contiguous(), self.columns[p]) for p, known in enumerate(self._one_more)]

    @cached_property
    def within(self) -> Tensor:
        """within[y, x]: 1 where finished column y agrees with all unmasked coordinates of unfinished column x."""
        lattice = lattice_of(self.num_tokens, self.num_inner)
        fewer = torch.cat([lattice.tokens(p) for p in range(self.num_inner)])
        return self._widened(self._agree(fewer, lattice.tokens(self.num_inner)).T.contiguous(), self.columns[0])

    def chunks(self, rows: slice, size: int) -> list[slice]:
        """Rows in pieces of about `CHUNK` numbers, where a row has `size` of them; one piece on a GPU."""
        if self.at_once or (rows.stop - rows.start) * size <= CHUNK:
            return [rows]
        step = max(1, CHUNK // size)
        return [slice(start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step)]

    def _agree(self, fewer: Tensor, more: Tensor) -> Tensor:
        """1 where the unmasked coordinates of `fewer` are the same in `more`, float64 (len(fewer), len(more))."""
        same = (fewer[:, None] == more) | (fewer[:, None] == self.num_tokens)
        return same.all(dim=-1).double().to(self.device)

    def marginals(self, pmf: Tensor) -> Tensor:
        """The marginal probability of every partial state, (rows, columns) from a pmf (N,)*D."""
        n = self.num_tokens
        m = self.num_inner
        last = len(self.rows) - 1
        values = self._memory(self.rows[last].stop, self.columns[m].stop)
        finished = pmf.reshape(n**last, -1)
        start = self.rows[last].start
        for rows in self.chunks(self.rows[last], values.stride(0)):
            known = finished[rows.start - start : rows.stop - start]
            torch.mm(known, self.within, out=values[rows, : self.within.shape[1]])
            values[rows, self.columns[m]] = known
        for q in range(last, 0, -1):
            if self.at_once:
                values[self.rows[q - 1]] = sums(values[self.rows[q]], self.child_rows[q - 1][:, :n])
                continue
            children = self.by_subset(values, q)
            parents = self.by_subset(values, q - 1)
            for own, j, others in runs_of_first_children(self.outer, q - 1):
                known = children[others].view(-1, n, n ** (q - 1 - j) * values.stride(0))
                self._sum_values(known, parents[own].view(len(known), 1, -1), keep=False)
        return values

    def _memory(self, *shape: int) -> Tensor:
        """Uninitialised float64 numbers.

        numpy requests large pages and torch does not: allocating pages of 4 KiB takes as long as computing their
        contents.
        """
        if self.device.type == "cpu":
            return torch.from_numpy(np.empty(shape))
        return torch.empty(shape, dtype=torch.float64, device=self.device)

    def pieces(self, *matrices: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The same rows of several matrices, in pieces that stay in the cache while they are worked on."""
        chunks = self.chunks(slice(0, self.rows[-1].stop), self.columns[-1].stop)
        if len(chunks) == 1:
            yield matrices
            return
        for rows in chunks:
            yield tuple(matrix[rows] for matrix in matrices)

    def _sum_values(self, values: Tensor, into: Tensor, keep: bool) -> None:
        """Write the sum over the N values (b, N, c) of a coordinate to (b, 1, c), or add it there if `keep`."""
        if values.shape[1] * values.shape[2] >= SLOW_PRODUCT:
            into.baddbmm_(self.one.expand(len(values), 1, -1), values, beta=int(keep))
            return
        total = into.squeeze(1)
        first, *others = values.unbind(1)
        total.add_(first) if keep else total.copy_(first)
        for value in others:
            total.add_(value)

    def by_subset(self, values: Tensor, level: int) -> Tensor:
        """The rows of one outer level, with those of each subset joined into one long row."""
        return values[self.rows[level]].view(len(self.outer.subsets[level]), -1)

    def pieces_of(self, level: int, size: int) -> Iterator[tuple[range, slice]]:
        """Subsets of an outer level and their rows, in pieces of about `CHUNK` numbers; one on a GPU.

        Args:
            size: numbers in a row.
        """
        count = len(self.outer.subsets[level])
        each = self.num_tokens**level
        step = count if self.at_once else max(1, CHUNK // (size * each))
        for begun in range(0, count, step):
            subsets = range(begun, min(begun + step, count))
            first = self.rows[level].start
            yield subsets, slice(first + subsets.start * each, first + subsets.stop * each)

    def sum_over_children(self, values: Tensor, total: Tensor | None = None) -> Tensor:
        """For every partial state, the sum of `values` over all states with one more value; 0 for finished ones.

        Args:
            total: where the sums are written; None allocates it.
        """
        n = self.num_tokens
        total = torch.empty_like(values) if total is None else total
        for states, sums_of in self.pieces(values, total):
            for p, known in enumerate(self.parents_of_columns):
                torch.mm(states[:, self.columns[p + 1]], known, out=self._beyond(sums_of, p, known))
            sums_of[:, self.columns[-1]].zero_()
        for q in range(1, len(self.rows)):
            if self.at_once:
                total[self.rows[q - 1]] += sums(values[self.rows[q]], self.child_rows[q - 1])
                continue
            parents = self.by_subset(total, q - 1)
            for subsets, rows in self.pieces_of(q, values.stride(0)):
                children = values[rows].view(len(subsets), -1)
                for own, j, others in runs_of_parents(self.outer, q, subsets):
                    known = children[own].view(-1, n, n ** (q - 1 - j) * values.stride(0))
                    self._sum_values(known, parents[others].view(len(known), 1, -1), keep=True)
        return total

    def push(self, start: Tensor, pass_on: PassOn, to_the_end: bool = True, out: Tensor | None = None) -> Tensor:
        """What every partial state passes to each of its children, given that it receives what its parents pass to it.

        Args:
            start: (K,) what the all-masked state receives.
            pass_on: maps rows of one outer level to a function that turns, in place, what the states in the columns of
                one inner level receive into what they pass on.
            to_the_end: whether to compute what finished states receive; otherwise `arrivals` computes it.
            out: where the result is written, (rows, K, columns), each row after `pass_on` was called for it; None
                allocates it.

        Returns:
            (rows, K, columns).
        """
        width = self.columns[-1].stop
        values = self._memory(self.rows[-1].stop, len(start), width) if out is None else out
        for q in range(len(self.rows)):
            is_apart = not to_the_end and q == self.outer.num_dims
            inner = self.columns[:-1] if is_apart else self.columns
            for subsets, rows in self.pieces_of(q, values.stride(0)):
                part = values[rows] if out is None else torch.empty_like(values[rows])
                if q:
                    self._receive(part, values, q, subsets, inner[-1].stop)
                else:
                    part.zero_()
                    part[0, :, 0] = start
                for chunk in self.chunks(rows, values.stride(0)):
                    own = part if chunk == rows else part[chunk.start - rows.start : chunk.stop - rows.start]
                    levels = self.by_level(own)
                    flat = own.view(-1, width)
                    given = self.by_level(flat)
                    passed_on = pass_on(chunk)
                    for p in range(len(inner)):
                        if p:
                            known = self.incidence[p - 1]
                            self._beyond(flat, p, known).addmm_(given[p - 1], known)
                        passed_on(levels[p], p)
                    if out is not None:
                        out[chunk] = own
        return values

    def _beyond(self, values: Tensor, p: int, known: Tensor) -> Tensor:
        """The columns of inner level p and those after them that a product with `known` fills."""
        return values.narrow(1, self.columns[p].start, known.shape[1])

    def by_level(self, values: Tensor) -> tuple[Tensor, ...]:
        """The columns (..., columns) of each inner level."""
        return values.split_with_sizes(self._widths, dim=-1)  # `split` is a function of Python around this

    @cached_property
    def _widths(self) -> list[int]:
        return [columns.stop - columns.start for columns in self.columns]

    def _receive(self, part: Tensor, values: Tensor, level: int, subsets: range, width: int) -> None:
        """Set the first columns (at least `width`) of a piece of an outer level to sums over their outer parents."""
        n = self.num_tokens
        if self.at_once:
            given = values[self.rows[level - 1]].flatten(1)
            part.copy_(sums(given, self.parent_rows[level - 1]).view_as(part))
            return
        children = part.view(len(subsets), -1)
        parents = self.by_subset(values, level - 1)
        for own, j, others in runs_of_parents(self.outer, level, subsets):
            into = children[own].view(-1, n, n ** (level - 1 - j) * values.stride(0))
            given = parents[others].view(len(into), 1, -1)
            if width < values.shape[2]:
                into = into.unflatten(2, (-1, values.shape[2]))[..., :width]
                given = given.unflatten(2, (-1, values.shape[2]))[..., :width]
            into.copy_(given.expand_as(into)) if j == 0 else into.add_(given)

    def arrivals(self, values: Tensor, mixing: Tensor) -> Tensor:
        """For every finished state, the sum over its parents of `mixing` times what they pass on: (T, N^(D-m), N^m).

        Args:
            values: of a `push` without `to_the_end`, (rows, K, columns). mixing: (T, K).
        """
        n = self.num_tokens
        rows, columns = self.finished
        found = mixed(mixing, values[rows, :, self.columns[-2]]) @ self.incidence[-1]
        last = len(self.rows) - 1
        for j, parent in enumerate(self.outer.parent_rows[last - 1][0] if last else ()):
            given = self.by_subset(values, last - 1)[parent].view(-1, *values.shape[1:])[..., columns]
            found.view(len(found), n**j, n, -1).add_(mixed(mixing, given).view(len(found), n**j, 1, -1))
        return found

    @property
    def finished(self) -> tuple[slice, slice]:
        """The rows and the columns of the states without masks: in C order, N^(D-m) by N^m."""
        return self.rows[-1], self.columns[-1]

    def to_dense(self, values: Tensor) -> Tensor:
        """One tensor (..., N+1, ..., N+1) from (..., rows, columns); index N of an axis is the mask."""
        dense = values.index_select(-2, self._places[0]).index_select(-1, self._places[1])
        return dense.reshape(*values.shape[:-2], *[self.num_tokens + 1] * self.num_dims)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """The row and the column of every outer and inner state in C order."""
        n = self.num_tokens
        inner = lattice_of(self.num_tokens, self.num_inner)
        states = [torch.cat([one.tokens(level) for level in range(one.num_dims + 1)]) for one in (self.outer, inner)]
        rows, columns = (flat_index(tokens, n + 1).argsort().to(self.device) for tokens in states)
        return rows, columns


def mixed(mixing: Tensor, values: Tensor) -> Tensor:
    """(T, rows, columns) from (T, K) and (rows, K, columns)."""
    return torch.tensordot(mixing, values, ([1], [1]))


def sums(values: Tensor, rows: Tensor) -> Tensor:
    """The sum of some rows of a matrix (R, C), for each of many lists of them (B, count): (B, C)."""
    return embedding_bag(rows, values, mode="sum")


def _slices(lattice: Lattice) -> list[slice]:
    sizes = [len(subsets) * lattice.num_tokens**level for level, subsets in enumerate(lattice.subsets)]
    return [slice(sum(sizes[:level]), sum(sizes[: level + 1])) for level in range(len(sizes))]


@lru_cache(maxsize=2**13)
def runs_of_parents(outer: Lattice, level: int, subsets: range) -> list[Run]:
    """For each subset of a piece and each position j, the subset of the level below without its j-th coordinate."""
    rows = outer.parent_rows[level - 1]
    return _runs((place, j, parent) for place, c in enumerate(subsets) for j, parent in enumerate(rows[c]))


@lru_cache(maxsize=2**8)
def runs_of_first_children(outer: Lattice, level: int) -> list[Run]:
    """For each subset of a level, one subset of the level above and the position j of its added coordinate."""
    chosen: dict[int, tuple[int, int]] = {}  # any will do; in the first the added coordinate varies slowest
    for child, parents in enumerate(outer.parent_rows[level]):
        for j, parent in enumerate(parents):
            chosen.setdefault(parent, (child, j))
    return _runs((parent, j, child) for parent, (child, j) in chosen.items())


def _runs(moves: Iterable[tuple[int, int, int]]) -> list[Run]:
    """Moves (own subset, position, other subset), those between adjacent subsets merged into one call."""
    found: list[Run] = []
    for (j, ahead), group in groupby(sorted((j, other - own, own) for own, j, other in moves), lambda move: move[:2]):
        owns = {own for _, _, own in group}
        starts = sorted(own for own in owns if own - 1 not in owns)
        ends = sorted(own + 1 for own in owns if own + 1 not in owns)
        found += [(slice(a, b), j, slice(a + ahead, b + ahead)) for a, b in zip(starts, ends)]
    return found


@lru_cache(maxsize=16)
def blocks_of(num_tokens: int, num_dims: int, device: torch.device) -> BlockedLattice:
    """The blocks of a shape, computed once and kept."""
    return BlockedLattice(num_tokens, num_dims, device)
