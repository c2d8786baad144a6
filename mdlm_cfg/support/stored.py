"""Tensors and plain values in files: written whole or not at all, and checked bit by bit when they are read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from mdlm_cfg.support.atomic import atomic_write


class Damaged(Exception):
    """A file is not what `store` wrote: whoever reads it knows what to do then."""


def store(value: object, path: str | Path) -> None:
    """Write what `load` gives back.

    Raises:
        OSError: with the name of the file (`atomic_write`).
    """
    buffer = io.BytesIO()  # torch makes a RuntimeError of a disk that is full
    torch.save(value, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load(path: str | Path, device: str | None = None) -> Any:
    """What `store` wrote; no code of the file is run (torch's weights_only=True).

    torch does not look at the checksums that it writes: one bit that fell over on a disk would be another weight.

    Args:
        device: where its tensors are put; None: where they were.

    Raises:
        Damaged: it was cut off or changed, or was never ours.
        OSError: the file system's.
    """
    try:
        with ZipFile(path) as archive:
            part = archive.testzip()
        if part is None:
            return torch.load(path, map_location=device, weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a reader says of bytes that anybody may have written
        raise Damaged(f"{path} is damaged") from error
    raise Damaged(f"{path} is damaged: the checksum of {part} is another")
