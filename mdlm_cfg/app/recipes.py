"""The recipe of data that are named alone: which experiment trains on them, if no other is given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mdlm_cfg.app.groups import options_of
from mdlm_cfg.app.overrides import given_for, values_of
from mdlm_cfg.support.errors import UserError

RECIPE = re.compile(r"^# recipe: (\S+)$", flags=re.MULTILINE)
OF_SEQUENCES = re.compile(r"^# recipe of sequences: (\S+)$", flags=re.MULTILINE)


def recipe_of(data: str, configs: Path, saved: str | None = None) -> str | None:
    """The experiment that a file in conf/data names as its own ("# recipe: mnist"); None where the defaults do.

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
    """The arguments of train.py, with `experiment=...` before `data=...` where the data's own recipe is meant.

    It is where no experiment is given: objective, network and optimiser then fit the data, and each can be overridden.

    Raises:
        UserError: a sweep over data that have different recipes.
    """
    data = given_for(arguments, "data")
    if data is None or given_for(arguments, "experiment") is not None:
        return list(arguments)
    choices = [value for value in values_of(data, list(options_of("data", configs))) if isinstance(value, str)]
    paths = given_for(arguments, "data.path")
    saved: list[str | None] = [str(value) for value in ([] if paths is None else values_of(paths))]
    recipes = {
        " ".join(part for part in (choice, path) if part): recipe_of(choice, configs, path)
        for choice in choices
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
