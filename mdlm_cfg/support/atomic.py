"""Files that are written completely or not at all, and settings files that anybody may have changed."""

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

PART = ".mdlm_cfg.part"  # suffix of a file that is still being written
HOST = sha256(socket.gethostname().encode()).hexdigest()[:8]  # process ids are unique only on one machine
_AT_HAND: set[str] = set()  # names that this process is writing now, in any thread


def part_name(name: str, process: int, host: str = HOST) -> str:
    """The hidden name of a file or a folder that a process is writing; different at every call."""
    return f".{name}.{token_hex(4)}.{host}.{process}{PART}"


@contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    """A hidden name beside a path, unique to this writer: threads share a process id, and so may containers."""
    part = path.with_name(part_name(path.name, os.getpid()))
    _AT_HAND.add(part.name)
    try:
        yield part
    finally:
        _AT_HAND.discard(part.name)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that gets its name only once it is complete and on disk; an old file survives any failure.

    A process that is killed while writing leaves a hidden file (`part_name`, `remove_parts`).

    Raises:
        OSError: with the name of the file; also if its folder no longer exists.
    """
    path = Path(path)
    with naming(path), _part_of(path) as part:
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # a name on disk without its content would be worse than no file
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    r"""Write text as `atomic_write` writes bytes, in UTF-8; bytes of a name that are not UTF-8 are escaped: \udce9.

    A file system may have names of any bytes, which Python reads as such characters.
    """
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))
    return Path(path)


@contextmanager
def part_folder(folder: Path, name: str) -> Iterator[Path]:
    """A hidden folder in `folder` for files that are moved out together; it is removed with anything left in it.

    A process that is killed leaves it behind (`remove_parts`).

    Raises:
        OSError: with the name that the file would have in `folder`.
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
            shutil.rmtree(part, ignore_errors=True)  # its error would hide the one raised inside


def remove_parts(folder: Path) -> None:
    """Remove unfinished files that killed processes of this machine left in a folder, and nothing else.

    It is unknown whether a process of another machine that shares the folder is still writing: its parts stay.
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
    """Add the file's name to disk errors: a write to a full disk does not report it."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON or YAML file; empty if there is no such file, or it holds anything else."""
    if not path.is_file():  # reading a pipe would block
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
