"""Laws side by side: one row per guidance strength, one panel per law."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mdlm_cfg.reports.style import (
    COLOURS,
    CYCLE,
    GREY,
    PROBABILITY,
    RC,
    TITLES,
    divide,
    empty_figure,
    new_figure,
    save_figure,
)  # fmt: skip
from mdlm_cfg.reports.tables import format_strength
from mdlm_cfg.reports.ticks import mark_values
from mdlm_cfg.studies.table.distances import TableEvaluation
from mdlm_cfg.studies.table.overlap import OverlapRow

SUPPORT_COLOUR = "#56B4E9"
LABEL_WIDTH = 24  # letters of a label beside a panel, before it goes on in another line
SAMPLES_HEADROOM = 1.5  # the colour scale follows the samples up to this multiple of the laws' maximum
LINES = {"tilted": (0, (4, 2)), "exact": "-", "learned": "-", "samples": "none"}
OVER = ("class", "exact", "tilted", "learned", "samples")  # curves, from below to above


@dataclass(frozen=True)
class LawRow:
    """Laws that belong together: those of one strength.

    Attributes:
        label: of the row. laws: by name, float64 (N,)*D each. notes: a line over the panel of a law, by its name.
    """

    label: str
    laws: Mapping[str, Tensor]
    notes: Mapping[str, str] = field(default_factory=dict)


def draw_laws(evaluation: TableEvaluation, path: Path) -> Path:
    """Write the laws of every strength as a PNG to `path` (see `laws_on`), and return that."""
    figure = empty_figure()
    evaluated_laws_on(figure, evaluation)
    with rc_context(RC):
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


def evaluated_laws_on(figure: Figure, evaluation: TableEvaluation) -> np.ndarray:
    """`laws_on` of an evaluation: the class's support outlined, and every law's TV to the exact one said."""
    rows = []
    for result in evaluation.results:
        notes = {name: f"TV to exact {result.tv(name, 'exact'):.3f}" for name in result.laws if name != "exact"}
        rows.append(LawRow(f"w = {result.guidance.label}", result.laws, notes))
    support = plane_of(evaluation.class_law) > 0
    outlines = (support, support & (plane_of(evaluation.others_law) > 0))
    return laws_on(figure, rows, evaluation.law_names, outlines, evaluation.value_names)


def laws_on(
    figure: Figure,
    rows: Sequence[LawRow],
    names: Sequence[str],
    outlines: Sequence[np.ndarray] = (),
    value_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Laws side by side: curves for D = 1, heat maps for D = 2, marginals of the first two coordinates beyond.

    Args:
        figure: an empty one.
        rows: one for each strength. names: of the laws, in their order; a row may lack some.
        outlines: boolean (N, N), sets of states to surround with a line, the second one with dots: D >= 2 alone.
        value_names: of the N values, for the axes; None is numbers.

    Returns:
        the axes: (rows, names), or for D = 1 one for each row, two beside each other.
    """
    one_dimensional = next(iter(rows[0].laws.values())).ndim == 1
    if one_dimensional:
        return curves_on(figure, rows, names, value_names)
    return heat_maps_on(figure, rows, names, outlines, value_names)


@rc_context(RC)
def curves_on(
    figure: Figure, rows: Sequence[LawRow], names: Sequence[str], value_names: Sequence[str] | None = None
) -> np.ndarray:
    """D = 1: the laws of each row over one another, the class as a grey area."""
    across = min(len(rows), 2)
    down = -(-len(rows) // across)
    grid = divide(figure, down, across, 4.6 * across, 2.7 * down + 0.5, sharex=True, sharey=True)
    for axes in grid.flat[len(rows) :]:
        axes.set_visible(False)
    for k, (axes, row) in enumerate(zip(grid.flat, rows)):
        _draw_curves_of(axes, row.laws, [name for name in names if name in row.laws])
        axes.set_title(row.label, loc="left")
        if k % across == 0:
            axes.set_ylabel("probability")
        mark_values(axes.xaxis, value_names)
        if k + across >= len(rows):
            axes.set_xlabel("value $x$")
            axes.xaxis.set_tick_params(labelbottom=True)
    grid[0, 0].set_ylim(bottom=0)
    _legend_of_all(figure, grid)
    return grid


def _legend_of_all(figure: Figure, grid: np.ndarray) -> None:
    """One legend above all panels: a panel may lack a law that another has."""
    pairs = [axes.get_legend_handles_labels() for axes in grid.flat]
    entries = {label: handle for handles, labels in pairs for handle, label in zip(handles, labels)}
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=len(entries))


