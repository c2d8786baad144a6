"""Files that are there whole or not at all, and files of settings that anybody may have changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

import psutil
import yaml

PART = ".mdlm_cfg.part"  # the end of the name of a file that is not written yet
HOST = sha256(socket.gethostname().encode()).hexdigest()[:8]  # numbers of processes are those of one machine
_AT_HAND: set[str] = set()  # the names of those that this process writes now, in any of its threads


def part_name(name: str, process: int, host: str = HOST) -> str:
    """The hidden name of a file or a folder that a process writes; another one at every call."""
    return f".{name}.{token_hex(4)}.{host}.{process}{PART}"


@contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    """A hidden name beside a path, of this writer alone: threads share the process's number, and containers may."""
    part = path.with_name(part_name(path.name, os.getpid()))
    _AT_HAND.add(part.name)
    try:
        yield part
    finally:
        _AT_HAND.discard(part.name)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes its name only once it is complete and on the disk; an old one survives any failure.

    A process that is killed while it writes leaves a hidden file (`part_name`, `remove_parts`).

    Raises:
        OSError: with the name of the file; its folder must be there, since one that has gone is news.
    """
    path = Path(path)
    with naming(path), _part_of(path) as part:
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # a name on the disk before its content would be worse than none
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    r"""Write text as `atomic_write` writes bytes, in UTF-8; what a path or a name has that is none is escaped: \udce9.

    A file system may have names of any bytes, which Python reads as such letters.
    """
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))
    return Path(path)


@contextmanager
def part_folder(folder: Path, name: str) -> Iterator[Path]:
    """A hidden folder in `folder` for files that take their places together; it is removed with what is left in it.

    A process that is killed leaves it behind (`remove_parts`).

    Raises:
        OSError: with the name that the file would have had in `folder`.
    """
    with _part_of(folder / name) as part:
        part.mkdir()
        try:
            yield part
        except OSError as error:
            if error.filename is not None:
                error.filename = str(error.filename).replace(str(part), str(folder))
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)  # or its error would hide the one inside


def remove_parts(folder: Path) -> None:
    """Remove what killed processes of this machine left half written in a folder: nothing that others write or wrote.

    Whether a process of another machine, which shares the folder, still writes cannot be told: its parts stay.
    """
    ours = re.compile(rf"\..+\.[0-9a-f]{{8}}\.{HOST}\.(\d+){re.escape(PART)}")
    for part in folder.glob(f".*{PART}"):
        found = ours.fullmatch(part.name)
        if found is None or part.name in _AT_HAND:
            continue
        if int(found[1]) == os.getpid() or not psutil.pid_exists(int(found[1])):
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Names the file in errors of the disk: a write that finds it full does not say where."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a file of JSON or YAML; an empty one where there is no such file, or it holds anything else."""
    if not path.is_file():  # a pipe would be waited for
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
