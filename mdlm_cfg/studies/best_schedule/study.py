"""The best strengths by number of unmasked coordinates, on exact scores and on learned ones (theory, section 12)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance, LinearRamp
from mdlm_cfg.chain.guidance_schedules import PerCount
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.compare.best_schedule import Objective, best_schedule, objective_of, trade_off
from mdlm_cfg.compare.metrics import kl_divergence, total_variation
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.studies.best_schedule.findings import (
    BEST,
    CONSTANT,
    OTHERS_BEST,
    RAMP,
    AtStrength,
    BestScheduleFindings,
    Reached,
)
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.preconditions import LEARNED_LAW_ENTRIES, check_space, table_of, target_class_of
from mdlm_cfg.support.by_value import value_key
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.targets.table import TableMixture

OBJECTIVES = ("kl", "tv", "trade_off")


@dataclass(frozen=True)
class BestScheduleStudy:
    """For every w: the strengths w_0, ..., w_{D-1} that are best, beside the constant w and a ramp from 0 to w.

    Args:
        objective: what the best are best at: "kl", KL(tilted || law); "tv", TV(tilted, law); "trade_off",
            -E ln p(z | x) - entropy_weight * entropy of the law, in nats, which knows no tilted law.
        entropy_weight: of "trade_off": how many nats of the class's log posterior a nat of entropy is worth.

    Raises:
        UserError: an unknown objective, or a weight that is negative or not finite.
    """

    objective: str = "kl"
    entropy_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UserError(f"study.objective {self.objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
        if not 0 <= self.entropy_weight < math.inf:
            raise UserError(f"study.entropy_weight = {self.entropy_weight} must be a number of at least 0")

    def check(self, data: Any, plan: Plan) -> None:
        """See `mdlm_cfg.studies.study.Study`."""
        target = data.target
        if not isinstance(target, TableMixture):
            raise UserError(
                f"study=best_schedule needs data given as a table, and {data.name} is none; try data=toy_2d_overlap"
            )
        n, d, z = target.num_tokens, target.num_dims, target_class_of(plan, target)
        if (n + 1) ** d * n * d > LEARNED_LAW_ENTRIES:
            raise UserError(
                f"{data.name} has ({n}+1)^{d} partial states, too many to differentiate its laws; choose smaller data"
            )
        if target.class_weights[z] == 0:
            raise UserError(f"class {z} of {data.name} has weight 0 in the mixture: choose another target_class")
        for guidance in plan.guidances:
            if guidance.filters:
                raise UserError("study=best_schedule is of strengths alone: leave temperature and top_p away")
            guidance.constant  # noqa: B018 (raises for a schedule)

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> BestScheduleFindings:
        """See `mdlm_cfg.studies.study.Study`."""
        target: TableMixture = data.target
        z = target_class_of(plan, target)
        check_space(target, denoiser)
        learned = None if denoiser is None else table_of(denoiser)
        say = Pieces([1] * len(plan.guidances) * (1 if learned is None else 2), progress)
        at = []
        for guidance in plan.guidances:
            goal = _Goal(target, z, guidance, plan.sampler.policy, self._objective(target, z), self._kept(keep))
            say(f"the best strengths of exact scores at w = {guidance.label}")
            reached = _reached(goal, "exact", target.denoiser(), None)
            if learned is not None:
                say(f"the best strengths of learned scores at w = {guidance.label}")
                reached += _reached(goal, "learned", learned, reached[-1].strengths)
            posterior, entropy = goal.quality(goal.tilted)
            at.append(AtStrength(guidance, goal.tilted, posterior, entropy, reached))
        weight = self.entropy_weight if self.objective == "trade_off" else None
        return BestScheduleFindings(plan, z, self.objective, weight, at)

    def _kept(self, keep: Keep) -> Keep:
        """What was found for this objective."""
        return lambda key, make: keep((self.objective, self.entropy_weight, key), make)

    def _objective(self, target: TableMixture, target_class: int) -> str | Objective:
        if self.objective == "trade_off":
            return trade_off(target, target_class, self.entropy_weight)
        return self.objective


class _Goal:
    """What schedules are for at one strength, and by what their laws are judged."""

    def __init__(
        self,
        target: TableMixture,
        target_class: int,
        guidance: Guidance,
        policy: Policy | str | None,
        objective: str | Objective,
        keep: Keep,
    ) -> None:
        self.target, self.target_class, self.guidance, self.policy = target, target_class, guidance, policy
        self.objective, self.keep = objective, keep
        self.tilted = tilted_law(target, guidance.constant, target_class)
        joint = target.class_weights[target_class] * target.class_pmf(target_class)
        self.posterior = torch.where(target.pmf > 0, joint / target.pmf, 0.0)  # what is in no class is not in z

    def quality(self, law: Tensor) -> tuple[float, float]:
        """E p(z | x) and the entropy in nats."""
        return float((law * self.posterior).sum()), float(-torch.special.xlogy(law, law).sum())

    def best(self, scores: str, denoiser: Denoiser, start: tuple[float, ...] | None) -> tuple[float, ...]:
        """The best strengths of a denoiser's chain, found from `start` too."""

        def search() -> tuple[float, ...]:
            found = best_schedule(
                self.target, self.guidance.constant, self.target_class, self.objective,
                kind=self.guidance.kind, policy=self.policy, denoiser=denoiser,
                more_starts=[] if start is None else [start],
            )  # fmt: skip
            return tuple(found.strengths.values)

        return self.keep(
            ("best", scores, self.guidance.key(self.target.num_dims), value_key(self.policy), self.target_class, start),
            search,
        )

    def reached(self, scores: str, name: str, denoiser: Denoiser, strengths: tuple[float, ...]) -> Reached:
        """Where strengths lead, by the law itself and not by what was differentiated."""
        law = terminal_law(denoiser, Guidance(PerCount(strengths), self.guidance.kind), self.target_class, self.policy)
        value = float(objective_of(self.objective, self.tilted)(law))
        tv, kl = total_variation(self.tilted, law), kl_divergence(self.tilted, law)
        return Reached(scores, name, strengths, law, tv, kl, *self.quality(law), value)


def _reached(goal: _Goal, scores: str, denoiser: Denoiser, others: tuple[float, ...] | None) -> list[Reached]:
    """The constant, the ramp and the best strengths of a denoiser's chain, the best last.

    Args:
        others: the best of other scores, judged on these too.
    """
    d, w = denoiser.num_dims, goal.guidance.constant
    strengths = {CONSTANT: (w,) * d, RAMP: tuple(Guidance(LinearRamp(0.0, w)).table(d))}
    if others is not None:
        strengths[OTHERS_BEST] = others
    strengths[BEST] = goal.best(scores, denoiser, others)
    return [goal.reached(scores, name, denoiser, values) for name, values in strengths.items()]
