"""Command lines on which hydra would end with a traceback: refused in one sentence instead."""

from __future__ import annotations

import codecs
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mdlm_cfg.app.overrides import given_for, key_of, values_of
from mdlm_cfg.app.sweeps import MULTIRUN
from mdlm_cfg.support.annotations import in_words
from mdlm_cfg.support.errors import UserError, did_you_mean, text_of
from mdlm_cfg.support.instantiate import TARGET
from mdlm_cfg.support.schema import HYDRA, SCHEMAS, TYPES, keys_of

OPTIONS = ("cfg", "package", "info")  # of hydra, with a value, and without a dash in the name
FOLDERS_OF_HYDRA = {
    "hydra.sweep.subdir": ".",
    "hydra.run.dir": ".",
    "hydra.output_subdir": None,
    "hydra.job.chdir": False,
}
FOLDERS_OF_FILES = ("--config-dir", "-cd", "--config-path", "-cp")  # options of hydra
MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SHOWN = ("--info", "-i")  # options that may have a value: a word
VALUED = (  # options that have a value
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    "--experimental-rerun",
)


def check_keys(arguments: Sequence[str]) -> None:
    """Raise UserError for an argument without a key, such as "=3" or "@a=3", and for a setting with dashes, "--a=3"."""
    for argument in arguments:
        if re.match(r"[+~]*(?:[=@]|$)", argument):
            raise UserError(f"{argument!r} has no key: write key=value, such as seed=3")
        option = re.match(r"--([\w.]+)=", argument)
        if option is not None and option[1] not in OPTIONS:
            raise UserError(f"{argument} is not an option; settings are written without dashes: {argument.lstrip('-')}")


def options_apart(arguments: Sequence[str]) -> list[str]:
    """The arguments with hydra's options, and their values, after all settings; -m is the first.

    hydra takes no setting after an option that comes after a setting.
    """
    options: list[str] = []
    settings: list[str] = []
    for before, argument in zip(["", *arguments], arguments):
        is_value = before in VALUED or (before in SHOWN and argument.isalpha())
        (options if is_value or argument.startswith("-") else settings).append(argument)
    first = [option for option in options if option in MULTIRUN]
    return [*first, *settings, *(option for option in options if option not in MULTIRUN)]


def check_hydras(arguments: Sequence[str]) -> None:
    """Raise UserError for settings by which hydra would choose or change folders: every command makes its own."""
    for key, ours in FOLDERS_OF_HYDRA.items():
        override = given_for(arguments, key)
        if override is not None and any(value != ours for value in values_of(override)):
            way = "hydra.sweep.dir=FOLDER, in which each job has a folder" if "sweep" in key else "runs=FOLDER"
            raise UserError(f"{override.input_line} is not possible: give {way}, and leave {key} out")


def check_config_folders(arguments: Sequence[str]) -> None:
    """Raise UserError for a folder of configuration files that is not readable: hydra would find nothing in it."""
    for option, folder in _config_folders([part for text in arguments for part in text.split("=")]):
        try:
            os.stat(os.path.join(folder, os.curdir))
        except PermissionError as error:
            raise UserError(
                f"{option} {folder} cannot be read ({error.strerror}): change its permissions, or leave the option out"
            ) from error
        except OSError:  # hydra says so
            continue


def _config_folders(parts: Sequence[str]) -> list[tuple[str, Path]]:
    """The options of hydra for folders of configuration files, each with its folder."""
    return [(before, Path(after)) for before, after in pairwise(parts) if before in FOLDERS_OF_FILES]


def check_truth_values(arguments: Sequence[str]) -> None:
    """Raise UserError for a number other than 0 and 1 where true or false is meant: omegaconf reads it as true."""
    for argument in arguments:
        given = re.fullmatch(r"\+{0,2}(\w+)=(.*)", argument)
        if given is None or TYPES.get(given[1]) not in (bool, bool | None):
            continue
        for value in given[2].split(","):
            if re.fullmatch(r"[+-]?\d+", value) and int(value) not in (0, 1):
                raise UserError(f"{given[1]} = {value} must be {in_words(TYPES[given[1]])}")


