"""The groups of a command, the files of each, and the experiment implied by data that are given without one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.types import Glob, QuotedString

from mdlm_cfg.app.overrides import given_for, read_override, values_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.schema import HYDRA

RECIPE = re.compile(r"^# recipe: (\S+)$", flags=re.MULTILINE)
OF_SEQUENCES = re.compile(r"^# recipe of sequences: (\S+)$", flags=re.MULTILINE)


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

    If an experiment has chosen one, GROUP=null becomes ~GROUP, by which hydra leaves it out.

    Raises:
        UserError: a group given as null, a number or a mapping, alone, in a sweep or in a list: these name no
            file, and hydra fails on them.
    """
    groups = groups_of(name, configs)
    experiment = given_for(arguments, "experiment")
    has_experiment = experiment is not None and values_of(experiment) != [None]
    kept = []
    for argument in arguments:
        override = read_override(argument)
        group = "" if override is None else override.key_or_group
        options = [] if override is None else values_of(override)
        is_hydras = group.startswith(f"{HYDRA}/")
        if not (is_hydras or group in groups) or all(_names_files(option) for option in options):
            kept.append(argument)
        elif is_hydras:
            raise UserError(f"{argument} names no file: give a name, such as {HYDRA}/launcher=joblib")
        elif options == [None] and groups[group] is None:
            kept += [f"~{group}"] if has_experiment else []
        else:
            raise UserError(f"{argument} names no file: choose one of {', '.join(options_of(group, configs))}")
    return kept


def _names_files(option: object) -> bool:
    """Whether a value of a group names a file, or several in a list."""
    if isinstance(option, list):
        return all(isinstance(one, str | QuotedString) for one in option)
    return isinstance(option, str | Glob)


def recipe_of(data: str, configs: Path, saved: str | None = None) -> str | None:
    """The experiment that a file in conf/data names as its own ("# recipe: mnist"); None where the defaults suffice.

    Args:
        saved: the folder of a saved data set, which may hold sequences or images.
    """
    path = configs / "data" / f"{data}.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = OF_SEQUENCES.search(text)
    if found is None or saved is None or not _holds_sequences(saved):
        found = RECIPE.search(text)
    return None if found is None else found[1]


def _holds_sequences(saved: str) -> bool:
    from mdlm_cfg.training.data.huggingface import holds_sequences  # takes seconds, and few data need it

    return holds_sequences(saved)


def with_recipe(arguments: Sequence[str], configs: Path) -> list[str]:
    """The arguments of train.py, with the data's own recipe as `experiment=...` before `data=...`, if none is given.

    Objective, network and optimiser then fit the data, and each can be overridden.

    Raises:
        UserError: a sweep over data that have different recipes.
    """
    data = given_for(arguments, "data")
    if data is None or given_for(arguments, "experiment") is not None:
        return list(arguments)
    values = values_of(data, list(options_of("data", configs)))
    named = [one for value in values for one in (value if isinstance(value, list) else [value])]  # data=[mnist]
    choices = [one.text if isinstance(one, QuotedString) else one for one in named]
    paths = given_for(arguments, "data.path")
    saved: list[str | None] = [str(value) for value in ([] if paths is None else values_of(paths))]
    recipes = {
        " ".join(part for part in (choice, path) if part): recipe_of(choice, configs, path)
        for choice in choices
        if isinstance(choice, str)
        for path in saved or [None]
    }
    if not recipes:
        return list(arguments)
    if len(set(recipes.values())) > 1:
        shown = "; ".join(f"{data}: {name or 'the defaults'}" for data, name in recipes.items())
        raise UserError(
            f"these data have different recipes ({shown}): sweep over those of one recipe, or give experiment="
        )
    (recipe,) = set(recipes.values())
    return list(arguments) if recipe is None else [f"experiment={recipe}", *arguments]
