"""Errors that a user can fix."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LONGEST = 80  # characters of a value in a message
MOST = 500  # characters of other code's messages


class UserError(ValueError):
    """Something a user can fix: one sentence that names the value, what is allowed and what to do.

    The commands print it and exit with code 2. Anything else that is raised is a fault of this package, and keeps its
    traceback.
    """


def not_ours(path: Path) -> UserError:
    """The error of a command that would replace a file which mdlm_cfg did not write."""
    return UserError(
        f"{path} exists, and no record beside it says that mdlm_cfg wrote it: move it, or give another folder"
    )


def text_of(error: BaseException) -> str:
    """The text of an error; empty if a user's own class fails to give one."""
    try:
        return str(error)
    except Exception:
        return ""


def on_one_line(text: str) -> str:
    """A text for a terminal: its white space as single spaces, and control characters as escapes such as \\x1b."""
    words = " ".join(text.split())
    return "".join(repr(one)[1:-1] if unicodedata.category(one) == "Cc" else one for one in words)


def said_by(error: BaseException) -> str:
    """The type and the text of an error of other code, on one line; a long text is cut."""
    return f"{type(error).__name__}: {cut(on_one_line(text_of(error)), MOST)}"


def cut(text: str, most: int) -> str:
    """A text of at most `most` characters; a longer one ends in "..."."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shown(value: Any) -> str:
    """A value for a message: its text if that is short, on one line and without an address; otherwise its type."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape):
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    if shape is not None and hasattr(value, "item"):
        value = value.item()
    is_named = type(value).__str__ is not object.__str__ and not isinstance(value, str)
    text = str(value) if is_named else repr(value)
    if isinstance(value, str) and len(text) > LONGEST:
        return f"{text[:LONGEST]}..."
    is_short = len(text) <= LONGEST and "\n" not in text and " at 0x" not in text
    return text if is_short else f"an object of type {type(value).__name__}"


def one_of(what: str, value: Any, options: Iterable[str]) -> str:
    """A name that must be one of several.

    Args:
        what: what it names, for the message.

    Raises:
        UserError: any other value.
    """
    names = list(options)
    if isinstance(value, str) and value in names:
        return value
    near = did_you_mean(value, names) if isinstance(value, str) else ""
    raise UserError(f"{what} {shown(value)} is unknown; choose one of {', '.join(names)}{near}")


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """ "; did you mean ...?" for the options nearest to a word; empty where none is near."""
    near = difflib.get_close_matches(word, list(options), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
