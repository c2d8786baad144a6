"""Pictures for notebooks, drawn as the reports draw them: every function returns matplotlib axes.

    from mdlm_cfg import plot

Each makes a pyplot figure of its own, which a notebook shows; `axes.figure.savefig(...)` writes it to a file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib import pyplot, rc_context
from matplotlib.axes import Axes
from torch import Tensor

from mdlm_cfg.compare.decay import Decay
from mdlm_cfg.compare.ledger import Ledger
from mdlm_cfg.reports.pictures import Drawing
from mdlm_cfg.reports.pictures.bars import BarGroups
from mdlm_cfg.reports.pictures.lines import Lines, Points
from mdlm_cfg.reports.pictures.mosaic import Images
from mdlm_cfg.reports.pictures.panels import Panels
from mdlm_cfg.reports.style import RC
from mdlm_cfg.studies.law_pictures import law_panels
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.checks import checked_names

WRAP = 14  # letters of a line's name
SMALLEST_DECAY = 1e-12  # of -ln TV that is drawn


@checked
def laws(
    found: Mapping[str, Tensor] | Mapping[str, Mapping[str, Tensor]], value_names: Sequence[str] | None = None
) -> np.ndarray:
    """Distributions side by side: curves for D = 1, heat maps for D = 2, marginals of two coordinates beyond.

    Args:
        found: distributions, float64 (N,)*D each, by name; or several such rows by their labels, all on one colour
            scale. "class", "tilted", "exact", "learned" and "samples" have their own colours and titles. Where a row
            has "exact", the TV to it stands above the others.
        value_names: of the N values, for the axes; None is numbers.

    Returns:
        the axes, an array: (rows, distributions), or (rows, 1) for D = 1.

    Raises:
        UserError: no distributions, or distributions of several shapes.
    """
    rows = _by_row(found)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    shapes = {tuple(law.shape) for row in rows.values() for law in row.values()}
    if len(shapes) != 1:
        raise UserError(
            "distributions that are drawn side by side must have the same shape (N, ..., N), got "
            f"{sorted(shapes) or None}"
        )
    value_names = checked_names("value_names", value_names, next(iter(shapes))[0])
    labels = ("value x", "") if len(next(iter(shapes))) == 1 else ("$x_1$", "$x_2$")
    return _draw(Panels(law_panels(rows, names), labels, value_names=value_names))


@checked
def decay(found: Decay) -> Axes:
    """-ln TV to the terminal distribution against the time tau, a line per w (theory, section 5).

    Args:
        found: what `tv_decay` returns.
    """
    series: dict[str, Points] = {}
    for w, log_tv in zip(found.strengths, found.log_tv):
        shown = [(t, -v) for t, v in zip(found.taus.tolist(), log_tv.tolist()) if -v > SMALLEST_DECAY]
        if shown:
            series[f"w = {w:g}"] = ([t for t, _ in shown], [v for _, v in shown])
    return _only(Lines({"": series}, "time tau", "-ln P(still masked)", log_x=True, log_y=True))


@checked
def ledger(entries: Ledger | Sequence[Ledger]) -> Axes:
    """The lines of error budgets as bars, in TV: a group per line, a bar per entry (theory, section 8).

    Args:
        entries: what `error_ledger` returns, one or several: of other strengths, samplers or networks.

    Raises:
        UserError: no entry.
    """
    several = [entries] if isinstance(entries, Ledger) else list(entries)
    if not several:
        raise UserError("there is no error budget to draw: give at least one, from error_ledger(...)")
    lines = list(dict.fromkeys(line for entry in several for line in entry.tv))
    bars = {label: [entry.tv.get(line, 0.0) for line in lines] for label, entry in zip(_labels(several), several)}
    return _only(BarGroups(bars, [fill(line, WRAP) for line in lines], "", "total variation"))


@checked
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
    return _only(Lines({"": series}, x_label, y_label, log_x, log_y, dashed=dashed))


@checked
def images(samples: Mapping[float, np.ndarray], class_names: Sequence[str] | None = None) -> np.ndarray:
    """Images of every class, one block of columns per w.

    Args:
        samples: by w: (classes, images, height, width), one shape for all, values 0 to their common maximum.
        class_names: of the rows; default 0, 1, ...

    Returns:
        the axes, an array (1, strengths).

    Raises:
        UserError: no images, of several shapes, or another number of class names than of classes.
    """
    arrays = {f"w = {w:g}": np.asarray(array, dtype=np.float64) for w, array in samples.items()}
    top = max((float(array.max(initial=0.0)) for array in arrays.values()), default=0.0) or 1.0
    num = len(next(iter(arrays.values()))) if arrays else 0
    names = [str(k) for k in range(num)] if class_names is None else list(class_names)
    if len(names) != num:
        raise UserError(f"there are {len(names)} class names for {num} classes")
    return _draw(Images({label: array / top for label, array in arrays.items()}, names))


def _draw(drawing: Drawing) -> np.ndarray:
    pyplot.draw_if_interactive()  # loads the backend: what a notebook's sets must outlast the context
    with rc_context(RC):
        return drawing.draw(pyplot.figure(layout="constrained"))


def _only(drawing: Drawing) -> Axes:
    axes: Axes = _draw(drawing).flat[0]
    return axes


def _by_row(found: Mapping[str, Tensor] | Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    """Rows by label; distributions that stand alone are one row without a label."""
    rows = {label: row for label, row in found.items() if not isinstance(row, Tensor)}
    return rows or {"": {name: law for name, law in found.items() if isinstance(law, Tensor)}}


def _labels(entries: Sequence[Ledger]) -> list[str]:
    """The label of each entry: its strength, sampler, or position."""
    for labels in (
        [f"w = {entry.guidance.label}" for entry in entries],
        [entry.sampler.label for entry in entries],
        [f"w = {entry.guidance.label}, {entry.sampler.label}" for entry in entries],
    ):
        if len(set(labels)) == len(labels):
            return labels
    return [f"{k}: w = {entry.guidance.label}, {entry.sampler.label}" for k, entry in enumerate(entries, 1)]
