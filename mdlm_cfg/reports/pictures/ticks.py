"""Ticks of an axis over the values 0..N-1: numbers, or the data's names for them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axis import Axis, XAxis
from matplotlib.ticker import MaxNLocator

from mdlm_cfg.reports.pictures.lines import plain

MOST = 6  # names on an axis
LETTERS = 10  # of a name
FLAT = 3  # letters up to which names fit side by side below an axis


def mark_values(axis: Axis, value_names: Sequence[str] | None) -> None:
    """Label the values of an axis with whole numbers, or with at most `MOST` of their names, shortened if long."""
    if value_names is None:
        axis.set_major_locator(MaxNLocator(4, integer=True))
        return
    places = range(0, len(value_names), -(-len(value_names) // MOST))
    shown = [
        plain(name if len(name) <= LETTERS else name[: LETTERS - 1] + "…")
        for name in map(value_names.__getitem__, places)
    ]
    axis.set_ticks(list(places), shown, fontsize=8)
    if isinstance(axis, XAxis) and max(map(len, shown)) > FLAT:
        for label in axis.get_ticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
