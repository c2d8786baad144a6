"""Rows of findings: columns that many studies have, choosing among rows, and means over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.studies.findings import col, listed
from mdlm_cfg.support.numbers import apart, largest

Row = TypeVar("Row")


@dataclass(frozen=True)
class AtStrength:
    """A row at one strength."""

    w: Guidance = col("w", "guidance strength, or the name of a schedule", index=True)


@dataclass(frozen=True)
class OfDenoiser(AtStrength):
    """A row at one strength, by one of the denoisers."""

    denoiser: str = col("conditionals", '"exact" or "learned"', index=True)


@dataclass(frozen=True)
class OfClass:
    """A row of one class."""

    target_class: int = col("class", "z", index=True)
    class_name: str = col("class", "its name", index=True)


def where(rows: Iterable[Row], **values: Any) -> list[Row]:
    """The rows that have these values in these columns."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in values.items())]


def by(rows: Sequence[Row], name: str) -> Iterator[tuple[Any, list[Row]]]:
    """Each value of a column, in the order of the rows, with the rows that have it."""
    for value in dict.fromkeys(getattr(row, name) for row in rows):
        yield value, where(rows, **{name: value})


def ends(rows: Iterable[Row], name: str) -> tuple[Row, Row]:
    """The row with the smallest number in a column, and the one with the largest; the first of ties."""
    ascending = sorted(rows, key=lambda row: getattr(row, name))
    largest = getattr(ascending[-1], name)
    return ascending[0], next(row for row in ascending if getattr(row, name) == largest)


def tied_ends(rows: Sequence[Row], name: str, same: float) -> tuple[list[Row], list[Row]]:
    """The rows within `same` of the smallest number in a column, and of the others those within `same` of the largest.

    No row is in both, and the second list is empty if all numbers are that close.
    """
    near = largest(rows, lambda row: -getattr(row, name), same)
    far = [row for row in largest(rows, lambda row: getattr(row, name), same) if row not in near]
    return near, far


def least_and_most(
    what: str, rows: Sequence[Row], name: str, index: str, same: float, after: Callable[[list[Row]], str] | None = None
) -> str:
    """The end of a sentence: the values of `index` at which the number in a column is smallest and largest.

    Args:
        what: the number in words. same: numbers this close count as equal.
        after: the text after a number, from the rows that share it.
    """
    sets = [tied for tied in tied_ends(rows, name, same) if tied]
    numbers = apart(*(getattr(tied[0], name) for tied in (sets[0], sets[-1])))
    shown = [
        f"{number.replace('inf', 'infinite')}{after(tied) if after else ''}" for number, tied in zip(numbers, sets)
    ]
    if len(sets) == 1:
        return f"{what} is the same for all: {shown[0]}."
    said = [f"{listed([getattr(row, index) for row in tied])} ({number})" for tied, number in zip(sets, shown)]
    return f"{what} is smallest with {said[0]} and largest with {said[1]}."


def strongest(rows: Iterable[Any]) -> Guidance:
    """The largest strength of rows whose strengths are numbers."""
    found: Guidance = max((row.w for row in rows), key=lambda guidance: guidance.constant)
    return found


def weak_and_strong(rows: Iterable[Any]) -> list[Any]:
    """The rows with the smallest and the largest strength, or the only one; rows without a strength left out."""
    guided = [row for row in rows if isinstance(row.w, Guidance)]
    return list(dict.fromkeys(pick(guided, key=lambda row: row.w.constant) for pick in (min, max)))


def at_strengths(rows: Iterable[Any], name: str, form: Callable[[float], str], of: str = "") -> str:
    """The number in a column at each strength where it is known; the first is followed by what it is a share `of`."""
    shown = [(form(getattr(row, name)), row.w.label) for row in rows if getattr(row, name) is not None]
    return " and ".join(f"{value}{f' {of}' if of and not k else ''} at w = {w}" for k, (value, w) in enumerate(shown))


def measured(kind: type) -> tuple[str, ...]:
    """The columns of a class of rows that are not an index."""
    return tuple(f.name for f in fields(kind) if not f.metadata["index"])


def mean_rows(rows: Iterable[Any], kind: type[Row], **made: Callable[[list[Any]], Any]) -> list[Row]:
    """Means over rows: one of a class for each value of its index, in the order in which they come.

    A mean is None if a row lacks the number. For standard errors (`..._se`), the result is that of the mean.

    Args:
        made: functions of the rows for columns that are not means.
    """
    index = [f.name for f in fields(kind) if f.metadata["index"]]  # type: ignore[arg-type] # rows are dataclasses
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in index), []).append(row)
    names = [name for name in measured(kind) if name not in made]
    found = []
    for at, own in groups.items():
        means = {name: mean_of(name, [getattr(row, name) for row in own]) for name in names}
        found.append(kind(**dict(zip(index, at)), **means, **{name: make(own) for name, make in made.items()}))
    return found


def mean_of(name: str, values: Sequence[float | None]) -> float | None:
    """The mean of a column, or the mean's standard error if the column is one; None unless all numbers exist."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return (math.hypot(*known) if name.endswith("_se") else math.fsum(known)) / len(known)
