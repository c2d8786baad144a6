"""The arguments of a command line: in the form that hydra can take, and as its own parser reads them.

Strengths, policies and corrections are written as everywhere else: policy=fixed_order(2,0,1). Hydra reads NAME(...) as
a call of one of its own functions, so any other call is quoted before hydra sees it.
"""

from __future__ import annotations

import re
import shlex
import sys
import unicodedata
from collections.abc import Collection, Sequence
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import HydraException

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import TARGET

CALLS = r"w|policy|schedule|remasking|correction|guidance|(?:study|sampler|guidance|policy)\.\w+"  # values may be calls
OVERRIDE = re.compile(rf"(\+{{0,2}}(?:{CALLS})=)(.*)", re.DOTALL)
OBJECTS = ("sampler", "guidance", "policy", "denoiser", "study")  # a word or null by default
QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
KEY = re.compile(r"(?:~|\+{0,2})[\w$/-]+(?:\.[\w$-]+)*(?:@[\w$.:-]*)?")
HYDRAS = (  # functions of hydra's grammar, without its interval(a,b), which stands for `Interval` here
    *("choice", "range", "tag", "sort", "shuffle", "glob", "int", "float", "str", "bool", "json_str", "extend_list"),
)
LOOK_ALIKE = {
    "\u2212": "-",
    **dict.fromkeys("\u2018\u2019\u201a", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
}
CALL_IN_QUOTES = re.compile(r"'([A-Za-z_]\w*\([^']*\))'")


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with quotes around what hydra would misread in w=..., policy=... and the like.

    What is already quoted stays as it is, so quoting twice changes nothing.
    """
    found = [(OVERRIDE.fullmatch(argument), argument) for argument in arguments]
    return [argument if match is None else match[1] + quote_calls(match[2]) for match, argument in found]


def quote_calls(value: str) -> str:
    """A value with every call NAME(...) in single quotes, except those of hydra's own functions."""
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
    """Where the bracket opened just before `start` is closed; None if it never is, or if it is in quotes."""
    depth = 1
    for at in range(start, len(value)):
        if value[at] == "'":
            return None
        depth += (value[at] == "(") - (value[at] == ")")
        if depth == 0:
            return at + 1
    return None


@cache
def read_override(argument: str) -> Override | None:
    """An argument as hydra reads it; None for an option, or for one that hydra cannot read and will itself reject.

    Cached: a command reads each of its arguments about twenty times.
    """
    try:
        return None if argument.startswith("-") else OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def why_unreadable(argument: str, said: str) -> str:
    """What is wrong with an argument that hydra cannot read, and what to write instead.

    Args:
        said: hydra's own message, which says what its functions (choice, range, ...) could not do.
    """
    key, sign, value = argument.partition("=")
    evaluated = re.search(r"while evaluating '.*?': (.*)", said)
    typed = _typed_as(argument)
    if typed != argument:
        text = f"; as text it needs two kinds of quotes: {_as_text(key, value)}" if sign and KEY.fullmatch(key) else ""
        alike = ", ".join(f"{a} for {b}" for a, b in dict(zip(argument, typed)).items() if a != b)
        return f"{argument} cannot be read: it has other characters than those of a keyboard ({alike}): {typed}{text}"
    if not sign:
        return f"{argument!r} is not a setting: write key=value, such as seed=3"
    if KEY.fullmatch(key) is None:
        return f"{argument!r} cannot be read: {key!r} is not the name of a setting, such as net.width"
    if evaluated is not None:
        return f"{argument} cannot be read: {evaluated[1]}"
    if value.startswith("~"):
        return f"{argument}: ~ is not expanded here; write the whole path"
    return (
        f"{argument} cannot be read as a number, a word, a list [a,b] or a mapping {{a:1}}; other text needs two kinds "
        f"of quotes: {_as_text(key, value)}"
    )


def _typed_as(text: str) -> str:
    """A text with the quotes, dashes, digits and spaces of a keyboard in place of others, as pages and editors have."""
    alike = {"Pd": "-", "Zs": " "}
    plain = (LOOK_ALIKE.get(one) or alike.get(unicodedata.category(one)) or one for one in text)
    return "".join(one if len(full := unicodedata.normalize("NFKC", one)) > 1 else full for one in plain)


def comma_outside_brackets(argument: str) -> str:
    """The message for an argument that only a sweep may have, such as w=0,2."""
    key, _, value = argument.partition("=")
    return (
        f"{argument} has a comma outside brackets: write '{key}=[{value}]' for a list, {_as_text(key, value)} for "
        f"text, or -m {argument} for a sweep with a job for each value"
    )


def _as_text(key: str, value: str) -> str:
    """A setting with a text value as typed in a shell: quoted for hydra, and again for the shell."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), value)
    return shlex.quote(f'{key}="{escaped}"')


def key_of(argument: str) -> str:
    """The key that an argument such as ++net.width=8 or data@own=idx sets."""
    return argument.lstrip("+").partition("=")[0].partition("@")[0]


def with_objects(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with settings below a word or null (`OBJECTS`) in a form that hydra accepts.

    hydra puts no key below a word or null, but it merges mappings: sampler._target_=a.B sampler.steps=2 becomes
    ++sampler={_target_:a.B} ++sampler.steps=2. Arguments already in that form stay as they are. Below any other object
    of the user's own, net._target_=a.B, hydra adds no key without a plus: net.scale=2 becomes ++net.scale=2.
    """
    found = list(arguments)
    keys = [key_of(item) for item in found]
    own = {key.removesuffix(f".{TARGET}") for key in keys if key.endswith(f".{TARGET}")}
    found = [f"++{item.lstrip('+')}" if _is_below(item, own) else item for item in found]
    for name in OBJECTS:
        below = [item for item in found if key_of(item).startswith(f"{name}.") and "=" in item]
        if below and not any(item.startswith(f"++{name}={{") for item in found):
            targets = [item for item in below if key_of(item) == f"{name}.{TARGET}"]
            first = found.index(below[0])
            kept = [item if item not in below else f"++{item.lstrip('+')}" for item in found if item not in targets]
            found = [*kept[:first], _mapping(name, targets), *kept[first:]]
    return found


def _is_below(item: str, names: Collection[str]) -> bool:
    """Whether an argument is a setting of one of these names."""
    key = key_of(item)
    return "=" in item and not key.endswith(TARGET) and any(key.startswith(f"{name}.") for name in names)


def _mapping(name: str, targets: Sequence[str]) -> str:
    """++NAME={_target_:VALUE} for the last of NAME._target_=VALUE, each value of a sweep in a mapping of its own."""
    if not targets:
        return f"++{name}={{}}"
    override = read_override(targets[-1])
    if override is None:
        return targets[-1]  # hydra says what is wrong with it, as it was typed
    value = targets[-1].partition("=")[2]
    if not value.strip("'\" "):
        raise UserError(f"{targets[-1]} is empty: name something, such as {name}.{TARGET}=my_package.Name")
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [value]
    return f"++{name}={','.join(f'{{{TARGET}:{value}}}' for value in values)}"


def values_of(override: Override, options: Sequence[str] = ()) -> list[object]:
    """The values of an override: one, or several in a sweep; without quotes.

    Args:
        options: of the group that it overrides, from which `glob` chooses.
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
    """The arguments with only the last value of each key, as hydra uses it; stderr says which one counts."""
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
    """The arguments as a user types them in a shell: without additions for hydra, and in quotes where needed.

    ++sampler={_target_:a.B} is sampler._target_=a.B again, ++data.num_test=9 is data.num_test=9, and the quotes around
    the call in policy='blocks(0|1)' are removed.
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
    """The arguments of eval.py, with data.KEY=... also allowed for keys of a checkpoint's data, unknown to hydra.

    The default data of the configuration file may have other keys than the data a run was trained on.
    """
    denoiser = given_for(arguments, "denoiser")
    is_learned = denoiser is None or values_of(denoiser) == ["learned"]
    is_own = any(argument.lstrip("+").startswith("denoiser.") for argument in arguments)
    if not is_learned or is_own or any(given_for(arguments, key) for key in ("data", "experiment")):
        return list(arguments)
    return [f"++{argument}" if argument.startswith("data.") else argument for argument in arguments]
