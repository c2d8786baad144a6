"""Progress of long work: the current piece, and how long the rest will take."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

QUIET = 15.0  # seconds between lines without a terminal for a bar


def time_left(seconds: float, done: float) -> str:
    """The time left, such as "1:05 left", after `seconds` for the share `done` of the work; "" at its start."""
    return f"{clock(seconds * (1 - done) / done)} left" if done > 0 else ""


def clock(seconds: float) -> str:
    """Seconds, rounded up, as "1:05", or as "2:01:05" from an hour on."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def silent(line: str) -> None:
    """Says nothing."""


class Pieces:
    """Announces each piece of work, with the time that the rest will take.

    Args:
        costs: of the pieces in order, in any unit; the estimate is based on them.
        write: gets one short line per piece.
    """

    def __init__(self, costs: Sequence[float], write: Callable[[str], None] | None) -> None:
        self.costs = list(costs)
        self.write = write
        self._begun = 0
        self._start = time.monotonic()

    def __call__(self, what: str) -> None:
        """Announce the next piece, `what`."""
        done = sum(self.costs[: self._begun]) / sum(self.costs)
        self._begun += 1
        left = time_left(time.monotonic() - self._start, done)
        if self.write is not None:
            self.write(f"{what} (about {left})" if left else what)


class Lines:
    """Progress lines on standard error. All go through one object, which knows when the last one was printed.

    Attributes:
        console: shared with bars, so that lines appear above a bar.
        share: of the current piece that is done, if it reports it (`CountedSteps`); else 0.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._last = time.monotonic()
        self.share = 0.0

    def say(self, line: str, style: str | None = None) -> None:
        """Print a line."""
        self._last = time.monotonic()
        self.console.print(Text(line), style=style, soft_wrap=True)

    @property
    def are_due(self) -> bool:
        """Whether nothing was printed for `QUIET` seconds."""
        return time.monotonic() - self._last >= QUIET


LINES = Lines()


class CountedSteps:
    """Reports the share of the current piece that is done; called at its start and after each step.

    Args:
        steps: how many there are.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._done = -1

    def __call__(self, state: object) -> None:
        """Record the start, or one more step."""
        self._done += 1
        LINES.share = min(self._done / self.steps, 1.0)


@contextmanager
def signs_of_life(every: float = 1.0) -> Iterator[Callable[[str], None]]:
    """A context that announces a piece of work, and repeats it with the time taken after every `QUIET` silent seconds.

    It also gives the remaining time where the share done is known.

    Args:
        every: seconds between checks of the clock.
    """
    piece = ""
    begun = time.monotonic()
    ended = threading.Event()

    def say(line: str) -> None:
        nonlocal piece, begun
        piece = line.partition(" (about ")[0]
        begun = time.monotonic()
        LINES.share = 0.0
        LINES.say(line, "dim")

    def watch() -> None:
        while not ended.wait(every):
            if piece and LINES.are_due:
                passed = time.monotonic() - begun
                left = time_left(passed, LINES.share)
                LINES.say(f"{piece}: {clock(passed)} so far{f', about {left}' if left else ''}", "dim")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield say
    finally:
        ended.set()
        watcher.join()


@contextmanager
def share_shown(what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar for the share of the work done, 0 to 1; without a terminal, a line from time to time."""
    console = LINES.console
    start = time.monotonic()
    if console.is_terminal:
        name = TextColumn("{task.description}", markup=False)
        columns = name, BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}")
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=1.0, left="")  # the text is shown without markup
            yield lambda done: bar.update(task, completed=done, left=time_left(time.monotonic() - start, done))
        return

    def line(done: float) -> None:
        if LINES.are_due:
            LINES.say(f"{what}: {done:.0%}  {time_left(time.monotonic() - start, done)}")

    yield line
