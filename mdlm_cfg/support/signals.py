"""Signal handlers: every interrupt acts like Ctrl-C, and previous handlers are restored."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last is sent when a terminal is closed
TOGETHER = 1.0  # seconds within which several signals count as one interrupt, except those of Ctrl-C


@contextmanager
def interrupts_given_back() -> Iterator[None]:
    """Restores the handlers of `INTERRUPTS` at the end.

    Lightning ignores SIGINT while it shuts down after an interrupt, and keeps ignoring it if training had not begun or
    had ended: the next Ctrl-C in the same process would have no effect. Only the main thread can set handlers.
    """
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # else it was not set by Python, which cannot restore it
                    signal.signal(number, handler)


_HEARD: list[int] = []  # the interrupts of this process


@contextmanager
def interrupts_to(come: Callable[[int, FrameType | None], None], is_taken: Callable[[Any], bool]) -> Iterator[None]:
    """Calls `come` at an interrupt inside, in place of the handlers for which `is_taken` holds.

    A signal that is sent twice is one interrupt: a shell whose terminal is closed sends SIGHUP, and the system another
    one when that shell ends; timeout(1) sends its signal to the process and then to its group; systemd may send SIGHUP
    right after SIGTERM. SIGINT comes from a person. Only the main thread can set handlers.
    """
    last = -math.inf

    def once(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before = last
        last = time.monotonic()
        if number == signal.SIGINT or last - before >= TOGETHER:
            come(number, frame)

    with interrupts_given_back():
        if threading.current_thread() is threading.main_thread():
            for number in INTERRUPTS:
                if is_taken(signal.getsignal(number)):
                    signal.signal(number, once)
        yield


def is_default(handler: Any) -> bool:
    """Whether a handler is the system's default, or Python's."""
    return handler in (signal.SIG_DFL, signal.default_int_handler)


def is_heard(handler: Any) -> bool:
    """Whether a signal with this handler is neither ignored (nohup) nor handled outside Python."""
    return handler not in (signal.SIG_IGN, None)


@contextmanager
def interrupts_alike(is_taken: Callable[[Any], bool] = is_default) -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt inside, as SIGINT does; by default they end the process silently.

    Signals that are ignored (nohup) or already have a handler stay as they are.

    Args:
        is_taken: whether a handler is replaced.
    """

    def come(number: int, frame: FrameType | None) -> None:
        _HEARD.append(number)
        raise KeyboardInterrupt

    with interrupts_to(come, is_taken):
        yield


@contextmanager
def interrupts_after(first: Callable[[], None]) -> Iterator[None]:
    """At an interrupt inside, calls `first` and then the previous handler; a second one does not wait for `first`.

    Signals that are not handled in Python stay as they are.
    """
    begun: list[int] = []
    before: dict[int, Any] = {number: signal.getsignal(number) for number in INTERRUPTS}

    def come(number: int, frame: FrameType | None) -> None:
        begun.append(number)
        if len(begun) == 1:
            first()
        before[number](number, frame)

    with interrupts_to(come, callable):
        yield


@contextmanager
def errors_of_interrupts() -> Iterator[None]:
    """Raises KeyboardInterrupt where compiled code turned one into another error, as matplotlib into a ValueError."""
    before = len(_HEARD)
    try:
        yield
    except Exception as error:
        if len(_HEARD) > before:
            raise KeyboardInterrupt from error
        raise
