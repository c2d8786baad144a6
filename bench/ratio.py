"""Ratios of two times, measured in turns: on a machine of varying speed only a ratio is meaningful."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

REPEATS = 5
SHORT = 0.05  # seconds: shorter work is repeated within one measurement
Work = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """One line of the bench.

    Attributes:
        what: the work that was timed, with its sizes.
        yardstick: what its time is compared with.
        seconds: median of ours. against: median of the yardstick's, or its bound.
        better: "higher" if the figure is how many times as fast we are, "lower" if it is our time over a bound.
        goal: of the ratio, as docs/performance.md states it; None for none.
    """

    what: str
    yardstick: str
    seconds: float
    against: float
    better: str
    goal: float | None = None

    @property
    def ratio(self) -> float:
        """Ours over the bound ("lower"), or the yardstick's over ours ("higher")."""
        return self.seconds / self.against if self.better == "lower" else self.against / self.seconds

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.better == "lower" else self.ratio >= self.goal


def seconds(work: Work, repeats: int = REPEATS) -> float:
    """Median seconds of `repeats` measurements, after a run to warm up."""
    times = _times(work)
    return statistics.median(_once(work, times) for _ in range(repeats))


def in_turns(ours: Work, theirs: Work, repeats: int = REPEATS) -> tuple[float, float]:
    """Median seconds of two pieces of work run in turns, after a run of each to warm up."""
    counts = _times(ours), _times(theirs)
    pairs = [(_once(ours, counts[0]), _once(theirs, counts[1])) for _ in range(repeats)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def once(work: Work) -> float:
    """Seconds of one run without warm-up, for long work."""
    return _once(work, 1)


def _times(work: Work) -> int:
    """The number of runs in one measurement."""
    work()
    return max(1, round(SHORT / _once(work, 1)))


def _once(work: Work, times: int) -> float:
    """Seconds per run, averaged over `times` runs."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    if torch.cuda.is_available():
        wait_for(torch.device("cuda"))
    return (time.perf_counter() - start) / times


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work; return at once for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copying(device: torch.device) -> tuple[Work, float]:
    """A large copy, and its bytes, read plus written."""
    source = torch.rand(2**26, device=device)
    target = torch.empty(2**26, device=device)
    return partial(target.copy_, source), 2.0 * source.nbytes


def copy_rate(device: torch.device) -> float:
    """Bytes per second of `copying`."""
    copy, moved = copying(device)
    return moved / seconds(copy)


def matmul_rate(device: torch.device) -> float:
    """Floating-point operations per second of a large matrix product: of float32 on a CPU, of bfloat16 on a GPU."""
    side, dtype = (2048, torch.float32) if device.type == "cpu" else (8192, torch.bfloat16)
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b)
