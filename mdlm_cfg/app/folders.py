"""Where a run goes on from, and where it goes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from mdlm_cfg.support.atomic import atomic_write, remove_parts
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import new_run_folder
from mdlm_cfg.training.predicting import is_first_process
from mdlm_cfg.training.runs import CHECKPOINT, CONFIG, checkpoint_in, run_folder_of
from mdlm_cfg.training.unfinished import MARK, mark_unfinished, unfinished_in, unfinished_run

AUTO = "auto"  # of ckpt_path: the newest unfinished run's


def checkpoint_of(config: Mapping[str, Any], data_name: str, job: Path | None = None) -> Path | None:
    """What training goes on from, if anything: the checkpoint that was named, or the one that `AUTO` finds.

    Args:
        job: the folder of a job of a sweep: one that was begun there goes on unasked.
    """
    is_first = is_first_process()
    name = config["name"] or data_name
    found = None if job is None or not is_first else unfinished_in(job, config)
    if found is None and config["ckpt_path"] != AUTO:
        return None if config["ckpt_path"] is None else checkpoint_in(config["ckpt_path"])
    found = found or unfinished_run(config["runs"], name, config, is_first)
    if is_first:
        where = Path(config["runs"], name)
        anew = f"no unfinished run of this configuration has a checkpoint in {where}: starting anew"
        print(anew if found is None else f"going on with {found}", file=sys.stderr)
    return found


def run_folder(
    config: Mapping[str, Any],
    data_name: str,
    before: Path | None,
    overrides: Sequence[str] = (),
    job: Path | None = None,
) -> Path:
    """A folder with the resolved configuration: a new one, a job's own, or with `AUTO` that of the run that goes on.

    Processes other than the first only need its name.
    """
    name = config["name"] or data_name
    if not is_first_process():
        return Path(config["runs"], name, "other_ranks")
    if before is not None and (config["ckpt_path"] == AUTO or run_folder_of(before) == job):
        folder = run_folder_of(before)
        remove_parts(folder)
    else:
        folder = job or new_run_folder(config["runs"], name, overrides)
        (folder / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    write_config(config, folder)
    mark_unfinished(folder)
    return folder


@contextmanager
def gone_if_refused(
    folder: Path, before: Path | None = None, refusal: type[BaseException] = BaseException
) -> Iterator[None]:
    """A new folder is removed if what is done inside fails: nothing was begun in it; and so is one above that is empty.

    One that was there before stays: a job's, with what became of it, that of a run that goes on, or of another report.

    Args:
        before: the checkpoint that is gone on with, which may lie in it.
        refusal: the errors that say so, where others may come later.
    """
    is_new = {path.name for path in folder.glob("*")} <= {CONFIG, MARK, CHECKPOINT.parent.name}
    try:
        yield
    except refusal:
        if is_new and (before is None or run_folder_of(before) != folder):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()
        raise


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Write a resolved configuration where it belongs."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / CONFIG) as file:
        file.write(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode())


def out_folder(config: Mapping[str, Any]) -> Path | None:
    """The folder that a report was asked for in.

    Raises:
        UserError: there is a file of that name.
    """
    if config["out"] is None:
        return None
    out = Path(config["out"])
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file, and must be a folder for the report: choose another name")
    return out
