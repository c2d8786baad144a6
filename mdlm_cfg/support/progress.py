"""For people who wait: which piece of long work is under way, and how long the rest will take."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

QUIET = 15.0  # seconds between lines where there is no terminal for a bar


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
    """Says, before each piece of some work, what it is and how long the rest will take.

    Args:
        costs: of the pieces in their order, in any unit: what the estimate goes by.
        write: gets one short line a piece.
    """

    def __init__(self, costs: Sequence[float], write: Callable[[str], None] | None) -> None:
        self.costs = list(costs)
        self.write = write
        self._begun = 0
        self._start = time.monotonic()

    def __call__(self, what: str) -> None:
        """The next piece begins: `what` it is."""
        done = sum(self.costs[: self._begun]) / sum(self.costs)
        self._begun += 1
        left = time_left(time.monotonic() - self._start, done)
        if self.write is not None:
            self.write(f"{what} (about {left})" if left else what)


class Lines:
    """Lines of progress on standard error. All of them go through one object, which knows when the last one came.

    Attributes:
        console: of bars as well, so that lines stand above a bar.
        share: of the piece of work under way that is done, where it says so (`CountedSteps`); else 0.
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
        """Whether nothing was said for `QUIET` seconds."""
        return time.monotonic() - self._last >= QUIET


LINES = Lines()


class CountedSteps:
    """Says which share of the piece of work under way is done: called at its start, and after each step.

    Args:
        steps: how many there are.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._done = -1

    def __call__(self, state: object) -> None:
        """The start, or one more step."""
        self._done += 1
        LINES.share = min(self._done / self.steps, 1.0)


@contextmanager
def signs_of_life(every: float = 1.0) -> Iterator[Callable[[str], None]]:
    """A context that announces a piece of work, and repeats it with the time taken after every `QUIET` silent seconds.

    It also gives the remaining time where the share done is known.

    Args:
        every: seconds between looks at the clock.
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
    """A bar to tell the share of the work done, 0 to 1; where there is no terminal, a line now and then."""
    console = LINES.console
    start = time.monotonic()
    if console.is_terminal:
        name = TextColumn("{task.description}", markup=False)
        columns = name, BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}")
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=1.0, left="")  # its text is shown as it is
            yield lambda done: bar.update(task, completed=done, left=time_left(time.monotonic() - start, done))
        return

    def line(done: float) -> None:
        if LINES.are_due:
            LINES.say(f"{what}: {done:.0%}  {time_left(time.monotonic() - start, done)}")

    yield line
