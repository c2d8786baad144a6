"""Views of rows: tables, curves, panels, images and text, as values that draw nothing themselves.

`mdlm_cfg.reports.render` turns them into pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Table:
    """A table on the page and on the terminal: a line for each value of `index`.

    Attributes:
        index: columns that lead a line.
        values: columns that are shown.
        across: a column whose values become columns, one for each of `values`.
        note: a sentence below the table.
        heads: headings that replace the declared ones, by column.
        title: of the part of the page for a second or later table of a block.
        where: the rows that are shown: by column, the allowed values. Empty: all.
    """

    index: Sequence[str]
    values: Sequence[str]
    across: str | None = None
    note: str = ""
    heads: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """A line plot of column `y` (or several columns) against column `x`, with a line for each value of `by`.

    Attributes:
        by: columns whose values distinguish lines; one with a single value is left out of names. Lines that coincide
            are drawn once, with all their names.
        panels: a column whose values get a small panel each, side by side, with the same axes and colours.
        low, high: columns of an interval around y, drawn as a band.
        log_x, log_y: logarithmic axes; if everything is 0, there is no picture.
        dashed: lines drawn dashed: those with this value in a column of `by`.
        reference: a column and its value, such as {"w": "data"}: rows with it become horizontal lines of that name.
        where: the rows that are drawn, as in `Table`.
    """

    x: str
    y: str | Sequence[str]
    by: Sequence[str] = ()
    caption: str = ""
    panels: str | None = None
    low: str | None = None
    high: str | None = None
    log_x: bool = False
    log_y: bool = False
    dashed: Mapping[str, Any] = field(default_factory=lambda: {"denoiser": "learned", "law": "learned"})
    reference: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cloud:
    """Points (x, y) by the title of a panel, with the best-fitting line: too many for rows of report.json.

    Attributes:
        labels: of the x and y axes.
    """

    points: Mapping[str, tuple[np.ndarray, np.ndarray]]
    labels: tuple[str, str]
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel of a grid of panels: an array (N,) drawn as a curve, or (N, M) as a heat map.

    Attributes:
        title: above it. values: float64; NaN is left white.
        kind: "probability" (white is 0) or "change" (blue is less, red is more, white is none).
        curves: other arrays (N,) drawn over a curve, by name.
        outlines: boolean arrays (N, M); their sets are outlined, the second one with a dotted line.
    """

    title: str
    values: np.ndarray
    kind: str = "probability"
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    outlines: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class PanelGrid:
    """Panels in lines and columns, such as one line for each strength and one column for each distribution.

    Attributes:
        panels: by line label, then in the order of columns; None leaves a gap.
        one_scale: whether all panels of one kind share a colour scale; else each column has its own.
        labels: of the x and y axes.
        value_names: of the N values, for ticks; None is numbers.
    """

    panels: Mapping[str, Sequence[Panel | None]]
    caption: str = ""
    one_scale: bool = True
    labels: tuple[str, str] = ("", "")
    value_names: Sequence[str] | None = None


@dataclass(frozen=True)
class Mosaic:
    """Small images in lines and columns.

    Attributes:
        images: by the title of a block of images: arrays (lines, columns, height, width) in [0, 1], of one
            shape, or of any sign where `signed` names their scale; NaN is drawn as "not known".
        lines: names of the lines; may be empty.
    """

    images: Mapping[str, np.ndarray]
    lines: Sequence[str] = ()
    caption: str = ""
    signed: str = ""


@dataclass(frozen=True)
class Listing:
    """Lines of monospaced text, such as sequences to read."""

    text: str


@dataclass(frozen=True)
class Interactive:
    """The interactive panel with a slider: `data` is its script's input, `rows` its CSV."""

    data: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


View = Table | Curve | Cloud | PanelGrid | Mosaic | Listing | Interactive | Callable[..., Any]
