"""The style of every picture: colours that colour-blind readers can tell apart (Okabe and Ito), unobtrusive axes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from mdlm_cfg.reports.tables import write_csv
from mdlm_cfg.support.atomic import atomic_write

DPI = 150
MOST_BYTES = 80  # of a file name, without its extension
MARGIN = 0.06  # inches around the drawing
INK = "#333333"
GREY = "#8c8c8c"
COLOURS = {
    "class": "#b3b3b3",
    "tilted": "#E69F00",
    "exact": "#0072B2",
    "learned": "#D55E00",
    "samples": "#000000",
}
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", GREY)
SERIES = {  # lines with the same meaning in every picture and in the panel, by name
    **COLOURS,
    "guidance effect": COLOURS["class"],
    "gap to tilted": COLOURS["tilted"],
    "error of the network": COLOURS["learned"],
    "samples to exact": COLOURS["samples"],
    "noise floor": "#56B4E9",
    "discretisation error": "#0072B2",
    "sampling noise": "#CC79A7",
    "total": COLOURS["samples"],
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
TITLES = {
    "class": "data (class)",
    "tilted": "tilted",
    "exact": "exact guided",
    "learned": "learned",
    "samples": "samples",
}
PROBABILITY = LinearSegmentedColormap.from_list(  # from white at zero through matplotlib's magma, light end first
    "probability", ["#ffffff", *colormaps["magma_r"](np.linspace(0.08, 0.86, 12))]
)
CHANGE = "RdBu_r"  # for differences: blue is less, red is more, white is none
RC: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "axes.formatter.useoffset": False,
}


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each line of a picture: its own in `SERIES`, or the next unused one of the cycle."""
    own = {name: SERIES[name] for name in names if name in SERIES}
    left = [colour for colour in CYCLE if colour not in own.values()]
    others = [name for name in names if name not in own]
    return own | {name: left[k % len(left)] for k, name in enumerate(others)}


def new_figure(rows: int, columns: int, width: float, height: float, **subplots: Any) -> tuple[Figure, np.ndarray]:
    """A figure of `width` x `height` inches and its axes, an array (rows, columns). No pyplot, no display."""
    figure = empty_figure()
    return figure, divide(figure, rows, columns, width, height, **subplots)


def empty_figure() -> Figure:
    """A figure to draw on and to save. No pyplot, no display."""
    return Figure(layout="constrained")


def divide(figure: Figure, rows: int, columns: int, width: float, height: float, **subplots: Any) -> np.ndarray:
    """Set an empty figure to `width` x `height` inches; returns its axes, an array (rows, columns)."""
    figure.set_size_inches(width, height)
    return figure.subplots(rows, columns, squeeze=False, **subplots)


def save_figure(figure: Figure, path: Path, numbers: Sequence[Mapping[str, Any]]) -> Path:
    """Write a PNG that includes everything drawn, and a CSV file of its numbers beside it, each atomically.

    Args:
        numbers: flat rows of everything that was drawn.

    Returns:
        `path`.
    """
    with atomic_write(path) as file:
        # everything drawn, even if the layout placed it outside the figure
        figure.savefig(file, format="png", dpi=DPI, facecolor="white", bbox_inches="tight", pad_inches=MARGIN)
    write_csv(numbers, numbers_of(path))
    return path


def numbers_of(picture: Path) -> Path:
    """The path of a picture's numbers."""
    return picture.with_suffix(".csv")


def file_name(text: str) -> str:
    """A text as a file name: letters, digits, dots and dashes, with an underscore for anything in between.

    One longer than `MOST_BYTES` is cut and ends in a hash of the whole, so that different names stay different.
    """
    name = re.sub(r"[^\w.-]+", "_", text).strip("_")
    if len(name.encode()) <= MOST_BYTES:
        return name
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:6]
    return f"{name.encode()[: MOST_BYTES - 7].decode(errors='ignore')}_{digest}"


def hide_frame(axes: Axes) -> None:
    """Hide spines and ticks."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
