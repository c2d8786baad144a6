"""Sweeps: one folder with a folder for every job in it, and an index of what became of them.

A job says what became of it in its own folder, so that it does not matter which process, or machine, it ran in.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mdlm_cfg.app.errors import Account, Failure, account_of
from mdlm_cfg.app.job_inputs import decided_by, differences
from mdlm_cfg.app.places import check_path, naming_way_out
from mdlm_cfg.app.quoting import read_override
from mdlm_cfg.support.atomic import atomic_write, remove_parts
from mdlm_cfg.support.errors import UserError, not_ours
from mdlm_cfg.support.folders import Made, label_of, new_run_folder
from mdlm_cfg.support.schema import HYDRA, SamplingSchema, Settings, keys_of, role_of

MULTIRUN = ("-m", "--multirun")
SHOWING = ("--cfg", "-c", "--info", "-i")  # options that run nothing
RECORD = "job.json"
LOCK = "job.lock"  # beside it, while a process works on the job
RUNNING = "running"
DONE = "done"
FAILED = "failed"
INTERRUPTED = "interrupted"
INDEX = ("index.csv", "index.md")
HYDRAS = "multirun.yaml"  # what hydra leaves in a sweep's folder before any job
WAY_OUT = "hydra.sweep.dir=FOLDER"
BEST = "optimization_results.yaml"  # what hydra's optuna sweeper leaves at the end


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command.

    Attributes:
        value: what a sweeper minimises: the validation NELBO with the class, in nats; None where nothing was trained.
        numbers: of the test and of the evaluation, by name. report: its page.
    """

    value: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    report: Path | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep of the command line.

    Attributes:
        folder: with a folder for every job. keys: whose values differ between the jobs. is_new: whether the folder is.
        asked: the arguments that are swept. made: the record of what was made for it. records: the state of the
            records of its jobs when it began (`_state`).
    """

    folder: Path
    keys: tuple[str, ...]
    is_new: bool
    asked: tuple[str, ...] = ()
    made: Made = field(default_factory=Made)
    records: frozenset[tuple[Path, int]] = frozenset()

    @property
    def has_begun(self) -> bool:
        """Whether one of its jobs was begun, in this process or another."""
        return _state(self.folder) != self.records

    @property
    def arguments(self) -> list[str]:
        """What tells hydra: the folder, and that jobs make their own in it."""
        quoted = str(self.folder).replace("'", "\\'")
        return [*([f"hydra.sweep.dir='{quoted}'"] if self.is_new else []), "hydra.sweep.subdir=."]

    def job(self, number: int, overrides: Sequence[str], more_keys: Collection[str] = ()) -> Job:
        """One of its jobs, by its number and all of its overrides; `more_keys` are those that a sweeper chooses."""
        keys = {*self.keys, *more_keys}
        own = [item for item in overrides if item.lstrip("+").split("=", 1)[0] in keys] or list(overrides)
        label = label_of([item for item in own if not item.lstrip("+").startswith(f"{HYDRA}.")], without=())
        return Job(self.folder / "_".join(part for part in (f"{number:02d}", label) if part), number, own)


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        folder: its own. overrides: what sets it apart from the others.
    """

    folder: Path
    number: int
    overrides: list[str]

    def check(self, config: Settings) -> dict[str, Any]:
        """What decides the job's result, if that is what decided what its folder holds.

        Raises:
            UserError: the folder holds a job that was done, or begun, with other settings or other data, or files that
                no job wrote.
        """
        from mdlm_cfg.training.runs import CONFIG  # takes seconds

        decided = decided_by(config)
        before = read_record(self.folder)
        for name in (RECORD, CONFIG):
            if "state" not in before and os.path.lexists(self.folder / name):
                raise not_ours(self.folder / name, WAY_OUT)
        if before.get("state") not in (DONE, RUNNING, INTERRUPTED) or before.get("decided_by") == decided:
            return decided
        found = list(differences(before.get("decided_by") or {}, decided))
        changes = "; ".join([*found[:3], *(["..."] if len(found) > 3 else [])])
        raise UserError(
            f"the sweep's folder {self.folder.parent} holds this job with another configuration ({changes}): give "
            "another hydra.sweep.dir, or the same settings"
        )

    def run(self, work: Callable[[Path], Outcome], full: bool, decided: Mapping[str, Any]) -> float | None:
        """Do the work, unless it was done before, and say what became of it; the value of the outcome.

        An error ends the job, and not the sweep.

        Args:
            work: gets the folder. full: keep the traceback of every error. decided: see `check`.
        """
        before = read_record(self.folder)
        if before.get("state") == DONE and _has_its_report(before, self.folder.parent):
            print(f"job {self.name!r} is done already: {self.folder}", file=sys.stderr)
            return before["value"]
        from mdlm_cfg.training.unfinished import locked  # takes seconds

        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / LOCK) as is_ours:
            if is_ours:
                remove_parts(self.folder)
                try:
                    return self._work(work, full, decided)
                finally:
                    (self.folder / LOCK).unlink(missing_ok=True)
        print(f"another process works on the job {self.name!r}: {self.folder}", file=sys.stderr)
        return None

    def _work(self, work: Callable[[Path], Outcome], full: bool, decided: Mapping[str, Any]) -> float | None:
        """See `run`."""
        self._write(RUNNING, decided)
        print(f"job {self.number}: {self.name}", file=sys.stderr)
        try:
            outcome = work(self.folder)
        except Exception as error:
            self._write(FAILED, decided, account=account_of(Failure(self.name, error), full))
            return None
        except BaseException:
            self._write(INTERRUPTED, decided)
            raise
        self._write(DONE, decided, outcome)
        return outcome.value

    @property
    def name(self) -> str:
        """For people."""
        return " ".join(self.overrides)

    def _write(
        self,
        state: str,
        decided: Mapping[str, Any],
        outcome: Outcome | None = None,
        account: Account | None = None,
    ) -> None:
        found = outcome or Outcome()
        record = {
            "job": self.number,
            "overrides": self.overrides,
            "state": state,
            "value": found.value,
            "report": None if found.report is None else _relative(found.report, self.folder.parent),
            "numbers": dict(found.numbers),
            "failure": None if account is None else asdict(account),
            "decided_by": dict(decided),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / RECORD) as file:
            file.write(json.dumps(record, indent=1, ensure_ascii=False).encode())
        if state != RUNNING:
            from mdlm_cfg.reports.sweep_index import write_index

            write_index(self.folder.parent, records_of(self.folder.parent))


