"""Reads the text form of objects, NAME or NAME(ARGUMENTS)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mdlm_cfg.support.errors import UserError, did_you_mean, shown

T = TypeVar("T")


class Unreadable(Exception):
    """Arguments that cannot be read."""


def read_form(
    what: str, text: Any, plain: Mapping[str, Callable[[], T]], forms: Mapping[str, Callable[[str], T]], allowed: str
) -> T:
    """The object that a text stands for.

    Args:
        what: the kind of object, for the message. allowed: all forms, for the message.
        plain: what NAME alone stands for. forms: functions of ARGUMENTS, which may raise `Unreadable`.

    Raises:
        UserError: any other text, or no text.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text, flags=re.DOTALL) if isinstance(text, str) else None
    name, inside = match.groups() if match else ("", None)
    try:
        if inside is None and name in plain:
            return plain[name]()
        if inside is not None and name in forms:
            return forms[name](inside)
    except Unreadable:
        pass
    names = {**plain, **forms}
    near = did_you_mean(name or str(text).partition("(")[0], names) if name not in names else ""
    raise UserError(f"the {what} {shown(text)} cannot be read; write {allowed}{near}")


def with_numbers(make: Callable[..., T]) -> Callable[[str], T]:
    """A function that reads arguments such as "0.02, on=0.5": numbers separated by commas, named ones last."""

    def read(inside: str) -> T:
        positional: list[float] = []
        named: dict[str, float] = {}
        for part in inside.split(","):
            name, equals, value = part.rpartition("=")
            if equals:
                named[name.strip()] = decimal(value)
            elif named:
                raise Unreadable
            else:
                positional.append(decimal(value))
        try:
            return make(*positional, **named)
        except TypeError:  # of another number of arguments, or other names
            raise Unreadable from None

    return read


def decimal(text: str) -> float:
    """A number, or `Unreadable` is raised."""
    try:
        return float(text)
    except ValueError:
        raise Unreadable from None


def whole(text: str) -> int:
    """A number 0, 1, 2, ... in ASCII digits, or `Unreadable` is raised."""
    if re.fullmatch(r"\s*\d+\s*", text, re.ASCII) is None:
        raise Unreadable
    return int(text)
