"""Masks: how many, which, and what is copied."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from scipy.stats import chi2

from mdlm_cfg.chain.masking import MOST_ROWS, all_masked, copy_unmasked, mask_uniform, stratified_counts
from mdlm_cfg.chain.reductions import in_planes, unrolled_logsumexp, unrolled_sum
from mdlm_cfg.support.seeds import generator_for


@pytest.mark.parametrize(("num", "dims"), [(6, 3), (40, 8), (5, 1), (3, 9)])
def test_counts_have_one_of_every_stratum(num: int, dims: int) -> None:
    for seed in range(20):
        counts = stratified_counts(num, dims, generator_for("counts", seed))
        assert counts.shape == (num,) and counts.dtype == torch.int64
        # sorted, the b-th lies in the b-th of `num` equal parts of 1..D
        for b, count in enumerate(counts.sort().values.tolist()):
            assert 1 + math.floor(b * dims / num) <= count <= math.ceil((b + 1) * dims / num)


def test_without_a_generator_counts_are_of_the_global_stream() -> None:
    torch.manual_seed(3)
    first = stratified_counts(1000, 50)
    torch.manual_seed(3)
    assert torch.equal(stratified_counts(1000, 50), first) and first.unique().tolist() == list(range(1, 51))


def test_every_count_is_uniform_wherever_it_stands() -> None:
    drawn = torch.stack([stratified_counts(4, 6, generator_for("uniform", seed)) for seed in range(3000)])
    for place in range(4):
        seen = torch.bincount(drawn[:, place], minlength=7)[1:].double()
        assert float(((seen - 500) ** 2 / 500).sum()) < chi2.isf(1e-4, 5)


def test_a_subset_of_the_size_asked_for_is_masked_each_as_often() -> None:
    x = torch.arange(4).repeat(6000, 1)
    before = x.clone()
    counts = torch.full((6000,), 2)
    counts[:3] = torch.tensor([0, 4, 1])
    masked = mask_uniform(x, counts, 9, generator_for("masks"))
    assert torch.equal(x, before) and (masked == 9).sum(dim=1).tolist() == counts.tolist()
    assert bool((masked.where(masked != 9, before) == before).all())
    rows = [tuple(i for i, value in enumerate(row) if value == 9) for row in masked[3:].tolist()]
    seen = torch.tensor([rows.count(subset) for subset in combinations(range(4), 2)]).double()
    assert float(((seen - 5997 / 6) ** 2 / (5997 / 6)).sum()) < chi2.isf(1e-4, 5)
    assert (mask_uniform(x[:9], torch.full((9,), 3), 9) == 9).sum(dim=1).tolist() == [3] * 9  # of the global stream


@pytest.mark.parametrize("num_tokens", [4, MOST_ROWS + 1, 200_000])  # N^2 numbers of the last would fit nowhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_unmasked_coordinates_are_copied(dtype: torch.dtype, num_tokens: int) -> None:
    log_probs = torch.randn(2, 3, num_tokens, generator=torch.Generator().manual_seed(0)).to(dtype)
    tokens = torch.tensor([[num_tokens, 0, num_tokens - 1], [2, num_tokens, num_tokens]])
    found = copy_unmasked(log_probs, tokens)
    assert found.dtype == dtype
    for b, row in enumerate(tokens.tolist()):
        for i, value in enumerate(row):
            copied = torch.full((num_tokens,), -math.inf, dtype=dtype)
            copied[value : value + 1] = 0.0
            assert torch.equal(found[b, i], log_probs[b, i] if value == num_tokens else copied)


def test_the_chain_starts_all_masked() -> None:
    start = all_masked(2, 3, 7)
    assert start.tolist() == [[7] * 3] * 2 and start.dtype == torch.int64


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 16, 17])
def test_numbers_in_planes_are_the_same_numbers(num_tokens: int) -> None:
    generator = generator_for("planes", num_tokens)
    rows = torch.randn(2, 5, 4, num_tokens, generator=generator, dtype=torch.float64)
    rows[rows < -1] = -math.inf
    tokens = torch.randint(num_tokens + 1, (5, 4), generator=generator)
    planes = in_planes(rows)
    assert torch.equal(planes, rows)
    assert torch.equal(copy_unmasked(planes, tokens), copy_unmasked(rows, tokens))
    assert torch.equal(unrolled_sum(planes, -1), unrolled_sum(rows, -1))
    assert torch.equal(unrolled_logsumexp(planes, -1), unrolled_logsumexp(rows, -1))


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 17])
def test_sums_of_exponentials_are_right_wherever_a_value_is_0(num_tokens: int) -> None:
    rows = 600 * torch.randn(500, num_tokens, generator=generator_for("sums", num_tokens), dtype=torch.float64)
    rows[torch.rand(rows.shape, generator=generator_for("zeros")) < 0.4] = -math.inf
    for values, found in zip(rows.tolist(), unrolled_logsumexp(rows, -1).tolist()):
        top = max(values)
        expected = top if top == -math.inf else top + math.log(math.fsum(math.exp(value - top) for value in values))
        assert found == expected or abs(found - expected) < 1e-13 * max(1.0, abs(expected))
    assert unrolled_logsumexp(torch.tensor([[math.nan, 0.0]]), -1).isnan().all()
