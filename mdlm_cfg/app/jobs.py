"""The jobs of a sweep: the inputs that decide the result of each, its work, and the record of its outcome.

The record is in the job's own folder, so that it does not matter which process, or machine, it ran in.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from mdlm_cfg.app.errors import Account, Failure, account_of
from mdlm_cfg.app.places import AUTO, with_absolute_paths
from mdlm_cfg.support.atomic import HOST, read_mapping, remove_parts, write_text
from mdlm_cfg.support.errors import UserError, not_ours
from mdlm_cfg.support.instantiate import OWN, changed_code, code_of_the_user
from mdlm_cfg.support.schema import EvalSchema, Settings, TrainSchema, plain

RECORD = "job.json"
LOCK = "job.lock"  # beside the record while a process works on the job
RUNNING = "running"
DONE = "done"
FAILED = "failed"
INTERRUPTED = "interrupted"


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
class Job:
    """One job of a sweep.

    Attributes:
        folder: its own. overrides: those in which it differs from the others.
    """

    folder: Path
    number: int
    overrides: list[str]

    def check(self, config: Settings) -> dict[str, Any]:
        """The settings and data that decide the job's result, checked against those recorded in its folder.

        Raises:
            UserError: the folder holds a job that was done or begun with other settings or data, or files that no job
                wrote.
        """
        from mdlm_cfg.training.checkpoints import CONFIG  # takes seconds

        decided = decided_by(config)
        before = read_mapping(self.folder / RECORD)
        for name in (RECORD, CONFIG):
            if "state" not in before and os.path.lexists(self.folder / name):
                raise not_ours(self.folder / name)
        if before.get("state") not in (DONE, RUNNING, INTERRUPTED):
            return decided
        found = list(differences(before.get("decided_by") or {}, decided))
        found += [f"the code of {name} has changed" for name in changed_code(before.get("code") or {})]
        if not found:
            return decided
        changes = "; ".join([*found[:3], *(["..."] if len(found) > 3 else [])])
        raise UserError(
            f"the sweep's folder {self.folder.parent} holds this job with a different configuration ({changes}): give "
            "another hydra.sweep.dir, or the same settings"
        )

    def run(self, work: Callable[[Path], Outcome], full: bool, decided: Mapping[str, Any]) -> float | None:
        """Do the work, unless it was done before, and record how it ended; returns the value of the outcome.

        An error ends the job, but not the sweep.

        Args:
            work: gets the folder. full: keep the traceback of every error. decided: see `check`.
        """
        before = read_mapping(self.folder / RECORD)
        report = before.get("report")  # may be gone
        if before.get("state") == DONE and (report is None or (self.folder.parent / report).is_file()):
            print(f"job {self.name!r} is already done: {self.folder}", file=sys.stderr)
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
        print(f"another process is working on the job {self.name!r}: {self.folder}", file=sys.stderr)
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
            "host": HOST,
            "process": os.getpid(),
            "decided_by": dict(decided),
            "code": _code_of(decided),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / RECORD, _as_json(record))
        if state != RUNNING:
            from mdlm_cfg.reports.sweep_index import write_index

            write_index(self.folder.parent, records_of(self.folder.parent))


def _code_of(decided: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the user's own modules, without those that only settings of other jobs name."""
    named = {name.rpartition(".")[0] for name in OWN}
    settings = repr(decided)
    code = code_of_the_user()
    return {name: digest for name, digest in code.items() if name not in named or f"{name}." in settings}


def _relative(report: Path, sweep: Path) -> str:
    """A report's path relative to the sweep's folder, which may be moved; the absolute path of one elsewhere."""
    report = report.absolute()
    sweep = sweep.absolute()
    return str(report.relative_to(sweep) if report.is_relative_to(sweep) else report)


def interrupt_jobs_elsewhere(sweep: Path) -> None:
    """Interrupt the jobs that processes below this one work on, and wait until they have saved what they have.

    A launcher such as joblib would kill them.
    """
    interrupted = _jobs_elsewhere(sweep)
    for _, process in interrupted:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    while interrupted & _jobs_elsewhere(sweep):
        time.sleep(0.1)


