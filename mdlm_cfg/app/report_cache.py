"""What an earlier evaluation has left in a report's folder: a report to replace, or samples to go on from."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.support.atomic import naming
from mdlm_cfg.support.cache import Cache
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data.base import content_hash
from mdlm_cfg.training.runs import stamp

NUMBERS = "report.json"
KEPT = "kept"  # a folder beside the report, until that is written


def files_of(folder: Path) -> set[str]:
    """The files that the report in this folder names as its own; none where there is no report of mdlm_cfg."""
    try:
        report = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        names = [str(name) for name in report["files"]]
        if not str(report["title"]).startswith("mdlm_cfg: ") or not {"run", "data", "test"} <= report.keys():
            return set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if Path(name).name == name}


def check_places_for(names: Iterable[str], folder: Path, earlier: set[str]) -> None:
    """Raise UserError where a report would replace a file that no report of mdlm_cfg wrote."""
    for name in names:
        if (folder / name).exists() and name not in earlier:
            raise UserError(
                f"{folder / name} was not written by a report of mdlm_cfg: move it, or give another folder, out=FOLDER"
            )


def take_places(part: Path, folder: Path, earlier: set[str]) -> None:
    """Move the files of a report from the folder where they were written into its own.

    The list of files goes first: whatever interrupts the rest, the next evaluation knows these files as a report's.

    Raises:
        UserError: one of them would replace a file that no report wrote; nothing is moved then.
    """
    names = sorted((path.name for path in part.iterdir()), key=lambda name: name != NUMBERS)
    check_places_for(names, folder, earlier)
    for name in names:
        with naming(folder / name):
            (part / name).replace(folder / name)


def remove_earlier(folder: Path, earlier: set[str]) -> None:
    """Remove the files of an earlier report that the new one has not replaced, and no others, once it is there.

    What is left of it could be taken for the new report's: a picture of another sampler, a law of another w.
    """
    for name in earlier - files_of(folder):
        (folder / name).unlink(missing_ok=True)


def kept_in(folder: Path, data: Mapping[str, Any], denoiser: Denoiser | None) -> Cache:
    """What an interrupted evaluation of the same weights, data and version has kept in a report's folder.

    A denoiser that is not a network has no weights to recognise it by: nothing of it is reused.

    Args:
        data: what they say of themselves.
    """
    who: object = "exact"
    if isinstance(denoiser, NetDenoiser):
        weights = [value.cpu() for value in denoiser.net.state_dict().values()]
        who = content_hash(*weights, repr(denoiser.net)), denoiser.bf16, denoiser.device.type
    elif denoiser is not None:
        who = uuid.uuid4().hex
    return Cache(folder / KEPT, (stamp()["version"], data.get("fingerprint"), who))


def say_kept(folder: Path, keep: Cache) -> None:
    """How to go on from what an interrupted evaluation has."""
    if len(keep):
        again = f"the same settings and out={folder} (eval.py), or ckpt_path=auto (train.py)"
        print(f"interrupted; the samples so far are in {keep.folder}: go on from them with {again}", file=sys.stderr)
