"""Sweeps: one folder that contains a folder for every job, and an index of their outcomes.

The outcome of a job is recorded in its own folder: see `jobs`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra._internal import hydra as hydras, utils as hydras_utils
from hydra._internal.utils import run_and_report
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from mdlm_cfg.app.errors import Account, Failure, account_of
from mdlm_cfg.app.jobs import (
    INTERRUPTED,
    RECORD,
    RUNNING,
    Job,
    interrupt_jobs_elsewhere,
    records_of,
    settled_records_of,
)
from mdlm_cfg.app.overrides import key_of, read_override
from mdlm_cfg.app.places import check_path, naming_way_out
from mdlm_cfg.support.atomic import read_mapping, remove_parts
from mdlm_cfg.support.errors import UserError, not_ours
from mdlm_cfg.support.folders import Made, label_of, new_run_folder
from mdlm_cfg.support.schema import HYDRA, SamplingSchema, keys_of, role_of
from mdlm_cfg.support.signals import interrupts_after

MULTIRUN = ("-m", "--multirun")
SHOWING = ("--cfg", "-c", "--info", "-i")  # options that run nothing
INDEX = ("index.csv", "index.md")
HYDRAS = "multirun.yaml"  # what hydra leaves in a sweep's folder before any job
OF_ALL_JOBS = ("hydra.sweep.dir", "runs", "name")  # settings that say where a sweep is
CALLERS = (hydras, hydras_utils)  # modules whose run_and_report prints an error and exits
BEST = "optimization_results.yaml"  # what hydra's optuna sweeper leaves at the end


@dataclass(frozen=True)
class Sweep:
    """A sweep of the command line.

    Attributes:
        folder: with a folder for every job. keys: whose values differ between the jobs. is_new: whether the folder is.
        swept: the arguments that are swept. made: the files and folders made for it. records: the state of its jobs'
            records when it began (`_state`). process: the id of the command's own process.
    """

    folder: Path
    keys: tuple[str, ...]
    is_new: bool
    swept: tuple[str, ...] = ()
    made: Made = field(default_factory=Made)
    records: frozenset[tuple[Path, int]] = frozenset()
    process: int = field(default_factory=os.getpid)

    @property
    def has_begun(self) -> bool:
        """Whether any of its jobs was begun, in this process or another."""
        return _state(self.folder) != self.records

    @property
    def arguments(self) -> list[str]:
        """Arguments that tell hydra the folder, and that jobs make their own inside it."""
        quoted = str(self.folder).replace("'", "\\'")
        return [*([f"hydra.sweep.dir='{quoted}'"] if self.is_new else []), "hydra.sweep.subdir=."]

    def job(self, number: int, overrides: Sequence[str], more_keys: Collection[str] = ()) -> Job:
        """One of its jobs, by its number and all of its overrides; `more_keys` are those that a sweeper chooses."""
        keys = {*self.keys, *more_keys}
        own = [item for item in overrides if key_of(item) in keys] or list(overrides)
        label = label_of([item for item in own if not key_of(item).startswith(f"{HYDRA}.")], without=())
        return Job(self.folder / "_".join(part for part in (f"{number:02d}", label) if part), number, own)

    @contextmanager
    def as_a_whole(self) -> Iterator[None]:
        """An interrupt inside first ends its jobs in other processes, which save what they have.

        An error of the disk that names nothing names the folder: hydra writes there too.
        """
        try:
            with interrupts_after(lambda: interrupt_jobs_elsewhere(self.folder)):
                yield
        except OSError as error:
            if error.errno is not None:  # hydra raises OSErrors of its own, with a text alone
                error.filename = error.filename or str(self.folder)
            raise


def sweep_of(arguments: Sequence[str]) -> Sweep | None:
    """The sweep of a command line with -m, with a new folder if it names none; None for a single run.

    Raises:
        UserError: one `out` for all jobs, or an option that shows a configuration instead of running it.
    """
    if not {*MULTIRUN, "hydra.mode=MULTIRUN"} & set(arguments):
        if alone := next((item for item in arguments if item.startswith("hydra.sweep.dir=")), None):
            raise UserError(f"{alone} is the folder of a sweep: give -m too, or leave it out")
        return None
    if shows := {argument.split("=", 1)[0] for argument in arguments} & set(SHOWING):
        raise UserError(
            f"{shows.pop()} shows one configuration, and -m means several: leave -m out, and sweep over no key"
        )
    given = [item for item in map(read_override, arguments) if item is not None]
    swept = tuple(item.get_key_element().lstrip("+") for item in given if item.is_sweep_override())
    lines = tuple(item.input_line or "" for item in given if item.is_sweep_override())
    fixed = {item.get_key_element().lstrip("+"): item.value() for item in given if not item.is_sweep_override()}
    if fixed.get("out") is not None:
        raise UserError(
            f"out={fixed['out']} is one folder for all jobs of a sweep: leave it out, because each has its own"
        )
    for key, value in fixed.items():
        if key in OF_ALL_JOBS:
            fixed[key] = _resolved(key, value)
        if key == "hydra.sweep.dir" or role_of(key) == "place":
            check_path(key, fixed[key])
    made = Made()
    if "hydra.sweep.dir" in fixed:
        with naming_way_out("hydra.sweep.dir"):
            folder = made.folder(str(fixed["hydra.sweep.dir"]))
        remove_parts(folder)
        _check_files(folder)
    else:
        shown = [item for item in given if item.is_sweep_override()]
        shown += [item for item in given if item.get_key_element() in ("data", "experiment") and item not in shown]
        named = [item.input_line or "" for item in shown or given]
        name = "multirun" if fixed.get("name") is None else str(fixed["name"])
        with naming_way_out("runs"):
            folder = new_run_folder(str(fixed.get("runs", "runs")), name, named, "sweep", made)
    made.file(folder / HYDRAS)
    return Sweep(folder, swept, "hydra.sweep.dir" not in fixed, lines, made, _state(folder))


@contextmanager
def errors_raised_alone() -> Iterator[None]:
    """Inside, hydra raises every error, also that of a job in another process, and prints nothing itself.

    The environment variable for this, HYDRA_FULL_ERROR, would also affect the processes that Lightning starts.
    """
    original = JobReturn.return_value
    reporting = run_and_report

    def value_of(job: JobReturn) -> Any:
        with redirect_stderr(io.StringIO()):
            return original.__get__(job)

    def call(work: Callable[[], Any]) -> Any:
        return work()

    JobReturn.return_value = original.getter(value_of)  # type: ignore[method-assign, attr-defined]
    for module in CALLERS:
        module.run_and_report = call  # type: ignore[attr-defined]
    try:
        yield
    finally:
        JobReturn.return_value = original  # type: ignore[method-assign]
        for module in CALLERS:
            module.run_and_report = reporting  # type: ignore[attr-defined]


@contextmanager
def jobs_checked_first(check: Callable[[str | None, DictConfig], object]) -> Iterator[None]:
    """Inside, hydra begins no job of a sweep before every one of them is checked, in the way it composes them all.

    What refers to something that is known only within a job, such as ${hydra:job.num}, is left to that job.

    Args:
        check: of the configuration's name and the settings of a job.
    """
    original = Sweeper.validate_batch_is_legal

    def composes_and_checks(sweeper: Any, batch: Sequence[Sequence[str]]) -> None:
        for overrides in batch:
            config = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(overrides))
            settings = OmegaConf.masked_copy(config, [key for key in config if key != HYDRA])
            with suppress(InterpolationResolutionError):
                check(config.hydra.job.config_name, settings)

    Sweeper.validate_batch_is_legal = composes_and_checks  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Sweeper.validate_batch_is_legal = original  # type: ignore[method-assign]


def _resolved(key: str, value: Any) -> Any:
    """A value of `OF_ALL_JOBS` with what it refers to, such as ${oc.env:HOME}.

    Raises:
        UserError: it refers to something known only within the jobs.
    """
    if not isinstance(value, str):
        return value
    try:
        return OmegaConf.create({"value": value}).value
    except OmegaConfBaseException as error:
        raise UserError(f"{key}={value} is for all jobs of a sweep: write it without ${{...}}") from error


def _state(sweep: Path) -> frozenset[tuple[Path, int]]:
    """The records of all jobs of a sweep, with the time of each."""
    return frozenset((path, path.stat().st_mtime_ns) for path in sweep.glob(f"*/{RECORD}"))


def _check_files(folder: Path) -> None:
    """Raise UserError where a sweep would replace a file, or a link, that no sweep wrote."""
    if records_of(folder):
        return
    ours = {HYDRA, *keys_of(SamplingSchema)}  # what hydra writes for a sweep, which may have been killed since
    for name in (HYDRAS, *INDEX):
        path = folder / name
        if os.path.lexists(path) and not (name == HYDRAS and ours <= read_mapping(path).keys()):
            raise not_ours(path)


def check_has_jobs(sweep: Sweep) -> None:
    """Raise UserError for a finished sweep without a job, because a glob or a range was empty."""
    if not records_of(sweep.folder):
        raise UserError(
            f"no job: nothing matches {' '.join(sweep.swept)} (glob() finds no option inside a folder of options, such "
            "as paper/...: name those one by one)"
        )


def ended(sweep: Sweep, is_refused: bool = False) -> list[Account]:
    """Show the index of a finished sweep, and return the messages of those of its jobs that failed.

    A sweep of which no job was begun leaves the folder as it was; nothing is shown for one that was refused as a whole.
    """
    if not sweep.has_begun:
        sweep.made.take_back()
    records = records_of(sweep.folder)
    if not records or is_refused:
        return []
    from mdlm_cfg.reports.sweep_index import print_index, write_index

    unwritten = []
    try:
        records = settled_records_of(sweep.folder)
    except OSError as error:
        unwritten.append(account_of(Failure("", error)))
    print_index(records)
    try:
        print(f"index: {write_index(sweep.folder, records)}")
    except OSError as error:  # a full disk, about which jobs may have said more
        unwritten.append(account_of(Failure("", error)))
    if (sweep.folder / BEST).is_file():
        found = yaml.safe_load((sweep.folder / BEST).read_text(encoding="utf-8")) or {}
        best = " ".join(f"{key}={value}" for key, value in found.get("best_params", {}).items())
        print(f"best: {best}, with {found.get('best_value')} (validation NELBO with the class, in nats)")
    states = [record["state"] for record in records]
    if INTERRUPTED in states or RUNNING in states:
        print(f"jobs remain: the same command with hydra.sweep.dir={sweep.folder} runs them", file=sys.stderr)
    elif sum(record["report"] is not None and not Path(record["report"]).is_absolute() for record in records) > 1:
        print(f"side by side: python compare.py {sweep.folder}")
    own = {path.parent.name for path, _ in _state(sweep.folder) - sweep.records}
    failed = [record for record in records if record["failure"] is not None and record["folder"] in own]
    return [*(Account(**record["failure"]) for record in failed), *unwritten]
