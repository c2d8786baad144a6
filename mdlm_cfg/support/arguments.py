"""Arguments of public functions, checked against their annotations: one check for each kind of argument."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from functools import cache, wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.support.annotations import LISTS, UNIONS, in_words, is_list
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.numeric import is_number, is_whole

P = ParamSpec("P")
R = TypeVar("R")
# what an annotation says of a tensor: integers of any width become int64, and integers float64 where reals are taken
Integers = Annotated[Tensor, "a tensor of whole numbers"]
Reals = Annotated[Tensor, "a tensor of numbers"]
INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
PLAIN = (int, float, bool, str, type(None), Literal, *UNIONS, *LISTS)  # what a setting may be told to be
Check = Callable[[Any], Any]  # hands an argument back as the function takes it, or raises Unfit


class Unfit(Exception):
    """An argument is not of a kind."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose arguments are checked when it is called; arrays and lists become tensors where it takes those.

    Raises:
        UserError: an argument that is not of the kind that its annotation says, before anything is computed.
    """
    parameters = signature(function).parameters
    names = [name for name, one in parameters.items() if one.kind is not Parameter.VAR_POSITIONAL]
    places = names if len(names) == len(parameters) else []  # what is given by place may be of the variable ones

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        checks = _checks_of(function)
        given = [_fitted(checks, name, value) for name, value in zip(places, args)]
        named = {name: _fitted(checks, name, value) for name, value in kwargs.items()}
        return function(*given, *args[len(given) :], **named)

    return cast(Callable[P, R], call)


def check_fields(instance: Any, *names: str) -> None:
    """`checked` for fields of a frozen dataclass, in its __post_init__.

    Raises:
        UserError: a field that is not of the kind that its annotation says.
    """
    checks = _checks_of(instance.__class__)
    for name in names:
        object.__setattr__(instance, name, _fitted(checks, name, getattr(instance, name)))


def check_setting(name: str, value: Any, hint: Any) -> None:
    """Raise UserError for a setting that an annotation does not allow; any value passes where no setting can say it."""
    _fitted({name: (hint, _check_of(hint, plain=True))}, name, value, python=False)


def _fitted(checks: Mapping[str, tuple[Any, Check]], name: str, value: Any, python: bool = True) -> Any:
    if name not in checks:
        return value
    hint, check = checks[name]
    try:
        return check(value)
    except Unfit:
        words = in_words(hint, python=python)
        raise UserError(f"{name} = {shown(value)} is not allowed: it must be {words}") from None


@cache
def _checks_of(function: Any) -> dict[str, tuple[Any, Check]]:
    hints = get_type_hints(cast(Any, function), include_extras=True)
    return {name: (hint, _check_of(hint)) for name, hint in hints.items() if name != "return"}


def _check_of(hint: Any, plain: bool = False) -> Check:
    """The check of an annotation.

    Args:
        plain: of a setting, see `check_setting`.
    """
    kind = get_origin(hint) or hint
    parts = get_args(hint)
    if plain and kind not in PLAIN:
        return lambda value: value
    if hint in CHECKS:
        return CHECKS[hint]
    if kind in UNIONS:
        return _any_of([_alternative(one, plain) for one in sorted(parts, key=_is_late)])
    if kind is Literal:
        return _one_of(parts)
    if is_list(hint):
        taken = Sequence | Set if kind is Collection else Sequence
        return _several(taken, _check_of(parts[0] if parts else Any, plain))
    if kind is tuple:
        return _tuple([_check_of(one, plain) for one in parts])
    if kind is Mapping and parts:
        return _mapping(*map(_check_of, parts))
    kind = {bool: bool | np.bool_, Path: os.PathLike}.get(kind, kind)
    try:
        isinstance(None, kind)
    except TypeError:  # a type variable, or a protocol that only a type checker can ask for
        return lambda value: value
    return _instance(kind)


def _instance(kind: Any) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise Unfit
        return value

    return check


def _one_of(values: Sequence[Any]) -> Check:
    def check(value: Any) -> Any:
        if not any(type(value) is type(one) and value == one for one in values):
            raise Unfit
        return value

    return check


def _is_late(hint: Any) -> bool:
    """Whether an alternative is tried last: lists become tensors, and some kinds refuse in words of their own."""
    return hint in CHECKS and hint not in (int, float)


def _alternative(hint: Any, plain: bool) -> Check:
    """The check of one of several kinds: a list may be another one of them, and is no tensor."""
    return _instance(Tensor | np.ndarray) if hint is Tensor and not plain else _check_of(hint, plain)


def _any_of(checks: Sequence[Check]) -> Check:
    """The first of several checks that an argument passes."""

    def check(value: Any) -> Any:
        for one in checks:
            try:
                return one(value)
            except Unfit:
                continue
        raise Unfit

    return check


def _several(kind: Any, element: Check) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, np.ndarray | Tensor):
            value = value.tolist()
        if isinstance(value, str | bytes) or not isinstance(value, kind):
            raise Unfit
        return [element(one) for one in value]

    return check


def _mapping(key: Check, element: Check) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Unfit
        return {key(name): element(one) for name, one in value.items()}

    return check


def _tuple(elements: Sequence[Check]) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != len(elements):
            raise Unfit
        return tuple(element(one) for element, one in zip(elements, value))

    return check


def _whole(value: Any) -> int:
    if is_whole(value) and abs(int(value)) < 2**63:
        return int(value)
    raise Unfit


def _real(value: Any) -> float:
    if is_number(value) and not (is_whole(value) and abs(int(value)) >= 2**1023):
        return float(value)
    raise Unfit


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | list | tuple):
        try:
            return torch.as_tensor(np.asarray(value))  # of a list of Python's floats in float64
        except (TypeError, ValueError, RuntimeError):
            pass
    raise Unfit


def _integers(value: Any) -> Tensor:
    found = _tensor(value)
    if found.dtype not in INTEGER_TYPES:
        raise Unfit
    return found.long()


def _reals(value: Any) -> Tensor:
    found = _tensor(value)
    if found.is_complex() or found.dtype == torch.bool:
        raise Unfit
    return found if found.is_floating_point() else found.double()


CHECKS: dict[Any, Check] = {int: _whole, float: _real, Tensor: _tensor, Integers: _integers, Reals: _reals}
