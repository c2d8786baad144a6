"""Scatter plots side by side, on common axes, each with its least-squares line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdlm_cfg.reports.pictures.lines import plain
from mdlm_cfg.reports.style import CYCLE, divide

MAX_POINTS = 6000  # per panel; more are thinned evenly


@dataclass(frozen=True)
class Points:
    """Points (x, y) by the title of a panel, with the best-fitting line."""

    panels: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    x_label: str
    y_label: str

    def numbers(self) -> list[dict[str, Any]]:
        """A row for each point that is drawn."""
        return [
            {"panel": title, self.x_label: float(a), self.y_label: float(b)}
            for title, (x, y) in self.panels.items()
            for a, b in zip(*_thinned(x, y))
        ]

    def draw(self, figure: Figure) -> np.ndarray:
        """Draw every panel."""
        num = len(self.panels)
        grid = divide(figure, 1, num, max(4.4, 2.6 * num + 0.6), 3.0, sharex=True, sharey=True)
        for axes, (title, points) in zip(grid[0], self.panels.items()):
            x, y = _thinned(*points)
            many = len(x) > 500
            look: Any = {"s": 4, "alpha": 0.25} if many else {"s": 12, "alpha": 0.7}
            axes.scatter(x, y, color=CYCLE[0], linewidths=0, rasterized=True, **look)
            if len(x) > 1 and np.ptp(x) > 0:
                slope, offset = np.polyfit(x, y, 1)
                ends = [float(x.min()), float(x.max())]
                axes.plot(ends, [offset + slope * end for end in ends], color=CYCLE[1])
            axes.set_title(plain(title))
        grid[0, 0].set_ylabel(plain(self.y_label))
        figure.supxlabel(plain(self.x_label), fontsize=10)
        return grid


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    step = max(1, len(x) // MAX_POINTS)
    return np.asarray(x, dtype=np.float64)[::step], np.asarray(y, dtype=np.float64)[::step]
