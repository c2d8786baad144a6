"""The needs of studies: of data, classes, guidance and samples. One checker serves all studies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mdlm_cfg.chain.rules import CFG
from mdlm_cfg.laws.rates import partial_state_lattice
from mdlm_cfg.sampling.reference import check_positive_class
from mdlm_cfg.studies.case import Case
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.data import Data
from mdlm_cfg.targets.table import TableMixture


@dataclass(frozen=True)
class Needs:
    """The needs of a study.

    Attributes:
        target: types of exact target that it accepts; empty: none is needed.
        what: the data that it needs, in words, such as "data given as a table".
        example: an option that gives such data.
        accepts: a further condition on the data; None: none.
        learned: "optional", "required" or "never".
        one_class: whether it studies one class at a time.
        numbers: whether every strength must be one number, not a schedule.
        rules: whether it takes rules other than classifier-free guidance.
        one_kind: whether all guidances must be of one kind.
        unfiltered: whether temperature and top-p are excluded.
        samples: the fewest samples of each class; 0: none are drawn.
        guided: whether the exact conditionals of a target are guided to its classes (`check_guided_class`).
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
    unfiltered: bool = False
    samples: int = 0
    guided: bool = False

    def fits(self, data: Data) -> bool:
        """Whether the study accepts the data."""
        is_sort = not self.target or isinstance(data.target, self.target)
        return is_sort and (self.accepts is None or self.accepts(data))

    def check(self, name: str, case: Case) -> None:
        """Raise UserError, saying what to do, if a case does not meet the needs.

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
        if not case.denoisers:
            raise UserError(f"denoiser=exact needs data known exactly, and {data.name} is not: train a network on it")
        if self.learned == "never" and case.has_learned:
            raise UserError(f"study={name} uses exact conditionals only: give denoiser=exact")
        if self.one_class and len(plan.classes or ()) > 1:
            raise UserError(f"study={name} evaluates one class at a time, not {list(plan.classes or ())}: give one")
        schedules = [guidance.label for guidance in plan.guidances if guidance.is_schedule]
        if self.numbers and schedules:
            raise UserError(f"w = {schedules[0]} is a schedule, and study={name} takes numbers only, such as w=[0,1,2]")
        others = [guidance.rule for guidance in plan.guidances if guidance.rule != CFG()]
        if others and not self.rules:
            raise UserError(f"study={name} takes only classifier-free guidance, and the rule {others[0]} was given")
        if self.unfiltered and any(guidance.filters for guidance in plan.guidances):
            raise UserError(f"study={name} uses the conditionals as they are: leave temperature and top_p out")
        kinds = list(dict.fromkeys(str(guidance.kind) for guidance in plan.guidances))
        if self.one_kind and len(kinds) > 1:
            raise UserError(f"guidance of the kinds {', '.join(kinds)} was given, and study={name} takes one kind")
        if len(set(case.classes)) < len(case.classes):
            raise UserError(f"classes {list(case.classes)} must each be given once")
        if plan.num_samples < self.samples:
            raise UserError(f"num_samples = {plan.num_samples} is too few: study={name} needs at least {self.samples}")
        plan.check_dims(case.num_dims)
        if self.guided and isinstance(case.target, TableMixture):
            check_guided_class(case)
        elif self.guided and case.target is not None:
            for z in (case.one_class,) if self.one_class else case.classes:
                check_positive_class(case.target, z)


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
            f"class {case.class_name(z)} of {case.data.name} has weight 0 in the mixture, so guidance towards it "
            f"with w = {strongest:g} would need infinite rates: give it a weight, or choose another target_class"
        )
