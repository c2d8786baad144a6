"""Line plots: any y against any x, and those that every run has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mdlm_cfg.compare.decay import Decay
from mdlm_cfg.reports.style import COLOURS, CYCLE, GREY, MARKERS, RC, divide, empty_figure, save_figure
from mdlm_cfg.studies.table.distances import TableEvaluation

Points = tuple[Sequence[float], Sequence[float]]
SMALLEST_DECAY = 1e-12  # of -ln TV that is drawn
MAX_MARKERS = 30  # a longer curve is drawn without


@rc_context(RC)
def line_plot(
    series: Mapping[str, Points], path: Path, x_label: str, y_label: str, title: str = "", **how: Any
) -> Path:
    """Write the lines of `lines_on` as a PNG to `path`, and return that."""
    figure = empty_figure()
    lines_on(figure, series, x_label, y_label, title, **how)
    return save_figure(figure, path)


@rc_context(RC)
def lines_on(
    figure: Figure,
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    title: str = "",
    *,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = True,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    levels: Mapping[str, float] | None = None,
    colours: Mapping[str, str] | None = None,
    dashed: Collection[str] = (),
) -> Axes:
    """One panel with a line per series.

    Args:
        figure: an empty one.
        series: (x, y) by the name in the legend; where every x is an int, only ints are marked on the axis.
        x_label: with its unit.
        y_label: with its unit.
        title: left out if empty.
        log_x: a logarithmic x axis.
        log_y: a logarithmic y axis.
        from_zero: any other y axis starts at 0 if nothing is negative.
        bands: (low, high) around the series of the same name.
        levels: horizontal dashed lines, by the name in the legend: a bound, an optimum.
        colours: of single series, by name; the others go through a palette for colour-blind readers.
        dashed: names of the series drawn dashed: a floor, a reference.

    Returns:
        the axes.
    """
    axes = divide(figure, 1, 1, 6.4, 3.6)[0, 0]
    for k, (name, (x, y)) in enumerate(series.items()):
        colour = (colours or {}).get(name, CYCLE[k % len(CYCLE)])
        marker = MARKERS[k % len(MARKERS)] if len(x) <= MAX_MARKERS and name not in dashed else None
        axes.plot(
            x, y, label=name, color=colour, marker=marker, markersize=5,
            linestyle=(0, (4, 2)) if name in dashed else "-", clip_on=marker is None,
        )  # fmt: skip
        if bands and name in bands:
            axes.fill_between(x, *bands[name], color=colour, alpha=0.18, linewidth=0)
    for k, (name, level) in enumerate((levels or {}).items()):
        axes.axhline(level, label=name, color=GREY, linestyle=(0, (4, 2 + 2 * k)), linewidth=1.2)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, loc="left")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    values = [v for x, _ in series.values() for v in x]
    counts = all(isinstance(v, int) for v in values)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=counts))
    if log_x:
        narrow = max(values) < 100 * min(values)  # decades alone would leave such an axis without labels
        axes.set_xscale("log", base=2 if narrow else 10)
        if narrow:
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if log_y:
        axes.set_yscale("log")
    elif from_zero and all(value >= 0 for _, y in series.values() for value in y):
        axes.set_ylim(bottom=0)
    if len(series) + len(levels or {}) > 1:
        figure.legend(loc="outside right upper")
    return axes


def draw_nelbo(series: Mapping[str, Points], path: Path, best: float | None = None, title: str = "") -> Path:
    """NELBO in nats against minutes of training; `best` is the entropy that no denoiser beats."""
    y = [value for _, values in series.values() for value in values]
    wide = bool(y) and min(y) > 0 and max(y) > 10 * min(y)
    return line_plot(
        series, path, "minutes of training", "NELBO (nats)", title, log_y=wide, from_zero=False,
        levels=None if best is None else {"entropy of the data": best},
    )  # fmt: skip


def draw_decay(decay: Decay, path: Path) -> Path:
    """Write the curves of `decay_on` as a PNG to `path`, and return that."""
    figure = empty_figure()
    decay_on(figure, decay)
    with rc_context(RC):
        return save_figure(figure, path)


def decay_on(figure: Figure, decay: Decay) -> Axes:
    """-ln TV to the terminal law against the clock, a line per strength; what is rounding alone is left out."""
    series: dict[str, Points] = {}
    for w, log_tv in zip(decay.strengths, decay.log_tv):
        shown = [(t, -v) for t, v in zip(decay.taus.tolist(), log_tv.tolist()) if -v > SMALLEST_DECAY]
        if shown:
            series[f"w = {w:g}"] = ([t for t, _ in shown], [v for _, v in shown])
    return lines_on(figure, series, "clock time tau", "-ln P(still masked)", log_x=True, log_y=True)


def draw_distances(evaluation: TableEvaluation, path: Path) -> Path:
    """Write the curves of `distances_on` as a PNG to `path`, and return that."""
    figure = empty_figure()
    distances_on(figure, evaluation)
    with rc_context(RC):
        return save_figure(figure, path)


def distances_on(figure: Figure, evaluation: TableEvaluation) -> Axes:
    """What guidance does, and what goes wrong, in TV against w: of the strengths that are numbers."""
    results = [result for result in evaluation.results if not result.guidance.is_schedule]
    w, rows = [result.w for result in results], [result.row() for result in results]
    lines = {
        "class to exact: guidance effect": ("tv_class_exact", GREY),
        "tilted to exact: gap": ("tv_tilted_exact", COLOURS["tilted"]),
        "exact to learned: score error": ("tv_exact_learned", COLOURS["learned"]),
        "exact to samples": ("tv_exact_samples", COLOURS["samples"]),
        "exact to samples, noise alone": ("noise_floor_exact", COLOURS["samples"]),
    }
    series: dict[str, Points] = {}
    for name, (key, _) in lines.items():
        if all(key in row for row in rows):
            series[name] = (w, [float(row[key] or 0.0) for row in rows])
    intervals = [result.sample_tv["exact"].estimate for result in results]
    return lines_on(
        figure, series, "guidance strength w", "total variation",
        bands={"exact to samples": ([e.low for e in intervals], [e.high for e in intervals])},
        colours={name: colour for name, (_, colour) in lines.items()},
        dashed=["tilted to exact: gap", "exact to samples, noise alone"],
    )  # fmt: skip
