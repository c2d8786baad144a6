"""Checks of numbers wherever they are: at once on a CPU; on an accelerator, which no step may wait for, all at the end.

A draw or a law there runs under `checked_at_the_end`: what is found wrong on the way is kept on the device, and read
once, when everything has been asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class DeferredCheck:
    """What may be wrong: whether it is (), with what the message needs of the first row that is."""

    is_wrong: Tensor
    row: Tensor
    about: tuple[Tensor, ...]
    explain: Callable[..., str]

    def raise_(self) -> None:
        """Raise UserError for it."""
        raise UserError(self.explain(int(self.row), *(part[0].cpu() for part in self.about)))


_deferred: ContextVar[list[DeferredCheck] | None] = ContextVar("deferred", default=None)


def raise_where(wrong: Tensor, explain: Callable[..., str], *about: Tensor) -> None:
    """Raise UserError if any flag is set: immediately on a CPU, otherwise at the end of `checked_at_the_end`.

    Args:
        wrong: bool (B, ...). explain: gives the message from the first wrong row's number and, on the host, its part of
            `about`. about: tensors (B, ...).

    Raises:
        UserError: on a CPU, or outside `checked_at_the_end`.
    """
    if is_on_cpu(wrong) and not bool(wrong.any()):
        return
    rows = wrong.reshape(len(wrong), -1).any(dim=1)
    first = rows.int().argmax()
    check = DeferredCheck(rows.any(), first, tuple(part.index_select(0, first[None]) for part in about), explain)
    checks = _deferred.get()
    if is_on_cpu(wrong) or checks is None:
        _settle([check])
    else:
        checks.append(check)


def is_on_cpu(values: Tensor) -> bool:
    """Whether numbers are on a CPU, where they can be read without waiting for a device."""
    return values.device.type == "cpu"


class Promise:
    """Functions whose answers are known to have a property, which is then neither made again nor looked for.

    A function that overrides or wraps one of them is another function, and promises nothing.
    """

    def __init__(self) -> None:
        self._functions: set[Any] = set()

    def __call__(self, function: F) -> F:
        """Note that a function keeps it; a decorator."""
        self._functions.add(function)
        return function

    def is_kept_by(self, function: object) -> bool:
        """Whether this very function, or method, is known to keep it."""
        return getattr(function, "__func__", function) in self._functions


def known_within(values: Tensor, least: float, most: float) -> bool:
    """Whether all of some numbers are within two bounds, as far as a CPU can tell in one pass and without more memory.

    False for NaN, for an empty tensor, and for numbers on an accelerator: these must be checked one by one.
    """
    if not is_on_cpu(values) or values.numel() == 0:
        return False
    if not values.is_floating_point():
        return all(least <= end <= most for end in map(int, ends_of(values)))
    # of numbers in planes these two are several times as fast; either is NaN where any number is
    return float(values.amax()) <= most and (least == -math.inf or float(values.amin()) >= least)


def ends_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of some numbers, (): a matrix in column order, which torch would copy, as it lies."""
    return torch.aminmax(values.T if values.ndim == 2 and values.T.is_contiguous() else values)


@contextmanager
def checked_at_the_end() -> Iterator[None]:
    """Inside, what `raise_where` is given on an accelerator is read at the end, all at once; also a decorator."""
    if _deferred.get() is not None:  # the outer one reads
        yield
        return
    checks: list[DeferredCheck] = []
    token = _deferred.set(checks)
    try:
        yield
    finally:
        _deferred.reset(token)
    _settle(checks)


def _settle(checks: list[DeferredCheck]) -> None:
    """Raise for the first check that has failed."""
    if checks:
        for check, is_wrong in zip(checks, read(torch.stack([check.is_wrong for check in checks]))):
            if is_wrong:
                check.raise_()


def read(numbers: Tensor) -> list[Any]:
    """Flags or numbers (n,) on the host: where a draw or a law waits for its device."""
    return numbers.tolist()


@lru_cache(maxsize=64)
def constant_on(numbers: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers of the host on a device, copied there once: a copy at every step would wait for it. Not to be changed."""
    return torch.tensor(numbers, dtype=dtype, device=device)
