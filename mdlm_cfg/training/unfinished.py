"""Unfinished runs, and which of them a command with the same configuration resumes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mdlm_cfg.support.atomic import atomic_write, read_mapping
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import Made
from mdlm_cfg.support.instantiate import changed_code
from mdlm_cfg.support.schema import EvaluationSchema, TrainSchema, alike, keys_of, with_roles
from mdlm_cfg.training.checkpoints import CHECKPOINT, CONFIG, whole_checkpoint

# entries of a checkpoint
BEGUN = "begun_with"
CODE = "code"
MARK = "unfinished"  # a file in a run folder while the run is unfinished
LOCK = "unfinished.lock"  # beside it: locked by the process that works on the run, until that process ends


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides the result: runs that agree in it have the same result."""
    return with_roles(config, "result", "selection", "seed")


def begun_with(checkpoint: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The settings and code of a checkpoint's training that differ from those of the run that resumes from it.

    Returns:
        text for messages, such as "trainer.max_steps=100 until step 100"; empty if nothing differed.
    """
    there, here = (_of_the_training(one) for one in (checkpoint["hyper_parameters"]["config"], config))
    changed = sorted({*there, *here}) if there and here else ()
    other = [f"{key}={there.get(key)}" for key in changed if not alike(there.get(key), here.get(key))]
    other += [f"other code of {name}" for name in changed_code(checkpoint.get(CODE) or {})]
    new = f"{', '.join(other)} until step {checkpoint['global_step']}" if other else ""
    return "; ".join(part for part in (checkpoint.get(BEGUN), new) if part)


def _of_the_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that decide what is trained, flat, without the data's paths: their fingerprint identifies them."""
    keys = set(keys_of(TrainSchema, "result", "seed")) - set(keys_of(EvaluationSchema))
    flat = with_roles({key: value for key, value in config.items() if key in keys}, "result", "seed")
    flat.pop("data.path", None)
    return flat


@contextmanager
def working_on(folder: Path, made: Made) -> Iterator[None]:
    """Mark a run as unfinished, and hold its lock inside: no other process works on it meanwhile.

    The operating system frees the lock when the process ends, however it ends.

    Raises:
        UserError: another process holds it.
    """
    with locked(made.file(folder / LOCK)) as is_ours:
        if not is_ours:
            raise UserError(f"another process is working on the run in {folder}: wait for it, or give another folder")
        with atomic_write(made.file(folder / MARK)) as file:
            file.write(b"the run in this folder is unfinished: ckpt_path=auto resumes it\n")
        yield


def mark_finished(folder: Path) -> None:
    """Mark a run as finished: nothing resumes it."""
    for name in (MARK, LOCK):
        (folder / name).unlink(missing_ok=True)


def finish_the_same(folder: Path, config: Mapping[str, Any]) -> None:
    """Mark a run that another one completed as finished, if their configurations agree and no process works on it.

    A run that resumed from it with other settings, such as a seed or a shorter training, leaves it as it is.
    """
    if not (folder / MARK).is_file() or not is_same(folder / CONFIG, config):
        return
    with locked(folder / LOCK) as is_ours:
        if is_ours:
            mark_finished(folder)


def unfinished_in(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """The checkpoint of a run's folder that a run of this configuration resumes from; None where it has none yet.

    Raises:
        UserError: another configuration was begun there, or another process works there.
    """
    if not (folder / CONFIG).is_file():
        return None
    if not is_same(folder / CONFIG, config):
        raise UserError(
            f"{folder} holds a run with a different configuration: give another folder, or the same settings"
        )
    if (folder / MARK).is_file() and _is_worked_on(folder):
        raise UserError(f"another process is working on the run in {folder}: wait for it, or give another folder")
    return whole_checkpoint(folder / CHECKPOINT.parent)


def unfinished_run(root: str | Path, name: str, config: Mapping[str, Any], is_first: bool = True) -> Path | None:
    """The checkpoint of the unfinished run that was begun or resumed last; None where there is none.

    Runs in which this user may not write, such as another user's, are left alone.

    Args:
        root, name: runs are in root/name.
        config: of the run that would resume it: all settings that decide its result must be the same.
        is_first: of the processes of a run. The others follow the first one, which works on it already.
    """
    found = sorted(Path(root, name).glob(f"*/{MARK}"), key=lambda mark: mark.stat().st_mtime, reverse=True)
    for mark in found:
        folder = mark.parent
        if not _is_writable(folder) or not is_same(folder / CONFIG, config) or (is_first and _is_worked_on(folder)):
            continue
        path = whole_checkpoint(folder / CHECKPOINT.parent)
        if path is not None:
            return path
        if not is_first:
            return None
    return None


def is_same(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a settings file leads to the same result as a configuration."""
    there = read_mapping(path)
    return bool(there) and alike(deciding(there), deciding(config))


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a lock inside; yields whether it was free. On a file system without locks it always is."""
    lock = FileLock(path)
    try:
        with suppress(NotImplementedError):
            lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _is_writable(folder: Path) -> bool:
    """Whether this user may resume a run: write in its folders, and to its lock."""
    places = (folder, folder / LOCK, (folder / CHECKPOINT).parent)
    return all(os.access(path, os.W_OK) for path in places if path.exists())


def _is_worked_on(folder: Path) -> bool:
    """Whether another process works on the run."""
    if not (folder / LOCK).is_file():
        return False
    with locked(folder / LOCK) as is_free:
        return not is_free
