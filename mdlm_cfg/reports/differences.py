"""Differences beside laws: a row per guidance strength, a column per pair of laws, on a scale of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mdlm_cfg.reports.heatmaps import label_axes, place_columns, plane_of
from mdlm_cfg.reports.style import CHANGE, COLOURS, GREY, PROBABILITY, RC, TITLES, hide_frame, new_figure, save_figure
from mdlm_cfg.reports.ticks import mark_values
from mdlm_cfg.studies.table.distances import TableEvaluation
from mdlm_cfg.studies.table.strength import StrengthEvaluation

PAIRS = (("exact", "class"), ("exact", "tilted"), ("learned", "exact"))
MAX_PAIRED = 6  # coordinates up to which every two are shown
ROUNDING = 1e-12
SIZE = 2.05  # inches of a panel


def _pairs(evaluation: TableEvaluation) -> list[tuple[str, str]]:
    """The pairs there are, and samples against the law that they follow."""
    names = evaluation.law_names
    found = [pair for pair in PAIRS if set(pair) <= set(names)]
    return found if evaluation.follows is None else [*found, ("samples", evaluation.follows)]


@rc_context(RC)
def draw_differences(evaluation: TableEvaluation, path: Path) -> Path:
    """The first law less the second, of one or two coordinates: what guidance did, what the network has wrong, noise.

    Returns:
        `path`, written as PNG.
    """
    pairs, results = _pairs(evaluation), evaluation.results
    height = SIZE + 0.35 if evaluation.num_dims == 2 else 1.4
    figure, grid = new_figure(
        len(results), len(pairs), SIZE * len(pairs) + 1.1, height * len(results) + 0.9, sharex=True
    )
    for column, pair in enumerate(pairs):
        found = {k: _less(result, *pair) for k, result in enumerate(results) if set(pair) <= set(result.laws)}
        top = max(float(np.abs(values).max()) for values in found.values())
        top = top if top > ROUNDING else 1.0  # rounding is not spread over a scale
        for row, axes in enumerate(grid[:, column]):
            if row not in found:
                hide_frame(axes)
                continue
            shown = _paint(axes, found[row], top)
            label = f"w = {results[row].guidance.label}" if column == 0 else None
            label_axes(axes, label, last_row=row == len(results) - 1, two=evaluation.num_dims == 2)
            for axis in (axes.xaxis, axes.yaxis)[: evaluation.num_dims]:
                mark_values(axis, evaluation.value_names)
        grid[0, column].set_title(f"{TITLES[pair[0]]}\n- {TITLES[pair[1]]}", fontsize=9)
        if evaluation.num_dims == 2:
            bar = figure.colorbar(
                shown, ax=grid[:, column].tolist(), location="bottom", fraction=0.04, pad=0.02, aspect=18
            )
            bar.locator = MaxNLocator(3)
            bar.update_ticks()
            bar.outline.set_visible(False)
    rows = [
        {"w": result.guidance.label, **place, **{f"{a} - {b}": v for (a, b), v in zip(pairs, values)}}
        for result in results
        for place, values in _places(result, pairs)
    ]
    return save_figure(figure, path, rows)


def _less(result: StrengthEvaluation, first: str, second: str) -> np.ndarray:
    return (result.laws[first] - result.laws[second]).numpy()


def _places(result: StrengthEvaluation, pairs: list[tuple[str, str]]) -> list[tuple[dict[str, int], list[Any]]]:
    there = [_less(result, *pair) if set(pair) <= set(result.laws) else None for pair in pairs]
    columns = place_columns(result.laws["exact"].numpy())
    return [(place, [None if d is None else d[tuple(place.values())] for d in there]) for place in columns]


def _paint(axes: Axes, values: np.ndarray, top: float) -> Any:
    if values.ndim == 2:
        return axes.imshow(values.T, origin="lower", cmap=CHANGE, vmin=-top, vmax=top)
    axes.axhline(0, color=GREY, linewidth=0.8)
    colours = np.where(values > 0, "#b2182b", "#2166ac")  # the ends of the scale of maps
    axes.bar(np.arange(len(values)), values, width=0.9, color=colours)
    axes.set_ylim(-1.05 * top, 1.05 * top)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    return None


@rc_context(RC)
def draw_pairs(result: StrengthEvaluation, path: Path) -> Path:
    """Every two coordinates of D > 2: the exact law's marginals below the diagonal, less the class's above it.

    On the diagonal the marginals of one coordinate, the class's in grey.

    Returns:
        `path`, written as PNG.
    """
    exact, own = result.laws["exact"], result.laws["class"]
    d, rows = exact.ndim, []
    figure, grid = new_figure(d, d, 1.45 * d + 1.2, 1.45 * d + 0.6)
    marginals = {(i, j): (plane_of(exact, i, j), plane_of(own, i, j)) for i in range(d) for j in range(i)}
    top = max(float(p.max()) for p, _ in marginals.values())
    change = max(1e-12, max(float(np.abs(p - q).max()) for p, q in marginals.values()))
    for (i, j), (p, q) in marginals.items():
        below = grid[i, j].imshow(p, origin="lower", aspect="auto", cmap=PROBABILITY, vmin=0, vmax=top)
        above = grid[j, i].imshow((p - q).T, origin="lower", aspect="auto", cmap=CHANGE, vmin=-change, vmax=change)
        rows += [
            {"i": i + 1, "j": j + 1, "x_i": a, "x_j": b, "exact": p[a, b], "class": q[a, b]}
            for a, b in np.ndindex(p.shape)
        ]
    for i in range(d):
        _marginal(grid[i, i], exact, own, i)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for i in range(d):
        grid[-1, i].set_xlabel(f"$x_{{{i + 1}}}$")
        grid[i, 0].set_ylabel(f"$x_{{{i + 1}}}$")
    for shown, label in ((below, "probability, exact guided"), (above, "exact guided - class")):
        bar = figure.colorbar(shown, ax=grid.ravel().tolist(), fraction=0.03, pad=0.02, aspect=30)
        bar.set_label(label, fontsize=9)
        bar.outline.set_visible(False)
    return save_figure(figure, path, rows)


def _marginal(axes: Axes, exact: Tensor, own: Tensor, i: int) -> None:
    rest = [k for k in range(exact.ndim) if k != i]
    values = np.arange(exact.shape[i])
    axes.bar(values, own.sum(dim=rest).numpy(), width=1.0, color=COLOURS["class"])
    axes.stairs(exact.sum(dim=rest).numpy(), np.arange(len(values) + 1) - 0.5, color=COLOURS["exact"], linewidth=1.8)
