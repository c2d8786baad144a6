"""The protocol of a study, and the one loop that runs every study.

A study declares what it needs, names the pieces of its work, and makes findings of what the pieces gave. Progress, the
time left, resuming and sharing over processes follow from the pieces.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import product
from typing import Any, ClassVar, Protocol

from mdlm_cfg.chain.denoiser import Denoiser, check_class
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.rules import CFG
from mdlm_cfg.laws.rates import partial_state_lattice
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.studies.findings import Findings, together
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.by_value import value_key
from mdlm_cfg.support.cache import AnyCache, no_cache
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.support.progress import Pieces, share_shown, silent
from mdlm_cfg.targets.data import Data, class_name

LEARNED_LAW_ENTRIES = 2e7  # (N+1)^D * D * N up to which a network is evaluated on every partial state
EXACT = "exact"
LEARNED = "learned"
Key = Hashable


@dataclass(frozen=True)
class Piece:
    """A piece of a study's work.

    Attributes:
        key: plain values that decide what it makes. Two pieces of one key are made once.
        make: returns tensors and plain values (tuples, lists and dictionaries of them), which are stored for resuming.
        label: what is under way, in a few words.
        cost: in any unit that the pieces of one study share.
        shared: whether any process may make it, in any order; it then returns a tensor on the CPU.
        cached: whether the result is stored for resuming; only plain values and tensors can be.
    """

    key: Key
    make: Callable[[], Any]
    label: str
    cost: float = 1.0
    shared: bool = False
    cached: bool = True


class Made(dict[Key, Any]):
    """What the pieces of a case have made so far, by key."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def of(self, make: Callable[..., Any], *at: Any) -> Any:
        """What the piece `case.piece(make, *at)` made."""
        return self[self.case.key_of(make, *at)]


@dataclass
class Case:
    """The input of a study, resolved once.

    Attributes:
        data: the data, set up. plan: guidances, sampler, samples, classes, seed.
        denoisers: "exact", where the data are known exactly, and "learned", where there is a network.
        classes: z; the plan's, or all of them.
        cache: returns what an interrupted evaluation made before.
        made: what the pieces have made so far, by key. A later piece may read it.
    """

    data: Data
    plan: Plan
    denoisers: Mapping[str, Denoiser]
    classes: tuple[int, ...]
    cache: AnyCache = no_cache
    made: Made = field(init=False)

    def __post_init__(self) -> None:
        self.made = Made(self)

    @staticmethod
    def of(data: Data, denoiser: Denoiser | None, plan: Plan, cache: AnyCache = no_cache) -> Case:
        """The case of data, a learned denoiser (None: the exact one alone) and a plan.

        Raises:
            UserError: a denoiser of another space than the data's, or classes that do not exist.
        """
        denoisers: dict[str, Denoiser] = {}
        if data.target is not None:
            denoisers[EXACT] = data.target.denoiser()
        if denoiser is not None:
            _check_space(data, denoiser)
            denoisers[LEARNED] = denoiser
        for k in plan.classes or ():
            check_class(k, data.num_classes)
        classes = tuple(range(data.num_classes)) if plan.classes is None else plan.classes
        return Case(data, plan, denoisers, classes, cache)

    @property
    def target(self) -> Any:
        """The distribution of the data, where it is known exactly."""
        return self.data.target

    @property
    def num_dims(self) -> int:
        """D."""
        return _dims(self.data)

    @property
    def has_learned(self) -> bool:
        """Whether there is a learned denoiser."""
        return LEARNED in self.denoisers

    @property
    def judged(self) -> str:
        """The denoiser whose samples are evaluated: "learned" if there is a learned one, else "exact"."""
        return LEARNED if self.has_learned else EXACT

    @property
    def one_class(self) -> int:
        """The class of a study of one class: the plan's, or 0."""
        return self.plan.classes[0] if self.plan.classes else 0

    def class_name(self, k: int) -> str:
        """The name of a class for people: its own, or its number."""
        return class_name(self.data, k)

    def by_denoiser(self) -> Iterator[tuple[Guidance, str]]:
        """Each strength with each denoiser."""
        return product(self.plan.guidances, self.denoisers)

    def piece(self, make: Callable[..., Any], *at: Any, label: str, cost: float = 1.0, **how: bool) -> Piece:
        """The piece that makes `make(case, *at)`; `made.of(make, *at)` is what it made.

        Args:
            make: a function, or a method of the study. at: what sets this piece apart from others of the same function.
            label, cost, how: see `Piece`.
        """
        return Piece(self.key_of(make, *at), partial(make, self, *at), label, cost, **how)

    def key_of(self, make: Callable[..., Any], *at: Any) -> Key:
        """The values that may decide `make(case, *at)`: the function, the study's settings, the plan's, and `at`."""
        plan = self.plan
        study = getattr(make, "__self__", None)  # of a method
        drawn = (plan.sampler.key, plan.num_samples, plan.seed, self.classes, tuple(self.denoisers))
        return (value_key(make), value_key(study), *drawn, self._plain(at))

    def _plain(self, value: Any) -> Key:
        """A value as plain ones: a guidance by its strengths on D coordinates."""
        if isinstance(value, list | tuple):
            return tuple(map(self._plain, value))
        return value.key(self.num_dims) if isinstance(value, Guidance) else value_key(value)

    def denoiser(self, who: str) -> Denoiser:
        """A denoiser, whose answers to all partial states are known where they are few enough (`table`)."""
        return self.table(who) or self.denoisers[who]

    def table(self, who: str) -> Denoiser | None:
        """A denoiser whose answers to all partial states are known, asked once; None where there are too many.

        Args:
            who: "exact" or "learned".
        """
        key = ("answers", who)
        if key not in self.made:
            self.made[key] = self._table(self.denoisers[who])
        return self.made[key]

    def _table(self, denoiser: Denoiser) -> Denoiser | None:
        if isinstance(denoiser, TabulatedDenoiser) or denoiser is self.denoisers.get(EXACT):
            return denoiser
        n = denoiser.num_tokens
        d = denoiser.num_dims
        if (n + 1) ** d * n * d > LEARNED_LAW_ENTRIES:
            return None
        return TabulatedDenoiser(denoiser, self.cache, shown=lambda: share_shown("asking the network about all states"))


