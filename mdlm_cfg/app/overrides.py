"""The overrides of a command line, as hydra's own parser reads them: what they give, each once."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence

from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString

from mdlm_cfg.app.quoting import read_override
from mdlm_cfg.support.instantiate import TARGET

CALL_IN_QUOTES = re.compile(r"'([A-Za-z_]\w*\([^']*\))'")


def values_of(override: Override, options: Sequence[str] = ()) -> list[object]:
    """The values of an override: one, or several in a sweep; without quotes.

    Args:
        options: of the group that it is about, which `glob` chooses from.
    """
    if override.is_delete():
        return []
    value = override.value()
    given = list(value.list) if isinstance(value, ChoiceSweep) else [value]
    found: list[object] = []
    for one in given:
        if isinstance(one, Glob) and options:
            found += one.filter(list(options))
        else:
            found.append(one.text if isinstance(one, QuotedString) else one)
    return found


def given_for(arguments: Sequence[str], key: str) -> Override | None:
    """The last override of a key or group among the arguments of a command; None where there is none."""
    found = [override for override in map(read_override, arguments) if override is not None]
    return next((override for override in reversed(found) if override.key_or_group == key), None)


def last_of_each(arguments: Sequence[str]) -> list[str]:
    """The arguments with the last value of each key alone, as hydra takes it; stderr says which one counts."""
    kept: dict[str, str] = {}
    for number, argument in enumerate(arguments):
        override = read_override(argument)
        if override is None or override.is_delete():
            kept[f"argument {number}"] = argument
            continue
        key = override.get_key_element().lstrip("+")
        if (earlier := kept.pop(key, None)) is not None and earlier != argument:
            print(f"{key} is given twice: {argument} is used, and {earlier} is ignored", file=sys.stderr)
        kept[key] = argument
    return list(kept.values())


def as_typed(arguments: Sequence[str]) -> list[str]:
    """The arguments as a user types them in a shell: without what is only for hydra, and in quotes where needed.

    ++sampler={_target_:a.B} is sampler._target_=a.B again, ++data.num_test=9 is data.num_test=9, and the quotes around
    the call in policy='blocks(0|1)' go.
    """
    found = []
    for argument in arguments:
        below = re.fullmatch(r"\+\+(\w+)=\{(?:_target_:(.*))?\}", argument, flags=re.DOTALL)
        if below is None:
            plain = CALL_IN_QUOTES.sub(r"\1", argument.removeprefix("++"))
            found.append(shlex.quote(plain))
        elif below[2] is not None:
            found.append(shlex.quote(f"{below[1]}.{TARGET}={below[2]}"))
    return found


def for_any_data(arguments: Sequence[str]) -> list[str]:
    """The arguments of eval.py, with data.KEY=... allowed for the data of a checkpoint, which hydra does not know.

    The data of the file, which need no checkpoint, have other keys than those that a run was trained on.
    """
    denoiser = given_for(arguments, "denoiser")
    is_learned = denoiser is None or values_of(denoiser) == ["learned"]
    is_own = any(argument.lstrip("+").startswith("denoiser.") for argument in arguments)
    if not is_learned or is_own or any(given_for(arguments, key) for key in ("data", "experiment")):
        return list(arguments)
    return [f"++{argument}" if argument.startswith("data.") else argument for argument in arguments]