def _relative(report: Path, sweep: Path) -> str:
    """The path of a report within a sweep's folder, which may be moved; of one elsewhere the absolute path."""
    report = report.absolute()
    sweep = sweep.absolute()
    return str(report.relative_to(sweep) if report.is_relative_to(sweep) else report)


def _has_its_report(record: Mapping[str, Any], sweep: Path) -> bool:
    """Whether the report that a job has written is still there, if it has written one."""
    return record["report"] is None or (sweep / record["report"]).is_file()


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a job; empty if there is none."""
    if not (folder / RECORD).is_file():  # a pipe would be waited for
        return {}
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def records_of(sweep: Path) -> list[dict[str, Any]]:
    """The records of all jobs of a sweep, with their `folder`, by number."""
    found = [read_record(path.parent) | {"folder": path.parent.name} for path in sweep.glob(f"*/{RECORD}")]
    return sorted((record for record in found if "state" in record), key=lambda record: record["job"])


def sweep_of(arguments: Sequence[str]) -> Sweep | None:
    """The sweep that a command line asks for (-m), with a new folder for it if it names none; None for a single run.

    Raises:
        UserError: one `out` for all jobs, or an option that shows a configuration in place of running it.
    """
    if not {*MULTIRUN, "hydra.mode=MULTIRUN"} & set(arguments):
        if alone := next((item for item in arguments if item.startswith("hydra.sweep.dir=")), None):
            raise UserError(f"{alone} is the folder of a sweep: give -m too, or leave it out")
        return None
    if shows := {argument.split("=", 1)[0] for argument in arguments} & set(SHOWING):
        raise UserError(
            f"{shows.pop()} shows one configuration, and -m asks for several: leave -m out, and sweep no key"
        )
    given = [item for item in map(read_override, arguments) if item is not None]
    swept = tuple(item.get_key_element().lstrip("+") for item in given if item.is_sweep_override())
    lines = tuple(item.input_line or "" for item in given if item.is_sweep_override())
    fixed = {item.get_key_element().lstrip("+"): item.value() for item in given if not item.is_sweep_override()}
    if fixed.get("out") is not None:
        raise UserError(f"out={fixed['out']} is one folder for all jobs of a sweep: leave it out, each has its own")
    for key, value in fixed.items():
        if key == "hydra.sweep.dir" or role_of(key) == "place":
            check_path(key, value)
    made = Made()
    if "hydra.sweep.dir" in fixed:
        with naming_way_out("hydra.sweep.dir"):
            folder = made.folder(str(fixed["hydra.sweep.dir"]))
        remove_parts(folder)
        _check_files(folder)
    else:
        shown = [item for item in given if item.is_sweep_override()]
        shown += [item for item in given if item.get_key_element() in ("data", "experiment") and item not in shown]
        asked = [item.input_line or "" for item in shown or given]
        name = "multirun" if fixed.get("name") is None else str(fixed["name"])
        with naming_way_out("runs"):
            folder = new_run_folder(str(fixed.get("runs", "runs")), name, asked, "sweep", made)
    made.file(folder / HYDRAS)
    return Sweep(folder, swept, "hydra.sweep.dir" not in fixed, lines, made, _state(folder))


def _state(sweep: Path) -> frozenset[tuple[Path, int]]:
    """The records of all jobs of a sweep, with the time of each."""
    return frozenset((path, path.stat().st_mtime_ns) for path in sweep.glob(f"*/{RECORD}"))


def _check_files(folder: Path) -> None:
    """Raise UserError where a sweep would replace a file, or a link, that no sweep wrote."""
    if records_of(folder):
        return
    for name in (HYDRAS, *INDEX):
        path = folder / name
        if os.path.lexists(path) and not (name == HYDRAS and path.is_file() and _is_of_a_sweep(path)):
            raise not_ours(path, WAY_OUT)


def _is_of_a_sweep(path: Path) -> bool:
    """Whether hydra wrote the file for a sweep of a command of this package; one may have been killed since."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(found, dict) and {HYDRA, *keys_of(SamplingSchema)} <= found.keys()


