"""Statistics of sequences against sums over the table of the same mixture, and against loops."""

from __future__ import annotations

import math
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from mdlm_cfg.compare.sequences import (
    gram_histogram,
    gram_law,
    gram_lengths,
    mean_pairwise_difference,
    nearest_sequence,
    sequence_statistics,
)
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import entropy_of


def tiny(zeros: bool = False, seed: int = 0, d: int = 4) -> HiddenMarkovMixture:
    """Two classes, two hidden states, three values; with zeros, class 0 never writes the value 2."""
    g = torch.Generator().manual_seed(seed)

    def rows(*shape: int) -> torch.Tensor:
        values = torch.rand(*shape, generator=g, dtype=torch.float64) ** 2 + 0.02
        return values / values.sum(-1, keepdim=True)

    emission = rows(2, 2, 3)
    if zeros:
        emission[0, :, 2] = 0.0
        emission = emission / emission.sum(-1, keepdim=True)
    return HiddenMarkovMixture(rows(2, 2), rows(2, 2, 2), emission, torch.tensor([0.3, 0.7]), num_dims=d)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_law_of_n_grams_is_the_mean_of_the_tables_marginals(n: int) -> None:
    target = tiny()
    for z in range(2):
        pmf = target.table().class_pmf(z)
        marginals = [pmf.sum(dim=[j for j in range(4) if not i <= j < i + n]) for i in range(4 - n + 1)]
        assert torch.allclose(gram_law(target, n, z), torch.stack(marginals).mean(dim=0), atol=1e-14)


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_counts_and_diversity_equal_loops(rows: list[list[int]]) -> None:
    x = torch.tensor(rows)
    for n in (1, 2, 3):
        counted = torch.zeros([3] * n, dtype=torch.float64)
        for row in rows:
            for i in range(4 - n + 1):
                counted[tuple(row[i : i + n])] += 1
        assert torch.allclose(gram_histogram(x, 3, n), counted / counted.sum())
    pairs = [sum(a != b for a, b in zip(p, q)) / 4 for p, q in combinations(rows, 2)]
    assert mean_pairwise_difference(x, 3) == pytest.approx(sum(pairs) / len(pairs))


def test_statistics_are_means_over_the_sequences() -> None:
    target = tiny(seed=1)
    x, _ = target.sample(50, torch.Generator().manual_seed(0), 1)
    table = target.table()
    found = sequence_statistics(target, x, 1)
    own = torch.stack([table.class_pmf(1)[tuple(row)] for row in x.tolist()])
    posterior = 0.7 * own / torch.stack([table.pmf[tuple(row)] for row in x.tolist()])
    assert found.posterior == pytest.approx(float(posterior.mean()))
    assert found.posterior_se == pytest.approx(float(posterior.std()) / 50**0.5)
    assert found.log_prob == pytest.approx(float(own.log().mean()))
    assert found.log_prob_se == pytest.approx(float(own.log().std()) / 50**0.5)
    assert found.impossible == 0 and torch.equal(found.pairs, gram_histogram(x, 3, 2))


def test_what_the_class_does_not_allow_is_counted_and_left_out_of_the_likelihood() -> None:
    target = tiny(zeros=True)
    x = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 1], [1, 1, 0, 0], [2, 2, 2, 2]])
    found = sequence_statistics(target, x, 0)
    assert found.impossible == 0.5
    assert found.log_prob == pytest.approx(float(target.log_prob(x[[0, 2]], 0).mean()))
    assert found.posterior == pytest.approx(float(target.class_posterior(x)[:, 0].mean()))
    assert math.isnan(sequence_statistics(target, x[[1, 3]], 0).log_prob)
    own = target.log_prob(x[[0, 2]], 0)
    assert found.log_prob_se == pytest.approx(float((own[0] - own[1]).abs()) / 2)  # of two, half their difference
    one = sequence_statistics(target, x[[0, 1]], 0)
    assert one.log_prob == pytest.approx(float(own[0])) and math.isnan(one.log_prob_se)


def test_pairs_of_one_position_are_not_counted() -> None:
    one = HiddenMarkovMixture(
        torch.ones(1, 1), torch.ones(1, 1, 1), torch.full((1, 1, 3), 1 / 3), torch.ones(1), num_dims=1
    )
    assert sequence_statistics(one, torch.tensor([[0], [1], [1]]), 0).pairs is None


def test_entropy_is_that_of_a_fair_die() -> None:
    assert entropy_of(torch.full((6,), 1 / 6, dtype=torch.float64)) == pytest.approx(math.log(6))
    assert entropy_of(torch.tensor([1.0, 0.0])) == 0


def test_only_few_enough_n_grams_are_counted() -> None:
    assert gram_lengths(tiny()) == [1, 2, 3] and gram_lengths(tiny(d=2)) == [1, 2]
    many = torch.full((1, 1, 60), 1 / 60, dtype=torch.float64)
    wide = HiddenMarkovMixture(torch.ones(1, 1), torch.ones(1, 1, 1), many, torch.ones(1), num_dims=5)
    assert gram_lengths(wide) == [1, 2]
    assert [gram_lengths(SimpleNamespace(num_tokens=n, num_dims=3)) for n in (10**5, 10**5 + 1)] == [[1], []]


@pytest.mark.parametrize("cells", [2**26, 60, 1])  # all at once, two at a time, one by one
def test_the_nearest_sequence_is_that_of_loops(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_cfg.compare.sequences.CELLS", cells)
    x, reference = (torch.randint(3, (n, 5), generator=torch.Generator().manual_seed(n)) for n in (7, 6))
    expected = [min(sum(a != b for a, b in zip(p, q)) / 5 for q in reference.tolist()) for p in x.tolist()]
    found = nearest_sequence(x, reference)
    assert found.tolist() == expected and found.dtype == torch.float64
    assert nearest_sequence(reference, reference).tolist() == [0.0] * 6


def test_what_cannot_be_described_is_refused() -> None:
    with pytest.raises(UserError, match=r" 2 .* 1$"):
        sequence_statistics(tiny(), torch.zeros(1, 4, dtype=torch.int64), 0)
    with pytest.raises(UserError, match=r" 3, .* 0 to 2: 3 "):
        sequence_statistics(tiny(), torch.tensor([[0, 1, 2, 3], [0, 1, 2, 2]]), 0)
