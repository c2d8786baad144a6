"""Errors that a user can fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something a user can fix: one sentence that names the value, what is allowed and what to do.

    The commands print it and exit with code 2. Anything else that is raised is a fault of this package, and keeps its
    traceback.
    """


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """ "; did you mean ...?" for the options nearest to a word; empty where none is near."""
    near = difflib.get_close_matches(word, list(options), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
