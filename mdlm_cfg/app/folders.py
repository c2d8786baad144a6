"""The checkpoint that a run resumes from, and the folder it writes to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from mdlm_cfg.app.places import AUTO, naming_way_out, shown_path
from mdlm_cfg.support.atomic import part_folder, remove_parts, write_text
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import Made, new_run_folder
from mdlm_cfg.support.schema import TrainSchema, plain
from mdlm_cfg.training.checkpoints import CHECKPOINT, CONFIG, checkpoint_in, run_folder_of
from mdlm_cfg.training.predicting import is_first_process
from mdlm_cfg.training.unfinished import unfinished_in, unfinished_run, working_on

SPACE = 64 * 1024  # bytes that must be free: less than any command writes
LONGEST = "a" * 140  # longer than any file name: reports.style.MOST_BYTES, an extension, and the suffix of a part


def checkpoint_of(config: TrainSchema, data_name: str, job: Path | None = None) -> Path | None:
    """The checkpoint that training resumes from, if any: the named one, or the one that `AUTO` finds.

    Args:
        job: the folder of a job of a sweep; a run begun there resumes by default.
    """
    is_first = is_first_process()
    name = config.name or data_name
    found = None if job is None or not is_first else unfinished_in(job, plain(config))
    if found is None and config.ckpt_path != AUTO:
        return None if config.ckpt_path is None else checkpoint_in(config.ckpt_path)
    found = found or unfinished_run(config.runs, name, plain(config), is_first)
    if is_first:
        where = Path(config.runs, name)
        anew = f"no unfinished run of this configuration has a checkpoint in {shown_path(where)}: starting a new one"
        print(anew if found is None else f"resuming {shown_path(found)}", file=sys.stderr)
    return found


@contextmanager
def run_folder(
    config: TrainSchema,
    data_name: str,
    before: Path | None,
    overrides: Sequence[str] = (),
    job: Path | None = None,
) -> Iterator[tuple[Path, Made]]:
    """A folder with the resolved configuration, held by this process alone while inside, and the files made for it.

    It is a new folder, a job's own, or with `AUTO` that of the resumed run. Processes other than the first need only
    its name.

    Raises:
        UserError: another process works on that run, or its folder cannot be made.
    """
    name = config.name or data_name
    made = Made()
    if not is_first_process():
        yield Path(config.runs, name, "other_ranks"), made
        return
    is_same_run = before is not None and (config.ckpt_path == AUTO or run_folder_of(before) == job)
    with made.taken_back(UserError), naming_way_out("runs"):
        if before is not None and is_same_run:
            folder = run_folder_of(before)
        else:
            folder = made.folder(job) if job else new_run_folder(config.runs, name, overrides, made=made)
    with ExitStack() as stack:
        with made.taken_back():
            stack.enter_context(working_on(folder, made))
            remove_parts(folder)
            made.folder((folder / CHECKPOINT).parent)
            check_place((folder / CHECKPOINT).parent, "runs" if job is None else "hydra.sweep.dir")
            write_config(plain(config), folder, made)
        yield folder, made


def check_place(folder: Path, key: str) -> None:
    """Refuse, before any work, a folder that cannot hold a command's files: one of the longest name is written there.

    Its content is random, since a file system may store zeros without space.

    Raises:
        UserError: the folder is not writable, the disk is full, or a name in it is too long for the file system; names
            the key that chooses another.
    """
    if not is_first_process():
        return
    try:
        with part_folder(folder, "place") as part:
            (part / LONGEST).write_bytes(os.urandom(SPACE))
    except OSError as error:
        raise UserError(
            f"{folder} cannot hold files of mdlm_cfg ({error.strerror or error}): give {key}=FOLDER"
        ) from error


def write_config(config: Mapping[str, Any], folder: Path, made: Made) -> None:
    """Write a resolved configuration where it belongs."""
    made.folder(folder)
    write_text(made.file(folder / CONFIG), yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def place_for(
    out: str | Path | None,
    job: Path | None,
    root: str | Path,
    name: str,
    overrides: Sequence[str],
    made: Made,
    key: str = "out",
) -> Path:
    """A checked folder for a command's output: the one given, a job's own, or a new one in root/name.

    Processes other than the first make no new one.

    Args:
        key: the setting that chooses `root`, or "out" where none does.

    Raises:
        UserError: it cannot be made, or as `check_place`.
    """
    key = "out" if out is not None else key if job is None else "hydra.sweep.dir"
    with made.taken_back(), naming_way_out(key):
        if out is not None:
            folder = made.folder(out)
        elif job is not None:
            folder = job
        elif is_first_process():
            folder = new_run_folder(root, name, overrides, made=made)
        else:
            folder = Path(root, name, "other_ranks")
        check_place(folder, key)
        return folder
