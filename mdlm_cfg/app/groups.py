"""The groups of a command: which there are, what files each has, and what is given for one without being any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.types import Glob

from mdlm_cfg.app.overrides import given_for, values_of
from mdlm_cfg.app.quoting import read_override
from mdlm_cfg.support.errors import UserError


def groups_of(name: str, configs: Path) -> dict[str, str | None]:
    """The groups of a command ("train", "eval", "sample"), each with its default, in the order of its file."""
    defaults = yaml.safe_load((configs / f"{name}.yaml").read_text(encoding="utf-8"))["defaults"]
    pairs = [item for entry in defaults if isinstance(entry, dict) for item in entry.items()]
    return {group: option for group, option in pairs if not group.startswith("override ")}


def settings_text(name: str, configs: Path) -> str:
    """The settings of a command that are in no group, as written, with their comments: its file's, and those included.

    A file is included by its path in the defaults, such as "evaluation/sampling".
    """
    text = (configs / f"{name}.yaml").read_text(encoding="utf-8")
    own = text[text.index("- _self_") :].split("\n\n", 1)[1].split("\nhydra:")[0].strip()
    included = [item for item in yaml.safe_load(text)["defaults"] if isinstance(item, str) and "/" in item]
    parts = [(configs / f"{path}.yaml").read_text(encoding="utf-8").partition("\n")[2].strip() for path in included]
    return "\n\n".join([own, *parts])


def options_of(group: str, configs: Path) -> dict[str, Path]:
    """The files of a group by their names on the command line."""
    folder = configs / group
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def with_options(arguments: Sequence[str], name: str, configs: Path) -> list[str]:
    """The arguments of a command, without GROUP=null where no file of that group is its default.

    An experiment may have chosen one: there it is ~GROUP, by which hydra leaves it out.

    Raises:
        UserError: a group that is given null, a number or a mapping, alone or in a sweep: they name no
            file, and hydra fails on them.
    """
    groups = groups_of(name, configs)
    experiment = given_for(arguments, "experiment")
    has_experiment = experiment is not None and values_of(experiment) != [None]
    kept = []
    for argument in arguments:
        group, options = _given(argument)
        if group not in groups or all(isinstance(option, str | list | Glob) for option in options):
            kept.append(argument)
        elif options == [None] and groups[group] is None:
            kept += [f"~{group}"] if has_experiment else []
        else:
            raise UserError(f"{argument} names no file: choose one of {', '.join(options_of(group, configs))}")
    return kept


def _given(argument: str) -> tuple[str, list[object]]:
    """The key of an argument, and what is given for it, as hydra reads it: several where they are swept."""
    override = read_override(argument)
    if override is None or override.is_delete():
        return "", []
    return override.key_or_group, values_of(override)
