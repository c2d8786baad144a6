"""Every guidance rule against the ideal guided conditionals, level by level and state by state (theory, section 11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.chain.policies import POLICIES, Policy, RatePolicy, Uniform
from mdlm_cfg.compare.ideal import departure
from mdlm_cfg.compare.metrics import kl_divergence, total_variation
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.studies.departure.findings import DepartureFindings, RuleRow
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table.asked import check_table, known_table
from mdlm_cfg.studies.table.distances import check_space, table_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces

MOST_STATES = 10  # that are listed, the worst first


@dataclass(frozen=True)
class Rule:
    """A guidance and an order, by name; without a policy the order is the kind's own."""

    name: str
    guidance: Guidance
    policy: Policy | None = None


@dataclass(frozen=True)
class Departures:
    """KL between the paths of the ideal chain, which ends in the tilted law, and those of every guidance rule.

    The rules are the kinds of guidance, in their own order, and every policy that is neither of them; and the plan's
    own. Nothing is sampled: of the plan's sampler only the policy counts.

    Args:
        w: of the tilted law that schedules are held against; None is the largest number in the plan. A number is held
            against its own.

    Raises:
        UserError: a w that is not allowed.
    """

    w: float | None = None

    def __post_init__(self) -> None:
        if self.w is not None:
            Guidance(self.w)

    def check(self, data: Any, plan: Plan) -> None:
        """See `mdlm_cfg.studies.study.Study`."""
        check_table(known_table(data, "study=departure"), plan, data.name)
        for guidance in plan.guidances:
            self.tilted_w(guidance, plan)

    def tilted_w(self, guidance: Guidance, plan: Plan) -> float:
        """The strength of the tilted law that a guidance is held against.

        Raises:
            UserError: a schedule, where nothing says which.
        """
        if not guidance.is_schedule:
            return guidance.constant
        numbers = [g.constant for g in plan.guidances if not g.is_schedule]
        if self.w is None and not numbers:
            raise UserError(
                f"w = {guidance.label} is a schedule, which has no tilted law of its own: give study.w=2, the strength "
                "of the one to hold it against, or a number among w"
            )
        return max(numbers) if self.w is None else self.w

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> DepartureFindings:
        """See `mdlm_cfg.studies.study.Study`."""
        target = known_table(data, "study=departure")
        check_space(target, denoiser)
        z = check_table(target, plan, data.name)
        denoisers: dict[str, Denoiser] = {"exact": target.denoiser()}
        if denoiser is not None:
            denoisers["learned"] = table_of(denoiser) or denoiser
        say = Pieces([1] * (len(plan.guidances) * len(denoisers)), progress)
        rows = []
        for guidance in plan.guidances:
            w = self.tilted_w(guidance, plan)
            tilted = tilted_law(target, w, z)
            for name, source in denoisers.items():
                say(f"departure from the ideal, {name} scores, w = {guidance.label}")
                for rule in rules_of(guidance, plan.sampler.policy):
                    found = departure(target, rule.guidance, z, rule.policy, w=w, denoiser=source, most=MOST_STATES)
                    law = terminal_law(source, rule.guidance, z, rule.policy)
                    tv, kl = total_variation(tilted, law), kl_divergence(tilted, law)
                    rows.append(RuleRow(guidance, rule.name, name, w, found, kl, tv))
        return DepartureFindings(plan, z, target.num_tokens, target.num_dims, rows)


def rules_of(guidance: Guidance, own: Policy | None) -> list[Rule]:
    """Every rule of one strength: the kinds of guidance, the policies that are neither, and the plan's own."""
    kinds = dict.fromkeys([*KINDS.values(), guidance.kind])
    rules = [Rule(str(kind), replace(guidance, kind=kind)) for kind in kinds]
    made = [make() for make in POLICIES.values()]
    policies = [policy for policy in made if policy not in (RatePolicy(), Uniform())]  # those are the two kinds
    policies += [own] if own is not None and own not in made else []
    return rules + [Rule(str(policy), guidance, policy) for policy in policies]
