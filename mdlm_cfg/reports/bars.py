"""Grouped bars: one group per category, one bar per series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from mdlm_cfg.reports.style import CYCLE, RC, divide, empty_figure, save_figure


@rc_context(RC)
def bar_plots(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    path: Path,
    labels: Sequence[str],
    x_label: str,
    y_label: str,
    colours: Mapping[str, str] | None = None,
) -> Path:
    """Write the bars of `bars_on` as a PNG to `path`, and return that."""
    figure = empty_figure()
    bars_on(figure, panels, labels, x_label, y_label, colours)
    rows = [
        {"panel": title, "series": name, x_label: label, y_label: value}
        for title, series in panels.items()
        for name, values in series.items()
        for label, value in zip(labels, values)
    ]
    return save_figure(figure, path, rows)


@rc_context(RC)
def bars_on(
    figure: Figure,
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    labels: Sequence[str],
    x_label: str,
    y_label: str,
    colours: Mapping[str, str] | None = None,
) -> np.ndarray:
    """Draw one panel of grouped bars per title, below one another, on common axes.

    Args:
        figure: an empty one.
        panels: values by series, by the panel's title; every series has one value per label.
        labels: of the groups.
        x_label: what the groups are. y_label: with its unit.
        colours: of single series, by name.

    Returns:
        the axes, (panels, 1).
    """
    letters = max(len(line) for label in labels for line in label.split("\n"))
    width = max(6.4, max(0.34, 0.08 * letters) * len(labels) + 2.2)
    grid = divide(figure, len(panels), 1, width, 1.9 * len(panels) + 0.9, sharex=True, sharey=True)
    places = np.arange(len(labels))
    for axes, (title, series) in zip(grid[:, 0], panels.items()):
        bar = 0.8 / len(series)
        for k, (name, values) in enumerate(series.items()):
            offset = (k - (len(series) - 1) / 2) * bar
            colour = (colours or {}).get(name, CYCLE[k % len(CYCLE)])
            axes.bar(places + offset, values, bar, color=colour, label=name)
        axes.set_title(title, loc="left")
        axes.set_ylabel(y_label)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    grid[-1, 0].set_xticks(places, labels)
    grid[-1, 0].set_xlabel(x_label)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return grid
