"""Numbers as arguments, from Python, numpy or torch, checked alike. Text and truth values are not numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError, shown


def is_number(value: Any) -> bool:
    """Whether a value is a number, possibly infinite or NaN."""
    if type(value) in (int, float):  # the general check takes ten times as long
        return True
    return isinstance(_plain(value), Real) and not isinstance(_plain(value), bool)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    if type(value) is int:
        return True
    return isinstance(_plain(value), Integral) and not isinstance(_plain(value), bool)


def whole_number(what: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """The value as a Python int.

    Args:
        what: its name, for the message.

    Raises:
        UserError: it is not a whole number from `least` to `most`.
    """
    if is_whole(value) and value >= least and (most is None or value <= most):
        return int(value)
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise UserError(f"{what} = {shown(value)} is not allowed: it must be a whole number {bounds}")


def whole_numbers(what: str, values: Any, least: int = 1) -> tuple[int, ...]:
    """At least one whole number, all different, as Python ints.

    Args:
        what: their name, for the message.

    Raises:
        UserError: they are not, or one of them is below `least`.
    """
    several = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    if several and all(is_whole(value) and value >= least for value in several) and len(set(several)) == len(several):
        return tuple(map(int, several))
    raise UserError(
        f"{what} = {shown(values)} is not allowed: it must be a list of different whole numbers of at least {least}"
    )


def number(what: str, value: Any, least: float = -inf, most: float | None = None, *, above: bool = False) -> float:
    """The value as a Python float.

    Args:
        what: its name, for the message. most: None is any finite number; inf allows infinity. above: `least` itself
            is not allowed.

    Raises:
        UserError: it is not a number in these bounds.
    """
    try:
        found = float(value) if is_number(value) else float("nan")
    except OverflowError:  # a whole number of hundreds of digits
        found = inf
    inside = found > least if above else found >= least
    if inside and (isfinite(found) if most is None else found <= most):
        return found
    bounds = "" if least == -inf else f" above {least:g}" if above else f" of at least {least:g}"
    bounds += "" if most in (None, inf) else f"{' and' if bounds else ' of'} at most {most:g}"
    kind = "a finite number" if most is None else "a number"
    raise UserError(f"{what} = {shown(value)} is not allowed: it must be {kind}{bounds}")


def numbers(what: str, values: Any, least: float = -inf, most: float | None = None) -> Tensor:
    """One number or several as float64, () or (n,); each as `number` checks it.

    Raises:
        UserError: anything else, or a number that is out of bounds.
    """
    if is_number(values):
        return torch.tensor(number(what, values, least, most), dtype=torch.float64)
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray | Tensor):
        raise UserError(f"{what} = {shown(values)} is not allowed: it must be a number, or a list of numbers")
    return torch.tensor([number(what, value, least, most) for value in values], dtype=torch.float64)


def _plain(value: Any) -> Any:
    """A tensor with one element as that number."""
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
