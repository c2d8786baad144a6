"""Reductions over a short axis, against torch's own."""

from __future__ import annotations

import pytest
import torch

from mdlm_cfg.chain.reductions import SHORT, unrolled_logsumexp, unrolled_sum


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
