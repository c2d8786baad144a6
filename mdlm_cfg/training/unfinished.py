"""Which runs are unfinished, and which of them a run of the same configuration goes on with."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from mdlm_cfg.support.atomic import atomic_write
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.schema import with_roles
from mdlm_cfg.training.runs import CHECKPOINT, CONFIG

MARK = "unfinished"  # a file of a run folder from its beginning to its end: who works on it


def mark_unfinished(folder: Path) -> None:
    """Say that this process works on a run."""
    process = psutil.Process()
    mark = {"host": socket.gethostname(), "process": process.pid, "since": process.create_time()}
    with atomic_write(folder / MARK) as file:
        file.write(json.dumps(mark).encode())


def mark_finished(folder: Path) -> None:
    """Say that a run is over: nothing goes on with it."""
    (folder / MARK).unlink(missing_ok=True)


def unfinished_in(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """The checkpoint of a run's folder that a run of this configuration goes on with; None where it has none yet.

    Raises:
        UserError: another configuration was begun there, or another process works there.
    """
    if not (folder / CONFIG).is_file():
        return None
    if not _is_same(folder / CONFIG, config):
        raise UserError(f"{folder} holds a run of another configuration: give another folder, or the same settings")
    if (folder / MARK).is_file() and _is_worked_on(folder / MARK):
        raise UserError(f"another process works on the run in {folder}: wait for it, or give another folder")
    path = folder / CHECKPOINT
    return path if path.is_file() else None


def unfinished_run(root: str | Path, name: str, config: Mapping[str, Any], is_first: bool = True) -> Path | None:
    """The checkpoint of the unfinished run that was begun, or gone on with, last; None where there is none.

    Args:
        root, name: runs are in root/name.
        config: of the run that would go on with it: all settings that decide its result must be the same.
        is_first: of the processes of a run. The others follow the first one, which works on it already.
    """
    found = sorted(Path(root, name).glob(f"*/{MARK}"), key=lambda mark: mark.stat().st_mtime, reverse=True)
    for mark in found:
        path = mark.parent / CHECKPOINT
        if not _is_same(mark.parent / CONFIG, config) or (is_first and _is_worked_on(mark)):
            continue
        if path.is_file():
            return path
        if not is_first:
            return None
    return None


def _is_same(path: Path, config: Mapping[str, Any]) -> bool:
    try:
        there = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(there, dict) and _compared(there) == _compared(config)


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    return with_roles(config, "result", "selection", "seed")


def _is_worked_on(mark: Path) -> bool:
    """Whether another process of this machine has the run; one of another machine, which nobody can ask, has not."""
    try:
        said = json.loads(mark.read_text(encoding="utf-8"))
        if said["host"] != socket.gethostname() or said["process"] == os.getpid():
            return False
        process = psutil.Process(said["process"])
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - said["since"]) < 1
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return False
