"""`python -m mdlm_cfg.verify out=FOLDER [seed=YYYYMMDD] [minutes=6] [groups=laws,samples]`: see `HELP`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mdlm_cfg.app.commands import with_arguments
from mdlm_cfg.app.errors import FAULT
from mdlm_cfg.app.places import check_path
from mdlm_cfg.support.errors import UserError, did_you_mean
from mdlm_cfg.support.folders import Made

HELP = """\
Verify the package against independent enumeration on fresh random targets, and write one page.

python -m mdlm_cfg.verify out=verification                    today's targets, in about six minutes
python -m mdlm_cfg.verify out=again seed=20250131 minutes=2   the targets of another day, fewer of them
python -m mdlm_cfg.verify out=laws groups=laws,samples        groups: laws, samples, intervals, training, resume

The folder must be new or empty, or hold an earlier verification, which is replaced. The command writes
report.html with its pictures, and verification.json. The exit code is 0 if all checks passed, 1 if one failed, and 2 \
for a mistake in the
command.
"""
QUIET = 5.0  # seconds between lines
KEYS = ("out", "seed", "minutes", "groups")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    with_arguments(HELP, _verify, arguments)


def settings_of(given: Sequence[str]) -> dict[str, str]:
    """The command line as keys and values.

    Raises:
        UserError: a word that is not KEY=VALUE, an unknown key, a key given twice, or no folder.
    """
    found: dict[str, str] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not value or key not in KEYS or key in found:
            near = "" if key in KEYS else did_you_mean(key, KEYS)
            raise UserError(f"{item!r} is not allowed: give each of {', '.join(KEYS)} at most once, as KEY=VALUE{near}")
        found[key] = value
    if "out" not in found:
        raise UserError("out is missing: give the folder of the page, such as out=verification")
    return found


def _verify(given: Sequence[str]) -> None:
    settings = settings_of(given)
    check_path("out", settings["out"])
    folder = Path(settings["out"])
    minutes = _number("minutes", settings, float)
    seed = _number("seed", settings, int)

    import torch

    from mdlm_cfg.verify.page import check_folder, write_report
    from mdlm_cfg.verify.run import GROUPS, MINUTES, pieces_of, todays_seed, verify

    seed = todays_seed() if seed is None else int(seed)
    minutes = MINUTES if minutes is None else minutes
    groups = tuple(dict.fromkeys(settings["groups"].split(","))) if "groups" in settings else GROUPS
    pieces_of(seed, minutes, groups)
    made = Made()
    check_folder(folder, made)
    torch.set_num_threads(1)  # tensors are tiny
    print(f"seed {seed}", flush=True)
    with made.taken_back():
        found = verify(seed, minutes, groups, sparse_lines())
        for check in found.failures:
            print(f"FAILED {check.subject}: {check.case}: {check.measure} {check.value:.3g}")
        print(f"{len(found.checks) - len(found.failures):,} of {len(found.checks):,} checks passed")
        print(f"report: {write_report(found, folder)}")
    if not found.passed:
        sys.exit(FAULT)


def sparse_lines() -> Callable[[str], None]:
    """A function that prints a line unless the last one was recent and of the same group."""
    last = -math.inf
    group = ""

    def write(line: str) -> None:
        nonlocal last, group
        if time.monotonic() - last >= QUIET or line.partition(":")[0] != group:
            last = time.monotonic()
            group = line.partition(":")[0]
            print(line, flush=True)

    return write


def _number(key: str, settings: dict[str, str], kind: type[float] | type[int]) -> float | None:
    """A setting as a number; None if it was not given."""
    try:
        return kind(settings[key]) if key in settings else None
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{key}={settings[key]} is not allowed: {key} must be {what}") from None
