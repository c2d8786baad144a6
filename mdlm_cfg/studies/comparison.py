"""Several reports side by side: means over seeds with standard errors, for each setting and each kind of row.

Two rows are averaged only if they are the same measurement: the same setting, and the same value in every index
column (the strength, the set of samples, the denoiser, the policy, ...).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mdlm_cfg.studies.findings import BEGUN, CHECKPOINT, DONE, REPORT_VERSION, STEPS, TRAINING_SEED
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.folders import files_below, found_at
from mdlm_cfg.support.numeric import is_number
from mdlm_cfg.support.schema import flattened, role_of
from mdlm_cfg.training.checkpoints import BEST

NUMBERS = "report.json"
UNCERTAINTIES = ("_se", "_low", "_high")  # suffixes, replaced by the spread over seeds
SETTING = "setting"
SEED = "seed"
STRENGTH = "w"
FLOOR = "noise_floor"
FINGERPRINT = "data.fingerprint"
CODE_OF = "code of "  # a module of the user's own
SAME = 1e-6  # relative difference of repeated computations, perhaps on different machines


@dataclass(frozen=True)
class Entry:
    """One report.

    Attributes:
        path: of its report.json.
        settings: those that decide the result, flat ("net.width" and so on).
        seeds: of the training (None if nothing was trained), and of the evaluation.
        rows: one per strength, class and set of samples, without uncertainties and absent values.
        index: the columns that identify a row; of the others, numbers are measurements.
        test: results on the test set, by name.
    """

    path: Path
    settings: dict[str, Any]
    seeds: tuple[Any, Any]
    rows: list[dict[str, Any]]
    index: tuple[str, ...]
    test: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Settings side by side.

    Attributes:
        settings: for each setting, the values of the keys that differ, in the order in which reports were found.
        seeds: for each setting, the seed of each of its reports.
        index: the columns of `means` that identify a row, `SETTING` (an index into `settings`) first.
        measured: the names of what was measured. Each has three columns in `means`: NAME, the mean over seeds;
            NAME_se, its standard error (NaN for a single seed, or if a value is not finite); NAME_seeds, the number of
            seeds that have it.
        means: one row for each setting and kind of row.
        test: results on the test set, one row per setting, with the same columns.
    """

    settings: list[dict[str, Any]]
    seeds: list[list[Any]]
    index: list[str]
    measured: list[str]
    means: pd.DataFrame
    test: pd.DataFrame

    @property
    def labels(self) -> list[str]:
        """Settings as text: "net.width=64, data.batch_size=128"; "all" if nothing differs."""
        return [", ".join(f"{key}={value}" for key, value in one.items()) or "all" for one in self.settings]

    @property
    def num_seeds(self) -> list[int]:
        """The number of different seeds of each setting."""
        return [len(set(map(repr, seeds))) for seeds in self.seeds]

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for every setting and kind of row; absent values are None.

        NAME_seeds is included only if some seeds of the setting lack the number.
        """
        found = []
        num_seeds = self.num_seeds
        for row in self.means.to_dict("records"):
            place = row.pop(SETTING)
            few = {f"{name}_seeds" for name in self.measured if 0 < row[f"{name}_seeds"] < num_seeds[place]}
            plain = {
                key: None if _is_absent(value) else value
                for key, value in row.items()
                if not key.endswith("_seeds") or key in few
            }
            found.append(self.settings[place] | {"reports": len(self.seeds[place])} | plain)
        return found


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Read reports, and compare their measurements side by side.

    Args:
        paths: report.json files, or folders that are searched for them.

    Raises:
        UserError: as `find_reports` and `read_entry`, or a column that has numbers in some rows and words in others.
    """
    entries = _without_needless(_with_numbers([read_entry(path) for path in find_reports(paths)]))
    settings, places = _settings_of(entries)
    if odd := _contradicting(entries, places):
        named = [replace(e, settings=e.settings | {"report": str(e.path.parent)}) for e in entries]
        entries = [new if place in odd else old for new, old, place in zip(named, entries, places)]
        settings, places = _settings_of(entries)
    repeats = _repeats(entries, places)
    seeds: list[list[Any]] = [[] for _ in settings]
    for repeat, place in zip(repeats, places):
        seeds[place].append(repeat)
    who = [{SETTING: place, SEED: repr(repeat)} for repeat, place in zip(repeats, places)]
    index = [SETTING, *dict.fromkeys(name for entry in entries for name in entry.index)]
    rows = [about | row for entry, about in zip(entries, who) for row in entry.rows]
    means, measured = _over_seeds(rows, index)
    tests, _ = _over_seeds([about | e.test for e, about in zip(entries, who)], [SETTING])
    return Comparison(settings, seeds, index, measured, means, tests)


