"""Checks of tensors: immediately on a CPU; all at the end on an accelerator, since no step may wait for it.

There a draw or a law runs under `checked_at_the_end`: the flags of failed checks stay on the device, and are read once,
after all its work has been queued.
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
    """A check to be read later: its flag, (), and what the message needs of the first wrong row."""

    is_wrong: Tensor
    row: Tensor
    about: tuple[Tensor, ...]
    explain: Callable[..., str]

    def raise_(self) -> None:
        """Raise UserError for this check."""
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
    """Whether a tensor is on a CPU, where it can be read without waiting for a device."""
    return values.device.type == "cpu"


class Promise:
    """Functions whose outputs are known to have a property, which is then neither enforced nor checked again.

    A function that overrides or wraps one of them is a different function, and promises nothing.
    """

    def __init__(self) -> None:
        self._functions: set[Any] = set()

    def __call__(self, function: F) -> F:
        """Register a function that has the property; a decorator."""
        self._functions.add(function)
        return function

    def is_kept_by(self, function: object) -> bool:
        """Whether this very function or method is registered."""
        return getattr(function, "__func__", function) in self._functions


def known_within(values: Tensor, least: float, most: float) -> bool:
    """Whether all values lie within two bounds, as far as a CPU can tell in one pass and without more memory.

    False for NaN, for an empty tensor, and for values on an accelerator: these must be checked elementwise.
    """
    if not is_on_cpu(values) or values.numel() == 0:
        return False
    if not values.is_floating_point():
        return all(least <= end <= most for end in map(int, ends_of(values)))
    # for values in planes these two calls are several times as fast; either is NaN if any value is
    return float(values.amax()) <= most and (least == -math.inf or float(values.amin()) >= least)


def ends_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value, (); a matrix in column order is transposed first, since torch would copy it."""
    return torch.aminmax(values.T if values.ndim == 2 and values.T.is_contiguous() else values)


@contextmanager
def checked_at_the_end() -> Iterator[None]:
    """Inside, the flags that `raise_where` gets on an accelerator are read together at the end; also a decorator."""
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
    """Flags or numbers (n,) on the host; here a draw or a law waits for its device."""
    return numbers.tolist()


@lru_cache(maxsize=64)
def constant_on(numbers: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    """Host numbers on a device, copied there once: a copy at every step would wait for it. Not to be modified."""
    return torch.tensor(numbers, dtype=dtype, device=device)