def _check_space(data: Any, denoiser: Denoiser) -> None:
    ours = (data.num_tokens, _dims(data), data.num_classes)
    theirs = (denoiser.num_tokens, denoiser.num_dims, denoiser.num_classes)
    if ours != theirs:
        raise UserError(
            f"the denoiser has (values, dimensions, classes) = {theirs} and the data {ours}: it was made for other data"
        )


@dataclass(frozen=True)
class Needs:
    """The needs of a study. One checker serves all studies.

    Attributes:
        target: sorts of exact target that it is made for; empty: none is needed.
        what: the data that it is made for, in words, such as "data given as a table".
        example: an option that gives such data.
        accepts: a condition on the data beside the sort of their target; None: any.
        learned: "optional", "required" or "never".
        one_class: whether it is about one class at a time.
        numbers: whether every strength must be one number, not a schedule.
        rules: whether it takes rules other than classifier-free guidance.
        one_kind: whether all guidances must be of one kind.
        samples: the fewest samples of each class; 0: none are drawn.
        guided: whether the exact conditionals of a table are guided to its class (`check_guided_class`).
    """

    target: tuple[type, ...] = ()
    what: str = "any data"
    example: str = ""
    accepts: Callable[[Any], bool] | None = None
    learned: str = "optional"
    one_class: bool = False
    numbers: bool = False
    rules: bool = False
    one_kind: bool = False
    samples: int = 0
    guided: bool = False

    def fits(self, data: Data) -> bool:
        """Whether the data are of the sort that the study is made for."""
        is_sort = not self.target or isinstance(data.target, self.target)
        return is_sort and (self.accepts is None or self.accepts(data))

    def check(self, name: str, case: Case) -> None:
        """Raise UserError, with a sentence that says what to do, where a case lacks something.

        Args:
            name: of the study, as a user writes it.
        """
        data = case.data
        plan = case.plan
        if not self.fits(data):
            example = f", such as {self.example}" if self.example else ""
            raise UserError(f"study={name} is made for {self.what}, and {data.name} is not: choose other data{example}")
        if self.learned == "required" and not case.has_learned:
            raise UserError(f"study={name} needs a trained network: train one on {data.name}, or give ckpt_path=")
        if self.learned == "never" and case.has_learned:
            raise UserError(f"study={name} uses exact conditionals only: give denoiser=exact")
        if self.one_class and len(plan.classes or ()) > 1:
            raise UserError(f"study={name} evaluates one class at a time, not {list(plan.classes or ())}: give one")
        schedules = [guidance.label for guidance in plan.guidances if guidance.is_schedule]
        if self.numbers and schedules:
            raise UserError(f"w = {schedules[0]} is a schedule, and study={name} takes numbers only, such as w=[0,1,2]")
        others = [guidance.rule for guidance in plan.guidances if guidance.rule != CFG()]
        if others and not self.rules:
            raise UserError(f"study={name} takes classifier-free guidance alone, and the rule {others[0]} was given")
        kinds = list(dict.fromkeys(str(guidance.kind) for guidance in plan.guidances))
        if self.one_kind and len(kinds) > 1:
            raise UserError(f"guidance of the kinds {', '.join(kinds)} was given, and study={name} takes one kind")
        if len(set(case.classes)) < len(case.classes):
            raise UserError(f"classes {list(case.classes)} must each be given once")
        if plan.num_samples < self.samples:
            raise UserError(f"num_samples = {plan.num_samples} is too few: study={name} needs at least {self.samples}")
        plan.check_dims(next(iter(case.denoisers.values())).num_dims if case.denoisers else _dims(data))
        if self.guided:
            check_guided_class(case)


