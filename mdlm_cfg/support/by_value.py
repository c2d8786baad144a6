"""Values: objects that are equal by their type and fields, and text that says which value an object is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor


class ByValue:
    """Equality and hash by type and fields: an object never equals a string, nor an object of a subclass."""

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and _comparable(self) == _comparable(other))

    def __hash__(self) -> int:
        return hash((type(self), *sorted(_fields(self))))  # the names alone: a field need not be hashable

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_listed(self.__dict__)})"


def exact_number(value: float) -> str:
    """A number in the fewest digits that are exactly it: "2", "0.5", "1.0000001"; "2" of 2.0 too."""
    if isinstance(value, int):
        return str(value)
    short = f"{value + 0.0:g}"  # 0 of -0
    return short if float(short) == value else repr(value)


def value_key(value: object) -> str:
    """Text that is the same for the same value in every process, and never holds an address.

    A seed, a cache key or a file name that depends on an object depends on this text of it.

    Args:
        value: plain values, tensors, functions (by their qualified names), and objects (by their type's qualified name
            and their fields).
    """
    if isinstance(value, float):
        return exact_number(value)
    if value is None or isinstance(value, bool | int | str | bytes | complex | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(value_key, value))}]"
    if isinstance(value, Mapping):
        return "{" + _listed(value) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ",".join(sorted(map(value_key, value))) + "}"
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous()
        digest = hashlib.sha256(content.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        return f"tensor({content.dtype},{list(content.shape)},{digest})"
    if isinstance(value, torch.nn.Module):
        return f"{_qualified(type(value))}({_listed(value.state_dict())})"
    if isinstance(value, partial):
        return f"partial({value_key(value.func)},{value_key(value.args)},{_listed(value.keywords)})"
    if hasattr(value, "__qualname__"):
        return _qualified(value)
    return f"{_qualified(type(value))}({_listed(_fields(value))})"


def _listed(named: Mapping[Any, Any]) -> str:
    return ",".join(f"{name}={value_key(value)}" for name, value in named.items())


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _comparable(value: object) -> dict[str, Any]:
    """The fields, with text for tensors, whose == is no bool."""
    return {name: value_key(part) if isinstance(part, Tensor) else part for name, part in _fields(value).items()}


def _fields(value: object) -> dict[str, Any]:
    """The fields of a dataclass, or the attributes of any other object; what is cached of them is not one."""
    if is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
    else:
        named = {}
    return named | {
        name: part
        for name, part in getattr(value, "__dict__", {}).items()
        if not isinstance(getattr(type(value), name, None), cached_property)
    }
