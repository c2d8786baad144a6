"""Scatter plots side by side, on common axes, each with the least-squares line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import rc_context

from mdlm_cfg.reports.style import CYCLE, GREY, RC, new_figure, save_figure

MAX_POINTS = 6000  # of a panel; more are thinned evenly


@rc_context(RC)
def scatter_plots(panels: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path, x_label: str, y_label: str) -> Path:
    """Draw one panel of points per title, all on the same axes, and the line that fits each best.

    Args:
        panels: (x, y), each (M,), by title.
        path: the PNG to write.
        x_label: with its unit; y_label: with its unit.

    Returns:
        `path`.
    """
    num = len(panels)
    figure, grid = new_figure(1, num, max(4.4, 2.6 * num + 0.6), 3.0, sharex=True, sharey=True)
    rows = []
    for axes, (title, (x, y)) in zip(grid[0], panels.items()):
        axes.axhline(0, color=GREY, linewidth=0.8)
        step = max(1, len(x) // MAX_POINTS)
        rows += [{"panel": title, x_label: a, y_label: b} for a, b in zip(x[::step].tolist(), y[::step].tolist())]
        axes.scatter(x[::step], y[::step], s=4 if len(x) > 500 else 12, alpha=0.25 if len(x) > 500 else 0.7,
                     color=CYCLE[0], linewidths=0, rasterized=True)  # fmt: skip
        if len(x) > 1 and np.ptp(x) > 0:
            slope, offset = np.polyfit(x, y, 1)
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, offset + slope * ends, color=CYCLE[1])
        axes.set_title(title)
    grid[0, 0].set_ylabel(y_label)
    figure.supxlabel(x_label, fontsize=10)
    return save_figure(figure, path, rows)
