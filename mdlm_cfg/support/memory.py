"""The available memory (the least that machine, control groups and process allow), and errors from the lack of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from mdlm_cfg.support.errors import text_of

GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")
LACK = ("can't allocate memory", "not enough memory", "out of memory")  # torch's wordings, in a RuntimeError
NOT_LOADED = "failed to map segment from shared object"  # the library loader's wording, in an ImportError


def memory_allowed() -> int:
    """Bytes that this process may use: the least of machine, control groups and address space (`ulimit -v`)."""
    limits = [psutil.virtual_memory().total, *group_limits()]
    if hasattr(psutil.Process, "rlimit"):  # Linux
        soft, _ = psutil.Process().rlimit(psutil.RLIMIT_AS)
        if soft not in (psutil.RLIM_INFINITY, -1):
            limits.append(soft)
    return min(limits)


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error reports a lack of memory, whatever its type."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and any(sign in text_of(error) for sign in LACK))
        or (isinstance(error, ImportError) and NOT_LOADED in text_of(error))
    )


def group_limits(groups: Path = GROUPS, mount: Path = MOUNT) -> Iterator[int]:
    """The limits in bytes of this process's control groups, of versions 1 and 2, and of their parent groups.

    A container shows its own group at the top, and may name one that is not visible in it.
    """
    for line in _lines(groups):
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base = mount
            file = "memory.max"
        elif "memory" in controllers.split(","):
            base = mount / "memory"
            file = "memory.limit_in_bytes"
        else:
            continue
        own = base / group.lstrip("/")
        for folder in (own, *own.parents):
            if folder == base or base in folder.parents:
                yield from (int(text) for text in _lines(folder / file) if text.isdigit())


def _lines(path: Path) -> list[str]:
    """The lines of a small file; none if it cannot be read."""
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
