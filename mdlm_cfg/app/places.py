"""Where a configuration says that things are: refused where it is empty text, and absolute where it is recorded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import checked_name
from mdlm_cfg.support.schema import SCHEMAS, keys_of

PATHS = sorted({key for schema in SCHEMAS.values() for key in keys_of(schema, "place")})
DATA_PATHS = ("path", "root", "dataset")


def check_places(config: Mapping[str, Any]) -> None:
    """Refuse paths of empty text, such as those of an unset variable of a shell: they mean the working directory.

    Raises:
        UserError: such a path, or a name of runs that leads out of their folder.
    """
    for key in PATHS:
        refuse_empty(key, config.get(key))
    if isinstance(data := config.get("data"), Mapping):
        for key in DATA_PATHS:
            refuse_empty(f"data.{key}", data.get(key))
    if config.get("name") is not None:
        checked_name(str(config["name"]))


def refuse_empty(key: str, value: object) -> None:
    """Raise UserError for empty text."""
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{key}= is empty: give a value, or leave {key} out")


def with_absolute_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration to record of a run: its data are found again from any working directory."""
    data = dict(config["data"])
    if isinstance(path := data.get("path"), str):
        data = moved(data, path, os.path.abspath(path))
    if isinstance(root := data.get("root"), str):
        data["root"] = os.path.abspath(root)
    return {**config, "data": data}


def moved(data: Mapping[str, Any], old: object, new: object) -> dict[str, Any]:
    """Settings of data with another path: `path` itself, and the arguments that were made from it."""
    return {
        key: moved(value, old, new) if isinstance(value, Mapping) else new if value == old else value
        for key, value in data.items()
    }
