"""Runs on Weights & Biases: what is refused before one is opened, its id, and where its files are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from mdlm_cfg.support.errors import UserError, one_of

WANDB_MODES = ("online", "offline", "disabled", "shared")
NOT_IN_PROJECTS = "/\\#?%:"  # characters that wandb does not allow in the name of a project
LONGEST = 128  # name of a project, in characters; id of a run, in bytes, since files are named after it
MOST_WAIT = 60  # seconds at the end of a run; wandb itself has no limit


def check_wandb(settings: Mapping[str, Any]) -> None:
    """Raise UserError for what wandb does not take: a mode, a name, a variable WANDB_..., or online without a login.

    From here on, a server that no longer answers delays the end of a command by at most `MOST_WAIT` seconds.
    """
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(MOST_WAIT))  # wandb reads it at its first use
    mode = settings.get("mode")
    if mode is not None:
        one_of("logger.mode", mode, WANDB_MODES)
    for name, value in (
        ("logger.project", settings.get("project")),
        ("WANDB_PROJECT", os.environ.get("WANDB_PROJECT")),
    ):
        project = str(value or "")
        if set(project) & set(NOT_IN_PROJECTS) or len(project) > LONGEST:
            raise UserError(
                f"{name}={project} is not allowed: the name of a project on wandb contains none of "
                f"{' '.join(NOT_IN_PROJECTS)} and has at most {LONGEST} characters"
            )
    for name, value in (("logger.id", settings.get("id")), ("WANDB_RUN_ID", os.environ.get("WANDB_RUN_ID"))):
        if len(os.fsencode(str(value or ""))) > LONGEST:
            raise UserError(f"{name}={value} is not allowed: the id of a run on wandb has at most {LONGEST} bytes")
    _check_variables()
    if mode == "online":
        _check_login()


def _check_variables() -> None:
    """Check wandb's variables now: wandb reads them once, and would reject a value only when a run first logs."""
    import wandb
    from pydantic import ValidationError  # which wandb checks them with

    try:
        wandb.setup()
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, one['loc']))} = {one['input']}: {one['msg']}" for one in error.errors())
        raise UserError(f"a variable WANDB_... is not allowed ({'; '.join(wrong)}): correct it or unset it") from error


def _check_login() -> None:
    import wandb
    import wandb.errors

    try:
        has_login = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error:  # for a malformed key
        has_login = False
    if not has_login:
        raise UserError(
            "logger.mode=online needs a wandb account, and there is no login here: log in with `wandb login`, or "
            "give logger.mode=offline or logger=csv"
        )


def earlier_wandb_run(folder: Path) -> str | None:
    """The id of the wandb run whose files lie in the folder of a training run; None where there are none.

    A run that resumes in its folder stays one run on wandb.
    """
    found = sorted(folder.glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)
    return found[0].name.partition("run-")[2].partition("-")[2] if found else None  # run-DATE_TIME-ID


def keep_wandb_files_in(folder: Path) -> None:
    """Let wandb keep its files beside the run where this user has no home folder to keep them in."""
    if not os.access(os.path.expanduser("~"), os.W_OK):
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            os.environ.setdefault(name, str(folder / "wandb"))


def begin_wandb(logger: Any, mode: str | None) -> None:
    """Open the run of a logger that needs the network, so that a failure shows now and not when training starts."""
    # Lightning passes wandb a setting that wandb has removed, even as None, and wandb warns about it
    vars(logger).get("_wandb_init", {}).pop("anonymous", None)
    if mode == "online":
        import wandb.errors

        try:
            with no_wait_after_interrupt():
                _ = logger.experiment
        except wandb.errors.Error as error:
            raise UserError(
                f"wandb cannot be reached with logger.mode=online ({error}): log in with `wandb login`, or give "
                "logger.mode=offline or logger=csv"
            ) from error


@contextmanager
def said_if_lost(report: Path) -> Iterator[None]:
    """Inside, data that wandb's server does not accept cause a message and no error: the report is written."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("wandb", "requests", "urllib3"):
            raise
        what = " ".join(str(error).split()) or type(error).__name__
        print(
            f"wandb did not accept all of the report ({what}): the complete report is in {report.parent}",
            file=sys.stderr,
        )


@contextmanager
def no_wait_after_interrupt() -> Iterator[None]:
    """An interrupt inside ends wandb's own process, which would block this one for as long as a server does not answer.

    What was logged is in the folder of the run; `wandb sync` sends it later.
    """
    try:
        yield
    except KeyboardInterrupt:
        import wandb

        for child in psutil.Process().children():
            if child.name().startswith("wandb-core"):
                child.kill()
        with suppress(OSError, SystemExit):  # of the connection; wandb exits with the code of the killed process
            wandb.teardown()
        raise
