"""Grouped bars: a group for each category, a bar for each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdlm_cfg.reports.pictures.lines import draw_legend, plain
from mdlm_cfg.reports.style import CYCLE, divide


@dataclass(frozen=True)
class BarGroups:
    """Values by series, one for each group.

    Attributes:
        series: values by name; None leaves a bar out.
        groups: names of the groups.
    """

    series: Mapping[str, Sequence[float | None]]
    groups: Sequence[str]
    x_label: str
    y_label: str

    def numbers(self) -> list[dict[str, Any]]:
        """A row for each bar."""
        return [
            {"panel": "", "series": name, self.x_label: group, self.y_label: value}
            for name, values in self.series.items()
            for group, value in zip(self.groups, values)
        ]

    def draw(self, figure: Figure) -> np.ndarray:
        """Draw the bars, with a legend of the series."""
        letters = max((len(line) for group in self.groups for line in group.split("\n")), default=1)
        num = max(1, len(self.series))
        width = max(6.4, max(0.34, 0.08 * letters, 0.09 * num) * len(self.groups) + 2.2)
        grid = divide(figure, 1, 1, width, 2.8)
        axes = grid[0, 0]
        places = np.arange(len(self.groups))
        for k, (name, values) in enumerate(self.series.items()):
            offset = (k - (num - 1) / 2) * 0.8 / num
            heights = [np.nan if v is None else v for v in values]
            axes.bar(places + offset, heights, 0.8 / num, color=CYCLE[k % len(CYCLE)], label=plain(name))
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        rotation = 40 if letters * len(self.groups) > 90 else 0
        ha = "right" if rotation else "center"
        axes.set_xticks(places, [plain(group) for group in self.groups], rotation=rotation, ha=ha)
        axes.set_xlabel(plain(self.x_label))
        axes.set_ylabel(plain(self.y_label))
        if num > 1:
            draw_legend(figure, grid)
        return grid