def _dims(data: Any) -> int:
    return math.prod(data.grid_shape)


def check_guided_class(case: Case) -> None:
    """Refuse a class of a table without weight in the mixture, a rule that does not fit, and too many partial states.

    Raises:
        UserError: as said.
    """
    target = case.target
    z = case.one_class
    partial_state_lattice(target.denoiser(), z)
    for guidance in case.plan.guidances:
        guidance.rule.check(target.denoiser(), z)
    strongest = max(w for guidance in case.plan.guidances for w in guidance.table(target.num_dims))
    if target.class_weights[z] == 0 and strongest > 0:
        raise UserError(
            f"class {case.class_name(z)} of {case.data.name} has weight 0 in the mixture, so guidance of strength w = "
            f"{strongest:g} to it would be infinite: give it a weight, or choose another target_class"
        )


class Study(Protocol):
    """A question about data and a denoiser. Its settings are its dataclass fields.

    A study may also have `check(case)`, which raises UserError for what `needs` cannot say, before any work; and
    `rows`, a mapping from the name of each block to the class of its rows, from which docs/report.md is made.
    """

    needs: ClassVar[Needs]

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The work, in order. Nothing is computed by naming it."""
        ...

    def findings(self, case: Case, made: Made) -> Findings:
        """Rows, views and the verdict, of what the pieces made."""
        ...


def whole(default: int, least: int) -> Any:
    """A setting of a study: a whole number of at least so much, as `Settings` check it."""
    return field(default=default, metadata={"least": least})


class Settings:
    """The settings of a study as its dataclass fields, checked as they are declared (`whole`).

    Raises:
        UserError: a setting that is not what it must be.
    """

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type] # a study is a dataclass
            least = f.metadata.get("least")
            if least is not None:
                object.__setattr__(self, f.name, whole_number(f"study.{f.name}", getattr(self, f.name), least))


def name_of(study: Study) -> str:
    """How a user names a study: its own `name`, or its class in small letters with underscores."""
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
        UserError: as `check`.
    """
    check(study, case)
    pieces = {piece.key: piece for piece in study.pieces(case)}
    progress = Pieces([piece.cost for piece in pieces.values()], say)
    for key, piece in pieces.items():
        progress(piece.label)
        if key not in case.made:
            case.made[key] = case.cache(key, piece.make) if piece.cached else piece.make()
    return replace(study.findings(case, case.made), num_dims=_dims(case.data))


class ByCase(ABC):
    """A study that does the work of another one, which depends on the case."""

    @abstractmethod
    def study(self, case: Case) -> Study:
        """The study that does the work."""

    def check(self, case: Case) -> None:
        """Check that study."""
        check(self.study(case), case)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The pieces of that study."""
        return self.study(case).pieces(case)

    def findings(self, case: Case, made: Made) -> Findings:
        """The findings of that study."""
        return self.study(case).findings(case, made)


@dataclass(frozen=True)
class Together:
    """Several studies of one case as one: what they share is computed once.

    Attributes:
        studies: in the order of the page.
    """

    studies: Sequence[Study]
    name: str = "report"
    needs: ClassVar[Needs] = Needs(rules=True)  # each study says what it needs itself

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