def check_config(name: str, chosen: str | None, config: DictConfig) -> None:
    """Raise UserError for a configuration that lacks settings of a command, or has others that nothing refers to.

    Args:
        name: of the command. chosen: the configuration's name. config: as it was composed.
    """
    known = keys_of(SCHEMAS[name])
    for key in known if chosen == name else ():
        if OmegaConf.is_missing(config, key):
            raise UserError(f"{key} has no value (???): give {key}=VALUE, or leave it out")
    missing = [key for key in known if key not in config]
    if missing and chosen == name:
        raise UserError(f"~{missing[0]} leaves out a setting that this command needs: give {missing[0]}=VALUE")
    if missing:
        raise UserError(
            f"--config-name={chosen} is not a configuration of this command: it lacks {', '.join(missing)}; leave the "
            f"option out, or begin the defaults of that file with {name}"
        )
    defaults = SCHEMAS[name]()
    for key in known:
        if isinstance(getattr(defaults, key), list) and OmegaConf.is_dict(config[key]):
            raise UserError(f"{key} = {config[key]} is not allowed: it must be a list, not a mapping {{KEY: VALUE}}")
    parts = [key for key in known if is_dataclass(TYPES[key])]
    known = (*known, *(f"{part}.{key}" for part in parts for key in keys_of(TYPES[part])))
    text = repr(OmegaConf.to_container(config, resolve=False))
    for name in [*map(str, config), *(f"{part}.{key}" for part in parts for key in config[part])]:
        if name not in (*known, HYDRA) and not re.search(rf"\$\{{[^}}]*\b{re.escape(name)}\b", text):
            near = did_you_mean(name, known)
            raise UserError(f"{name} is not a setting of this command, and no setting refers to it: leave it out{near}")


def refuse_processes(trainer: Mapping[str, Any] | None) -> None:
    """Raise UserError for a job of a sweep that is to run in several processes.

    Lightning starts each of them with the same command line, so each would start the whole sweep again.
    """
    settings = trainer or {}
    for name in ("devices", "num_nodes"):
        if str(value := settings.get(name, 1)) != "1":
            raise UserError(
                f"trainer.{name}={value} means several processes for every job, and a sweep (-m) runs each job in one "
                "process: give trainer.devices=1, or run each setting as a command of its own (docs/scaling.md)"
            )


def refuse_one_wandb_run(logger: Mapping[str, Any] | None) -> None:
    """Raise UserError where WANDB_RUN_ID names one run on wandb for all jobs of a sweep."""
    if str((logger or {}).get(TARGET)).endswith("WandbLogger") and (name := os.environ.get("WANDB_RUN_ID")):
        raise UserError(
            f"WANDB_RUN_ID={name} is a single run on wandb, and each job of a sweep (-m) is a separate run: unset it"
        )


def unreadable(error: Exception, arguments: Sequence[str], configs: Path) -> Exception:
    """A sentence for errors that hydra does not explain: settings below null, or a YAML file without settings.

    Args:
        error: what was raised; returned if it is none of these. arguments: of the command line. configs: the folder of
            the command's files.
    """
    if isinstance(error, HydraException | UnicodeDecodeError) and (
        said := _encoding([*arguments, text_of(error)], configs)
    ):
        return UserError(said)
    if isinstance(error, AssertionError | AttributeError) and _is_of("omegaconf", error):
        return _below_null(arguments) or error
    if isinstance(error, RecursionError):  # while settings are composed, before any work
        return UserError("a configuration file contains itself (&NAME and *NAME of YAML), or is nested too deeply")
    said = text_of(error)
    is_of_a_file = "Invalid loaded object type" in said or isinstance(error, UnicodeDecodeError)
    if is_of_a_file or "Invalid defaults list" in said or (type(error) is ValueError and _is_of("hydra", error)):
        return UserError(f"a configuration file cannot be used: {error}")
    return error


def _encoding(texts: Sequence[str], configs: Path) -> str | None:
    """The message for a file, named by arguments or hydra, that is not plain UTF-8; None where all are.

    With a byte order mark hydra does not see the first line, # @package _global_.
    """
    parts = [part for text in texts for part in text.split("=")]
    folders = [configs, *(folder for _, folder in _config_folders(parts))]
    names = {Path(word).name for text in texts for word in re.split(r"[^\w./-]+", text)}
    for path in (path for folder in folders for path in sorted(folder.rglob("*.yaml"))):
        if not {path.stem, path.name} & names or not path.is_file():
            continue
        content = path.read_bytes()
        if content.startswith(MARKS):
            return f"{path} begins with a byte order mark: save it as UTF-8 without one"
        try:
            content.decode()
        except UnicodeDecodeError as error:
            return f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
    return None


def _below_null(arguments: Sequence[str]) -> UserError | None:
    """The error for arguments that give settings below a key that is null, to which hydra adds none."""
    keys = {argument: key_of(argument) for argument in arguments if "=" in argument}
    for argument, key in keys.items():
        group = key.partition(".")[0]
        if group == "hydra" and (key.count(".") > 2 or argument.partition("=")[2].startswith("{")):
            way = "write what is swept as an argument of its own, such as seed=0,1"
        elif group != key and group != "hydra" and group not in keys.values():
            way = f"choose {group}=NAME too"
        else:
            continue
        return UserError(f"{argument} is a setting below a key that is null, which hydra cannot add to: {way}")
    return None


def _is_of(package: str, error: Exception) -> bool:
    """Whether an error was raised by a package itself."""
    return package in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts
