"""Line plots: any y against any x, and those that every run has."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mdlm_cfg.reports.style import CYCLE, GREY, MARKERS, RC, divide, empty_figure, save_figure

Points = tuple[Sequence[float], Sequence[float]]
NOTHING = 1e-13  # what is smaller is rounding, and has no place on a logarithmic axis
# letters of a legend in a line: beside a panel, above it
BESIDE = 36
ABOVE = 80
LINE = 0.2  # inches
MAX_MARKERS = 30  # a longer curve is drawn without


@rc_context(RC)
def line_plot(
    series: Mapping[str, Points], path: Path, x_label: str, y_label: str, title: str = "", **how: Any
) -> Path:
    """Write the lines of `lines_on` as a PNG to `path`, and return that.

    The csv file beside it holds x, y and bands of every series, and the levels.
    """
    figure = empty_figure()
    lines_on(figure, series, x_label, y_label, title, **how)
    rows = _rows(series, x_label, y_label, how.get("bands") or {}, how.get("levels") or {})
    return save_figure(figure, path, rows)


@rc_context(RC)
def lines_on(
    figure: Figure,
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    title: str = "",
    *,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = True,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    levels: Mapping[str, float] | None = None,
    colours: Mapping[str, str] | None = None,
    dashed: Collection[str] = (),
) -> Axes:
    """One panel with a line per series.

    Args:
        figure: an empty one.
        series: (x, y) by the name in the legend; where every x is an int, only ints are marked on the axis. Series
            that lie on one another are one line with all their names.
        x_label: with its unit.
        y_label: with its unit.
        title: left out if empty.
        log_x: a logarithmic x axis.
        log_y: a logarithmic y axis; what is 0 (or rounding) is drawn hollow at its foot.
        from_zero: any other y axis starts at 0 if nothing is negative.
        bands: (low, high) around the series of the same name.
        levels: horizontal dashed lines, by the name in the legend: a bound, an optimum.
        colours: of single series, by name; the others go through a palette for colour-blind readers.
        dashed: names of the series drawn dashed: a floor, a reference.

    Returns:
        the axes.
    """
    axes = divide(figure, 1, 1, 6.4, 3.6)[0, 0]
    series, labels = _merged(series, {*dashed, *(bands or {})})
    zero = _place_of_zero(series) if log_y else None
    for k, (name, (x, y)) in enumerate(series.items()):
        colour = (colours or {}).get(name, CYCLE[k % len(CYCLE)])
        marker = MARKERS[k % len(MARKERS)] if len(x) <= MAX_MARKERS and name not in dashed else None
        axes.plot(
            x,
            _lifted(y, zero),
            label=labels[name],
            color=colour,
            marker=marker,
            markersize=5,
            linestyle=(0, (4, 2)) if name in dashed else "-",
            clip_on=marker is None,
        )
        _mark_zeros(axes, x, y, zero, colour)
        if bands and name in bands:
            axes.fill_between(x, *bands[name], color=colour, alpha=0.18, linewidth=0)
    for k, (name, level) in enumerate((levels or {}).items()):
        axes.axhline(level, label=name, color=GREY, linestyle=(0, (4, 2 + 2 * k)), linewidth=1.2)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, loc="left")
    _set_scales(axes, series, log_x, log_y, from_zero)
    if len(series) + len(levels or {}) > 1:
        _legend(figure, axes)
    return axes


def _legend(figure: Figure, axes: Axes) -> None:
    """Beside the panel; above it, in as many lines as they take, where long names would leave no room for it."""
    handles, names = axes.get_legend_handles_labels()
    if max(len(name) for name in names) <= BESIDE:
        figure.legend(loc="outside right upper")
        return
    wrapped = [textwrap.fill(name, ABOVE) for name in names]
    lines = sum(1 + name.count("\n") for name in wrapped)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LINE * lines)
    figure.legend(handles, wrapped, loc="outside upper left")


def _set_scales(axes: Axes, series: Mapping[str, Points], log_x: bool, log_y: bool, from_zero: bool) -> None:
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    values = [v for x, _ in series.values() for v in x]
    counts = all(isinstance(v, int) for v in values)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=counts))
    if log_x:
        narrow = max(values) < 100 * min(values)  # decades alone would leave such an axis without labels
        axes.set_xscale("log", base=2 if narrow else 10)
        if narrow:
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if log_y:
        axes.set_yscale("log")
    elif from_zero and all(value >= 0 for _, y in series.values() for value in y):
        axes.set_ylim(bottom=0)


def _merged(series: Mapping[str, Points], alone: Collection[str]) -> tuple[dict[str, Points], dict[str, str]]:
    """The series, of those that lie on one another the first, and labels that name all; `alone` are left alone."""
    merged: dict[str, Points] = {}
    labels: dict[str, str] = {}
    for name, points in series.items():
        twins = [other for other, own in merged.items() if other not in alone and _coincide(own, points)]
        if twins and name not in alone:
            labels[twins[0]] += f", {name}"
        else:
            merged[name] = points
            labels[name] = name
    return merged, labels


def _coincide(first: Points, second: Points) -> bool:
    return list(first[0]) == list(second[0]) and np.allclose(first[1], second[1], rtol=1e-9, atol=NOTHING)


def _place_of_zero(series: Mapping[str, Points]) -> float | None:
    """Where a logarithmic axis shows 0, below all else; None where nothing is 0, or everything."""
    values = [v for _, y in series.values() for v in y]
    positive = [v for v in values if v > NOTHING]
    return min(positive) / 3 if positive and len(positive) < len(values) else None


def _lifted(y: Sequence[float], zero: float | None) -> Sequence[float]:
    return y if zero is None else [v if v > NOTHING else zero for v in y]


def _mark_zeros(axes: Axes, x: Sequence[float], y: Sequence[float], zero: float | None, colour: str) -> None:
    """Hollow markers where values are 0, and a 0 beside the axis."""
    found = [a for a, v in zip(x, y) if v <= NOTHING]
    if zero is None or not found:
        return
    axes.plot(found, [zero] * len(found), "o", color="white", markeredgecolor=colour, zorder=3, clip_on=False)
    axes.annotate(
        "0",
        (0, zero),
        xycoords=("axes fraction", "data"),
        xytext=(-7, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=9,
    )


def _rows(
    series: Mapping[str, Points], x_label: str, y_label: str, bands: Mapping[str, Points], levels: Mapping[str, float]
) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    for name, (x, y) in series.items():
        rows += [{"series": name, x_label: a, y_label: b} for a, b in zip(x, y)]
        if name in bands:
            for row, low, high in zip(rows[-len(x) :], *bands[name]):
                row |= {"low": low, "high": high}
    return rows + [{"series": name, y_label: level} for name, level in levels.items()]


def draw_nelbo(series: Mapping[str, Points], path: Path, best: float | None = None, title: str = "") -> Path:
    """NELBO in nats against minutes of training; `best` is the entropy that no denoiser beats."""
    y = [value for _, values in series.values() for value in values]
    wide = bool(y) and min(y) > 0 and max(y) > 10 * min(y)
    return line_plot(
        series,
        path,
        "minutes of training",
        "NELBO (nats)",
        title,
        log_y=wide,
        from_zero=False,
        levels=None if best is None else {"entropy of the data": best},
    )
