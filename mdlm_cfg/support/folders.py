"""Folders with telling names, and a record of what a command has made, so that it can remove that and nothing else."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from mdlm_cfg.support.atomic import PART, atomic_write
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.schema import Role, role_of

MOST = 60  # characters of a label
MOST_OF_ONE = 24  # of one value in it


class Made:
    """The folders and files that one command has made, recorded one by one as it makes them.

    A command that is refused removes exactly these, and restores the content of files that it replaced
    (`taken_back`). A file or a folder that was there before is never removed, nor is a folder that holds anything
    else.
    """

    def __init__(self) -> None:
        self._folders: list[Path] = []
        self._files: list[Path] = []
        self._trees: list[Path] = []
        self._before: dict[Path, tuple[bytes, os.stat_result]] = {}  # earlier content of replaced files

    def folder(self, path: str | Path) -> Path:
        """Make a folder, and those above it that are missing, and return it.

        Raises:
            UserError: a symbolic link in the path leads nowhere.
            OSError: the folder cannot be made.
        """
        path = Path(path)
        for part in reversed([path, *path.parents]):
            if not part.is_dir():
                with suppress(FileExistsError):
                    self.new_folder(part)
            if not part.is_dir():  # if it is a file, the file system's error says so
                part.mkdir()
        return path

    def new_folder(self, path: Path) -> Path:
        """Make a new folder inside an existing one.

        Raises:
            UserError: the path is a symbolic link that leads nowhere.
            FileExistsError: it already exists.
        """
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{path} is a symbolic link to {path.readlink()}, which leads to no folder: change the link"
            )
        path.mkdir()
        self._folders.append(path)
        return path

    def file(self, path: Path) -> Path:
        """Record a file that is about to be written, with its present content if it exists; returns the path."""
        if not path.exists() and not path.is_symlink():
            self._files.append(path)
        elif path.is_file() and path not in self._files:
            with suppress(OSError):  # if it cannot be read, it cannot be written either
                self._before.setdefault(path.resolve(), (path.read_bytes(), path.stat()))
        return path

    def tree(self, path: Path) -> Path:
        """Record a folder that a library is about to make and fill, unless it exists; returns the path."""
        if not path.exists() and not path.is_symlink():
            self._trees.append(path)
        return path

    @contextmanager
    def taken_back(self, refusal: type[BaseException] = BaseException) -> Iterator[None]:
        """Remove all that was made if the work inside fails with `refusal`."""
        try:
            yield
        except refusal:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Remove what was made, and put back what was replaced; a folder that holds anything else stays."""
        for path, (content, status) in self._before.items():
            with suppress(OSError):
                if not path.is_file() or path.stat().st_mtime_ns != status.st_mtime_ns:
                    with atomic_write(path) as file:
                        file.write(content)
                    path.chmod(stat.S_IMODE(status.st_mode))
                    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # it shows which run was last
        for path in self._files:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for path in self._trees:
            shutil.rmtree(path, ignore_errors=True)
        for path in reversed(self._folders):
            with suppress(OSError):
                path.rmdir()


def files_below(folder: str | Path, name: str, everywhere: bool = False) -> Iterator[Path]:
    """Every file of a given name in a folder and below it, also through links; unfinished files are left out.

    Args:
        everywhere: every folder must be readable; otherwise unreadable ones, such as another user's, are skipped.

    Raises:
        PermissionError: the folder is not readable, or with `everywhere` one below it.
    """

    def unread(error: OSError) -> None:
        if isinstance(error, PermissionError) and (everywhere or str(error.filename) == str(folder)):
            raise error

    seen = set()
    for here, inside, names in os.walk(folder, onerror=unread, followlinks=True):
        seen.add(os.path.realpath(here))
        inside[:] = [
            one for one in inside if not one.endswith(PART) and os.path.realpath(os.path.join(here, one)) not in seen
        ]
        if name in names and Path(here, name).is_file():
            yield Path(here, name)


def new_run_folder(
    root: str | Path, name: str, overrides: Sequence[str] = (), what: str = "", made: Made | None = None
) -> Path:
    """Make and return `root/name/DATE_TIME_WHAT_LABEL`, with a number after the time if that exists.

    Args:
        overrides: of the command line; see `label_of`.
        what: what the folder holds, if not a run.
        made: the record of what the command makes.

    Raises:
        UserError: a name that leads out of `root`.
    """
    made = made or Made()
    above = made.folder(Path(root, checked_name(name)))
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    label = label_of(overrides, name)
    for number in ["", *(f"-{k}" for k in range(2, 1000))]:
        with suppress(FileExistsError):
            return made.new_folder(above / "_".join(part for part in (stamp + number, what, label) if part))
    raise UserError(f"there are too many runs in {above} with the time {stamp}")


def check_is_file(path: Path, needed: str) -> None:
    """Raise UserError with what is there instead unless a path leads to a file; reading a pipe would block.

    Args:
        needed: what to do, for the message: "give the path of a text".
    """
    if not path.is_file():
        raise UserError(f"{found_at(path)}: {needed}")


def found_at(path: Path) -> str:
    """What is at a path instead of what is needed, for a message."""
    if path.is_dir():
        return f"{path} is a folder"
    if path.is_file():
        return f"{path} is a file"
    if path.exists():
        return f"{path} is a pipe or a device"
    return f"{path} is a link to {path.readlink()}, which is not there" if path.is_symlink() else f"there is no {path}"


def is_path(text: str) -> bool:
    """Whether a command accepts this path: it has no control characters, which a message would not show.

    Nor any character that a file name cannot have.
    """
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return not any(unicodedata.category(letter) == "Cc" for letter in text)


def checked_name(name: str) -> str:
    """The name of runs, if it names a folder inside the folder of runs.

    Raises:
        UserError: it is empty, not a path or an absolute one, or has parts "." or "..".
    """
    if not name.strip() or not is_path(name) or name.startswith(("/", "~")) or {".", ".."} & set(name.split("/")):
        raise UserError(f"name={name!r} is not the name of a folder in runs: give one such as my_run or group/my_run")
    return name


def label_of(overrides: Sequence[str], name: str = "", without: Collection[Role] = ("place", "operational")) -> str:
    """The given settings as a label, such as "net.width-64+seed-1": only letters, digits and ._+-, at most `MOST`.

    A longer label is cut and ends in a hash of the whole, so that different labels stay different.

    Args:
        overrides: key=value, as on a command line.
        name: a choice of that name (data=NAME, experiment=NAME) is left out: the parent folder has it.
        without: roles whose settings are left out.
    """
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if (
            value != "{}"
            and role_of(key) not in without
            and not (key in ("data", "experiment") and value.replace("/", "_") == name)
        ):
            parts.append(f"{_plain(key)}-{_plain(value.rsplit('/', 1)[-1])[:MOST_OF_ONE]}")
    label = "+".join(parts)
    if len(label) <= MOST:
        return label
    digest = hashlib.sha256(repr(sorted(overrides)).encode()).hexdigest()[:6]
    return f"{label[: MOST - 7].rstrip('+-.')}+{digest}"


def _plain(text: str) -> str:
    """Letters, digits, dots and underscores: 1e+3 is 1e3, and anything else becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.strip("[]{}()'\" ").replace("+", "")).rstrip("-.")
