"""What long work has finished, by what it is: the same work begun again does not make it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from mdlm_cfg.support.atomic import remove_parts
from mdlm_cfg.support.checked_io import Damaged, load, store

SUFFIX = ".tensor"
Made = TypeVar("Made")  # tensors and plain values: tuples, lists and dictionaries of them


class Keep(Protocol):
    """Makes something, or has it from before."""

    def __call__(self, key: object, make: Callable[[], Made]) -> Made:
        """What this key stands for.

        Args:
            key: plain values that decide it, nothing else does. make: is called where it is not there.
        """
        ...


def keep_nothing(key: object, make: Callable[[], Made]) -> Made:
    """Makes it, always."""
    return make()


class Cache:
    """Keeps tensors and plain values in a folder of its own, each whole or not at all, until `clear`.

    Args:
        folder: made when the first is kept.
        about: plain values that decide all of them alike: the weights, the data, the version.
    """

    def __init__(self, folder: Path, about: object) -> None:
        self.folder = folder
        self.about = about

    def __call__(self, key: object, make: Callable[[], Made]) -> Made:
        """See `Keep`."""
        path = self.folder / (hashlib.sha256(repr((self.about, key)).encode()).hexdigest()[:24] + SUFFIX)
        if path.is_file():
            with suppress(Damaged):  # it is made again
                return load(path)
        value = make()
        self.folder.mkdir(exist_ok=True)
        store(value, path)
        return value

    def __len__(self) -> int:
        """How many there are of an earlier attempt, or of this one."""
        return sum(1 for _ in self.folder.glob(f"*{SUFFIX}"))

    def clear(self) -> None:
        """Remove them: whoever needed them is done."""
        for path in self.folder.glob(f"*{SUFFIX}"):
            path.unlink(missing_ok=True)
        remove_parts(self.folder)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
