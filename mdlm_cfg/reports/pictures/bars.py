"""Grouped bars: a group for each category, a bar for each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mdlm_cfg.reports.pictures.lines import draw_legend, plain
from mdlm_cfg.reports.style import CYCLE, GREY, divide


@dataclass(frozen=True)
class BarGroups:
    """Values by series, one for each group, in each panel; panels stand below one another on common axes.

    Attributes:
        panels: values by series, by title; None leaves a bar out.
        groups: names of the groups. errors: half a bar's interval, as `panels`. levels: horizontal lines by name.
    """

    panels: Mapping[str, Mapping[str, Sequence[float | None]]]
    groups: Sequence[str]
    x_label: str
    y_label: str
    errors: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)

    def numbers(self) -> list[dict[str, Any]]:
        """A row for each bar."""
        return [
            {"panel": title, "series": name, self.x_label: group, self.y_label: value}
            for title, series in self.panels.items()
            for name, values in series.items()
            for group, value in zip(self.groups, values)
        ]

    def draw(self, figure: Figure) -> np.ndarray:
        """Draw every panel, with one legend."""
        letters = max((len(line) for group in self.groups for line in group.split("\n")), default=1)
        bars = max((len(series) for series in self.panels.values()), default=1)
        width = max(6.4, max(0.34, 0.08 * letters, 0.09 * bars) * len(self.groups) + 2.2)
        height = 1.9 * len(self.panels) + 0.9
        grid = divide(figure, len(self.panels), 1, width, height, sharex=True, sharey=True)
        places = np.arange(len(self.groups))
        for axes, (title, series) in zip(grid[:, 0], self.panels.items()):
            bar = 0.8 / max(1, len(series))
            for k, (name, values) in enumerate(series.items()):
                offset = (k - (len(series) - 1) / 2) * bar
                colour = self.colours.get(name, CYCLE[k % len(CYCLE)])
                heights = [np.nan if v is None else v for v in values]
                errors = self.errors.get(title, {}).get(name)
                spread = None if errors is None else [np.nan if v is None else v for v in errors]
                axes.bar(places + offset, heights, bar, color=colour, label=plain(name), yerr=spread, ecolor=GREY)
            for k, (name, level) in enumerate(self.levels.items()):
                axes.axhline(level, label=plain(name), color=GREY, linestyle=(0, (4, 2 + 2 * k)), linewidth=1.2)
            axes.set_title(plain(title), loc="left")
            axes.set_ylabel(plain(self.y_label))
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
            axes.set_axisbelow(True)
        rotation = 40 if letters * len(self.groups) > 90 else 0
        ha = "right" if rotation else "center"
        grid[-1, 0].set_xticks(places, [plain(group) for group in self.groups], rotation=rotation, ha=ha)
        grid[-1, 0].set_xlabel(plain(self.x_label))
        if bars + len(self.levels) > 1:
            draw_legend(figure, grid)
        return grid
