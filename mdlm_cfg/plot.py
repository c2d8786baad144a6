"""Pictures for notebooks, drawn as the reports draw them: every function returns matplotlib axes.

    from mdlm_cfg import plot

Each makes a pyplot figure of its own, which a notebook shows; `axes.figure.savefig(...)` writes it to a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from textwrap import fill
from typing import TypeVar

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mdlm_cfg.compare.decay import Decay
from mdlm_cfg.compare.ledger import Ledger
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.reports.bars import bars_on
from mdlm_cfg.reports.curves import Points, decay_on, distances_on, lines_on
from mdlm_cfg.reports.heatmaps import LawRow, evaluated_laws_on, laws_on
from mdlm_cfg.reports.images import images_on
from mdlm_cfg.studies.table.distances import TableEvaluation
from mdlm_cfg.support.errors import UserError

Drawn = TypeVar("Drawn")
WRAP = 14  # letters of a line's name
REFERENCE = "exact"  # the law that the others' distances are taken to


def laws(
    found: TableEvaluation | Mapping[str, Tensor] | Mapping[str, Mapping[str, Tensor]],
    value_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Laws side by side: curves for D = 1, heat maps for D = 2, marginals of the first two coordinates beyond.

    Args:
        found: what `evaluate_table` returns; or laws, float64 (N,)*D each, by name; or several such rows by their
            labels, all on one colour scale. "class", "tilted", "exact", "learned" and "samples" have their
            own colours and titles. Where a row has a law "exact", TV to it stands above the others.
        value_names: of the N values, for the axes of laws; None is numbers. What `evaluate_table` returns has its own.

    Returns:
        the axes, an array: (rows, laws), or for D = 1 one for each row, two beside each other.

    Raises:
        UserError: no laws, or laws of several shapes.
    """
    if isinstance(found, TableEvaluation):
        return _draw(lambda figure: evaluated_laws_on(figure, found))
    rows = [_row(label, row) for label, row in _by_row(found).items()]
    names = list(dict.fromkeys(name for row in rows for name in row.laws))
    shapes = {tuple(law.shape) for row in rows for law in row.laws.values()}
    if len(shapes) != 1:
        raise UserError(f"laws beside each other must have one shape (N, ..., N), got {sorted(shapes) or 'no laws'}")
    return _draw(lambda figure: laws_on(figure, rows, names, value_names=value_names))


def distances(evaluation: TableEvaluation) -> Axes:
    """Guidance effect, gap to the tilted law, score error and the samples' distance in TV, against w.

    Args:
        evaluation: what `evaluate_table` returns, of at least one w that is a number.
    """
    return _draw(lambda figure: distances_on(figure, evaluation))


def decay(found: Decay) -> Axes:
    """-ln TV to the terminal law against the clock tau, a line per w (theory, section 5).

    Args:
        found: what `tv_decay` returns.
    """
    return _draw(lambda figure: decay_on(figure, found))


def ledger(entries: Ledger | Sequence[Ledger]) -> Axes:
    """The lines of error ledgers as bars, in TV: a group per line, a bar per entry (theory, section 8).

    Args:
        entries: what `error_ledger` returns, one or several: of other strengths, samplers or networks.

    Raises:
        UserError: no entry.
    """
    several = [entries] if isinstance(entries, Ledger) else list(entries)
    if not several:
        raise UserError("there is no ledger to draw: give at least one, from error_ledger(...)")
    lines = list(dict.fromkeys(line for entry in several for line in entry.tv))
    bars = {label: [entry.tv.get(line, 0.0) for line in lines] for label, entry in zip(_labels(several), several)}
    names = [fill(line, WRAP) for line in lines]
    return _draw(lambda figure: bars_on(figure, {"": bars}, names, "", "total variation")[0, 0])


def lines(
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    dashed: Collection[str] = (),
) -> Axes:
    """Any y against any x: a line per name.

    Args:
        series: (x, y) by the name in the legend.
        x_label, y_label: with their units.
        log_x, log_y: logarithmic axes.
        dashed: names of the series drawn dashed: a floor, a reference.
    """
    how = {"log_x": log_x, "log_y": log_y, "dashed": dashed}
    return _draw(lambda figure: lines_on(figure, series, x_label, y_label, **how))  # type: ignore[arg-type]


def images(samples: Mapping[float, np.ndarray], class_names: Sequence[str] | None = None) -> np.ndarray:
    """Images of every class, one block of columns per w.

    Args:
        samples: by w: (classes, images, height, width), one shape for all, values 0 to their common maximum.
        class_names: of the rows; default 0, 1, ...

    Returns:
        the axes, an array (1, strengths).

    Raises:
        UserError: no images, or of several shapes.
    """
    return _draw(lambda figure: images_on(figure, samples, class_names))


def _draw(on: Callable[[Figure], Drawn]) -> Drawn:
    return on(pyplot.figure(layout="constrained"))


def _by_row(found: Mapping[str, Tensor] | Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    """Rows by label; laws that stand alone are one row without."""
    rows = {label: row for label, row in found.items() if not isinstance(row, Tensor)}
    return rows or {"": {name: law for name, law in found.items() if isinstance(law, Tensor)}}


def _row(label: str, laws: Mapping[str, Tensor]) -> LawRow:
    others = {name: law for name, law in laws.items() if name != REFERENCE} if REFERENCE in laws else {}
    notes = {name: f"TV to exact {total_variation(laws[REFERENCE], law):.3f}" for name, law in others.items()}
    return LawRow(label, laws, notes)


def _labels(entries: Sequence[Ledger]) -> list[str]:
    """What tells the entries apart: strengths, samplers, or their place."""
    for labels in (
        [f"w = {entry.guidance.label}" for entry in entries],
        [entry.sampler.label for entry in entries],
        [f"w = {entry.guidance.label}, {entry.sampler.label}" for entry in entries],
    ):
        if len(set(labels)) == len(labels):
            return labels
    return [f"{k}: w = {entry.guidance.label}, {entry.sampler.label}" for k, entry in enumerate(entries, 1)]
