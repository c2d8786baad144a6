"""Standard output and error that cannot end a command: the results of a command are its files."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO)  # the reader has ended, such as `head`, or the terminal was closed
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, of a stream that goes to a file
LEAST_COLUMNS = 40  # of a terminal that shows tables


class SteadyStream:
    """A text stream that silently drops its output once its reader has gone, or it was closed.

    Args:
        stream: a stream of this process, which still does everything but writing.
        dropped: errno values after which nothing more is written; any other error is raised, with the stream's name.
    """

    def __init__(self, stream: TextIO, dropped: Collection[int] = GONE) -> None:
        self._stream = stream
        self._dropped = dropped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        try:
            return len(text) if self._stream.closed else self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        try:
            if not self._stream.closed:
                self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """From now on send everything, buffered text included, to the null device; raise any other error, named."""
        if error.errno not in self._dropped:
            error.filename = getattr(self._stream, "name", None)
            raise error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


@contextmanager
def steady_streams() -> Iterator[None]:
    """Standard output and error that accept any text, line by line, and outlive their readers.

    A training run does not fail because standard error goes to a full disk: its text is dropped.
    A character that the terminal's encoding lacks is written as an escape such as \\xe9. COLUMNS=0, which some
    launchers set, and other widths too narrow for a table are ignored.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < LEAST_COLUMNS:
        del os.environ["COLUMNS"]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _steady(sys.stdout, GONE), _steady(sys.stderr, (*GONE, *FULL))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _steady(stream: TextIO, dropped: Collection[int]) -> TextIO:
    if isinstance(stream, io.TextIOWrapper):  # not None, and not a notebook's replacement
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    return stream if stream is None else SteadyStream(stream, dropped)  # type: ignore[return-value]
