"""Values: objects that are equal by type and fields, and text that identifies an object's value."""

from __future__ import annotations

import copyreg
import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError

PLAIN = (bool, int, str, bytes, complex, type(None), type(...), torch.dtype, torch.device)  # whose repr is the value
CONTAINERS = (int, float, complex, str, bytes, list, tuple, dict, set, frozenset)  # a subclass holds more than fields
OF_MODULES = frozenset(vars(torch.nn.Module()))  # attributes of every module, which are not settings


class ByValue:
    """Equality and hash by type and fields: an object never equals a string, nor an object of a subclass."""

    def __init_subclass__(cls) -> None:
        """Define both in each class, so that a dataclass does not replace them: == of tensors is not a bool."""
        super().__init_subclass__()
        for name in ("__eq__", "__hash__"):
            if name not in vars(cls):
                setattr(cls, name, getattr(cls, name))

    def __eq__(self, other: object) -> bool:
        if self is other or type(self) is not type(other):
            return self is other
        try:
            return _comparable(self) == _comparable(other)
        except (RuntimeError, ValueError):  # of arrays, and of tensors in lists
            return value_key(self) == value_key(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(_fields(self))))  # the names alone: a field need not be hashable

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_listed(self.__dict__)})"


def fields_in_words(value: object) -> str:
    """The fields of an object as text to follow its name, as in "(a=0.5,c=3)"; empty if it has none."""
    found = _fields(value)
    return f"({_listed(found)})" if found else ""


def exact_number(value: float) -> str:
    """A number in the fewest digits that represent it exactly: "2", "0.5", "1.0000001"; 2.0 is also "2"."""
    if isinstance(value, int):
        return str(value)
    short = f"{value + 0.0:g}"  # 0 of -0
    return short if float(short) == value else repr(value)


def value_key(value: object) -> str:
    """Text that is equal for equal values in every process, different for different values, and holds no address.

    A seed, a cache key or a file name that depends on an object depends on it through this text. Lists and tuples count
    as the same, and so do whole numbers of any type.

    Args:
        value: plain values, tensors, arrays, functions (by their name, code and closure), and objects (by their type's
            name and their fields, or by their `pickle` state if they have no fields).

    Raises:
        UserError: something that `pickle` cannot store, such as an open file: its value cannot be identified.
    """
    return _key(value, ())


def settings_key(module: torch.nn.Module) -> str:
    """Text for all that decides a module's output but its weights: the type and the settings of each submodule.

    Two networks with the same weights may still differ in it, for instance in the number of attention heads. Tensors
    that are attributes, which a call of the module may have left there, are no settings, and neither are values that
    cannot be identified.
    """
    found = []
    for name, one in module.named_modules(remove_duplicate=False):
        own = {key: value for key, value in vars(one).items() if key not in OF_MODULES}
        found.append([name, type(one), one.extra_repr(), *filter(None, map(_setting_key, own.items()))])
    return value_key(found)


def _setting_key(setting: tuple[str, Any]) -> str | None:
    """The name and the value of an attribute as text, None if it is no setting: see `settings_key`."""
    _, value = setting
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(one, Tensor | torch.device) for one in held):
        return None
    try:
        return value_key(setting)
    except UserError:
        return None


