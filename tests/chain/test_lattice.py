"""The layout of partial states, against loops over all of them, and reductions over a short axis."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch

from mdlm_cfg.chain.lattice import Lattice, flat_index, lattice_of, points_at, strides
from mdlm_cfg.chain.reductions import SHORT, unrolled_logsumexp, unrolled_sum

SHAPES = [(2, 1), (3, 2), (2, 4), (1, 3), (3, 3)]


def states_of(n: int, d: int, level: int) -> list[tuple[int, ...]]:
    """The partial states with `level` unmasked coordinates: subset by subset, values in C order."""
    out = []
    for subset in combinations(range(d), level):
        for values in product(range(n), repeat=level):
            placed = dict(zip(subset, values))
            out.append(tuple(placed.get(i, n) for i in range(d)))
    return out


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_states_and_how_they_follow_one_another(n: int, d: int) -> None:
    lattice = Lattice(n, d)
    assert lattice.num_states == (n + 1) ** d == sum(len(states_of(n, d, level)) for level in range(d + 1))
    for level in range(d + 1):
        tokens = lattice.tokens(level)
        assert tokens.dtype == torch.int64 and [tuple(t) for t in tokens.tolist()] == states_of(n, d, level)
        assert lattice.subsets[level] == list(combinations(range(d), level))
    for level in range(d):
        assert len(lattice.rows[level]) == level + 1
        for c, child in enumerate(lattice.subsets[level + 1]):
            for j, new in enumerate(child):
                parent = tuple(i for i in child if i != new)
                masked = [i for i in range(d) if i not in parent]
                k = lattice.subsets[level].index(parent)
                assert int(lattice.parents[level][c, j]) == k
                assert int(lattice.rows[level][j][c]) == k * (d - level) + masked.index(new)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_values_of_parents_and_children_lie_as_their_states_do(n: int, d: int) -> None:
    lattice = Lattice(n, d)
    for level in range(d):
        place = {state: k for k, state in enumerate(states_of(n, d, level))}
        size = len(lattice.subsets[level]), n**level
        own = torch.arange(size[0] * size[1]).view(size)
        children = states_of(n, d, level + 1)
        told = torch.arange(len(children)).view(len(lattice.subsets[level + 1]), -1)
        for j in range(level + 1):
            split = lattice.split(told, level, j)
            inserted = lattice.insert(own[lattice.parents[level][:, j]], level, j)
            assert split.shape[2] == n and inserted.shape[2] == 1
            for c, row in enumerate(split):
                for a, v, b in product(*map(range, row.shape)):
                    child = children[int(row[a, v, b])]
                    new = lattice.subsets[level + 1][c][j]
                    assert child[new] == v
                    parent = (*child[:new], n, *child[new + 1 :])
                    assert int(inserted[c, a, 0, b]) == place[parent]


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_dense_tensors_and_marginals(n: int, d: int) -> None:
    lattice = Lattice(n, d)
    pmf = torch.rand([n] * d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    before = pmf.clone()
    levels = lattice.marginals(pmf)
    assert torch.equal(pmf, before)
    assert [tuple(p.shape) for p in levels] == [(len(lattice.subsets[k]), n**k) for k in range(d + 1)]
    dense = lattice.to_dense(levels)
    assert dense.shape == (n + 1,) * d
    for state in product(range(n + 1), repeat=d):
        expected = float(pmf[tuple(slice(None) if v == n else v for v in state)].sum())
        assert float(dense[state]) == pytest.approx(expected, rel=1e-12)
    stacked = lattice.to_dense([torch.stack([p, 2 * p, 3 * p]) for p in levels])
    assert torch.equal(stacked, torch.stack([dense, 2 * dense, 3 * dense]))
    for given, kept in zip(levels, lattice.marginals(pmf), strict=True):
        assert torch.equal(given, kept)


def test_a_lattice_is_made_once() -> None:
    assert lattice_of(2, 3) is lattice_of(2, 3) == Lattice(2, 3) != lattice_of(3, 2)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_short_sums_leave_what_is_summed(size: int) -> None:
    values = torch.rand(3, size, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = values.clone()
    for dim in (1, -2):
        found = unrolled_sum(values, dim)
        assert torch.allclose(found, before.sum(dim), rtol=1e-15)
        found += 1
        assert torch.equal(values, before)


def test_places_are_those_of_c_order() -> None:
    assert strides(3, 4).tolist() == [27, 9, 3, 1] and strides(5, 1).tolist() == [1]
    points = torch.tensor(list(product(range(3), repeat=4)))
    assert flat_index(points, 3).tolist() == list(range(81))
    assert flat_index(points.view(9, 9, 4), 3).tolist() == torch.arange(81).view(9, 9).tolist()
    assert torch.equal(points_at(torch.arange(81), 3, 4), points)
    assert torch.equal(points_at(torch.arange(81).view(9, 9) + 81, 3, 4), points.view(9, 9, 4))  # modulo 3^4


@pytest.mark.parametrize("size", [1, 2, 5, SHORT, SHORT + 1])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_equal_to_torch(size: int, dim: int) -> None:
    shape = [3, 4, 2]
    shape[dim] = size
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 300
    values[values < -400] = -torch.inf
    values[0, 0, 0] = -torch.inf
    kept = values.clone()
    assert torch.allclose(unrolled_logsumexp(values, dim), values.logsumexp(dim), rtol=1e-15, atol=0)
    assert torch.allclose(unrolled_sum(values.exp(), dim), values.exp().sum(dim), rtol=1e-14, atol=0)
    assert torch.equal(values, kept)


def test_nothing_at_all_is_minus_infinity() -> None:
    assert unrolled_logsumexp(torch.full((2, 3), -torch.inf), dim=1).tolist() == [-torch.inf] * 2
