"""Parameters and annotations of functions and classes, of which a type checker alone may know some names."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

OF_SIGNATURE: dict[str, Any] = {}
OF_ANNOTATIONS: dict[str, Any] = {}
if sys.version_info >= (3, 14):  # annotations are evaluated when they are asked for, which may fail
    from annotationlib import Format

    OF_SIGNATURE = {"annotation_format": Format.FORWARDREF}
    OF_ANNOTATIONS = {"format": Format.FORWARDREF}


def parameters_of(thing: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of what can be called: any, where it is written in C and does not say which; none of others."""
    try:
        return inspect.signature(thing, **OF_SIGNATURE).parameters if callable(thing) else {}
    except (TypeError, ValueError):
        return inspect.signature(lambda *args, **kwargs: None).parameters


def needs_alone(thing: Any, names: tuple[str, ...]) -> bool:
    """Whether something is a function, or an object that is called like one, and needs these arguments alone."""
    required = [name for name, one in parameters_of(thing).items() if one.default is inspect.Parameter.empty]
    return not inspect.isclass(thing) and tuple(required) == names


def annotations_of(source: Any) -> Mapping[str, Any]:
    """The annotations of a function or class itself; texts and forward references are as they are."""
    return inspect.get_annotations(source, **OF_ANNOTATIONS)
