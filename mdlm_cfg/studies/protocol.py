"""The protocol of a study, and the one loop that runs every study.

A study declares what it needs, names the pieces of its work, and turns their results into findings. Progress, the
time left, resuming and sharing over processes follow from the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, cast

from mdlm_cfg.studies.case import EXACT, LEARNED, Case, Key, Made, Piece
from mdlm_cfg.studies.findings import Findings, together
from mdlm_cfg.studies.needs import Needs, check_guided_class
from mdlm_cfg.studies.written import check_findings, check_pieces
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import is_ours
from mdlm_cfg.support.numeric import whole_number, whole_numbers
from mdlm_cfg.support.progress import Pieces, silent

__all__ = [  # names for writing a study
    "EXACT",
    "LEARNED",
    "ByCase",
    "Case",
    "Key",
    "Made",
    "Needs",
    "Piece",
    "Rows",
    "Settings",
    "Study",
    "Together",
    "check",
    "check_guided_class",
    "name_of",
    "run",
    "whole",
    "wholes",
]
Rows = Mapping[str, type]  # the class of the rows of each block of a study, by its name


class Study(Protocol):
    """A question about data and a denoiser. Its settings are its dataclass fields.

    A study may also have `check(case)`, which raises UserError for what `needs` cannot say, before any work; and
    `rows`, a mapping from the name of each block to the class of its rows, from which docs/report.md is made.
    """

    needs: ClassVar[Needs]

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The pieces of the work, in order. Naming a piece computes nothing."""
        ...

    def findings(self, case: Case, made: Made) -> Findings:
        """Rows, views and the verdict, from what the pieces made."""
        ...


def whole(default: int, least: int) -> Any:
    """A setting of a study: a whole number of at least `least`, as `Settings` check it."""
    return field(default=default, metadata={"least": least})


def wholes(default: Sequence[int] | None, least: int = 1) -> Any:
    """A setting of a study: different whole numbers of at least `least`, as `Settings` check them; None stays None."""
    return field(default=default, metadata={"least": least, "several": True})


class Settings:
    """The settings of a study as its dataclass fields, checked as declared (`whole`, `wholes`).

    Raises:
        UserError: a setting that is not allowed.
    """

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type] # a study is a dataclass
            value = getattr(self, f.name)
            if "least" in f.metadata and value is not None:
                check = whole_numbers if "several" in f.metadata else whole_number
                object.__setattr__(self, f.name, check(f"study.{f.name}", value, f.metadata["least"]))


def name_of(study: Study) -> str:
    """A study's name for users: its own `name`, or its class in lower case with underscores."""
    own = getattr(study, "name", None)
    if isinstance(own, str):
        return own
    letters = [f"_{c.lower()}" if c.isupper() else c for c in type(study).__name__]
    return "".join(letters).lstrip("_")


def check(study: Study, case: Case) -> None:
    """Raise UserError for everything that `run` would refuse, before any work."""
    study.needs.check(name_of(study), case)
    more = getattr(study, "check", None)
    if more is not None:
        more(case)


def run(study: Study, case: Case, say: Callable[[str], None] = silent) -> Findings:
    """Check a case, make every piece, and return the findings.

    Args:
        say: gets one short line before each piece: what it is, and how long the rest will take.

    Raises:
        UserError: as `check`; or pieces, rows or views of a user's own study that cannot be shown.
    """
    check(study, case)
    is_own = not is_ours(type(study))
    named = check_pieces(name_of(study), study.pieces(case)) if is_own else study.pieces(case)
    pieces = {piece.key: piece for piece in named}
    progress = Pieces([piece.cost for piece in pieces.values()], say)
    for key, piece in pieces.items():
        progress(piece.label)
        if key not in case.made:
            case.made[key] = case.cache(key, piece.make) if piece.cached else piece.make()
    found = study.findings(case, case.made)
    if is_own:
        check_findings(name_of(study), found)
    return replace(found, num_dims=case.num_dims)


class ByCase:
    """A study that delegates to another one, chosen by the case.

    Attributes:
        kinds: the studies to choose from; the first one whose needs the data meet is used.
    """

    kinds: ClassVar[Sequence[Any]] = ()
    rows: ClassVar[Rows] = {}

    def study(self, case: Case) -> Study:
        """The study that does the work.

        Raises:
            UserError: a setting that the study does not have, or as that study.
        """
        study: Study = self.of_kind(next(kind for kind in self.kinds if kind.needs.fits(case.data)))
        return study

    def of_kind(self, kind: type) -> Any:
        """A study of a kind with the settings of this one; None stands for the kind's default.

        Raises:
            UserError: a setting that was given and that the kind does not have, or as the kind.
        """
        known = {own.name for own in fields(kind)}
        given: dict[str, Any] = {}
        for own in fields(cast(Any, self)):
            value = getattr(self, own.name)
            if own.name in known:
                given |= {} if value is None else {own.name: value}
            elif _as_list(value) != _as_list(own.default):
                raise UserError(f"study.{own.name} = {value} does not apply to these data: leave it out")
        return kind(**given)

    def check(self, case: Case) -> None:
        """Check that study."""
        check(self.study(case), case)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The pieces of that study."""
        return self.study(case).pieces(case)

    def findings(self, case: Case, made: Made) -> Findings:
        """The findings of that study."""
        return self.study(case).findings(case, made)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


@dataclass(frozen=True)
class Together:
    """Several studies of one case as one: what they share is computed once.

    Attributes:
        studies: in the order of the page.
    """

    studies: Sequence[Study]
    name: str = "report"
    needs: ClassVar[Needs] = Needs(rules=True)  # each study declares its own needs

    def check(self, case: Case) -> None:
        """Check every study."""
        for study in self.studies:
            check(study, case)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The pieces of all studies."""
        for study in self.studies:
            yield from study.pieces(case)

    def findings(self, case: Case, made: Made) -> Findings:
        """The findings of all studies, one after the other."""
        return together(case.plan, [study.findings(case, made) for study in self.studies])