def _draw_curves_of(axes: Axes, laws: Mapping[str, Tensor], names: Sequence[str]) -> None:
    for k, name in enumerate(sorted(names, key=lambda name: OVER.index(name) if name in OVER else len(OVER))):
        law, colour = laws[name].numpy(), COLOURS.get(name, CYCLE[(k + 2) % len(CYCLE)])
        if name == "class":
            axes.fill_between(
                np.arange(len(law)), law, step="mid", color=colour, alpha=0.5, lw=0, label=TITLES[name]
            )  # fmt: skip
            continue
        points = name == "samples"
        axes.plot(
            law, color=colour, label=TITLES.get(name, name), linestyle=LINES.get(name, "-"),
            marker="." if points else None, markersize=4, linewidth=3.5 if name == "exact" else 1.5,
            drawstyle="default" if points else "steps-mid",
        )  # fmt: skip


@rc_context(RC)
def heat_maps_on(
    figure: Figure,
    rows: Sequence[LawRow],
    names: Sequence[str],
    outlines: Sequence[np.ndarray] = (),
    value_names: Sequence[str] | None = None,
) -> np.ndarray:
    """D >= 2: a row of panels for every row of laws, on one colour scale; beyond D = 2, marginals of two coordinates.

    Very noisy samples may exceed the colour scale.
    """
    size = 2.05
    grid = divide(figure, len(rows), len(names), size * len(names) + 1.1, (size + 0.35) * len(rows) + 0.35)
    shown = [{name: plane_of(row.laws[name]) for name in names if name in row.laws} for row in rows]
    top, exceeds = _colour_scale(shown)
    for k, (line, row, planes) in enumerate(zip(grid, rows, shown)):
        for column, (axes, name) in enumerate(zip(line, names)):
            if name not in planes:
                axes.set_axis_off()
                continue
            image = axes.imshow(planes[name].T, origin="lower", cmap=PROBABILITY, vmin=0, vmax=top)
            for inside, style in zip(outlines, ("-", (0, (1, 1.5)))):
                axes.add_collection(_outline(inside, style))
            head, note = [TITLES.get(name, name)] if k == 0 else [], row.notes.get(name, "")
            axes.set_title("\n".join([*head, *([note] if row.notes else [])]), fontsize=9)
            label_axes(axes, row.label if column == 0 else None, last_row=k == len(rows) - 1)
            mark_values(axes.xaxis, value_names)
            mark_values(axes.yaxis, value_names)
    bar = figure.colorbar(
        image, ax=grid.ravel().tolist(), fraction=0.02, pad=0.01, extend=exceeds, aspect=16 * len(rows)
    )
    bar.locator = MaxNLocator(4 if len(rows) == 1 else 6)
    bar.update_ticks()
    bar.outline.set_visible(False)
    bar.set_label("probability", fontsize=9)
    return grid


def _colour_scale(shown: Sequence[Mapping[str, np.ndarray]]) -> tuple[float, str]:
    """The top of the colours, and which end of them is exceeded."""
    samples = max((float(planes["samples"].max()) for planes in shown if "samples" in planes), default=0.0)
    tops = [float(plane.max()) for planes in shown for name, plane in planes.items() if name != "samples"]
    top = max(tops, default=samples)
    top = min(max(top, samples), SAMPLES_HEADROOM * top)
    return top, "max" if samples > top else "neither"


def plane_of(law: Tensor, i: int = 0, j: int = 1) -> np.ndarray:
    """The marginal of two coordinates, (N, N), x_i first; a law of one or two coordinates is itself."""
    if law.ndim < 3:
        return law.numpy()
    marginal = law.sum(dim=[k for k in range(law.ndim) if k not in (i, j)]).numpy()
    return marginal if i < j else marginal.T


def label_axes(axes: Axes, label: str | None, last_row: bool, two: bool = True) -> None:
    """Name the axes of a panel: its row's label in the first column (None elsewhere), x_1 below the last row.

    Args:
        two: whether the vertical axis is x_2; else it has values of its own.
    """
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY, linewidth=0.6)
    axes.tick_params(length=2, labelleft=label is not None or not two, labelbottom=last_row)
    if last_row:
        axes.set_xlabel("$x_1$" if two else "value $x$")
    if label is not None:
        shown = textwrap.fill(label.replace(",", ", "), LABEL_WIDTH).replace(", ", ",")
        lines = [line for line in (shown, "$x_2$" if two else "") if line]
        axes.set_ylabel("\n".join(lines), fontweight="bold")


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