def find_reports(paths: Sequence[str | Path]) -> list[Path]:
    """Every report.json among the files and below the folders, in order, each once; links to folders are followed.

    Unfinished files of killed processes are left out.

    Raises:
        UserError: a path that does not exist, or no report at all.
        PermissionError: a folder is not readable, so its reports would be missing from the means.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not (path.is_file() or path.is_dir()):
            raise UserError(f"{found_at(path)}: give folders of runs, or report.json files")
        for one in [path] if path.is_file() else sorted(files_below(path, NUMBERS, everywhere=True)):
            found.setdefault(one.resolve(), one)
    if not found:
        raise UserError(f"there is no {NUMBERS} below {', '.join(map(str, paths))}: evaluate the runs first")
    return list(found.values())


def read_entry(path: Path) -> Entry:
    """One report.

    Raises:
        UserError: a file that is not a report, or is of another version.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        version = report["version"]
        plan = report["plan"]
        if version != REPORT_VERSION:
            raise UserError(
                f"{path} is a report of version {version}: only {REPORT_VERSION} can be compared; evaluate again"
            )
        rows, index = _main_table(report)
        flat = _without_path(flattened(report["settings"]))
        flat |= {key: value for key, value in plan.items() if key not in ("guidances", SEED)}
        flat |= {"data": report["data"].get("name"), FINGERPRINT: report["data"].get("fingerprint")}
        flat |= {"denoiser": report["run"].get("denoiser", "learned"), CHECKPOINT: _checkpoint_of(report["run"])}
        flat |= {f"{CODE_OF}{name}": digest[:8] for name, digest in (report.get("code") or {}).items()}
        flat |= {key: report[key] for key in ("benchmark_version",) if key in report}
        flat[BEGUN] = report["run"].get(BEGUN)  # a run resumed with other settings does not repeat others
        settings = {key: value for key, value in flat.items() if role_of(key) == "result"}
        seeds = (report["run"].get(TRAINING_SEED), plan.get(SEED))
        test = _plain(report.get("test") or {})
        return Entry(path, settings, seeds, rows, index, test)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except UserError:
        raise
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON, or is truncated: evaluate again") from error
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise UserError(
            f"{path} is not a report that can be compared: it has no distances by w, or no settings; evaluate again"
        ) from error


