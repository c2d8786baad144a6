"""How much memory there is, the lowest of what the machine, its control groups and the process allow; and its lack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from mdlm_cfg.support.errors import text_of

GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")
LACK = ("can't allocate memory", "not enough memory", "out of memory")  # how torch says it, in a RuntimeError
NOT_LOADED = "failed to map segment from shared object"  # how the loader of libraries says it, in an ImportError


def memory_allowed() -> int:
    """Bytes that this process may take: the machine's, its control groups', or its address space's (`ulimit -v`)."""
    limits = [psutil.virtual_memory().total, *group_limits()]
    if hasattr(psutil.Process, "rlimit"):  # Linux
        soft, _ = psutil.Process().rlimit(psutil.RLIMIT_AS)
        if soft not in (psutil.RLIM_INFINITY, -1):
            limits.append(soft)
    return min(limits)


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, whatever else its type may stand for."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and any(sign in text_of(error) for sign in LACK))
        or (isinstance(error, ImportError) and NOT_LOADED in text_of(error))
    )


def group_limits(groups: Path = GROUPS, mount: Path = MOUNT) -> Iterator[int]:
    """The limits in bytes of the control groups of this process, of versions 1 and 2: of each and of those around it.

    A container shows its own group as the topmost, and may name one that it does not show.
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
    """The lines of a small file; none where it cannot be read."""
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
