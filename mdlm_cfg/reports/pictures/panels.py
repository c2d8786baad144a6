"""A grid of panels: curves, heat maps and differences, one line of panels for each strength."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mdlm_cfg.reports.pictures.lines import draw_legend, plain
from mdlm_cfg.reports.pictures.ticks import mark_values
from mdlm_cfg.reports.style import CHANGE, COLOURS, CYCLE, GREY, PROBABILITY, TITLES, divide
from mdlm_cfg.studies.views import Panel

OUTLINE = "#56B4E9"
SIZE = 2.05  # inches of a heat map
LABEL_WIDTH = 24  # letters of a line's label before it wraps
ROUNDING = 1e-12
KINDS: dict[str, tuple[Any, str]] = {"probability": (PROBABILITY, "probability"), "change": (CHANGE, "difference")}


@dataclass(frozen=True)
class Panels:
    """Lines of panels; see `mdlm_cfg.studies.views.PanelGrid` for the attributes."""

    lines: Mapping[str, Sequence[Panel | None]]
    labels: tuple[str, str] = ("", "")
    one_scale: bool = True
    value_names: Sequence[str] | None = None

    def numbers(self) -> list[dict[str, Any]]:
        """A row for each cell of each panel."""
        rows = []
        for label, panels in self.lines.items():
            for panel in filter(None, panels):
                for place in np.ndindex(panel.values.shape):
                    where = {f"x{i + 1}": v for i, v in enumerate(place)}
                    curves = {name: float(values[place]) for name, values in panel.curves.items()}
                    value = {} if panel.curves else {"value": float(panel.values[place])}
                    rows.append({"line": label, "panel": panel.title, **where, **value, **curves})
        return rows

    def draw(self, figure: Figure) -> np.ndarray:
        """Draw every panel, with a colour bar for each scale."""
        columns = max(len(panels) for panels in self.lines.values())
        flat = all(panel.values.ndim == 1 for panels in self.lines.values() for panel in panels if panel is not None)
        width, height = (3.2, 2.0) if flat else (SIZE, SIZE + 0.35)
        across = width * columns + 1.1
        down = height * len(self.lines) + 0.7
        grid = divide(figure, len(self.lines), columns, across, down, sharex=flat, sharey=flat)
        tops = self._tops(columns)
        shown: dict[tuple[str, int], Any] = {}
        for row, (line, (label, panels)) in enumerate(zip(grid, self.lines.items())):
            for column, axes in enumerate(line):
                panel = panels[column] if column < len(panels) else None
                if panel is None:
                    axes.set_axis_off()
                    continue
                place = (panel.kind, -1 if self.one_scale else column)
                image = _draw_panel(axes, panel, tops[place])
                if image is not None:
                    shown[place] = image
                axes.set_title(plain(panel.title), fontsize=9)
                self._label(axes, label if column == 0 else None, row == len(self.lines) - 1, panel.values.ndim)
        if flat:
            draw_legend(figure, grid)
        for (kind, column), image in shown.items():
            beside = grid.ravel().tolist() if column < 0 else grid[:, column].tolist()
            location = "right" if column < 0 else "bottom"
            bar = figure.colorbar(image, ax=beside, location=location, fraction=0.03, pad=0.02)
            bar.locator = MaxNLocator(3 if column >= 0 or len(self.lines) == 1 else 6)
            bar.update_ticks()
            bar.outline.set_visible(False)
            bar.set_label(KINDS[kind][1], fontsize=9)
        return grid

    def _tops(self, columns: int) -> dict[tuple[str, int], float]:
        """The top of every colour scale, by kind of panel and column (-1: of all columns)."""
        tops: dict[tuple[str, int], float] = {}
        for panels in self.lines.values():
            for column, panel in enumerate(panels):
                if panel is not None:
                    place = (panel.kind, -1 if self.one_scale else column)
                    top = float(np.nanmax(np.abs(panel.values), initial=0.0))
                    tops[place] = max(tops.get(place, 0.0), top)
        return {place: top if top > ROUNDING else 1.0 for place, top in tops.items()}  # rounding gets no colours

    def _label(self, axes: Axes, label: str | None, is_last: bool, ndim: int) -> None:
        x_label, y_label = self.labels
        if ndim == 2:
            for spine in axes.spines.values():
                spine.set(visible=True, color=GREY, linewidth=0.6)
            axes.tick_params(length=2)
        if is_last:
            axes.set_xlabel(x_label)
        if label is not None:
            wrapped = textwrap.fill(plain(label).replace(",", ", "), LABEL_WIDTH).replace(", ", ",")
            axes.set_ylabel("\n".join(part for part in (wrapped, y_label) if part), fontweight="bold")
        if ndim == 1 or is_last:
            mark_values(axes.xaxis, self.value_names)
        else:  # ticks without numbers would take a fifth of a picture's time
            axes.set_xticks([])
        if ndim == 2 and label is not None:
            mark_values(axes.yaxis, self.value_names)
        elif ndim == 2:
            axes.set_yticks([])


def _draw_panel(axes: Axes, panel: Panel, top: float) -> Any:
    if panel.values.ndim == 2:
        low = -top if panel.kind == "change" else 0.0
        image = axes.imshow(panel.values.T, origin="lower", cmap=KINDS[panel.kind][0], vmin=low, vmax=top)
        for inside, style in zip(panel.outlines, ("-", (0, (1, 1.5)))):
            axes.add_collection(_outline(inside, style))
        return image
    if panel.curves:
        _draw_curves(axes, panel.curves)
        axes.set_ylim(bottom=0)
        return None
    axes.axhline(0, color=GREY, linewidth=0.8)
    colours = np.where(panel.values > 0, "#b2182b", "#2166ac")  # the end colours of the heat maps' scale
    axes.bar(np.arange(len(panel.values)), panel.values, width=0.9, color=colours.tolist())
    if panel.kind == "change":
        axes.set_ylim(-1.05 * top, 1.05 * top)
    return None


def _draw_curves(axes: Axes, curves: Mapping[str, np.ndarray]) -> None:
    """The class as a grey area, samples as points, every other distribution as steps."""
    for k, (name, values) in enumerate(curves.items()):
        colour = COLOURS.get(name, CYCLE[(k + 2) % len(CYCLE)])
        label = plain(TITLES.get(name, name))
        if name == "class":
            axes.fill_between(np.arange(len(values)), values, step="mid", color=colour, alpha=0.5, lw=0, label=label)
        elif name == "samples":
            axes.plot(values, color=colour, label=label, linestyle="none", marker=".", markersize=4)
        else:
            width = 3.5 if name == "exact" else 1.5
            style: Any = (0, (4, 2)) if name == "tilted" else "-"
            axes.plot(values, color=colour, label=label, linestyle=style, linewidth=width, drawstyle="steps-mid")


def _outline(inside: np.ndarray, style: object) -> LineCollection:
    """The border of a set of cells, drawn along their edges; the first axis of `inside` runs to the right."""
    padded = np.pad(inside.astype(int), 1)
    segments = []
    for i, j in np.argwhere(np.diff(padded, axis=0)):  # between columns i-1 and i of the unpadded array
        segments.append([(i - 0.5, j - 1.5), (i - 0.5, j - 0.5)])
    for i, j in np.argwhere(np.diff(padded, axis=1)):
        segments.append([(i - 1.5, j - 0.5), (i - 0.5, j - 0.5)])
    return LineCollection(segments, colors=OUTLINE, linewidths=1.4, linestyles=[style])