def _jobs_elsewhere(sweep: Path) -> set[tuple[int, int]]:
    """The numbers of jobs of a sweep that processes below this one work on, each with the number of its process."""
    below = {child.pid for child in psutil.Process().children(recursive=True)}
    running = [record for record in records_of(sweep) if record["state"] == RUNNING and record.get("host") == HOST]
    return {(record["job"], record["process"]) for record in running if record["process"] in below}


def settled_records_of(sweep: Path) -> list[dict[str, Any]]:
    """As `records_of`, with jobs recorded as running, but on which no process works, marked as interrupted.

    A process that was killed cannot record it. Locks of another machine may not be visible here.
    """
    for record in records_of(sweep):
        if record["state"] != RUNNING or record.get("host", HOST) != HOST:
            continue
        from mdlm_cfg.training.unfinished import locked  # takes seconds

        folder = sweep / record.pop("folder")
        with locked(folder / LOCK) as is_free:
            if is_free:
                write_text(folder / RECORD, _as_json(record | {"state": INTERRUPTED}))
                (folder / LOCK).unlink(missing_ok=True)
    return records_of(sweep)


def _as_json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False)


def records_of(sweep: Path) -> list[dict[str, Any]]:
    """The records of all jobs of a sweep, with their `folder`, by number."""
    found = [read_mapping(path) | {"folder": path.parent.name} for path in sweep.glob(f"*/{RECORD}")]
    return sorted((record for record in found if "state" in record), key=lambda record: record["job"])


def decided_by(config: Settings) -> dict[str, Any]:
    """Plain values that are equal for two jobs if and only if both do the same work.

    Args:
        config: of the job: of train.py, eval.py or sampling.
    """
    from mdlm_cfg.training.unfinished import deciding  # takes seconds

    settings = plain(with_absolute_paths(config))
    checkpoint = _checkpoint(config)
    decided = deciding(settings) | {"ckpt_path": None if checkpoint is None else str(checkpoint.resolve())}
    decided["evaluate"] = settings.get("evaluate")  # a job done without a report is not done if one is wanted
    data = settings.get("data") or {}
    paths = {"ckpt_path": checkpoint, "data.path": data.get("path")}
    paths |= {f"{name}.ckpt_path": settings[name].get("ckpt_path") for name in ("weak", "predictor")}
    decided |= {f"content of {key}": content_of(Path(path)) for key, path in paths.items() if path is not None}
    return dict(json.loads(json.dumps(decided)))


def _checkpoint(config: Settings) -> Path | None:
    """The checkpoint that a job starts from or evaluates; None where there is none."""
    from mdlm_cfg.training.checkpoints import checkpoint_in, newest_run

    given = config.ckpt_path
    if isinstance(config, EvalSchema) and config.denoiser != "learned":
        return None
    if isinstance(config, TrainSchema) and given in (None, AUTO):
        return None
    try:
        return newest_run(config.runs) if given is None else checkpoint_in(given)
    except UserError:  # the job says so
        return None


def content_of(path: Path) -> str | None:
    """A digest of a file, or of the names and the content of the files of a folder; None where there is nothing."""
    if path.is_file():
        status = path.stat()
        return _digest_of(path.resolve(), status.st_size, status.st_mtime_ns)
    if not path.is_dir():
        return None
    files = sorted((str(item.relative_to(path)), content_of(item)) for item in path.rglob("*") if item.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()


@cache
def _digest_of(path: Path, size: int, time: int) -> str:
    """The digest of a file, cached, since every job of a sweep needs it; `size` and `time` identify its content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Each setting in which two configurations differ: "trainer.max_steps = 2 there and 7 here"."""
    for key in sorted({*there, *here}):
        old = there.get(key)
        new = here.get(key)
        if old == new:
            continue
        if key.startswith("content of "):
            yield f"the {key} has changed"
        else:
            yield f"{key} = {old} there and {new} here"