def _key(value: Any, within: tuple[int, ...]) -> str:
    """See `value_key`.

    Args:
        within: the ids of the objects that contain this one, from the outermost; one inside itself becomes its place.
    """
    if isinstance(value, np.generic):
        value = value.item()
    kind = type(value)
    if kind is float:
        return exact_number(value)
    if kind in PLAIN:
        return repr(value)
    if id(value) in within:
        return f"<{within.index(id(value))}>"
    within = (*within, id(value))
    if kind in (list, tuple):
        return f"[{','.join(_key(part, within) for part in value)}]"
    if kind in (set, frozenset):
        return "{" + ",".join(sorted(_key(part, within) for part in value)) + "}"
    if kind in (dict, MappingProxyType):
        return "{" + _listed(value, within) + "}"
    if isinstance(value, Tensor):
        content = value.detach().to_dense().cpu().contiguous()
        digest = hashlib.sha256(content.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        return f"tensor({content.dtype},{list(content.shape)},{digest})"
    if isinstance(value, partial):
        return f"partial({_key(value.func, within)},{_key(value.args, within)},{_listed(value.keywords, within)})"
    if isinstance(value, MethodType):
        return f"{_key(value.__func__, within)} of {_key(value.__self__, within)}"
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        held = _key([value.__defaults__, value.__kwdefaults__, cells], within)
        return f"{_qualified(value)}({_digest_of(value.__code__)},{held})"
    if isinstance(value, ModuleType):
        return value.__name__
    if callable(value) and hasattr(value, "__qualname__"):  # a class, or a function that is not written in Python
        inside = getattr(value, "__wrapped__", None)
        return _qualified(value) + ("" if inside is None else f"({_key(inside, within)})")
    return _key_of_object(value, within)


def _key_of_object(value: Any, within: tuple[int, ...]) -> str:
    """See `value_key`: an object by its fields, or by its pickle state where the fields are incomplete."""
    kind = type(value)
    named = _parts_of(value) if isinstance(value, torch.nn.Module) else _fields(value)
    reduces = (kind.__reduce_ex__, kind.__reduce__) != (object.__reduce_ex__, object.__reduce__)
    if named and not (reduces or kind in copyreg.dispatch_table or isinstance(value, CONTAINERS)):
        return f"{_qualified(kind)}({_listed(named, within)})"
    if isinstance(value, np.ndarray):
        value = value.copy(order="C")  # pickle also stores the memory order
    try:
        kept = copyreg.dispatch_table[kind](value) if kind in copyreg.dispatch_table else value.__reduce_ex__(2)
    except TypeError as error:
        raise UserError(
            f"objects of type {kind.__name__} cannot be compared by value: leave them out of the fields of your objects"
        ) from error
    if isinstance(kept, str):
        return f"{kind.__module__}.{kept}"
    _, arguments, state, items, pairs = (*kept, None, None, None)[:5]
    parts = [arguments[1:] if arguments[:1] == (kind,) else arguments, state, list(items or ()), list(pairs or ())]
    return f"{_qualified(kind)}({_key(parts, within) if any(parts) else ''})"


def _digest_of(code: CodeType) -> str:
    """A digest of a function's code: its instructions, its constants, and the names that it looks up."""
    constants = [_digest_of(one) if isinstance(one, CodeType) else _key(one, ()) for one in code.co_consts]
    return hashlib.sha256(repr((code.co_code, constants, code.co_names, code.co_varnames)).encode()).hexdigest()


def _listed(named: Mapping[Any, Any], within: tuple[int, ...] = ()) -> str:
    """Named parts as text; keys that are not field names are treated as values."""
    names = [name if isinstance(name, str) and name.isidentifier() else _key(name, within) for name in named]
    return ",".join(f"{name}={_key(value, within)}" for name, value in zip(names, named.values()))


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _comparable(value: object) -> dict[str, Any]:
    """The fields, with text for tensors, whose == is not a bool."""
    return {name: value_key(part) if isinstance(part, Tensor) else part for name, part in _fields(value).items()}


def _fields(value: object) -> dict[str, Any]:
    """The fields of a dataclass, or the slots and attributes of any object; cached properties are left out."""
    cls = type(value)
    named = {field.name: getattr(value, field.name) for field in fields(value)} if is_dataclass(value) else {}
    state = object.__getstate__(value)  # the attributes, or these and the slots
    attributes, slots = state if isinstance(state, tuple) else (state, {})
    own = (attributes or {}).items()
    return named | slots | {k: part for k, part in own if not isinstance(getattr(cls, k, None), cached_property)}


def _parts_of(module: torch.nn.Module) -> dict[str, Any]:
    """Everything that decides a module's output: parameters, buffers, and the attributes of each submodule."""
    parts: dict[str, Any] = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, one in module.named_modules():
        own = {key: value for key, value in vars(one).items() if key not in OF_MODULES}
        parts[f"part {name}"] = [type(one), own]
    return parts
