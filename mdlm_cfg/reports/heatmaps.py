"""Laws side by side: one row per guidance strength, one panel per law."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mdlm_cfg.reports.style import COLOURS, GREY, PROBABILITY, RC, TITLES, new_figure, save_figure
from mdlm_cfg.reports.tables import format_strength
from mdlm_cfg.studies.table.distances import TableEvaluation
from mdlm_cfg.studies.table.overlap import OverlapRow
from mdlm_cfg.studies.table.strength import StrengthEvaluation

SUPPORT_COLOUR = "#56B4E9"
LABEL_WIDTH = 20  # letters of a strength beside a panel, before it goes on in another line
SAMPLES_HEADROOM = 1.5  # the colour scale follows the samples up to this multiple of the laws' maximum
LINES = {"tilted": (0, (4, 2)), "exact": "-", "learned": "-", "samples": "none"}


def draw_laws(evaluation: TableEvaluation, path: Path) -> Path:
    """The laws of every strength: curves for D = 1, heat maps for D = 2, marginals of two coordinates beyond.

    Returns:
        `path`, written as PNG.
    """
    draw = draw_curves if evaluation.num_dims == 1 else draw_heat_maps
    return draw(evaluation, path)


@rc_context(RC)
def draw_curves(evaluation: TableEvaluation, path: Path) -> Path:
    """D = 1: the laws of each strength over one another, the class as a grey area."""
    results = evaluation.results
    columns = min(len(results), 2)
    rows = -(-len(results) // columns)
    figure, grid = new_figure(rows, columns, 4.6 * columns, 2.7 * rows + 0.5, sharex=True, sharey=True)
    for axes in grid.flat[len(results) :]:
        axes.set_visible(False)
    for k, (axes, result) in enumerate(zip(grid.flat, results)):
        _draw_curves_of(axes, result, [name for name in evaluation.law_names if name in result.laws])
        axes.set_title(f"w = {result.guidance.label}", loc="left")
        if k % columns == 0:
            axes.set_ylabel("probability")
        if k + columns >= len(results):
            axes.set_xlabel("value $x$")
            axes.xaxis.set_tick_params(labelbottom=True)
    grid[0, 0].set_ylim(bottom=0)
    _legend_of_all(figure, grid)
    return save_figure(figure, path, _rows(evaluation))


def _rows(evaluation: TableEvaluation) -> list[dict[str, float | str]]:
    """Every law that is drawn, a line per strength and place."""
    rows: list[dict[str, float | str]] = []
    for result in evaluation.results:
        shown = {name: plane_of(law) for name, law in result.laws.items()}
        for place in place_columns(shown["exact"]):
            probabilities = {name: float(p[tuple(place.values())]) for name, p in shown.items()}
            rows.append({"w": result.guidance.label, **place, **probabilities})
    return rows


def place_columns(values: np.ndarray) -> list[dict[str, int]]:
    """Every place of an array as columns of a csv file: x, or x1 and x2."""
    names = ["x"] if values.ndim == 1 else [f"x{i + 1}" for i in range(values.ndim)]
    return [dict(zip(names, place)) for place in np.ndindex(values.shape)]


def _legend_of_all(figure: Figure, grid: np.ndarray) -> None:
    """One legend above all panels: a panel may lack a law that another has."""
    pairs = [axes.get_legend_handles_labels() for axes in grid.flat]
    entries = {label: handle for handles, labels in pairs for handle, label in zip(handles, labels)}
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=len(entries))


def _draw_curves_of(axes: Axes, result: StrengthEvaluation, names: list[str]) -> None:
    values = np.arange(result.laws["class"].shape[0])
    axes.fill_between(
        values, result.laws["class"].numpy(), step="mid", color=COLOURS["class"], alpha=0.5, lw=0,
        label=TITLES["class"],
    )  # fmt: skip
    for name in (name for name in ("exact", "tilted", "learned", "samples") if name in names):
        points = name == "samples"
        axes.plot(
            values, result.laws[name].numpy(), color=COLOURS[name], label=TITLES[name], linestyle=LINES[name],
            marker="." if points else None, markersize=4, linewidth=3.5 if name == "exact" else 1.5,
            drawstyle="default" if points else "steps-mid",
        )  # fmt: skip


@rc_context(RC)
def draw_heat_maps(evaluation: TableEvaluation, path: Path) -> Path:
    """D >= 2: a row of panels per strength, all on one colour scale; beyond D = 2, marginals of two coordinates.

    The class's support is outlined, and dotted where it overlaps with other classes'. Very noisy samples may
    exceed the colour scale.
    """
    names, results = evaluation.law_names, evaluation.results
    size = 2.05
    figure, grid = new_figure(len(results), len(names), size * len(names) + 1.1, (size + 0.35) * len(results) + 0.35)
    support = plane_of(evaluation.class_law) > 0
    overlap = support & (plane_of(evaluation.others_law) > 0)
    shown = [{name: plane_of(law) for name, law in result.laws.items()} for result in results]
    top = max(plane.max() for planes in shown for name, plane in planes.items() if name != "samples")
    most = max(planes["samples"].max() for planes in shown)
    top = min(max(top, most), SAMPLES_HEADROOM * top)
    for row, (line, result, planes) in enumerate(zip(grid, results, shown)):
        for column, (axes, name) in enumerate(zip(line, names)):
            if name not in planes:
                axes.set_axis_off()
                continue
            image = axes.imshow(planes[name].T, origin="lower", cmap=PROBABILITY, vmin=0, vmax=top)
            axes.add_collection(_outline(support, "-"))
            axes.add_collection(_outline(overlap, (0, (1, 1.5))))
            _label_panel(axes, result, name, first_row=row == 0)
            label_axes(axes, result.guidance.label if column == 0 else None, last_row=row == len(results) - 1)
    exceeds = "max" if most > top else "neither"
    bar = figure.colorbar(image, ax=grid.ravel().tolist(), fraction=0.02, pad=0.01, extend=exceeds, aspect=30)
    bar.locator = MaxNLocator(6)
    bar.update_ticks()
    bar.outline.set_visible(False)
    bar.set_label("probability", fontsize=9)
    return save_figure(figure, path, _rows(evaluation))


def plane_of(law: Tensor, i: int = 0, j: int = 1) -> np.ndarray:
    """The marginal of two coordinates, (N, N), x_i first; a law of one or two coordinates is itself."""
    if law.ndim < 3:
        return law.numpy()
    marginal = law.sum(dim=[k for k in range(law.ndim) if k not in (i, j)]).numpy()
    return marginal if i < j else marginal.T


def _label_panel(axes: Axes, result: StrengthEvaluation, name: str, first_row: bool) -> None:
    distance = "" if name == "exact" else f"TV to exact {result.tv(name, 'exact'):.3f}"
    axes.set_title(f"{TITLES[name]}\n{distance}" if first_row else distance, fontsize=9)


def label_axes(axes: Axes, w: str | None, last_row: bool, two: bool = True) -> None:
    """Name the axes of a panel: the strength in the first column (None elsewhere), x_1 below the last row.

    Args:
        two: whether the vertical axis is x_2; else it has values of its own.
    """
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if two:
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(length=2, labelleft=w is not None, labelbottom=last_row)
    if last_row:
        axes.set_xlabel("$x_1$" if two else "value $x$")
    if w is not None:
        shown = textwrap.fill(w.replace(",", ", "), LABEL_WIDTH).replace(", ", ",")
        axes.set_ylabel(f"w = {shown}" + ("\n$x_2$" if two else ""), fontweight="bold")


def _outline(inside: np.ndarray, style: object) -> LineCollection:
    """The border of a set of cells, drawn along their edges; the first axis of `inside` runs to the right."""
    padded = np.pad(inside.astype(int), 1)
    segments = []
    for i, j in np.argwhere(np.diff(padded, axis=0)):  # between columns i-1 and i of the unpadded array
        segments.append([(i - 0.5, j - 1.5), (i - 0.5, j - 0.5)])
    for i, j in np.argwhere(np.diff(padded, axis=1)):
        segments.append([(i - 1.5, j - 0.5), (i - 0.5, j - 0.5)])
    return LineCollection(segments, colors=SUPPORT_COLOUR, linewidths=1.4, linestyles=[style])


@rc_context(RC)
def draw_overlap_profile(rows: Sequence[OverlapRow], path: Path) -> Path:
    """Mean probability per state of the class's support, by how many of its coordinates overlap.

    What guidance does where heat maps end (theory, sections 4 and 7): a panel per strength, a curve per law.
    """
    guidances = list(dict.fromkeys((row.w, row.kind) for row in rows))
    across = min(len(guidances), 4)
    down = -(-len(guidances) // across)
    figure, grid = new_figure(down, across, 2.5 * across + 0.6, 2.4 * down + 0.6, sharex=True, sharey=True)
    for axes in grid.flat[len(guidances) :]:
        axes.set_visible(False)
    for k, (axes, guidance) in enumerate(zip(grid.flat, guidances)):
        for row in rows:
            if (row.w, row.kind) == guidance:
                _draw_profile_of(axes, row)
        axes.set_title(f"w = {format_strength(guidance[0])}", loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if k % across == 0:
            axes.set_ylabel("mean probability per state")
    grid[0, 0].set_ylim(bottom=0)
    figure.supxlabel("number of coordinates whose value other classes take too", fontsize=10)
    _legend_of_all(figure, grid)
    numbers = [
        {"w": row.w, "kind": row.kind, "law": row.law, "overlapping": k, "mass": mass,
         "mean probability per state": row.mean_probability[k]}
        for row in rows
        for k, mass in row.mass.items()
    ]  # fmt: skip
    return save_figure(figure, path, numbers)


def _draw_profile_of(axes: Axes, row: OverlapRow) -> None:
    name, means = row.law, row.mean_probability
    linewidth = 3.5 if name == "exact" else 1.5
    linestyle = "-" if name == "class" else LINES[name]
    axes.plot(
        list(means), list(means.values()), color=COLOURS[name], label=TITLES[name], linestyle=linestyle,
        marker="o" if name == "samples" else None, markersize=4, linewidth=linewidth,
    )  # fmt: skip
