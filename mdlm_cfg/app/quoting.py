"""Strengths, policies and corrections on the command line, written as everywhere else: policy=fixed_order(2,0,1).

Hydra takes NAME(...) for a call of a function of its own. What is not one is put into quotes before hydra sees it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mdlm_cfg.support.instantiate import TARGET

OVERRIDE = re.compile(r"(\+{0,2}(?:w|policy|schedule|remasking|correction|guidance)=)(.*)", re.DOTALL)
OBJECTS = ("sampler", "guidance", "policy", "denoiser", "study")  # a word or null by default
QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
HYDRAS = (  # functions of hydra's grammar; its interval(a,b) is not a grid; here it stands for `Interval`
    *("choice", "range", "tag", "sort", "shuffle", "glob", "int", "float", "str", "bool", "json_str", "extend_list"),
)


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with what hydra would misread of w=..., policy=... and their like in quotes.

    What is in quotes already stays as it is, so that quoting twice changes nothing.
    """
    found = [(OVERRIDE.fullmatch(argument), argument) for argument in arguments]
    return [argument if match is None else match[1] + quote_calls(match[2]) for match, argument in found]


def quote_calls(value: str) -> str:
    """A value with every call NAME(...) in single quotes, but those of hydra's own functions."""
    parts = []
    at = 0
    while at < len(value):
        text = QUOTED.match(value, at)
        call = CALL.match(value, at)
        end = closing(value, call.end()) if call is not None and call[1] not in HYDRAS else None
        if end is not None:
            parts.append(f"'{value[at:end]}'")
            at = end
            continue
        as_it_is = text or call
        parts.append(as_it_is[0] if as_it_is is not None else value[at])
        at += len(parts[-1])
    return "".join(parts)


def closing(value: str, start: int) -> int | None:
    """Where the bracket that was opened just before `start` has been closed; None where it never is, or in quotes."""
    depth = 1
    for at in range(start, len(value)):
        if value[at] == "'":
            return None
        depth += (value[at] == "(") - (value[at] == ")")
        if depth == 0:
            return at + 1
    return None


def read_override(argument: str) -> Override | None:
    """An argument as hydra reads it; None for any other: an option, or hydra will say what is wrong with it."""
    try:
        return None if argument.startswith("-") else OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def with_objects(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with settings below a word or null (`OBJECTS`) in the form that hydra can take.

    hydra puts no key below a word or null, but it merges mappings: sampler._target_=a.B sampler.steps=2 becomes
    ++sampler={_target_:a.B} ++sampler.steps=2. What has that form already stays as it is.
    """
    found = list(arguments)
    for name in OBJECTS:
        below = [item for item in found if item.lstrip("+").startswith(f"{name}.") and "=" in item]
        if below and not any(item.startswith(f"++{name}={{") for item in found):
            targets = [item for item in below if item.lstrip("+").startswith(f"{name}.{TARGET}=")]
            first = found.index(below[0])
            kept = [item if item not in below else f"++{item.lstrip('+')}" for item in found if item not in targets]
            found = [*kept[:first], _mapping(name, targets), *kept[first:]]
    return found


def _mapping(name: str, targets: Sequence[str]) -> str:
    """++NAME={_target_:VALUE} for the last of NAME._target_=VALUE, each value of a sweep in a mapping of its own."""
    if not targets:
        return f"++{name}={{}}"
    override = read_override(targets[-1])
    is_swept = override is not None and override.is_sweep_override()
    values = list(override.sweep_string_iterator()) if is_swept and override else [targets[-1].partition("=")[2]]
    return f"++{name}={','.join(f'{{{TARGET}:{value}}}' for value in values)}"
