"""The input of a study, resolved once; the pieces of its work, and their results."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from mdlm_cfg.chain.denoiser import Denoiser, check_class
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.by_value import value_key
from mdlm_cfg.support.cache import AnyCache, no_cache
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.progress import share_shown
from mdlm_cfg.targets.data import Data, class_name
from mdlm_cfg.targets.table import TableMixture

LEARNED_LAW_ENTRIES = 2e7  # (N+1)^D * D * N up to which a network is evaluated on every partial state
EXACT = "exact"
LEARNED = "learned"
Key = Hashable


@dataclass(frozen=True)
class Piece:
    """A piece of a study's work.

    Attributes:
        key: plain values that determine its result. Two pieces with the same key are made once.
        make: returns tensors and plain values (tuples, lists and dictionaries of them), which are stored for resuming.
        label: the work in a few words, for progress.
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
    """The results of the pieces of a case so far, by key."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def of(self, make: Callable[..., Any], *at: Any) -> Any:
        """The result of the piece `case.piece(make, *at)`.

        Raises:
            UserError: `pieces` named no such piece.
        """
        key = self.case.key_of(make, *at)
        if key not in self:
            name = getattr(make, "__qualname__", type(make).__name__)
            values = ", ".join([name, *map(shown, at)])
            raise UserError(
                f"made.of({values}) asks for a piece that `pieces` did not name: give both the same function and "
                "values, and change no field of the study"
            )
        return self[key]


@dataclass
class Case:
    """The input of a study, resolved once.

    Attributes:
        data: the data, set up. plan: guidances, sampler, samples, classes, seed.
        denoisers: "exact", if the data are known exactly, and "learned", if there is a network.
        classes: z; the plan's, or all of them.
        cache: returns the results of an interrupted evaluation.
        made: the results of the pieces so far, by key. A later piece may read them.
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
        """The case of data, a learned denoiser (None: only the exact one) and a plan.

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
        """The distribution of the data, if it is known exactly."""
        return self.data.target

    @property
    def num_dims(self) -> int:
        """D."""
        return math.prod(self.data.grid_shape)

    @property
    def is_enumerable(self) -> bool:
        """Whether a network can be evaluated on every partial state."""
        n = self.data.num_tokens
        return (n + 1) ** self.num_dims * n * self.num_dims <= LEARNED_LAW_ENTRIES

    @property
    def is_exact(self) -> bool:
        """Whether all numbers of a network can be computed exactly: for tables that are small enough."""
        return isinstance(self.target, TableMixture) and self.is_enumerable

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
        """The name of a class, or its number if it has none."""
        return class_name(self.data, k)

    def by_denoiser(self) -> Iterator[tuple[Guidance, str]]:
        """Each strength with each denoiser."""
        return product(self.plan.guidances, self.denoisers)

    def piece(self, make: Callable[..., Any], *at: Any, label: str, cost: float = 1.0, **how: bool) -> Piece:
        """The piece that computes `make(case, *at)`; `made.of(make, *at)` returns its result.

        Args:
            make: a function, or a method of the study. at: distinguishes this piece from others of the function.
            label, cost, how: see `Piece`.
        """
        return Piece(self.key_of(make, *at), partial(make, self, *at), label, cost, **how)

    def key_of(self, make: Callable[..., Any], *at: Any) -> Key:
        """The values on which `make(case, *at)` may depend: function, settings of study and plan, and `at`."""
        plan = self.plan
        study = getattr(make, "__self__", None)  # of a method
        drawn = (plan.sampler.key, plan.num_samples, plan.seed, self.classes, tuple(self.denoisers))
        return (value_key(make), value_key(study), *drawn, self._plain(at))

    def _plain(self, value: Any) -> Key:
        """A value as plain ones: a guidance by its strengths on D coordinates.

        And by whether it is a schedule: one with equal strengths samples as the number does, but has no tilted law.
        """
        if isinstance(value, list | tuple):
            return tuple(map(self._plain, value))
        if isinstance(value, Guidance):
            return (value.is_schedule, *value.key(self.num_dims))
        return value_key(value)

    def denoiser(self, who: str) -> Denoiser:
        """A denoiser, tabulated on all partial states if they are few enough (`table`)."""
        return self.table(who) or self.denoisers[who]

    def table(self, who: str) -> Denoiser | None:
        """A denoiser tabulated on all partial states; None if there are too many.

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
        if not self.is_enumerable:
            return None
        return TabulatedDenoiser(
            denoiser,
            self.cache,
            shown=lambda: share_shown("evaluating the network on all partial states"),
            beside=self.one_class,
        )


def _check_space(data: Data, denoiser: Denoiser) -> None:
    ours = (data.num_tokens, math.prod(data.grid_shape), data.num_classes)
    theirs = (denoiser.num_tokens, denoiser.num_dims, denoiser.num_classes)
    if ours != theirs:
        raise UserError(
            f"the denoiser has (values, dimensions, classes) = {theirs} and the data {ours}: it was made for "
            "different data"
        )
