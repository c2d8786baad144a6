"""The page of a comparison: what differs, what was measured over w, and the tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.comparison.findings import MAIN, Comparison, Mean


def comparison_sections(found: Comparison, folder: Path) -> list[Section]:
    """Draw the pictures into `folder`, and return the sections that show them."""
    sections = [_differences(found), _measured(found, folder)]
    return [*sections, _tests(found)] if any(setting.test for setting in found.settings) else sections


def _differences(found: Comparison) -> Section:
    keys = list(found.settings[0].differs)
    rows = [
        [*(str(s.differs[key]) for key in keys), str(len(s.entries)), ", ".join(str(e.seed) for e in s.entries)]
        for s in found.settings
    ]
    note = "Seeds do not count as a difference: reports that differ in nothing else are averaged."
    return Section("What differs", "", Table([*keys, "reports", "seeds"], rows, note))


def _measured(found: Comparison, folder: Path) -> Section:
    shown = [name for name in MAIN if name in found.measured]
    rows = [
        [setting.label, _strength(w), *(_cell(row, name) for name in shown)]
        for setting in found.settings
        for w, row in setting.at.items()
    ]
    note = "Means over seeds (reports of one seed are averaged first) ± one standard error. All is in the csv."
    pictures = [picture for name in shown if (picture := _picture(found, name, folder)) is not None]
    return Section("Over w", "", Table(["setting", "w", *(MAIN[name] for name in shown)], rows, note), pictures)


def _tests(found: Comparison) -> Section:
    names = list(dict.fromkeys(name for setting in found.settings for name in setting.test))
    rows = [[setting.label, *(_cell(setting.test, name) for name in names)] for setting in found.settings]
    return Section("Test sets", "", Table(["setting", *(name.removeprefix("test/") for name in names)], rows))


def _picture(found: Comparison, name: str, folder: Path) -> Picture | None:
    """One number against w, a line for every setting; None where there is one w alone."""
    series: dict[str, Points] = {}
    bands = {}
    for setting in found.settings:
        points = {w: row[name] for w, row in sorted(_numbers(setting.at)) if name in row}
        if len(points) > 1:
            series[setting.label] = (list(points), [mean.value for mean in points.values()])
            around = [(mean.value, mean.standard_error or 0.0) for mean in points.values()]
            bands[setting.label] = ([v - se for v, se in around], [v + se for v, se in around])
    if not series:
        return None
    path = line_plot(series, folder / f"{name}.png", "guidance strength w", MAIN[name], bands=bands)
    return Picture(
        path, f"{MAIN[name][0].upper()}{MAIN[name][1:]} against w; the band is one standard error over seeds."
    )


def _numbers(at: Mapping[float | str, dict[str, Mean]]) -> list[tuple[float, dict[str, Mean]]]:
    return [(w, row) for w, row in at.items() if not isinstance(w, str)]


def _strength(w: float | str) -> str:
    return w if isinstance(w, str) else f"{w:g}"


def _cell(row: Mapping[str, Mean], name: str) -> str:
    mean = row.get(name)
    if mean is None:
        return ""
    spread = "" if mean.standard_error is None else f" ± {format_number(mean.standard_error)}"
    return f"{format_number(mean.value)}{spread}"
