"""Arguments of public functions, checked against their annotations: one check for each kind of argument."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from functools import cache, partial, wraps
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
Fit = Callable[[Any], Any]  # an argument converted for the function; raises Unfit
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
        fits = _fits_of(function)
        given = [_fitted(fits, name, value) for name, value in zip(places, args)]
        named = {name: _fitted(fits, name, value) for name, value in kwargs.items()}
        return function(*given, *args[len(given) :], **named)

    return cast(Callable[P, R], call)


def check_fields(instance: Any, *names: str) -> None:
    """`checked` for fields of a frozen dataclass, in its __post_init__.

    Raises:
        UserError: a field that does not fit its annotation.
    """
    fits = _fits_of(instance.__class__)
    for name in names:
        object.__setattr__(instance, name, _fitted(fits, name, getattr(instance, name)))


def check_setting(name: str, value: Any, hint: Any) -> None:
    """Raise UserError for a setting that its annotation does not allow; other types accept any."""
    _fitted({name: (_fit_of(hint, plain=True), hint)}, name, value, plain=True)


def _fitted(fits: Mapping[str, tuple[Fit, Any]], name: str, value: Any, plain: bool = False) -> Any:
    if name not in fits:
        return value
    fit, hint = fits[name]
    try:
        return fit(value)
    except Unfit:
        words = in_words(hint, python=not plain)
        raise UserError(f"{name} = {shown(value)} is not allowed: it must be {words}") from None


@cache
def _fits_of(function: Any) -> dict[str, tuple[Fit, Any]]:
    """What converts each argument, and its annotation: worked out once, for a function may be called very often."""
    hints = get_type_hints(cast(Any, function), include_extras=True)
    return {name: (_fit_of(hint), hint) for name, hint in hints.items() if name != "return"}


def _fit_of(hint: Any, plain: bool = False) -> Fit:
    """What converts arguments with an annotation.

    Args:
        plain: whether they are settings, see `check_setting`.
    """
    kind = get_origin(hint) or hint
    parts = get_args(hint)
    if plain and kind not in PLAIN:
        return _anything
    if hint in CHECKS:
        return CHECKS[hint]
    if kind in UNIONS:
        return _alternative(parts, plain)
    if kind is Literal:
        return partial(_one_of, parts)
    if is_list(hint):
        return partial(
            _list, Sequence | Set if kind is Collection else Sequence, _fit_of(parts[0] if parts else Any, plain)
        )
    if kind is tuple:
        return partial(_tuple, [_fit_of(part, plain) for part in parts])
    if kind is Mapping and parts:
        return partial(_mapping, *map(_fit_of, parts))
    return partial(_instance, {bool: bool | np.bool_, Path: os.PathLike}.get(kind, kind))


def _anything(value: Any) -> Any:
    return value


def _alternative(hints: Sequence[Any], plain: bool) -> Fit:
    """What converts an argument to the first of several types that it fits.

    Tensors are tried last, since some types have their own messages. A list may fit another type, and is not a tensor.
    """
    hints = sorted(hints, key=lambda hint: hint in CHECKS and hint not in (int, float))
    fits = [_own_tensor if hint is Tensor and not plain else _fit_of(hint, plain) for hint in hints]

    def first(value: Any) -> Any:
        for fit in fits:
            try:
                return fit(value)
            except Unfit:
                continue
        raise Unfit

    return first


def _own_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor | np.ndarray):
        return _tensor(value)
    raise Unfit


def _one_of(values: Sequence[Any], value: Any) -> Any:
    if any(type(value) is type(one) and value == one for one in values):
        return value
    raise Unfit


def _elements(value: Any, kind: Any) -> Any:
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    if isinstance(value, str | bytes) or not isinstance(value, kind):
        raise Unfit
    return value


def _list(kind: Any, fit: Fit, value: Any) -> list[Any]:
    return [fit(one) for one in _elements(value, kind)]


def _tuple(fits: Sequence[Fit], value: Any) -> tuple[Any, ...]:
    elements = _elements(value, Sequence)
    if len(elements) != len(fits):
        raise Unfit
    return tuple(fit(one) for fit, one in zip(fits, elements))


def _mapping(name: Fit, fit: Fit, value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise Unfit
    return {name(key): fit(one) for key, one in value.items()}


def _instance(kind: Any, value: Any) -> Any:
    """A value of a type; any for a type variable, or a protocol that cannot be checked at run time."""
    try:
        fits = isinstance(value, kind)
    except TypeError:
        return value
    if not fits:
        raise Unfit
    return value


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


CHECKS: dict[Any, Fit] = {
    int: _whole,
    float: _real,
    Tensor: _tensor,
    Integers: _integers,
    Reals: _reals,
}
