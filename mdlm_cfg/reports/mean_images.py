"""Pixel means side by side: a row per class, a block per set of images; and what changes between sets, in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context

from mdlm_cfg.reports.images import gap_of, mosaic, pixel_columns
from mdlm_cfg.reports.style import CHANGE, RC, hide_frame, new_figure, save_figure

INCHES = 0.62  # of an image of 28 pixels


@rc_context(RC)
def mean_images(blocks: Mapping[str, np.ndarray], path: Path, class_names: Sequence[str], signed: str = "") -> Path:
    """Draw pixel means of every class, a column of images per block.

    Args:
        blocks: by the title: (C, H, W), probabilities in [0, 1]; or of either sign if `signed`.
        path: the PNG to write.
        class_names: of the rows.
        signed: what values of either sign are: blue is less and red more, with a scale of this name; else ink on paper.

    Returns:
        `path`.
    """
    arrays = {name: np.asarray(block, dtype=np.float64) for name, block in blocks.items()}
    num_classes, height, width = next(iter(arrays.values())).shape
    inches = INCHES * max(1.0, width / 28)
    figure, grid = new_figure(
        1, len(arrays), max(3.2, inches * 1.35 * len(arrays) + 0.7), inches * num_classes * height / width + 0.7
    )
    top = max(1e-9, max(float(np.abs(array).max()) for array in arrays.values())) if signed else 1.0
    colours = {"cmap": CHANGE, "vmin": -top, "vmax": top} if signed else {"cmap": "gray_r", "vmin": 0, "vmax": 1}
    for k, (name, array) in enumerate(arrays.items()):
        axes = grid[0, k]
        tiles = mosaic(array[:, None])
        if signed:  # the ground between images is no change
            tiles = np.where(mosaic(np.zeros_like(array)[:, None]) > 0, 0.0, tiles)
        shown = axes.imshow(tiles, interpolation="nearest", **colours)
        hide_frame(axes)
        axes.set_title(name, fontsize=9)
        if k == 0:
            gap = gap_of(height)
            axes.set_yticks(gap + np.arange(num_classes) * (height + gap) + (height - 1) / 2, class_names)
            axes.tick_params(length=0)
    if signed:
        figure.colorbar(shown, ax=grid[0].tolist(), fraction=0.04, label=signed)
    rows = [
        {"block": name, "class": k, **pixel_columns(image)}
        for name, array in arrays.items()
        for k, image in zip(class_names, array)
    ]
    return save_figure(figure, path, rows)
