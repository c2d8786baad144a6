"""Grids of sampled images: a row per class, a block per guidance strength."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from mdlm_cfg.reports.style import RC, divide, empty_figure, hide_frame, save_figure
from mdlm_cfg.support.errors import UserError

Blocks = Mapping[float, np.ndarray] | Mapping[str, np.ndarray] | Mapping[float | str, np.ndarray]  # by w or by title
GAP_SHARE = 1 / 14  # of an image's height, between images
MOST_COLUMNS = 40  # of images of several classes, over all strengths
BACKGROUND = 0.2  # of the gap, from paper to ink


@rc_context(RC)
def sample_grid(
    images: Blocks,
    path: Path,
    class_names: Sequence[str] | None = None,
    title: str = "",
    invert: bool = True,
) -> Path:
    """Write the images of `images_on` as a PNG to `path`, and return that."""
    figure = empty_figure()
    images_on(figure, images, class_names, title, invert)
    rows = [
        {"block": _title(w), "class": k if class_names is None else class_names[k], "image": i, **pixel_columns(image)}
        for w, array in images.items()
        for k, own in enumerate(np.asarray(array))
        for i, image in enumerate(own)
    ]
    return save_figure(figure, path, rows)


@rc_context(RC)
def images_on(
    figure: Figure,
    images: Blocks,
    class_names: Sequence[str] | None = None,
    title: str = "",
    invert: bool = True,
) -> np.ndarray:
    """Draw images of every class, one block of columns per guidance strength.

    Args:
        figure: an empty one.
        images: by w, or by a title: (n_classes, n_per_class, H, W), one shape for all, values 0 to their common
            maximum; a dict of one strength gives the grid of that strength alone.
        class_names: of the rows; default 0, 1, ...
        title: left out if empty.
        invert: draw large values dark: ink on paper.

    Returns:
        the axes, (1, strengths).

    Raises:
        UserError: no images, or shapes that are not as above.
    """
    arrays = {w: np.asarray(array, dtype=np.float64) for w, array in images.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 4:
        raise UserError(f"images must have one shape (classes, images, height, width), got {sorted(shapes)}")
    (num_classes, num_images, height, width) = shapes.pop()
    top = max(a.max() for a in arrays.values()) or 1.0
    names = [str(k) for k in range(num_classes)] if class_names is None else list(class_names)
    if len(names) != num_classes:
        raise UserError(f"there are {len(names)} class names for {num_classes} classes")
    inches = 0.4 * max(1.0, width / 28)  # of one image
    columns = len(arrays)
    across = inches * num_images * columns + 0.7
    down = inches * num_classes * height / width + 0.6
    grid = divide(figure, 1, columns, across, down)
    for k, (w, array) in enumerate(arrays.items()):
        axes = grid[0, k]
        axes.imshow(mosaic(array / top), cmap="gray_r" if invert else "gray", vmin=0, vmax=1, interpolation="nearest")
        hide_frame(axes)
        axes.set_title(_title(w))
        if k == 0:
            gap = gap_of(height)
            centres = gap + np.arange(num_classes) * (height + gap) + (height - 1) / 2
            axes.set_yticks(centres, names)
            axes.tick_params(length=0)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return grid


def pixel_columns(image: np.ndarray) -> dict[str, float]:
    """An image (H, W) as columns of a csv file: "0,0", "0,1", ... (row, column)."""
    return {f"{i},{j}": v for (i, j), v in zip(np.ndindex(image.shape), image.flatten().tolist())}


def _title(w: float | str) -> str:
    return w if isinstance(w, str) else f"w = {w:g}"


def arranged(images: Mapping[str, np.ndarray], class_names: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Images (classes, n, H, W) and names of the rows as `sample_grid` wants them.

    All images of a single class, as near to a square as they can be, with a name for the first row; of several classes
    the first of each, a row for each class.
    """
    (num_classes, num_images) = next(iter(images.values())).shape[:2]
    names = list(class_names)
    if num_classes > 1:
        shown = max(2, MOST_COLUMNS // len(images))
        return {w: array[:, :shown] for w, array in images.items()}, names
    columns = math.ceil(math.sqrt(num_images))
    rows = math.ceil(num_images / columns)
    missing = rows * columns - num_images
    padded = {w: np.pad(array[0], ((0, missing), (0, 0), (0, 0))) for w, array in images.items()}
    return {w: x.reshape(rows, columns, *x.shape[1:]) for w, x in padded.items()}, names + [""] * (rows - 1)


def gap_of(height: int) -> int:
    """Pixels between images of this height."""
    return max(1, round(height * GAP_SHARE))


def mosaic(images: np.ndarray) -> np.ndarray:
    """One array from (rows, columns, H, W): the images on a grey ground, `gap_of(H)` pixels apart."""
    rows, columns, height, width = images.shape
    gap = gap_of(height)
    framed = np.full((rows, columns, height + gap, width + gap), BACKGROUND)
    framed[:, :, gap:, gap:] = images
    out = framed.transpose(0, 2, 1, 3).reshape(rows * (height + gap), columns * (width + gap))
    return np.pad(out, ((0, gap), (0, gap)), constant_values=BACKGROUND)
