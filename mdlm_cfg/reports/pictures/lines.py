"""Line plots: one panel, or small multiples with the same axes and the same colours."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mdlm_cfg.reports.style import CYCLE, GREY, MARKERS, divide
from mdlm_cfg.studies.findings import listed
from mdlm_cfg.support.progress import LINES

Points = tuple[Sequence[float], Sequence[float]]
BOX = "□"
NOTHING = 1e-13  # smaller values are rounding; a logarithmic axis cannot show them
BESIDE = 36  # most letters of a legend beside the panel
ABOVE = 80  # letters per line of a legend above the panel
LINE = 0.2  # inches of such a line
TITLE = 32  # letters per line of a small multiple's title
MAX_MARKERS = 30  # a curve with more points is drawn without markers
ACROSS = 4  # small multiples side by side
WARNED: list[str] = []  # the letter without a glyph that this process has reported


@dataclass(frozen=True)
class Lines:
    """One line for each series, in each panel.

    Attributes:
        panels: series (x, y) by name, by the title of the panel. Where every x is an int, only ints are ticks.
        x_label, y_label: with their units.
        log_x, log_y: logarithmic axes. On a logarithmic y axis a 0 (or rounding) is a hollow marker at the bottom.
        from_zero: whether a linear y axis starts at 0 if nothing is negative.
        bands: (low, high) around the series of the same panel and name; NaN where a point has none.
        levels: horizontal dashed lines by name.
        dashed: names of the series that are drawn dashed.
        colours: of single series by name; the others take a palette for colour-blind readers.
    """

    panels: Mapping[str, Mapping[str, Points]]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = True
    bands: Mapping[tuple[str, str], Points] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    dashed: Collection[str] = ()
    colours: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of all series, in the order in which they first occur."""
        return list(dict.fromkeys(name for series in self.panels.values() for name in series))

    def numbers(self) -> list[dict[str, Any]]:
        """A row for each point of each series, and one for each level."""
        rows: list[dict[str, Any]] = []
        for title, series in self.panels.items():
            for name, (x, y) in series.items():
                lows, highs = self.bands.get((title, name), ([math.nan] * len(x), [math.nan] * len(x)))
                for a, b, low, high in zip(x, y, lows, highs):
                    band = {} if math.isnan(low) else {"low": low, "high": high}
                    rows.append({"panel": title, "series": name, self.x_label: a, self.y_label: b} | band)
        return rows + [{"series": name, self.y_label: level} for name, level in self.levels.items()]

    def draw(self, figure: Figure) -> np.ndarray:
        """Draw every panel, with one legend."""
        num = len(self.panels)
        across = min(num, ACROSS)
        down = -(-num // across)
        width, height = (6.4, 3.6) if num == 1 else (2.7 * across + 0.6, 2.4 * down + 0.4)
        grid = divide(figure, down, across, width, height, sharex=True, sharey=True)
        titles = {title: title if num == 1 else textwrap.fill(title, TITLE) for title in self.panels}
        more = max(title.count("\n") for title in titles.values())
        figure.set_size_inches(width, height + LINE * more * down)
        labels = self._labels()
        zero = _place_of_zero(self._values()) if self.log_y else None
        for axes in grid.flat[num:]:
            axes.set_visible(False)
        for axes, (title, series) in zip(grid.flat, self.panels.items()):
            for name in labels:
                if name in series:
                    self._draw_line(axes, title, name, labels[name], series[name], zero)
            for k, (name, level) in enumerate(self.levels.items()):
                axes.axhline(level, label=plain(name), color=GREY, linestyle=(0, (4, 2 + 2 * k)), linewidth=1.2)
            axes.set_title(plain(titles[title]), loc="left")
        for axes in grid.flat[:num]:  # limits are shared and include all lines
            self._set_scales(axes)
        for axes in grid[:, 0]:
            axes.set_ylabel(plain(self.y_label))
        for axes in grid.flat[max(0, num - across) : num]:
            axes.set_xlabel(plain(self.x_label))
            axes.xaxis.set_tick_params(labelbottom=True)
        if len(self.names) + len(self.levels) > 1:
            draw_legend(figure, grid)
        return grid

    def _draw_line(self, axes: Axes, title: str, name: str, label: str, points: Points, zero: float | None) -> None:
        x, y = points
        k = self.names.index(name)
        colour = self.colours.get(name, CYCLE[k % len(CYCLE)])
        is_marked = len(x) == 1 or (len(x) <= MAX_MARKERS and name not in self.dashed)  # one point has no line
        marker = MARKERS[k % len(MARKERS)] if is_marked else None
        style: Any = (0, (4, 2)) if name in self.dashed else "-"
        lifted = y if zero is None else [v if v > NOTHING else zero for v in y]
        axes.plot(
            x, lifted, label=plain(label), color=colour, marker=marker, markersize=5, ls=style, clip_on=marker is None
        )
        if zero is not None:
            _mark_zeros(axes, [a for a, v in zip(x, y) if v <= NOTHING], zero, colour)
        if (title, name) in self.bands:
            axes.fill_between(x, *self.bands[title, name], color=colour, alpha=0.18, linewidth=0)

    def _values(self) -> list[float]:
        return [v for series in self.panels.values() for _, y in series.values() for v in y]

    def _labels(self) -> dict[str, str]:
        """The series to draw, and their labels. Series that coincide in every panel are merged, with all names."""
        labels: dict[str, list[str]] = {}
        alone = {*self.dashed, *(name for _, name in self.bands)}
        for name in self.names:
            twins = [other for other in labels if other not in alone and self._coincide(other, name)]
            if twins and name not in alone:
                labels[twins[0]].append(name)
            else:
                labels[name] = [name]
        return {name: listed(names) for name, names in labels.items()}

    def _coincide(self, first: str, second: str) -> bool:
        for series in self.panels.values():
            if (first in series) != (second in series):
                return False
            if first in series:
                (x, y) = series[first]
                (other_x, other_y) = series[second]
                if list(x) != list(other_x) or not np.allclose(y, other_y, rtol=1e-9, atol=NOTHING):
                    return False
        return True

    def _set_scales(self, axes: Axes) -> None:
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        x = [v for series in self.panels.values() for values, _ in series.values() for v in values]
        most = 8 if len(self.panels) == 1 else 5
        counts = all(isinstance(v, int) for v in x)
        axes.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], integer=counts))
        if self.log_x and x and min(x) > 0:
            narrow = max(x) < 100 * min(x)  # ticks at decades only would leave such an axis without labels
            axes.set_xscale("log", base=2 if narrow else 10)
            if narrow:
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        y = self._values()
        if self.log_y and any(v > NOTHING for v in y):
            axes.set_yscale("log")
        elif self.from_zero and all(v >= 0 for v in y):
            axes.set_ylim(bottom=0)


