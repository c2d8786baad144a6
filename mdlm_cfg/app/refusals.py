"""What of a command line hydra itself would answer with a traceback: refused in a sentence instead."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.schema import SCHEMAS

FOLDERS = ("--config-dir", "-cd", "--config-path", "-cp")  # options of hydra that name a folder of files


def check_keys(arguments: Sequence[str]) -> None:
    """Raise UserError for an argument without a key, such as "=3"."""
    for argument in arguments:
        if re.match(r"[+~]*=", argument):
            raise UserError(f"{argument!r} has no key: write key=value, such as seed=3")


def check_config(name: str, chosen: str | None, config: Container[str]) -> None:
    """Raise UserError for a configuration that lacks settings of a command, as one chosen by --config-name may.

    Args:
        name: of the command. chosen: the configuration's name. config: as it was composed.
    """
    missing = [field.name for field in dataclasses.fields(SCHEMAS[name]) if field.name not in config]
    if missing:
        raise UserError(
            f"--config-name={chosen} is not a configuration of this command: it lacks {', '.join(missing)}; leave the "
            f"option out, or begin the defaults of that file with {name}"
        )


def unreadable(error: UnicodeDecodeError, arguments: Sequence[str], configs: Path) -> UserError | UnicodeDecodeError:
    """The error of a configuration file that is not text in UTF-8, which hydra's own does not name.

    Args:
        error: what was raised; it is returned if all configuration files can be read.
        arguments: of the command line. configs: the folder of this package's own files.
    """
    for folder in (*_folders(arguments), configs):
        for path in sorted(folder.rglob("*.yaml")):
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError as found:
                line = found.object[: found.start].count(b"\n") + 1
                return UserError(f"{path}, line {line}, is not text in UTF-8: save the file in that encoding")
            except OSError:
                continue
    return error


def _folders(arguments: Sequence[str]) -> Iterator[Path]:
    """The folders of configuration files that the command line names."""
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        option, _, value = argument.partition("=")
        if option in FOLDERS:
            yield Path(value or following)
