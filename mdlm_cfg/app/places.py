"""The paths in a configuration: empty ones are refused, and recorded ones are absolute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import checked_name, is_path
from mdlm_cfg.support.schema import SCHEMAS, SampleSchema, Settings, TrainSchema, keys_of

Recorded = TypeVar("Recorded", bound=Settings)

PATHS = sorted({key for schema in SCHEMAS.values() for key in keys_of(schema, "place")})
AUTO = "auto"  # of ckpt_path: the newest unfinished run's
FOLDERS = [key for key in PATHS if key != "name"]  # `name` is a folder inside `runs`
DATA_PATHS = ("path", "root", "dataset")


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # a command says so when it needs the folder
        return Path()


BEGAN = _working_directory()


def check_places(config: Settings) -> None:
    """Refuse paths that are not text, or empty, as from an unset shell variable: that would be the working directory.

    Raises:
        UserError: such a path, or a name of runs that leads out of their folder.
    """
    for key in PATHS:
        check_path(key, getattr(config, key, None))
    if config.ckpt_path == AUTO and not isinstance(config, TrainSchema):
        raise UserError(
            f"ckpt_path={AUTO} resumes training (train.py): leave it out for the newest run, or give the folder of a "
            "run, or a checkpoint"
        )
    if not isinstance(config, SampleSchema):
        if not isinstance(path := config.data.get("path", ""), str):
            raise UserError(f"data.path = {path} is not text: write the path as data.path=./NAME")
        for key in DATA_PATHS:
            check_path(f"data.{key}", config.data.get(key))
    if isinstance(config, TrainSchema) and config.name is not None:
        checked_name(config.name)


def check_path(key: str, value: object) -> None:
    """Raise UserError for text that is empty, is not a path, or begins with "~", which is not expanded here."""
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{key}= is empty: give a value, or leave {key} out")
    if isinstance(value, str | Path) and not is_path(str(value)):
        raise UserError(f"{key} = {str(value)!r} has a character that paths cannot contain: use others")
    if isinstance(value, str) and value.split("/")[0].startswith("~"):
        raise UserError(f"{key}={value}: ~ is not expanded here; write the whole path (or ./{value} if it is a name)")


@contextmanager
def naming_way_out(key: str) -> Iterator[None]:
    """If a folder cannot be made inside, raise a UserError with the key that gives another."""
    try:
        yield
    except OSError as error:
        where = "a folder" if error.filename is None else error.filename
        raise UserError(f"{where} cannot be made ({error.strerror or error}): give {key}=FOLDER") from error


def with_absolute_paths(config: Recorded) -> Recorded:
    """The settings with absolute paths: code of the user's own may change the working directory."""
    given = {key: value for key, value in vars(config).items() if key in FOLDERS}  # +KEY=... may have added others
    config = replace(config, **_absolute(given, FOLDERS))
    for name in ("weak", "predictor"):
        part = getattr(config, name)
        config = replace(config, **{name: replace(part, **_absolute(vars(part), ["ckpt_path"]))})
    if isinstance(config, SampleSchema):
        return config
    data = config.data
    if isinstance(path := data.get("path"), str):
        data = moved(data, path, str(Path(path).absolute()))
    return replace(config, data=_absolute(data, ("root",)))


def _absolute(settings: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Settings whose paths are absolute; parts ".." stay, since the part before may be a link."""
    given = {key: path for key in keys if isinstance(path := settings.get(key), str) and path.strip()}
    given = {key: path for key, path in given.items() if (key, path) != ("ckpt_path", AUTO)}
    return {**settings, **{key: str(Path(path).absolute()) for key, path in given.items()}}


def shown_path(path: Path) -> str:
    """A path for messages, as a user would type it where the command was started."""
    return str(path.relative_to(BEGAN) if path.is_relative_to(BEGAN) else path)


def moved(data: Mapping[str, Any], old: object, new: object) -> dict[str, Any]:
    """Settings of data with another path: `path` itself, and the arguments that contain it."""
    return {
        key: moved(value, old, new) if isinstance(value, Mapping) else new if value == old else value
        for key, value in data.items()
    }