def plain(text: str) -> str:
    """A text that matplotlib shows literally: a dollar sign starts no formula, and letters without a glyph are boxes.

    Only the first such letter of a process is reported, in one line.
    """
    lacking = [letter for letter in text if ord(letter) not in _letters() and not letter.isspace()]
    if lacking:
        _warn_once(lacking[0])
        text = "".join(BOX if letter in lacking else letter for letter in text)
    return text.replace("$", r"\$")


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _warn_once(letter: str) -> None:
    """Print one line per process, whatever the letters: a report draws many pictures with the same names."""
    if not WARNED:
        WARNED.append(letter)
        LINES.say(f"the font of the pictures lacks {letter!r} (and perhaps others), and shows {BOX} instead")


def draw_legend(figure: Figure, grid: np.ndarray) -> None:
    """One legend for all panels: beside a single panel with short names, otherwise above."""
    pairs = [axes.get_legend_handles_labels() for axes in grid.flat]
    entries = {label: handle for handles, labels in pairs for handle, label in zip(handles, labels)}
    if not entries:
        return
    if grid.size == 1 and max(map(len, entries)) <= BESIDE:
        figure.legend(list(entries.values()), list(entries), loc="outside right upper")
        return
    wrapped = [textwrap.fill(name, ABOVE) for name in entries]
    columns = 1 if max(map(len, wrapped)) > BESIDE else min(4, len(wrapped))
    lines = sum(1 + name.count("\n") for name in wrapped) / columns
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LINE * lines)
    figure.legend(list(entries.values()), wrapped, loc="outside upper left", ncols=columns)


def _place_of_zero(values: Sequence[float]) -> float | None:
    """Where a logarithmic axis shows 0, below all else; None if nothing or everything is 0."""
    positive = [v for v in values if v > NOTHING]
    return min(positive) / 3 if positive and len(positive) < len(values) else None


def _mark_zeros(axes: Axes, places: Sequence[float], zero: float, colour: str) -> None:
    """Draw hollow markers where values are 0, and a 0 beside the axis."""
    if not places:
        return
    axes.plot(places, [zero] * len(places), "o", color="white", markeredgecolor=colour, zorder=3, clip_on=False)
    beside: Any = {"xycoords": ("axes fraction", "data"), "xytext": (-7, 0), "textcoords": "offset points"}
    axes.annotate("0", (0, zero), ha="right", va="center", fontsize=9, **beside)
