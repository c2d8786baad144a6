"""Ties in sentences: what only rounding tells apart is named together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

SAME = 1e-9  # numbers that are closer than this are equal
NAMED = 3  # names that a sentence has at most
Item = TypeVar("Item")


def largest(items: Sequence[Item], of: Callable[[Item], float], same: float = SAME) -> list[Item]:
    """The items with the largest number, in their order: all that are within `same` of it.

    Args:
        of: the number of an item; items are at least one.
    """
    most = max(map(of, items))  # infinite ones are close to themselves
    return [item for item in items if of(item) == most or most - of(item) < same]


def named(names: Sequence[str], mark: str = ",") -> str:
    """Names in a row, of many the first: "(0, mask) and (mask, 0)", or "R1, R2, R3 and 4 more"."""
    shown = [*names[:NAMED], f"{len(names) - NAMED} more"] if len(names) > NAMED else list(names)
    return " and ".join([f"{mark} ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