def _with_numbers(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, with number columns as floats; text, truth values and lists are not measurements.

    Raises:
        UserError: a column, or a result on the test set, is a number in one place and something else in another.
    """
    measured = {(e.index, name) for e in entries for row in e.rows for name in row if is_number(row[name])}
    found = []
    for entry in entries:
        names = {name for index, name in measured if index == entry.index} - set(entry.index)
        rows = [{k: _number(entry, k, v) if k in names else v for k, v in row.items()} for row in entry.rows]
        rows = [{k: v for k, v in row.items() if k in names or k in entry.index} for row in rows]
        found.append(replace(entry, rows=rows, test={k: _number(entry, k, v) for k, v in entry.test.items()}))
    return found


def _number(entry: Entry, name: str, value: Any) -> float:
    with suppress(OverflowError):
        if is_number(value):
            return float(value)
    raise UserError(f"{entry.path} has {name} = {shown(value)}, which must be a number or null: evaluate again")


def _without_path(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings without the data's path: their fingerprint identifies them."""
    path = settings.get("data.path")
    return {key: v for key, v in settings.items() if not (key.startswith("data.") and v == path is not None)}


def _checkpoint_of(run: Mapping[str, Any]) -> str | None:
    """The checkpoint at which a run was evaluated; None if nothing was trained.

    Seeds with finished training are repeats, however many steps each took; unfinished training is not.
    """
    if CHECKPOINT not in run:
        return None
    name = Path(run[CHECKPOINT]).name
    is_done = run.get(DONE, 1.0) >= 1
    return name if is_done or name == BEST else f"{name}, {run[STEPS]} steps"


def _without_needless(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, without fingerprints if different data have different names, and without code that all share.

    A module missing from one report may have been loaded earlier in the same process, so it distinguishes nothing.
    """
    data = {(repr(entry.settings["data"]), repr(entry.settings[FINGERPRINT])) for entry in entries}
    needless = set() if len({name for name, _ in data}) < len(data) else {FINGERPRINT}
    code = {item for entry in entries for item in entry.settings.items() if item[0].startswith(CODE_OF)}
    found = Counter(key for key, _ in code)
    needless |= {key for key, number in found.items() if number == 1}
    return [
        replace(entry, settings={key: value for key, value in entry.settings.items() if key not in needless})
        for entry in entries
    ]


def _contradicting(entries: Sequence[Entry], places: Sequence[int]) -> set[int]:
    """The settings for which two reports with the same seeds differ in a number, and so in something unrecorded."""
    found = set()
    known: dict[str, float] = {}
    for entry, place in zip(entries, places):
        for row in entry.rows:
            about = {key: row.get(key) for key in entry.index}
            for name in row.keys() - about.keys():
                value = row[name]
                if math.isnan(value):
                    continue
                other = known.setdefault(repr((place, entry.seeds, about, name)), value)
                if not (value == other or math.isclose(value, other, rel_tol=SAME, abs_tol=SAME * SAME)):
                    found.add(place)
    return found


def _repeats(entries: Sequence[Entry], places: Sequence[int]) -> list[Any]:
    """For each entry, what distinguishes it from the repeats of its setting.

    It is the training seed if several trainings have the setting, and otherwise the evaluation seed.
    """
    trainings: dict[int, set[str]] = {}
    for entry, place in zip(entries, places):
        trainings.setdefault(place, set()).add(repr(entry.seeds[0]))
    return [entry.seeds[0 if len(trainings[place]) > 1 else 1] for entry, place in zip(entries, places)]


def _main_table(report: Mapping[str, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The main table of a report: the rows, and the columns of the index."""
    name, columns = next(iter(report["columns"].items()))
    index = tuple(key for key, about in columns.items() if about["index"])
    return [_plain(row | {key: _as_text(row[key]) for key in index if key in row}) for row in report[name]], index


def _as_text(value: Any) -> Any:
    """An index value; a list, such as a grid of times, or a mapping, such as a correction, becomes text."""
    return json.dumps(value) if isinstance(value, Mapping | list) else value


def _settings_of(entries: Sequence[Entry]) -> tuple[list[dict[str, Any]], list[int]]:
    """The different settings, by the keys that differ; and for each entry the index of its own."""
    keys = list(dict.fromkeys(key for entry in entries for key in entry.settings))
    differing = [key for key in keys if len({repr(e.settings.get(key)) for e in entries}) > 1]
    # exact conditionals have no network: settings of it count only if they distinguish two reports
    telling = [key for key in keys if len({repr(e.settings[key]) for e in entries if key in e.settings}) > 1]
    named = telling if len(_distinct(entries, telling)) == len(_distinct(entries, differing)) else differing
    groups = _distinct(entries, named)
    settings = [{key: entry.settings.get(key) for key in named} for entry in groups.values()]
    return settings, [list(groups).index(_values(entry, named)) for entry in entries]


def _distinct(entries: Sequence[Entry], keys: Sequence[str]) -> dict[str, Entry]:
    """The last entry of each different setting, in the order of the first ones."""
    return {_values(entry, keys): entry for entry in entries}


def _values(entry: Entry, keys: Sequence[str]) -> str:
    return repr([entry.settings.get(key) for key in keys])


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of report.json without absent values and uncertainties; infinities are floats again."""
    kept = {key: float(value) if value in ("inf", "-inf", "nan") else value for key, value in row.items()}
    floors = [floor for who in ("learned", "exact") if (floor := kept.get(f"{FLOOR}_{who}")) is not None]
    if floors:
        kept[FLOOR] = floors[0]  # for the distribution that the samples follow, as in a report
    return {key: value for key, value in kept.items() if value is not None and not key.endswith(UNCERTAINTIES)}


def _over_seeds(rows: Sequence[Mapping[str, Any]], index: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Means over seeds with standard errors, and the names of the measurements.

    Reports with the same seed are averaged first: the jobs of a sweep over w are not repeats of w = 0.
    """
    measured = list(dict.fromkeys(key for row in rows for key in row if key not in (*index, SEED)))
    frame = pd.DataFrame(rows, columns=[*index, SEED, *measured]).astype(dict.fromkeys(measured, float))
    frame[index] = frame[index].astype(object)
    by_seed = frame.groupby([*index, SEED], sort=False, dropna=False)[measured].mean()
    over = by_seed.groupby(list(index), sort=False, dropna=False)
    parts = (over.mean(), over.sem().add_suffix("_se"), over.count().add_suffix("_seeds"))
    return pd.concat(parts, axis=1).reset_index(), measured


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
