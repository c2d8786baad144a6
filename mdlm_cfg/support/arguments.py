"""Arguments of public functions, checked against their annotations: one check for each kind of argument."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import suppress
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
# annotations of tensors: integers of any width become int64, and float64 where reals are expected
Integers = Annotated[Tensor, "a tensor of whole numbers"]
Reals = Annotated[Tensor, "a tensor of numbers"]
INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
PLAIN = (int, float, bool, str, type(None), Literal, *UNIONS, *LISTS)  # types that a setting may be declared with


class Unfit(Exception):
    """An argument does not fit its annotation."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function that checks its arguments at each call; arrays and lists become tensors where it takes tensors.

    Raises:
        UserError: an argument that does not fit its annotation, before anything is computed.
    """
    parameters = signature(function).parameters
    names = [name for name, one in parameters.items() if one.kind is not Parameter.VAR_POSITIONAL]
    places = names if len(names) == len(parameters) else []  # positional arguments may belong to *args

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        hints = _hints_of(function)
        given = [_fitted(hints, name, value) for name, value in zip(places, args)]
        named = {name: _fitted(hints, name, value) for name, value in kwargs.items()}
        return function(*given, *args[len(given) :], **named)

    return cast(Callable[P, R], call)


def check_fields(instance: Any, *names: str) -> None:
    """`checked` for fields of a frozen dataclass, in its __post_init__.

    Raises:
        UserError: a field that does not fit its annotation.
    """
    hints = _hints_of(instance.__class__)
    for name in names:
        object.__setattr__(instance, name, _fitted(hints, name, getattr(instance, name)))


def check_setting(name: str, value: Any, hint: Any) -> None:
    """Raise UserError for a setting that its annotation does not allow; other types accept any."""
    _fitted({name: hint}, name, value, plain=True)


def _fitted(hints: Mapping[str, Any], name: str, value: Any, plain: bool = False) -> Any:
    if name not in hints:
        return value
    try:
        return _fit(value, hints[name], plain)
    except Unfit:
        words = in_words(hints[name], python=not plain)
        raise UserError(f"{name} = {shown(value)} is not allowed: it must be {words}") from None


@cache
def _hints_of(function: Any) -> dict[str, Any]:
    hints = get_type_hints(cast(Any, function), include_extras=True)
    return {name: hint for name, hint in hints.items() if name != "return"}


def _fit(value: Any, hint: Any, plain: bool = False) -> Any:
    """An argument converted for the function.

    Args:
        plain: whether it is a setting, see `check_setting`.

    Raises:
        Unfit: it does not fit the annotation.
    """
    kind = get_origin(hint) or hint
    parts = get_args(hint)
    if plain and kind not in PLAIN:
        return value
    if hint in CHECKS:
        return CHECKS[hint](value)
    if kind in UNIONS:
        return _alternative(value, parts, plain)
    if kind is Literal:
        return _one_of(value, parts)
    if is_list(hint):
        elements = _elements(value, Sequence | Set if kind is Collection else Sequence)
        return [_fit(one, parts[0] if parts else Any, plain) for one in elements]
    if kind is tuple:
        elements = _elements(value, Sequence)
        if len(elements) == len(parts):
            return tuple(_fit(one, part, plain) for one, part in zip(elements, parts))
    elif kind is Mapping and parts:
        if isinstance(value, Mapping):
            return {_fit(name, parts[0]): _fit(one, parts[1]) for name, one in value.items()}
    elif _is_one_of(value, kind):
        return value
    raise Unfit


def _alternative(value: Any, hints: Sequence[Any], plain: bool) -> Any:
    """An argument as the first of several types that it fits.

    Tensors are tried last, since some types have their own messages. A list may fit another type, and is not a tensor.
    """
    for hint in sorted(hints, key=lambda hint: hint in CHECKS and hint not in (int, float)):
        if hint is Tensor and not plain and not isinstance(value, Tensor | np.ndarray):
            continue
        with suppress(Unfit):
            return _fit(value, hint, plain)
    raise Unfit


def _one_of(value: Any, values: Sequence[Any]) -> Any:
    if any(type(value) is type(one) and value == one for one in values):
        return value
    raise Unfit


def _elements(value: Any, kind: Any) -> Any:
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    if isinstance(value, str | bytes) or not isinstance(value, kind):
        raise Unfit
    return value


def _is_one_of(value: Any, kind: Any) -> bool:
    """Whether a value has a type; always true for a type variable, or a protocol that cannot be checked at run time."""
    try:
        return isinstance(value, {bool: bool | np.bool_, Path: os.PathLike}.get(kind, kind))
    except TypeError:
        return True


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
            return torch.as_tensor(np.asarray(value))  # a list of Python floats becomes float64
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


CHECKS: dict[Any, Callable[[Any], Any]] = {
    int: _whole,
    float: _real,
    Tensor: _tensor,
    Integers: _integers,
    Reals: _reals,
}
