"""Minimisation without gradients against known minima with kinks and jumps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mdlm_cfg.compare.minimise import nelder_mead


def kink(x: Tensor) -> float:
    """Least at (1, 2, ...), where no derivative exists; a narrow valley runs into it."""
    apart = x - torch.arange(1, len(x) + 1)
    return float(apart.abs().sum() + 30 * (apart - apart.roll(1)).abs().max())


@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_kinks_are_found(num_dims: int) -> None:
    found = nelder_mead(kink, torch.zeros(num_dims, dtype=torch.float64), 0.5, 4000)
    assert kink(found) < 1e-3


def test_a_jump_is_approached_from_the_side_that_is_allowed() -> None:
    def value(x: Tensor) -> float:
        return math.inf if float(x[0]) < 0.3 else float(x.square().sum())

    found = nelder_mead(value, torch.tensor([1.0, 1.0], dtype=torch.float64), 0.2, 4000)
    assert 0.09 <= value(found) < 0.0901


def test_it_stays_where_nothing_is_better_and_within_its_number_of_values() -> None:
    asked = []

    def flat(x: Tensor) -> float:
        asked.append(x)
        return 1.0

    start = torch.tensor([0.4, -0.2], dtype=torch.float64)
    assert torch.equal(nelder_mead(flat, start, 0.1, 100), start) and len(asked) <= 103
