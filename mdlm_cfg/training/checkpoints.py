"""The checkpoints of runs: where they are, which one is used, and what they must contain."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from mdlm_cfg.support.checked_io import Damaged, load
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import check_is_file, files_below, found_at
from mdlm_cfg.support.instantiate import TARGET

LAST = "last.ckpt"
BEST = "best.ckpt"
CHECKPOINT = Path("checkpoints", LAST)  # of a run's folder
CONFIG = "resolved_config.yaml"
RECORDED = ("net", "objective", "optimizer", "data", "config", "seed")  # what a checkpoint records of its run
# the format number changes when older checkpoints can no longer be read
WRITTEN_BY = "mdlm_cfg"
FORMAT = 2
OUTLINE = "outline"  # an entry: see `outline_of`; checkpoints of earlier versions have none


def run_folder_of(checkpoint: Path) -> Path:
    """The folder of a checkpoint, or the one above where that is called `checkpoints`."""
    parent = checkpoint.parent
    return parent.parent if parent.name == CHECKPOINT.parent.name else parent


def checkpoint_in(path: str | Path) -> Path:
    """The given checkpoint, or that of a run's folder: the last, or the best if the last is missing or damaged.

    Raises:
        UserError: an empty path, or a folder that holds none.
    """
    if not str(path).strip():
        raise UserError("the path of the checkpoint is empty: give the folder of a run, or a checkpoint")
    path = Path(path)
    if not path.is_dir():
        return path
    for folder in (path / CHECKPOINT.parent, path):
        if (found := whole_checkpoint(folder)) is not None:
            return found
    raise UserError(f"the folder {path} holds no {CHECKPOINT}: give the folder of a run, or a checkpoint")


def whole_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to use in a folder of checkpoints: the last, or else the best one; None where there is neither.

    The best one is used where the last one is missing or damaged, and stderr says so. If both are damaged, the last one
    is returned, and reading it will fail.
    """
    last = folder / LAST
    best = folder / BEST
    if last.is_file() and (_is_whole(last) or not best.is_file()):
        return last
    if not best.is_file():
        return None
    if not _is_whole(best):
        return last if last.is_file() else best
    what = "is damaged" if last.is_file() else "is missing"
    print(f"the checkpoint {last} {what}: {best} is used instead", file=sys.stderr)
    return best


def _is_whole(path: Path) -> bool:
    try:
        load(path, "cpu")
    except Damaged:
        return False
    return True


def newest_run(root: str | Path) -> Path:
    """The checkpoint of the run under `root` that saved most recently: see `whole_checkpoint`.

    Raises:
        UserError: there is none.
        PermissionError: there is none that this user may read.
    """
    files = [path for name in (LAST, BEST) for path in files_below(root, name)]
    found = [path for path in files if path.parent.name == CHECKPOINT.parent.name]
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    path = None if newest is None else whole_checkpoint(newest.parent)
    if path is None and os.path.lexists(root) and not os.path.isdir(root):
        raise UserError(f"{found_at(Path(root))}: give the folder of runs, runs=FOLDER, or ckpt_path=FILE")
    if path is None:
        list(files_below(root, LAST, everywhere=True))  # runs may be in folders of another user's, which are then named
        raise UserError(f"there is no run in {root} yet: train one (python train.py), or give ckpt_path=FILE")
    return path


def stamp() -> dict[str, Any]:
    """A checkpoint's record of the program that wrote it."""
    try:
        version = metadata.version("mdlm-cfg")
    except metadata.PackageNotFoundError:  # run from source
        version = "unknown"
    return {"written_by": WRITTEN_BY, "format": FORMAT, "version": version}


def outline_of(checkpoint: Mapping[str, Any]) -> str:
    """A hash of a checkpoint's contents, with only shapes and dtypes of tensors: it reveals missing entries."""
    content = {key: value for key, value in checkpoint.items() if key != OUTLINE}
    return sha256(_outline(content).encode()).hexdigest()[:16]


def _outline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{key!r}:{_outline(item)}" for key, item in value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_outline, value)) + "]"
    if isinstance(value, set):  # its order differs between processes
        return "{" + ",".join(sorted(map(_outline, value))) + "}"
    return f"{value.dtype}{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of `MaskedDiffusion` as plain containers and tensors (torch's weights_only=True).

    Raises:
        UserError: it is missing, cannot be read, is not one of ours, was written by another version, or lacks a part.
    """
    path = Path(path)
    best = path.with_name(BEST)
    instead = f"; {best} is beside it" if path.name == LAST and best.is_file() and _is_whole(best) else ""
    check_is_file(path, f"give the folder of a run, or a checkpoint{instead}")
    try:
        checkpoint = load(path, "cpu")
    except Damaged as error:
        raise UserError(f"the checkpoint {path} cannot be read: it is damaged, or not a checkpoint{instead}") from error
    saved = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not (isinstance(saved, dict) and _is_plain(saved) and isinstance(checkpoint.get("state_dict"), dict)):
        raise UserError(f"the checkpoint {path} was not written by mdlm_cfg")
    if checkpoint.get("written_by") != WRITTEN_BY or checkpoint.get("format") != FORMAT:
        ours = "net" in saved and "objective" in saved
        version = checkpoint.get("version", "0.1" if ours else None)
        format = checkpoint.get("format")
        way = "use that version" if isinstance(format, int) and format > FORMAT else "train it again"
        who = f"mdlm_cfg {version}, in another format: {way}" if ours else "a program other than mdlm_cfg"
        raise UserError(f"the checkpoint {path} cannot be used: it was written by {who}")
    missing = [name for name in ("epoch", "global_step") if not isinstance(checkpoint.get(name), int)]
    missing += [name for name in RECORDED if name not in saved]
    missing += [f"data.{name}" for name in ("name", "fingerprint") if name not in _part(saved, "data")]
    missing += [f"{name}.{TARGET}" for name in ("net", "objective", "optimizer") if TARGET not in _part(saved, name)]
    missing += [] if isinstance(saved.get("config"), dict) else ["config"]
    if missing:
        raise UserError(f"the checkpoint {path} is incomplete: it does not say {missing[0]}; train it again")
    return checkpoint


def _is_plain(value: Any) -> bool:
    """Whether nested settings hold only what a configuration file can."""
    if isinstance(value, dict | list | tuple):
        return all(_is_plain(item) for item in (value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, bool | int | float | str)


def _part(saved: dict[str, Any], name: str) -> dict[str, Any]:
    part = saved.get(name)
    return part if isinstance(part, dict) else {}
