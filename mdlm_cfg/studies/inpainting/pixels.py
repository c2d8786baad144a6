"""Which pixels of an image are hidden: those that vary most, or a patch that grows over pixels that vary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BY_VARIANCE = "variance"
PATCH = "patch"
CHOICES = (PATCH, BY_VARIANCE)
NEVER = 1e-9  # variance that a pixel counts with at least: a patch must be able to grow


def hidden_pixels(
    variance: Tensor, grid_shape: Sequence[int], num_free: int, how: str, generator: torch.Generator
) -> Tensor:
    """Which coordinates are hidden, int64 (num_free,), ascending.

    Args:
        variance: of every coordinate's value, float64 (D,).
        grid_shape: its product is D.
        how: "variance": the coordinates with the largest; "patch": a connected one, from a coordinate drawn in
            proportion to the variance to neighbours drawn likewise.
        generator: of the patch.
    """
    if how == BY_VARIANCE:
        return variance.argsort(descending=True, stable=True)[:num_free].sort().values
    places = _coordinates(grid_shape)
    chance = variance.double().clamp(min=NEVER)
    chosen = torch.zeros(len(variance), dtype=torch.bool)
    allowed = ~chosen
    for _ in range(num_free):
        drawn = int(torch.multinomial(chance * allowed, 1, generator=generator))
        chosen[drawn] = True
        steps = (places[:, None] - places[chosen][None]).abs().sum(dim=-1)
        allowed = (steps == 1).any(dim=1) & ~chosen
    return chosen.nonzero().squeeze(1)


def _coordinates(grid_shape: Sequence[int]) -> Tensor:
    """The place of every coordinate in the grid, int64 (D, dimensions of the grid)."""
    index = torch.arange(math.prod(grid_shape))
    return torch.stack(torch.unravel_index(index, tuple(grid_shape)), dim=1)
