"""Formatting numbers: one format per column, and values that differ only by rounding are named together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import TypeVar

ABSENT = "-"
ROUNDING = 1e-12  # smaller numbers are float64 rounding, and shown as 0
MOST_DIGITS = 6  # after the decimal point; numbers that need more are scientific
LARGE = 1e6
SAME = 1e-9  # numbers closer than this are ties
NAMED = 3  # most names in a sentence
Item = TypeVar("Item")


def format_column(values: Sequence[float | None], digits: int = 4) -> list[str]:
    """The numbers of a column, all in one format.

    They have `digits` digits after the decimal point, and up to 6 if the smallest would not show two significant ones.
    If that is still too few, or the largest has more than six digits before the point, all are scientific.

    Args:
        values: None is shown as "-", and a number smaller than 1e-12 as "0".
        digits: after the decimal point, at most 6.
    """
    sizes = [abs(v) for v in values if v is not None and math.isfinite(v) and abs(v) >= ROUNDING]
    first = math.floor(math.log10(min(sizes, default=1.0)))  # place of the first digit of the smallest
    if first < -MOST_DIGITS or max(sizes, default=0.0) >= LARGE:
        form = ".2e"
    else:
        hidden = min(sizes, default=1.0) < 0.5 * 10 ** (1 - digits)
        form = f".{min(1 - first, MOST_DIGITS) if hidden else digits}f"
    return [_shown(value, form) for value in values]


def _shown(value: float | None, form: str) -> str:
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return str(value)
    return "0" if abs(value) < ROUNDING else f"{value:{form}}"


def short(value: float | None, digits: int = 4) -> str:
    """One number, formatted like a column of its own."""
    return format_column([value], digits)[0]


def apart(first: float, second: float, digits: int = 4) -> tuple[str, str]:
    """Two numbers for one sentence: each as by `short`, or with as many digits as it takes to tell them apart.

    They look alike only if they differ by no more than rounding.
    """
    shown = short(first, digits), short(second, digits)
    while shown[0] == shown[1] and abs(first - second) > ROUNDING * max(1.0, abs(first)):
        digits += 1
        shown = f"{first:.{digits}g}", f"{second:.{digits}g}"
    return shown


def instead_of(now: float, before: float) -> str:
    """A number and the one it replaces, "0.1 instead of 0.2"; one number if they look alike."""
    shown = apart(now, before)
    return shown[0] if shown[0] == shown[1] else " instead of ".join(shown)


def percent(share: float, digits: int = 0) -> str:
    """A share in percent: 100% and 0% only if they are exact, up to floating-point rounding."""
    least = 10.0 ** -(digits + 2)
    if ROUNDING < share <= least / 2:
        return f"less than {least:.{digits}%}"
    if 1 - least / 2 <= share < 1 - ROUNDING:
        return f"more than {1 - least:.{digits}%}"
    return f"{share:.{digits}%}"


def in_percent(share: float) -> str:
    """`percent` with one digit."""
    return percent(share, 1)


def rounded_up(value: float, digits: int = 1) -> str:
    """A bound in a few significant digits, which are never below it: 1.2e-13 is "2e-13"."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exact = Decimal(value)
    unit = Decimal(1).scaleb(exact.adjusted() + 1 - digits)
    return f"{float(exact.quantize(unit, ROUND_CEILING)):.{digits}g}"


def largest(items: Sequence[Item], of: Callable[[Item], float], same: float = SAME) -> list[Item]:
    """The items within `same` of the largest number, in their order.

    Args:
        of: the number of an item; there is at least one item.
    """
    most = max(map(of, items))  # infinite ones are close to themselves
    return [item for item in items if of(item) == most or most - of(item) < same]


def named(names: Sequence[str], mark: str = ",") -> str:
    """Names as a list in words, only the first of many: "(0, mask) and (mask, 0)", or "R1, R2, R3 and 4 more"."""
    shown = [*names[:NAMED], f"{len(names) - NAMED} more"] if len(names) > NAMED else list(names)
    return " and ".join([f"{mark} ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
