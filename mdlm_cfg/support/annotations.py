"""Parameters and annotations of functions and classes; some names in them may be known only to a type checker."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

UNIONS = (typing.Union, types.UnionType)
LISTS = (list, tuple, Sequence, Collection)
WORDS: Mapping[Any, tuple[str, str]] = {  # singular, plural
    Any: ("a value", "values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("a text", "texts"),
    dict: ("settings", "settings"),
    Mapping: ("settings", "settings"),
    Path: ("a path", "paths"),
    Callable: ("a function", "functions"),
}
SUCH_AS = {  # examples of objects
    "Guidance": "Guidance(2.0)",
    "Sampler": "Sampler('event_leaping', steps=16)",
    "Correction": "Correction(size=1, moves=10)",
    "Schedule": "Schedule('cosine')",
    "Generator": "torch.Generator().manual_seed(0)",
    "TableMixture": "TableMixture(class_pmfs, class_weights)",
}

OF_SIGNATURE: dict[str, Any] = {}
OF_ANNOTATIONS: dict[str, Any] = {}
if sys.version_info >= (3, 14):  # annotations are evaluated lazily, which may fail
    from annotationlib import Format

    OF_SIGNATURE = {"annotation_format": Format.FORWARDREF}
    OF_ANNOTATIONS = {"format": Format.FORWARDREF}


def parameters_of(thing: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a callable: anything if it is written in C without a signature; none if it is not callable."""
    try:
        return inspect.signature(thing, **OF_SIGNATURE).parameters if callable(thing) else {}
    except (TypeError, ValueError):
        return inspect.signature(lambda *args, **kwargs: None).parameters


def needs_alone(thing: Any, names: tuple[str, ...]) -> bool:
    """Whether something is a function, or a callable object, that requires only these arguments."""
    required = [name for name, one in parameters_of(thing).items() if one.default is inspect.Parameter.empty]
    return not inspect.isclass(thing) and tuple(required) == names


def annotations_of(source: Any) -> Mapping[str, Any]:
    """The annotations of a function or class itself; strings and forward references stay as they are."""
    return inspect.get_annotations(source, **OF_ANNOTATIONS)


def is_list(hint: Any) -> bool:
    """Whether a type is a list of any length whose elements all have one type."""
    kind = typing.get_origin(hint) or hint
    return kind in LISTS and (kind is not tuple or hint is tuple or ... in typing.get_args(hint))


def in_words(hint: Any, several: bool = False, python: bool = False) -> str:
    """The values of a type in words, such as "a list of whole numbers, or null"; in the plural "whole numbers".

    Args:
        python: whether it is an argument in Python rather than a setting.
    """
    kind = typing.get_origin(hint) or hint
    parts = typing.get_args(hint)
    if kind is type(None):
        return "None" if python else "null"
    if kind is Mapping and parts and python:
        each = " to ".join(in_words(part, True, python) for part in parts)
        return f"{'mappings' if several else 'a mapping'} of {each}"
    if kind in WORDS:
        return WORDS[kind][several]
    if kind is Annotated:
        return parts[1]
    if kind is typing.Literal:
        return ", or ".join(map(str, parts))
    if is_list(hint):
        each = in_words(parts[0] if parts else Any, True, python)
        return f"{'lists' if several else 'a list'} of {each}"
    if kind in (*UNIONS, tuple):
        one = (" and " if kind is tuple else ", or ").join(in_words(part, False, python) for part in parts)
        return f"values that are each {one}" if several else one
    name = getattr(kind, "__name__", str(kind))
    such_as = f", such as {SUCH_AS[name]}" if python and name in SUCH_AS else ""
    article = "an" if name[0] in "AEIOU" else "a"
    return f"{'objects of type' if several else article} {name}{such_as}"
