"""All checks of a session, piece by piece, with the time left."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import torch

from mdlm_cfg.studies.benchmark.targets import TARGETS
from mdlm_cfg.support.errors import UserError, did_you_mean
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.verify.checks import CERTAIN, P_VALUE, Check, uniformity
from mdlm_cfg.verify.interval_checks import INTERVAL_CHECKS
from mdlm_cfg.verify.law_checks import law_checks, registered_target_checks
from mdlm_cfg.verify.resume_checks import resume_checks
from mdlm_cfg.verify.sample_checks import sample_checks
from mdlm_cfg.verify.training_checks import TRAINING_CHECKS
from mdlm_cfg.verify.worlds import SORTS, world_of

GROUPS = ("laws", "samples", "intervals", "training", "resume")
MINUTES = 6.0
LAW_SECONDS = 0.8
SAMPLE_SECONDS = 4.2  # of one world, on one core
INTERVAL_SECONDS = 0.005
TRAINING_SECONDS = 0.001  # of one repetition
TARGET_SECONDS = 0.3
RESUME_SECONDS = 15.0
SHARES = {"laws": 0.25, "samples": 0.5, "intervals": 0.15, "training": 0.1}  # of the time, without the fixed parts
MOST_REPEATS = 3000


@dataclass(frozen=True)
class Piece:
    """Checks that are made together.

    Attributes:
        group: see `Check`. label: for messages. seconds: an estimate.
    """

    group: str
    label: str
    seconds: float
    make: Callable[[], list[Check]]


@dataclass(frozen=True)
class Verification:
    """A session.

    Attributes:
        seed: decides every random number. minutes: decide the numbers of targets and repetitions.
        checks: all of them. seconds: by group.
    """

    seed: int
    minutes: float
    checks: tuple[Check, ...]
    seconds: dict[str, float]

    @property
    def failures(self) -> list[Check]:
        """The checks outside their limits."""
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        """Whether there were checks, and all are within their limits."""
        return bool(self.checks) and not self.failures

    @property
    def false_alarm(self) -> float:
        """A bound on the probability that a correct program fails one of the random checks."""
        return CERTAIN * sum(check.measure == P_VALUE for check in self.checks) + 2 * CERTAIN * len(
            [check for check in self.checks if check.group == "intervals"]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "version": 1,
            "seed": self.seed,
            "minutes": self.minutes,
            "passed": self.passed,
            "number_of_checks": len(self.checks),
            "number_of_failures": len(self.failures),
            "false_alarm": self.false_alarm,
            "seconds": self.seconds,
            "environment": environment(),
            "checks": [check.to_dict() for check in self.checks],
        }


def environment() -> dict[str, str]:
    """The settings and versions of a session."""
    from mdlm_cfg import __version__

    return {
        "mdlm_cfg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def todays_seed() -> int:
    """The date as a number, YYYYMMDD: new targets every day, the same for everybody."""
    return int(date.today().strftime("%Y%m%d"))


def pieces_of(seed: int, minutes: float, groups: Collection[str] = GROUPS) -> list[Piece]:
    """The pieces of a session; their numbers depend only on `minutes`, so that a session can be repeated.

    Raises:
        UserError: minutes that are not positive, a negative seed, or a group that does not exist.
    """
    if not 0 < minutes <= 600:
        raise UserError(f"minutes = {minutes:g} is not allowed: it must be above 0 and at most 600")
    if not 0 <= seed < 10**12:
        raise UserError(f"seed = {seed} is not allowed: give a date such as 20250131, or another whole number from 0")
    for group in groups:
        if group not in GROUPS:
            raise UserError(
                f"the group {group!r} is unknown; choose of {', '.join(GROUPS)}{did_you_mean(group, GROUPS)}"
            )
    available = 60 * minutes

    def count(group: str, each: float, least: int = 1, most: int = MOST_REPEATS) -> int:
        return max(least, min(most, round(SHARES[group] * available / each)))

    pieces = [
        *_of_worlds("laws", seed, count("laws", LAW_SECONDS, len(SORTS)), LAW_SECONDS, law_checks),
        *[Piece("laws", f"target {n}", TARGET_SECONDS, partial(registered_target_checks, n)) for n in TARGETS],
        *_of_worlds("samples", seed, count("samples", SAMPLE_SECONDS), SAMPLE_SECONDS, sample_checks),
    ]
    for group, table, each in (
        ("intervals", INTERVAL_CHECKS, INTERVAL_SECONDS),
        ("training", TRAINING_CHECKS, TRAINING_SECONDS),
    ):
        repeats = count(group, each * len(table), 50)
        pieces += [
            Piece(group, f"{name}, {repeats} times", each * repeats, partial(make, seed, repeats))
            for name, make in table.items()
        ]
    pieces.append(Piece("resume", "from every step", RESUME_SECONDS, partial(resume_checks, seed)))
    return [piece for piece in pieces if piece.group in groups]


def _of_worlds(
    group: str, seed: int, number: int, seconds: float, make: Callable[[Any, int], list[Check]]
) -> list[Piece]:
    """A piece for each world."""

    def on_world(k: int) -> list[Check]:
        return make(world_of(seed, k), seed)

    return [Piece(group, f"target {k + 1} of {number}", seconds, partial(on_world, k)) for k in range(number)]


def verify(
    seed: int | None = None,
    minutes: float = MINUTES,
    groups: Sequence[str] = GROUPS,
    write: Callable[[str], None] | None = None,
) -> Verification:
    """Verify laws, samplers, intervals, training estimators and resuming against independent enumeration.

    Args:
        seed: decides the random targets and everything drawn; None is the date, YYYYMMDD.
        minutes: the approximate time on one core; it decides the numbers of targets and repetitions.
        groups: of `GROUPS`.
        write: gets one line per piece, with the time left.

    Raises:
        UserError: see `pieces_of`.
    """
    seed = todays_seed() if seed is None else seed
    pieces = pieces_of(seed, minutes, groups)
    tell = Pieces([piece.seconds for piece in pieces], write)
    checks: list[Check] = []
    seconds = dict.fromkeys(groups, 0.0)
    for piece in pieces:
        tell(f"{piece.group}: {piece.label}")
        start = time.monotonic()
        checks += piece.make()
        seconds[piece.group] += time.monotonic() - start
    return Verification(seed, minutes, (*checks, *uniformity(checks)), seconds)
