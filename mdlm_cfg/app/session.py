"""What the commands share: their start, the end of their loggers, and the messages about their work."""

from __future__ import annotations

import getpass
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from mdlm_cfg.app.build import rank_without_launcher
from mdlm_cfg.app.evaluation import Written
from mdlm_cfg.app.jobs import Outcome
from mdlm_cfg.app.overrides import as_typed
from mdlm_cfg.app.places import shown_path
from mdlm_cfg.app.wandb_runs import no_wait_after_interrupt, said_if_lost
from mdlm_cfg.reports.wandb_log import log_evaluation
from mdlm_cfg.studies.findings import BEGUN, CHECKPOINT, DONE, STEPS, TRAINING_SEED
from mdlm_cfg.support.machine import ask_the_driver_alone, keep_freed_memory
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.support.schema import Settings
from mdlm_cfg.support.seeds import MAX_SEED
from mdlm_cfg.training.runs import LoadedRun

THREADS = torch.get_num_threads()  # torch's own choice, whatever a job of a sweep has set since
MAX_THREADS = 1024  # some tens of thousands crash the process
NOISE = (
    r".*does not have many workers.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*Experiment logs directory .* exists.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*WeightAveraging callback.*",
    r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # numbers of every rank are reduced before
    r".*predict returned None.*",
    r".*your dataloader is not resumable.*",  # it does resume where it was (tests/training/test_saving.py)
)


def start(config: Settings) -> None:
    """The start of every command: quiet warnings, threads, and a check of the seed."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    keep_freed_memory()
    ask_the_driver_alone()
    _name_the_user()
    if (rank := rank_without_launcher(config.trainer)) is not None:
        rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if config.threads is not None:
        whole_number("threads", config.threads, 1, MAX_THREADS)
    torch.set_num_threads(config.threads or THREADS)
    seed_everything(whole_number("seed", config.seed, 0, MAX_SEED), workers=True, verbose=False)


def _name_the_user() -> None:
    """Give a name to a user who has none, as in a container: torch.compile names its cache after the user."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"


def command_of(program: str, overrides: Sequence[str]) -> str:
    """The command as its user typed it, for the head of a page."""
    return " ".join([program, *as_typed(overrides)])


def describe(run: LoadedRun) -> dict[str, Any]:
    """A page's description of a trained network, by name."""
    made = {CHECKPOINT: shown_path(run.path), STEPS: run.step, TRAINING_SEED: run.config.get("seed")}
    done = {} if run.progress is None else {DONE: run.progress}
    begun = {BEGUN: run.begun_with} if run.begun_with else {}
    return {**made, **begun, **done, "data": run.data["name"]}


def log(loggers: Sequence[Logger], written: Written, step: int) -> None:
    """Say where the report is, and send its numbers to every logger; to wandb also tables and pictures."""
    print(f"report: {shown_path(written.path)}")
    finite = {f"eval/{name}": value for name, value in written.numbers.items() if math.isfinite(value)}
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            with said_if_lost(written.path):
                log_evaluation(logger.experiment, written.rows, written.ledger, written.pictures, step)
        else:
            logger.log_metrics(finite, step=step)
            logger.save()


@contextmanager
def wandb_finished(loggers: Sequence[Logger]) -> Iterator[None]:
    """Finish the loggers' wandb run on leaving, whatever happens: the next job of a sweep opens its own.

    wandb is imported when it first logs. If that import was interrupted, there is no run, and it cannot be repeated.
    """
    try:
        yield
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and any(isinstance(logger, WandbLogger) for logger in loggers):
            with no_wait_after_interrupt():
                wandb.finish()


def outcome_of(written: Written | None, test: Mapping[str, float] | None = None, value: float | None = None) -> Outcome:
    """The outcome of a command that a sweep records."""
    numbers = {**(test or {}), **({} if written is None else written.numbers)}
    finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
    return Outcome(value, finite, None if written is None else written.path)
