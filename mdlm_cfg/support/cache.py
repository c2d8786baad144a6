"""A cache of finished pieces of long work, so that an interrupted command does not repeat them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from mdlm_cfg.support.atomic import remove_parts
from mdlm_cfg.support.checked_io import Damaged, Unreadable, load, store
from mdlm_cfg.support.instantiate import changed_code, code_of_the_user

DIGITS = 24  # of the hexadecimal hash in a file's name
SUFFIX = ".mdlm_cfg.tensor"  # after the hash: marks a file as ours
Made = TypeVar("Made")  # tensors and plain values: tuples, lists and dictionaries of them


class AnyCache(Protocol):
    """A cache, or `no_cache`."""

    def __call__(self, key: object, make: Callable[[], Made]) -> Made:
        """The value of a key, made by `make` unless it is cached.

        Args:
            key: plain values that alone decide the value. make: returns the value.
        """
        ...


def no_cache(key: object, make: Callable[[], Made]) -> Made:
    """The value, always computed again."""
    return make()


class Cache:
    """Stores tensors and plain values in a folder of its own, each complete or not at all, until `clear`.

    A value is made again if the user's own code has changed since.

    Args:
        folder: created when the first value is stored.
        about: plain values that all of them depend on: the weights, the data, the version.
    """

    def __init__(self, folder: Path, about: object) -> None:
        self.folder = folder
        self.about = about

    def __call__(self, key: object, make: Callable[[], Made]) -> Made:
        """See `AnyCache`."""
        path = self.folder / (hashlib.sha256(repr((self.about, key)).encode()).hexdigest()[:DIGITS] + SUFFIX)
        if path.is_file():
            with suppress(Damaged, FileNotFoundError):  # it is made again
                found = load(path)
                is_ours = isinstance(found, dict) and {"value", "code"} <= found.keys()
                if is_ours and not changed_code(found["code"]):
                    return found["value"]
        value = make()
        try:
            with suppress(Unreadable):  # it is made again
                self._store({"value": value, "code": code_of_the_user()}, path)
        finally:
            self._leave_no_empty_folder()
        return value

    def _store(self, value: object, path: Path) -> None:
        """Another process that writes to the same report's folder may remove this folder at any moment: see `clear`."""
        for is_last in (False, True):
            self.folder.mkdir(exist_ok=True)
            try:
                return store(value, path)
            except FileNotFoundError:
                if is_last:
                    raise

    def __len__(self) -> int:
        """The number of cached values."""
        return len(self._files())

    def clear(self) -> None:
        """Remove all values, and nothing else."""
        for path in self._files():
            path.unlink(missing_ok=True)
        remove_parts(self.folder)
        self._leave_no_empty_folder()

    def _leave_no_empty_folder(self) -> None:
        with suppress(OSError):  # it is not empty, is missing, or is a link
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        """The files of all values."""
        name = re.compile(f"[0-9a-f]{{{DIGITS}}}{re.escape(SUFFIX)}")
        return [path for path in self.folder.glob(f"*{SUFFIX}") if name.fullmatch(path.name)]
