"""The picture of docs/wandb.md: python docs/dashboard.py RUN, the folder of an offline training run on a table.

It draws the panels of mdlm_cfg/reports/dashboards.py, in their order and three in a row as on wandb, from the numbers
and images that the run logged, as wandb's own reader shows them. It is no screenshot of wandb's site.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import SubFigure

from mdlm_cfg.reports.dashboards import PICTURES, SECTIONS, Panel
from mdlm_cfg.reports.style import CYCLE, DPI, RC

PICTURE = Path(__file__).parent / "pictures" / "wandb_dashboard.png"
ACROSS = 3
WIDTH = 14.0  # inches
HEIGHT = 2.9  # of a row of curves; inches
MEDIA_HEIGHT = 4.2  # of a row of pictures; inches

Items = Sequence[Mapping[str, Any]]


def history_of(log: Path) -> Items:
    """What a run logged, by step: names and values."""
    wandb = Path(sys.executable).with_name("wandb")
    command = [wandb, "leet", "inspect", "--json", log]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def curves_of(panel: Panel, history: Items) -> dict[str, list[tuple[float, float]]]:
    """The points of each metric of a panel that was logged, by its name."""
    found: dict[str, list[tuple[float, float]]] = {}
    for item in history:
        for name in panel.metrics:
            if name in item and panel.axis in item:
                found.setdefault(name, []).append((item[panel.axis], item[name]))
    return {name: sorted(points) for name, points in found.items()}


def draw_section(figure: SubFigure, title: str, panels: Sequence[Panel], history: Items) -> None:
    """The panels of a section, three in a row."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    rows = -(-len(panels) // ACROSS)
    grid = figure.subplots(rows, ACROSS, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels):
        for colour, (name, points) in zip(CYCLE, curves_of(panel, history).items()):
            marker = "o" if len(points) <= 30 else None
            axes.plot(*zip(*points), color=colour, marker=marker, markersize=4, label=name)
        axes.set(title=panel.title, xlabel=panel.axis)
        axes.legend(fontsize=8)


def draw_pictures(figure: SubFigure, files: Path, history: Items) -> None:
    """The last picture of each name that was logged."""
    figure.suptitle("Pictures", x=0.01, ha="left", fontsize=13, fontweight="bold")
    paths = {name: item[f"{name}.path"] for item in history for name in PICTURES if f"{name}.path" in item}
    grid = figure.subplots(1, len(paths), squeeze=False)
    for axes, (name, path) in zip(grid.flat, paths.items()):
        axes.imshow(pyplot.imread(files / path))
        axes.set_title(name)
        axes.axis("off")


def main(run: Path) -> None:
    """Draw the dashboard of a run."""
    (log,) = run.rglob("*.wandb")
    history = history_of(log)
    logged = {title: panels for title, panels in SECTIONS.items() if any(curves_of(panel, history) for panel in panels)}
    heights = [HEIGHT * -(-len(panels) // ACROSS) + 0.4 for panels in logged.values()] + [MEDIA_HEIGHT]
    with pyplot.rc_context(RC):
        figure = pyplot.figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(heights), 1, height_ratios=heights)
        for part, (title, panels) in zip(parts, logged.items()):
            draw_section(part, title, panels, history)
        draw_pictures(parts[-1], log.parent / "files", history)
        figure.savefig(PICTURE, dpi=DPI / 2, bbox_inches="tight", pad_inches=0.15)
    print(f"{PICTURE}; sections of which nothing was logged: {', '.join(set(SECTIONS) - set(logged)) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
