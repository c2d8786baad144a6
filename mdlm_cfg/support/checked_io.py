"""Tensors and plain values in files: written completely or not at all, and verified by checksums when read."""

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

DIRECTORY = 0x10  # a zip attribute: torch does not read an entry that has it, and leaves its memory uninitialised


class Damaged(Exception):
    """A file is not what `store` wrote: the caller decides what to do."""


class Unreadable(Exception):
    """A value holds something other than tensors and plain values: numbers, text, lists, dictionaries."""


def store(value: object, path: str | Path) -> None:
    """Write what `load` gives back.

    Raises:
        Unreadable: `load` could not return it.
        OSError: with the name of the file (`atomic_write`).
    """
    buffer = io.BytesIO()  # torch turns a full disk into a RuntimeError
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        others = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        raise Unreadable(f"{path} cannot hold this: {error}") from error
    if others:
        raise Unreadable(f"{path} cannot hold {', '.join(others)}, which is neither a tensor nor a plain value")
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def store_if_possible(value: object, path: Path, what: str) -> bool:
    """Write what `load` returns, to avoid computing it again; returns whether that was possible.

    If the disk is full or read-only, stderr says that the value is used without saving.
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

    torch does not verify the checksums that it writes: one flipped bit on a disk would change a weight. The file is
    read once, so that the verified bytes are those used, and a disk error is not taken for damage.

    Args:
        device: where its tensors are placed; None: where they were.

    Raises:
        Damaged: it was truncated or changed, or was never ours.
        OSError: the file system's, with the name of the file.
        MemoryError: there is not enough memory for it.
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
    except Exception as error:  # a reader may raise anything on bytes of unknown origin
        if is_lack_of_memory(error):
            raise MemoryError(str(error)) from error
        raise Damaged(f"{path} is damaged") from error
    raise Damaged(f"{path} is damaged: {part} has changed since it was written")
