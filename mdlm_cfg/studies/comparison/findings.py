"""What several reports say together: means over seeds, with standard errors, by setting and w."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlm_cfg.studies.comparison.reading import Entry, find_reports, read_entry

Strength = float | str
MAIN = {  # what is shown, by its name in report.json; all that is there is in the csv
    "tv_class_exact": "guidance effect", "tv_tilted_exact": "gap to tilted", "tv_exact_learned": "score error",
    "tv_exact_samples": "samples to exact", "noise_floor_exact": "noise floor", "accuracy": "accuracy",
    "precision": "precision", "recall": "recall", "diversity": "diversity", "energy_features": "energy distance",
}  # fmt: skip
NOT_MEASURED = ("w", "class", "target_class", "steps", "calls")


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and its standard error; None of a single one."""

    value: float
    standard_error: float | None
    num: int

    @classmethod
    def of(cls, found: Sequence[tuple[object, float]]) -> Mean:
        """Of at least one (seed, value): the reports of one seed, such as jobs of a sweep over w, are no repeats."""
        by_seed: dict[object, list[float]] = {}
        for seed, value in found:
            by_seed.setdefault(seed, []).append(value)
        values = [statistics.fmean(of_seed) for of_seed in by_seed.values()]
        spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, len(values))


@dataclass(frozen=True)
class Setting:
    """Reports that differ in their seed alone.

    Attributes:
        differs: what it has otherwise than the others. entries: its reports.
        at: by w, the mean of everything that was measured. test: the same of the test.
    """

    differs: dict[str, Any]
    entries: list[Entry]
    at: dict[Strength, dict[str, Mean]]
    test: dict[str, Mean]

    @property
    def label(self) -> str:
        """For people: "net.width=64, data.batch_size=128"; "all" where nothing differs."""
        return ", ".join(f"{key}={value}" for key, value in self.differs.items()) or "all"


@dataclass(frozen=True)
class Comparison:
    """Settings side by side.

    Attributes:
        settings: in the order that their first reports were found in.
    """

    settings: list[Setting]

    @property
    def measured(self) -> list[str]:
        """The names of everything that some report measured at some w."""
        names = (name for setting in self.settings for row in setting.at.values() for name in row)
        return list(dict.fromkeys(names))

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for every setting and w."""
        return [
            setting.differs | {"w": w, "reports": len(setting.entries)} | _columns(row)
            for setting in self.settings
            for w, row in setting.at.items()
        ]


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Read reports, and put side by side what they measured.

    Args:
        paths: report.json files, or folders that are searched for them.

    Raises:
        UserError: as `find_reports` and `read_entry`.
    """
    entries = [read_entry(path) for path in find_reports(paths)]
    keys = _keys(entries)
    differing = [key for key in keys if len({repr(e.settings.get(key)) for e in entries}) > 1]
    groups = _grouped(entries, differing)
    # what a report of exact scores has no word for (a network, a trainer) is named only where it tells two apart
    told = [key for key in keys if len({repr(e.settings[key]) for e in entries if key in e.settings}) > 1]
    named = told if len(_grouped(entries, told)) == len(groups) else differing
    return Comparison([_setting(named, group) for group in groups])


def _grouped(entries: Iterable[Entry], keys: Sequence[str]) -> list[list[Entry]]:
    """The entries that are alike in these settings, in the order that their first ones have."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(repr([entry.settings.get(key) for key in keys]), []).append(entry)
    return list(groups.values())


def _keys(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(key for entry in entries for key in entry.settings))


def _setting(differing: Sequence[str], entries: list[Entry]) -> Setting:
    by_strength: dict[Strength, dict[str, list[tuple[object, float]]]] = {}
    for entry in entries:
        for w, values in _over_classes(entry.rows).items():
            for name, value in values.items():
                by_strength.setdefault(w, {}).setdefault(name, []).append((entry.seed, value))
    at = {w: {name: Mean.of(v) for name, v in row.items()} for w, row in by_strength.items()}
    names = dict.fromkeys(name for entry in entries for name in entry.test)
    test = {name: Mean.of([(e.seed, e.test[name]) for e in entries if name in e.test]) for name in names}
    return Setting({key: entries[0].settings.get(key) for key in differing}, entries, at, test)


def _over_classes(rows: Iterable[Mapping[str, Any]]) -> dict[Strength, dict[str, float]]:
    """Of one report, by w: the mean over classes of every number."""
    found: dict[Strength, dict[str, list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if number and name not in NOT_MEASURED:
                found.setdefault(row["w"], {}).setdefault(name, []).append(float(value))
    return {w: {name: statistics.fmean(values) for name, values in row.items()} for w, row in found.items()}


def _columns(row: Mapping[str, Mean]) -> dict[str, float | None]:
    values = {name: mean.value for name, mean in row.items()}
    return values | {f"{name}_se": mean.standard_error for name, mean in row.items()}
