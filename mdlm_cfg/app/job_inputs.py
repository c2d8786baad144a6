"""The inputs that decide the result of a job of a sweep: its settings, and the contents of the files they name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mdlm_cfg.app.places import AUTO, with_absolute_paths
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.schema import EvalSchema, Settings, TrainSchema, plain


def decided_by(config: Settings) -> dict[str, Any]:
    """Plain values that are equal for two jobs if and only if these do the same.

    Args:
        config: of the job: of train.py, eval.py or sampling.
    """
    from mdlm_cfg.training.unfinished import deciding  # takes seconds

    settings = plain(with_absolute_paths(config))
    checkpoint = _checkpoint(config)
    decided = deciding(settings) | {"ckpt_path": None if checkpoint is None else str(checkpoint.resolve())}
    decided["evaluate"] = settings.get("evaluate")  # a job without a report is not one with a report that is done
    data = settings.get("data") or {}
    paths = {"ckpt_path": checkpoint, "data.path": data.get("path")}
    paths |= {f"{name}.ckpt_path": settings[name].get("ckpt_path") for name in ("weak", "predictor")}
    decided |= {f"content of {key}": content_of(Path(path)) for key, path in paths.items() if path is not None}
    return dict(json.loads(json.dumps(decided)))


def _checkpoint(config: Settings) -> Path | None:
    """The checkpoint that a job begins with, or evaluates; None where there is none."""
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
    """The digest of a file, which the jobs of a sweep ask for again and again; `size` and `time` are of its content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Each setting in which two differ: "trainer.max_steps = 2 there and 7 here"."""
    for key in sorted({*there, *here}):
        old = there.get(key)
        new = here.get(key)
        if old == new:
            continue
        if key.startswith("content of "):
            yield f"the {key} has changed"
        else:
            yield f"{key} = {old} there and {new} here"
