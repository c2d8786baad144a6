"""Tensors and plain values in files: written whole or not at all, and checked bit by bit when they are read."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from mdlm_cfg.support.atomic import atomic_write, naming
from mdlm_cfg.support.memory import is_lack_of_memory

DIRECTORY = 0x10  # of a zip's attributes: torch reads nothing of a part that has it, and leaves memory as it was


class Damaged(Exception):
    """A file is not what `store` wrote: whoever reads it knows what to do then."""


class Unreadable(Exception):
    """A value is not of tensors and plain values: numbers, text, lists, dictionaries."""


def store(value: object, path: str | Path) -> None:
    """Write what `load` gives back.

    Raises:
        Unreadable: `load` would not give it back.
        OSError: with the name of the file (`atomic_write`).
    """
    buffer = io.BytesIO()  # torch makes a RuntimeError of a disk that is full
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        others = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        raise Unreadable(f"{path} cannot hold this: {error}") from error
    if others:
        raise Unreadable(f"{path} cannot hold {', '.join(others)}, which is no tensor and no plain value")
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def store_if_possible(value: object, path: Path, what: str) -> bool:
    """Write what `load` gives back, to spare the work of making it again; whether that was possible.

    Where the disk is full or read-only, stderr says that it is made again the next time.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store(value, path)
    except OSError as error:
        print(
            f"{what} cannot be saved in {path} ({error.strerror or error}), and is used without saving", file=sys.stderr
        )
        return False
    return True


def load(path: str | Path, device: str | None = None) -> Any:
    """The value that `store` wrote; no code of the file is run (torch's weights_only=True).

    torch does not look at the checksums that it writes: one bit that fell over on a disk would be another weight. The
    file is read once: the bytes that are checked are those that are used, and a disk error is not blamed on them.

    Args:
        device: where its tensors are put; None: where they were.

    Raises:
        Damaged: it was cut off or changed, or was never ours.
        OSError: the file system's, with the name of the file.
        MemoryError: there is not enough for it.
    """
    with naming(path):
        content = io.BytesIO(Path(path).read_bytes())
    try:
        with ZipFile(content) as archive:
            part = archive.testzip() or next(
                (entry.filename for entry in archive.infolist() if entry.external_attr & DIRECTORY), None
            )
        if part is None:
            content.seek(0)
            return torch.load(content, map_location=device, weights_only=True)
    except Exception as error:  # whatever a reader says of bytes that anybody may have written
        if is_lack_of_memory(error):
            raise MemoryError(str(error)) from error
        raise Damaged(f"{path} is damaged") from error
    raise Damaged(f"{path} is damaged: {part} has changed since it was written")
