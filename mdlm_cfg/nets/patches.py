"""Patches of a grid of coordinates."""

from __future__ import annotations

import math

from torch import Tensor

from mdlm_cfg.support.errors import UserError

MOST_PATCHES = 256  # at most, by default: attention over more is slow


def patchify(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Patches of a grid, flattened: (B, *grid, C) to (B, num_patches, prod(patch) * C)."""
    num, *grid, channels = x.shape
    if math.prod(patch) == 1:
        return x.flatten(1, -2)
    dims = len(grid)
    split = x.reshape(num, *(part for side, size in zip(grid, patch) for part in (side // size, size)), channels)
    rows = split.permute(0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1)
    return rows.reshape(num, math.prod(grid) // math.prod(patch), math.prod(patch) * channels)


def unpatchify(patches: Tensor, grid: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
    """The inverse of `patchify`: (B, num_patches, prod(patch) * C) to (B, *grid, C)."""
    num = len(patches)
    dims = len(grid)
    if math.prod(patch) == 1:
        return patches.unflatten(1, grid)
    channels = patches.shape[-1] // math.prod(patch)
    split = patches.reshape(num, *(side // size for side, size in zip(grid, patch)), *patch, channels)
    axes = [axis for i in range(1, dims + 1) for axis in (i, dims + i)]
    return split.permute(0, *axes, 2 * dims + 1).reshape(num, *grid, channels)


def fitting_patch(grid_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of a patch that fit a grid: the largest up to 8 (up to 4 on a line) that divide the grid's.

    Raises:
        UserError: they leave more than `MOST_PATCHES` patches, as a side that is prime does.
    """
    most = 4 if len(grid_shape) == 1 else 8
    patch = tuple(max(size for size in range(1, most + 1) if side % size == 0) for side in grid_shape)
    if math.prod(grid_shape) > MOST_PATCHES * math.prod(patch):
        num_patches = math.prod(grid_shape) // math.prod(patch)
        raise UserError(
            f"a grid {grid_shape} is too large for the network: patches {patch}, the largest with sides up to {most} "
            f"that divide it, leave {num_patches} of them, and at most {MOST_PATCHES} are allowed; shorten the "
            "longest line, crop the images, pad to sides with more divisors, or give net.patch_size"
        )
    return patch
