"""Folders that `ls` explains: when, and what was asked for, in characters that neither a shell nor hydra minds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.schema import Role, role_of

MOST = 60  # characters of a label
MOST_OF_ONE = 24  # of one value in it


def new_run_folder(root: str | Path, name: str, overrides: Sequence[str] = (), what: str = "") -> Path:
    """Make and return `root/name/DATE_TIME_WHAT_LABEL`, with a number after the time where that exists.

    Args:
        overrides: of the command line; see `label_of`.
        what: it is, if it is no run.
    """
    stamp, label = datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), label_of(overrides, name)
    for number in ["", *(f"-{k}" for k in range(2, 1000))]:
        folder = Path(root, name, "_".join(part for part in (stamp + number, what, label) if part))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UserError(f"there are too many runs in {Path(root, name)} with the time {stamp}")


def label_of(overrides: Sequence[str], name: str = "", without: Collection[Role] = ("place", "operational")) -> str:
    """What was asked for, such as "net.width-64+seed-1": letters, digits and ._+- alone, at most `MOST` of them.

    One that is longer is cut, and ends in a hash of all of it: different labels stay different.

    Args:
        overrides: key=value, as on a command line.
        name: a choice of that name (data=NAME, experiment=NAME) is left out: the folder above says it.
        without: roles whose settings are left out.
    """
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if role_of(key) not in without and not (key in ("data", "experiment") and value.replace("/", "_") == name):
            parts.append(f"{_plain(key)}-{_plain(value.rsplit('/', 1)[-1])[:MOST_OF_ONE]}")
    label = "+".join(parts)
    if len(label) <= MOST:
        return label
    digest = hashlib.sha256(repr(sorted(overrides)).encode()).hexdigest()[:6]
    return f"{label[: MOST - 7].rstrip('+-.')}+{digest}"


def _plain(text: str) -> str:
    """Letters, digits, dots and lines: 1e+3 is 1e3, and what else there is becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.strip("[]{}()'\" ").replace("+", "")).rstrip("-.")
