"""Laws over the cells of a small grid: mean images, what changes in them, and the likeliest images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from mdlm_cfg.reports.differences import PAIRS
from mdlm_cfg.reports.images import sample_grid
from mdlm_cfg.reports.mean_images import mean_images
from mdlm_cfg.reports.page import Picture
from mdlm_cfg.reports.style import TITLES
from mdlm_cfg.studies.table.distances import TableEvaluation

LIKELIEST = 6  # images of a law that are shown


def cell_pictures(evaluation: TableEvaluation, grid_shape: Sequence[int], folder: Path) -> list[Picture]:
    """Pictures of laws whose coordinates are cells (height, width), drawn into `folder`."""
    results = [result for result in evaluation.results if set(evaluation.law_names) <= set(result.laws)]
    if not results:
        return []
    names = [TITLES[name] for name in evaluation.law_names]
    means = {
        f"w = {result.guidance.label}": np.stack(
            [_mean(result.laws[name], grid_shape) for name in evaluation.law_names]
        )
        for result in results
    }
    likeliest = {
        f"w = {result.guidance.label}": np.stack(
            [_likeliest(result.laws[name], grid_shape) for name in evaluation.law_names]
        )
        for result in results
    }
    pictures = [
        Picture(
            sample_grid(likeliest, folder / "likeliest.png", names), "The likeliest images of every law, in order."
        ),
        Picture(mean_images(means, folder / "means.png", names), "The mean image of every law."),
    ]
    for pair in PAIRS:
        if set(pair) <= set(evaluation.law_names):
            path = folder / f"means_{pair[0]}_{pair[1]}.png"
            title = f"{TITLES[pair[0]]} - {TITLES[pair[1]]}"
            first, second = (evaluation.law_names.index(name) for name in pair)
            changes = {name: block[first : first + 1] - block[second : second + 1] for name, block in means.items()}
            pictures.append(
                Picture(mean_images(changes, path, [title], "change of the mean"), f"Mean images: {title}.")
            )
    return pictures


def _mean(law: Tensor, grid_shape: Sequence[int]) -> np.ndarray:
    """The mean of every cell, in shares of the largest value."""
    d, n = law.ndim, law.shape[0]
    values = np.arange(n) / max(n - 1, 1)
    rest = [[k for k in range(d) if k != i] for i in range(d)]
    return np.array([float(law.sum(dim=rest[i]).numpy() @ values) for i in range(d)]).reshape(grid_shape)


def _likeliest(law: Tensor, grid_shape: Sequence[int]) -> np.ndarray:
    places = law.flatten().topk(min(LIKELIEST, law.numel())).indices
    return np.stack(np.unravel_index(places.numpy(), tuple(law.shape)), axis=1).reshape(-1, *grid_shape)
