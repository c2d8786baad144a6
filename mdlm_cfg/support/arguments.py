"""Arguments of public functions, checked against their annotations: one check for each kind of argument."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.numeric import is_number, is_whole

P = ParamSpec("P")
R = TypeVar("R")
# what an annotation says of a tensor: integers of any width become int64, and integers float64 where reals are taken
Integers = Annotated[Tensor, "integers"]
Reals = Annotated[Tensor, "reals"]
INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
Check = Callable[[Any], Any]  # hands an argument back as the function takes it, or raises Unfit

SUCH_AS = {  # how to make one
    "Guidance": "Guidance(2.0)",
    "Sampler": "Sampler('event_leaping', steps=16)",
    "Correction": "Correction(size=1, moves=10)",
    "Schedule": "Schedule('cosine')",
    "Generator": "torch.Generator().manual_seed(0)",
    "TableMixture": "TableMixture(class_pmfs, class_weights)",
}
ACCEPTED = {
    bool: (lambda value: isinstance(value, bool | np.bool_), "true or false"),
    str: (lambda value: isinstance(value, str), "a text"),
    Path: (lambda value: isinstance(value, os.PathLike), "a path"),
    type(None): (lambda value: value is None, "None"),
}
REFUSALS: dict[Any, Callable[[Any], None]] = {}  # what refuses a kind in words of its own: see `checked_by`


class Unfit(Exception):
    """An argument is not of a kind; it says what it should be."""


def checked_by(kind: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Makes a function that raises UserError the check of every argument that is annotated with `kind`."""

    def register(check: Callable[[Any], None]) -> Callable[[Any], None]:
        REFUSALS[kind] = check
        return check

    return register


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


def _fitted(checks: Mapping[str, Check], name: str, value: Any) -> Any:
    check = checks.get(name)
    if check is None:
        return value
    try:
        return check(value)
    except Unfit as unfit:
        raise UserError(f"{name} = {shown(value)} is not allowed: it must be {unfit}") from None


@cache
def _checks_of(function: Any) -> dict[str, Check]:
    return {
        name: check_of(hint)
        for name, hint in get_type_hints(cast(Any, function), include_extras=True).items()
        if name != "return"
    }


@cache
def check_of(hint: Any) -> Check:
    """The check of an annotation."""
    origin = get_origin(hint)
    if hint in REFUSALS:
        return _refusing(REFUSALS[hint])
    if hint is Any or isinstance(hint, TypeVar):
        return lambda value: value
    if hint in CONVERTED:
        return CONVERTED[hint]
    if hint in ACCEPTED:
        return _accepting(*ACCEPTED[hint])
    if origin in (Union, types.UnionType):
        return _any_of([_alternative(one) for one in sorted(get_args(hint), key=_turn)])
    if origin is Sequence:
        return _several(check_of(get_args(hint)[0]))
    if origin is Collection:
        return _refusing_texts(check_of(get_args(hint)[0]))
    if origin is Mapping:
        return _mapping(*map(check_of, get_args(hint)))
    if origin is tuple and ... not in get_args(hint):
        return _tuple([check_of(one) for one in get_args(hint)])
    if origin is Literal:
        return _accepting(lambda value: value in get_args(hint), f"one of {', '.join(map(repr, get_args(hint)))}")
    if (origin or hint) is Callable:
        return _accepting(callable, "a function")
    kind = origin or hint
    if not isinstance(kind, type):
        return lambda value: value
    try:
        isinstance(None, kind)
    except TypeError:  # a protocol that only a type checker can ask for
        return lambda value: value
    example = f", such as {SUCH_AS[kind.__name__]}" if kind.__name__ in SUCH_AS else ""
    return _accepting(lambda value: isinstance(value, kind), f"a {kind.__name__}{example}")


def _accepting(accepts: Callable[[Any], bool], what: str) -> Check:
    def check(value: Any) -> Any:
        if not accepts(value):
            raise Unfit(what)
        return value

    return check


def _refusing(refuse: Callable[[Any], None]) -> Check:
    def check(value: Any) -> Any:
        refuse(value)
        return value

    return check


def _turn(hint: Any) -> int:
    """When an alternative is tried: tensors late, since lists become tensors, and last what refuses by itself."""
    return 2 if hint in REFUSALS else 1 if hint in (Tensor, Integers, Reals) else 0


def _alternative(hint: Any) -> Check:
    """The check of one of several kinds: a list may be another one of them, and is no tensor."""
    is_array = _accepting(lambda value: isinstance(value, Tensor | np.ndarray), "a tensor")
    return is_array if hint is Tensor else check_of(hint)


def _any_of(checks: Sequence[Check]) -> Check:
    """The first of several checks that an argument passes."""

    def check(value: Any) -> Any:
        kinds = []
        for one in checks:
            try:
                return one(value)
            except Unfit as unfit:
                kinds.append(str(unfit))
        raise Unfit(", or ".join(kinds))

    return check


def _several(element: Check) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, np.ndarray | Tensor):
            value = value.tolist()
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise Unfit("a list")
        try:
            return [element(one) for one in value]
        except Unfit as unfit:
            raise Unfit(f"a list whose elements are each {unfit}") from None

    return check


def _refusing_texts(element: Check) -> Check:
    several = _several(element)

    def check(value: Any) -> Any:
        found = several(list(value) if isinstance(value, set | frozenset) else value)
        return found if isinstance(value, np.ndarray | Tensor) else value

    return check


def _mapping(key: Check, element: Check) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Unfit("a mapping")
        try:
            return {key(name): element(one) for name, one in value.items()}
        except Unfit as unfit:
            raise Unfit(f"a mapping in which each is {unfit}") from None

    return check


def _tuple(elements: Sequence[Check]) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != len(elements):
            raise Unfit(f"{len(elements)} values")
        return tuple(element(one) for element, one in zip(elements, value))

    return check


def _whole(value: Any) -> int:
    if is_whole(value) and abs(int(value)) < 2**63:
        return int(value)
    raise Unfit("a whole number")


def _real(value: Any) -> float:
    if is_number(value) and not (is_whole(value) and abs(int(value)) >= 2**1023):
        return float(value)
    raise Unfit("a number")


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | list | tuple):
        try:
            return torch.as_tensor(np.asarray(value))  # of a list of Python's floats in float64
        except (TypeError, ValueError, RuntimeError):
            pass
    raise Unfit("a tensor")


def _integers(value: Any) -> Tensor:
    found = _tensor(value)
    if found.dtype not in INTEGER_TYPES:
        raise Unfit("a tensor of whole numbers")
    return found.long()


def _reals(value: Any) -> Tensor:
    found = _tensor(value)
    if found.is_complex() or found.dtype == torch.bool:
        raise Unfit("a tensor of numbers")
    return found if found.is_floating_point() else found.double()


CONVERTED: dict[Any, Check] = {int: _whole, float: _real, Tensor: _tensor, Integers: _integers, Reals: _reals}
