"""Standard output and error that cannot end a command: the results of a command are its files."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO)  # the reader has ended, such as `head`, or the terminal was closed
LEAST_COLUMNS = 40  # of a terminal that shows tables


class SteadyStream:
    """A text stream that continues silently when its reader has gone, or when it was closed.

    Args:
        stream: a stream of this process. Everything but writing is left to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it when nobody reads any more."""
        try:
            return len(text) if self._stream.closed else self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it when nobody reads any more."""
        try:
            if not self._stream.closed:
                self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Send everything to the null device from now on, what is buffered as well; raise any other error again."""
        if error.errno not in GONE:
            raise error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


@contextmanager
def steady_streams() -> Iterator[None]:
    """Standard output and error that show every text, line by line, and outlive their readers.

    A character that the terminal's encoding lacks is written as an escape such as \\xe9. COLUMNS=0, which some
    launchers set, and other widths that show no table do not count.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < LEAST_COLUMNS:
        del os.environ["COLUMNS"]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_steady, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _steady(stream: TextIO) -> TextIO:
    if isinstance(stream, io.TextIOWrapper):  # neither None nor what a notebook has in its place
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    return stream if stream is None else SteadyStream(stream)  # type: ignore[return-value]