def check_has_jobs(sweep: Sweep) -> None:
    """Raise UserError for a sweep that is over and had no job, since a glob or a range was empty."""
    if not records_of(sweep.folder):
        raise UserError(
            f"no job: nothing matches {' '.join(sweep.asked)} (glob() finds no option inside a folder of options, such "
            "as paper/...: name those one by one)"
        )


def is_of_failed_jobs(error: Exception, sweep: Sweep) -> bool:
    """Whether a sweeper says no more than that none of its jobs has a value; each job says itself why."""
    states = {record["state"] for record in records_of(sweep.folder)}
    return isinstance(error, ValueError) and str(error) == "No trials are completed yet." and states == {FAILED}


def ended(sweep: Sweep, is_refused: bool = False) -> list[Account]:
    """Show the index of a sweep that is over, and return what there is to say of its own jobs that failed.

    A sweep none of whose jobs was begun leaves the folder as it was; of one that was refused as a whole nothing is
    shown.
    """
    if not sweep.has_begun:
        sweep.made.take_back()
    records = records_of(sweep.folder)
    if not records or is_refused:
        return []
    from mdlm_cfg.reports.sweep_index import print_index, write_index

    print_index(records)
    print(f"index: {write_index(sweep.folder, records)}")
    if (sweep.folder / BEST).is_file():
        found = yaml.safe_load((sweep.folder / BEST).read_text(encoding="utf-8")) or {}
        best = " ".join(f"{key}={value}" for key, value in found.get("best_params", {}).items())
        print(f"best: {best}, with {found.get('best_value')} (validation NELBO with the class, in nats)")
    states = [record["state"] for record in records]
    if INTERRUPTED in states or RUNNING in states:
        left = len(states) - states.count(DONE)
        print(f"{left} jobs are left: the same command with hydra.sweep.dir={sweep.folder} does those", file=sys.stderr)
    elif sum(record["report"] is not None and not Path(record["report"]).is_absolute() for record in records) > 1:
        print(f"side by side: python compare.py {sweep.folder}")
    own = {path.parent.name for path, _ in _state(sweep.folder) - sweep.records}
    failed = [record for record in records if record["failure"] is not None and record["folder"] in own]
    return [Account(**record["failure"]) for record in failed]
