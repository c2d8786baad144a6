"""An image with hidden pixels, and what becomes of them: a row per guidance strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike

from mdlm_cfg.reports.style import COLOURS, RC, hide_frame, new_figure, save_figure

# of hidden pixels: the least, the largest
OFF = np.array(to_rgb("#cfe6f5"))
ON = np.array(to_rgb(COLOURS["learned"]))
INK = 0.75  # how dark known pixels get: hidden ones must stand out
MARGIN = 3  # pixels around the hidden ones that are shown enlarged


@dataclass(frozen=True)
class CompletionRow:
    """One guidance strength.

    Attributes:
        label: of the row. means: mean of every hidden pixel, 0 to 1.
        completions: values of the hidden pixels, 0 to 1, and their probability; the likeliest first.
    """

    label: str
    means: Sequence[float]
    completions: Sequence[tuple[Sequence[float], float]]


@rc_context(RC)
def draw_completions(
    image: np.ndarray, free: Sequence[int], rows: Sequence[CompletionRow], path: Path, truth_title: str
) -> Path:
    """Draw the image, the pixels' means, and the likeliest completions, enlarged around the hidden pixels.

    Args:
        image: (H, W), 0 to 1, complete.
        free: the hidden pixels, as places in the flattened image.
        rows: one per strength, all with equally many completions.
        path: the PNG to write.
        truth_title: of the panel that shows the true pixels, one per row below one another.

    Returns:
        `path`.
    """
    columns = 3 + len(rows[0].completions)
    size = 1.35
    figure, grid = new_figure(len(rows), columns, size * columns + 0.5, (size + 0.3) * len(rows) + 0.2)
    window = _window(image.shape, free)
    truth = image.reshape(-1)[list(free)]
    for k, (line, row) in enumerate(zip(grid, rows)):
        _panel(line[0], _painted(image, free, truth), None, truth_title if k == 0 else "")
        line[0].set_ylabel(row.label, rotation=0, ha="right", va="center", labelpad=4)
        _panel(line[1], _painted(image, free, truth), window, "true pixels" if k == 0 else "")
        _panel(line[2], _painted(image, free, row.means), window, "pixel means" if k == 0 else "")
        for axes, (values, probability) in zip(line[3:], row.completions):
            hit = " (true)" if np.allclose(values, truth) else ""
            _panel(axes, _painted(image, free, values), window, f"{probability:.3f}{hit}")
    return save_figure(figure, path, _numbers(free, truth, rows))


def _numbers(free: Sequence[int], truth: np.ndarray, rows: Sequence[CompletionRow]) -> list[dict[str, float | str]]:
    """A line for every set of values of the hidden pixels: the true ones, their means, and each completion."""

    def line(label: str, shown: str, values: ArrayLike, probability: float | str = "") -> dict[str, float | str]:
        pixels = {f"pixel {place}": float(v) for place, v in zip(free, np.asarray(values, dtype=np.float64))}
        return {"strength": label, "shown": shown, "probability": probability, **pixels}

    found = [line("", "truth", truth)]
    for row in rows:
        found.append(line(row.label, "means", row.means))
        found += [line(row.label, "completion", values, p) for values, p in row.completions]
    return found


def _painted(image: np.ndarray, free: Sequence[int], values: ArrayLike) -> np.ndarray:
    """The image in grey, (H, W, 3), with these values of the hidden pixels in colour."""
    flat = np.repeat(1 - INK * image.reshape(-1, 1), 3, axis=1)
    share = np.asarray(values, dtype=np.float64)[:, None]
    flat[list(free)] = (1 - share) * OFF + share * ON
    return flat.reshape(*image.shape, 3)


def _window(shape: tuple[int, ...], free: Sequence[int]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a square around the hidden pixels."""
    rows, columns = np.unravel_index(np.asarray(free), shape)
    half = max(np.ptp(rows), np.ptp(columns)) / 2 + MARGIN
    y = (rows.min() + rows.max()) / 2
    x = (columns.min() + columns.max()) / 2
    return x - half - 0.5, x + half + 0.5, y + half + 0.5, y - half - 0.5


def _panel(axes: Axes, picture: np.ndarray, window: tuple[float, float, float, float] | None, title: str) -> None:
    axes.imshow(picture, interpolation="nearest")
    if window is not None:
        axes.set_xlim(window[0], window[1])
        axes.set_ylim(window[2], window[3])
    hide_frame(axes)
    axes.set_title(title, fontsize=9)
