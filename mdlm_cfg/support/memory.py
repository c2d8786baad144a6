"""How much memory there is: the lowest of what the machine, its container and the process allow."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # v2, v1


def memory_allowed() -> int:
    """Bytes that this process may take: the machine's, its control group's, or its address space's (`ulimit -v`)."""
    limits = [psutil.virtual_memory().total, *(limit for path in CGROUP_LIMITS if (limit := _limit_in(path)))]
    if hasattr(psutil.Process, "rlimit"):  # Linux
        soft, _ = psutil.Process().rlimit(psutil.RLIMIT_AS)
        if soft not in (psutil.RLIM_INFINITY, -1):
            limits.append(soft)
    return min(limits)


def _limit_in(path: Path) -> int | None:
    """The number in a control group's file; None where there is no file or no limit."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
