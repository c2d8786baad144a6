"""Small images in rows and columns: samples of every class, pixel means, differences of means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdlm_cfg.reports.pictures.lines import plain
from mdlm_cfg.reports.style import CHANGE, divide, hide_frame
from mdlm_cfg.support.errors import UserError

GAP_SHARE = 1 / 14  # of an image's height, between images
GROUND = 0.2  # grey level of the gap, from white (0) to black (1)
LETTER = 0.09  # inches per letter in the name of a row
WIDEST = 11.4  # inches of blocks side by side: the width of a page


@dataclass(frozen=True)
class Images:
    """Images in blocks side by side, wrapped if a page is not wide enough.

    Attributes:
        blocks: arrays (lines, columns, height, width) by the title of the block: of one shape, 0 to 1; NaN is an
            unknown pixel, drawn in light blue. They may have any sign if `signed` names their scale.
        lines: names of the lines; default none.
        signed: the name of the scale for values of either sign; blue is less, red is more, white is none.

    Raises:
        UserError: no images, or images of several shapes.
    """

    blocks: Mapping[str, np.ndarray]
    lines: Sequence[str] = ()
    signed: str = ""

    def __post_init__(self) -> None:
        shapes = {np.asarray(block).shape for block in self.blocks.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 4:
            raise UserError(
                f"images must all have the same shape (lines, columns, height, width), got {sorted(shapes)}"
            )

    def numbers(self) -> list[dict[str, Any]]:
        """A row for each image, with a column for each pixel: "0,0", "0,1", ... (row, column)."""
        return [
            {"block": title, "line": self._line(k), "image": i, **pixel_columns(image)}
            for title, block in self.blocks.items()
            for k, own in enumerate(np.asarray(block))
            for i, image in enumerate(own)
        ]

    def _line(self, k: int) -> str:
        return self.lines[k] if k < len(self.lines) else str(k)

    def draw(self, figure: Figure) -> np.ndarray:
        """Draw every block, with the names of the lines at the left."""
        arrays = {title: np.asarray(block, dtype=np.float64) for title, block in self.blocks.items()}
        num_lines, num_columns, height, width = next(iter(arrays.values())).shape
        beside = LETTER * max((len(name) for name in self.lines), default=1) + (0.9 if self.signed else 0.3)
        inches = (0.62 if num_columns == 1 else 0.4) * max(1.0, width / 28)
        inches = min(inches, (WIDEST - beside) / (1.1 * num_columns))
        titles = max(len(line) for title in arrays for line in title.split("\n"))
        of_block = max(inches * num_columns * 1.1, LETTER * titles)
        per_row = max(1, min(len(arrays), int((WIDEST - beside) / of_block)))
        rows = math.ceil(len(arrays) / per_row)
        down = max(LETTER * len(self.signed) + 0.5, rows * (inches * num_lines * height / width + 0.6))
        grid = divide(figure, rows, per_row, max(3.2, of_block * per_row + beside), down)
        top = max(1e-9, max(float(np.nanmax(np.abs(a), initial=0.0)) for a in arrays.values())) if self.signed else 1.0
        gap = gap_of(height)
        centres = gap + np.arange(num_lines) * (height + gap) + (height - 1) / 2
        for k, (axes, (title, array)) in enumerate(zip(grid.flat, arrays.items())):
            shown = self._draw_block(axes, array, top)
            axes.set_title(plain(title), fontsize=9)
            if k % per_row == 0 and self.lines:
                axes.set_yticks(centres[: len(self.lines)], [plain(name) for name in self.lines])
                axes.tick_params(length=0)
        for axes in grid.flat[len(arrays) :]:
            axes.set_axis_off()
        if self.signed:
            bar = figure.colorbar(shown, ax=grid.ravel().tolist(), fraction=0.04)
            bar.set_label(plain(self.signed), fontsize=9)
        return grid

    def _draw_block(self, axes: Any, array: np.ndarray, top: float) -> Any:
        hide_frame(axes)
        if self.signed:
            tiles = tiled(array)
            ground = tiled(np.zeros_like(array)) > 0
            return axes.imshow(np.where(ground, 0.0, tiles), cmap=CHANGE, vmin=-top, vmax=top, interpolation="nearest")
        axes.set_facecolor("#cfe6f5")  # unknown pixels
        return axes.imshow(np.ma.masked_invalid(tiled(array)), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")


def pixel_columns(image: np.ndarray) -> dict[str, float]:
    """An image (H, W) as columns of a CSV file: "0,0", "0,1", ... (row, column)."""
    return {f"{i},{j}": v for (i, j), v in zip(np.ndindex(image.shape), image.flatten().tolist())}


def gap_of(height: int) -> int:
    """Pixels between images of this height."""
    return max(1, round(height * GAP_SHARE))


def tiled(images: np.ndarray) -> np.ndarray:
    """One array from (lines, columns, H, W): the images on a grey ground, `gap_of(H)` pixels apart."""
    lines, columns, height, width = images.shape
    gap = gap_of(height)
    framed = np.full((lines, columns, height + gap, width + gap), GROUND)
    framed[:, :, gap:, gap:] = images
    out = framed.transpose(0, 2, 1, 3).reshape(lines * (height + gap), columns * (width + gap))
    return np.pad(out, ((0, gap), (0, gap)), constant_values=GROUND)
