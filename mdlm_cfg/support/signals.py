"""Handlers of signals, given back to whoever had set them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last is of a terminal that is closed


@contextmanager
def interrupts_given_back() -> Iterator[None]:
    """Restores the handlers of `INTERRUPTS` at the end.

    Lightning ignores SIGINT while it shuts down after an interrupt, and leaves it so where training had not begun or
    had ended: the next Ctrl-C of the same process would go unheard. Only the main thread can set handlers.
    """
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # else it was not set by Python, which cannot set it back
                    signal.signal(number, handler)
