"""The page of a comparison: what differs, what was measured over w, and the tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.pictures import save
from mdlm_cfg.reports.pictures.lines import Lines, Points
from mdlm_cfg.reports.tables import Table
from mdlm_cfg.studies.comparison import FLOOR, SETTING, STRENGTH, Comparison
from mdlm_cfg.support.numbers import format_column

MAIN = {  # columns that are shown, by their names in report.json; the CSV file has all
    "tv_class_exact": "guidance effect",
    "tv_tilted_exact": "gap to tilted",
    "tv_exact_learned": "error of the network",
    "tv_exact_samples": "samples to exact",
    FLOOR: "noise floor",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "diversity": "diversity",
    "energy_features": "energy distance",
    "posterior": "posterior of the class",
    "log_prob": "log-probability",
    "mean_rms": "error of the mean",
    "tv_guided": "guided samples to tilted",
    "tv_weighted": "weighted samples to tilted",
    "tv_resampled": "resampled samples to tilted",
}
MOST = 8  # measurements shown of reports that have none of these
Row = Mapping[str, Any]


def comparison_sections(found: Comparison, folder: Path) -> list[Section]:
    """Draw the pictures into `folder`, and return the sections that show them."""
    sections = [_differences(found), _measured(found, folder)]
    return [*sections, _tests(found)] if len(_test_names(found)) else sections


def _differences(found: Comparison) -> Section:
    keys = list(found.settings[0])
    rows = [
        [*(str(setting[key]) for key in keys), str(len(seeds)), ", ".join(map(str, seeds))]
        for setting, seeds in zip(found.settings, found.seeds)
    ]
    note = "Only settings that affect a result are listed. Reports that differ only in the seed are averaged."
    return Section("What differs", "", Table([*keys, "reports", "seeds"], rows, note))


def _measured(found: Comparison, folder: Path) -> Section:
    shown = [name for name in MAIN if name in found.measured] or found.measured[:MOST]
    about = _telling(found)
    heads = [
        [found.labels[row[SETTING]], *(_text(row[key]) for key in about)] for row in found.means.to_dict("records")
    ]
    rows = [[*head, *line] for head, line in zip(heads, _lines_of(found, found.means, shown))]
    note = (
        "Means over seeds ± one standard error, which a single seed does not have; reports with the same seed are "
        "averaged first. Different classes, sets of samples, denoisers and policies are never averaged. The noise "
        "floor is the mean distance of the same number of samples that follow the sampled distribution exactly. The "
        "CSV file holds every number."
    )
    pictures = [picture for name in shown if (picture := _picture(found, name, folder)) is not None]
    table = Table([SETTING, *about, *(MAIN.get(name, name) for name in shown)], rows, note)
    return Section("Over w", "", table, pictures)


def _telling(found: Comparison) -> list[str]:
    """The index columns to show: w, if reports have it, and those with more than one value."""
    differing = [key for key in found.index if key != SETTING and found.means[key].nunique(dropna=False) > 1]
    return [*([STRENGTH] if STRENGTH in found.index else []), *(key for key in differing if key != STRENGTH)]


def _test_names(found: Comparison) -> Sequence[str]:
    return [name for name in found.test.columns if f"{name}_se" in found.test.columns]


def _tests(found: Comparison) -> Section:
    names = _test_names(found)
    labels = [found.labels[setting] for setting in found.test[SETTING]]
    rows = [[label, *line] for label, line in zip(labels, _lines_of(found, found.test, names))]
    return Section("Test sets", "", Table([SETTING, *(name.removeprefix("test/") for name in names)], rows))


def _picture(found: Comparison, name: str, folder: Path) -> Picture | None:
    """One number against w, a line for every setting and kind of row; None if there is at most one w."""
    if STRENGTH not in found.index:
        return None
    about = [key for key in _telling(found) if key != STRENGTH]
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in found.means.to_dict("records"):
        if isinstance(row[STRENGTH], int | float) and math.isfinite(row[STRENGTH]) and math.isfinite(row[name]):
            label = ", ".join([found.labels[row[SETTING]], *(f"{key}={_text(row[key])}" for key in about)])
            lines.setdefault(label, []).append((row[STRENGTH], row[name], row[f"{name}_se"]))
    lines = {label: sorted(points) for label, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    series: dict[str, Points] = {label: ([w for w, _, _ in p], [v for _, v, _ in p]) for label, p in lines.items()}
    bands: dict[tuple[str, str], Points] = {
        ("", label): ([v - se for _, v, se in p], [v + se for _, v, se in p])
        for label, p in lines.items()
        if not all(math.isnan(se) for _, _, se in p)
    }
    head = MAIN.get(name, name)
    path = save(Lines({"": series}, "guidance strength w", head, bands=bands), folder / f"{name}.png")
    about_bands = "; the band is one standard error over seeds" if bands else ""
    return Picture(path, f"{head[0].upper()}{head[1:]} against w{about_bands}.")


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    return value if isinstance(value, str) else f"{value:g}"


def _lines_of(found: Comparison, frame: pd.DataFrame, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Means and their standard errors, line by line, with the number of seeds that have the number if some lack it.

    A column and its errors share one format.
    """
    of_setting = [found.num_seeds[setting] for setting in frame[SETTING]]
    columns = []
    for name in names:
        numbers = [None if math.isnan(v) else v for v in [*frame[name], *frame[f"{name}_se"]]]
        texts = ["" if v is None else text for v, text in zip(numbers, format_column(numbers))]
        halves = zip(texts[: len(frame)], texts[len(frame) :])
        lines = [f"{mean} ± {error}" if error else mean for mean, error in halves]
        counts = zip(lines, frame[f"{name}_seeds"], of_setting)
        columns.append([f"{line} ({few} of {many} seeds)" if 0 < few < many else line for line, few, many in counts])
    return list(zip(*columns)) if columns else [()] * len(frame)
