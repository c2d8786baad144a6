"""Laws over a range of strengths, for every class and kind: what the panel of a report moves through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS, Kind
from mdlm_cfg.compare.decay import waiting
from mdlm_cfg.compare.geometry import Region, regions
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table.distances import target_class_of
from mdlm_cfg.targets.table import TableMixture

MAX_STATES = 1024  # of a law that is shown: 32 x 32, or 1024 values in one dimension
MAX_NUMBERS = 250_000  # probabilities in a panel; where all classes have more, it is of the plan's class alone
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # beside the plan's own
TAUS = torch.logspace(-2, 1, 25, dtype=torch.float64)


@dataclass(frozen=True)
class PanelLaw:
    """One class at one guidance.

    Attributes:
        target_class: z. guidance: strength and kind.
        laws: "class" and "exact"; "tilted", but of a schedule; "learned", where there is one: float64 (N,)*D.
        still_masked: P(something is still masked) = TV to the terminal law, of the exact chain at `TAUS`, (T,); None
            where there is a policy, a temperature or a top-p, which say nothing of time.
    """

    target_class: int
    guidance: Guidance
    laws: dict[str, Tensor]
    still_masked: Tensor | None

    def tv(self, name: str) -> float | None:
        """TV between the exact law and another; None if that is absent."""
        return total_variation(self.laws["exact"], self.laws[name]) if name in self.laws else None


@dataclass(frozen=True)
class Panel:
    """Everything a panel shows.

    Attributes:
        classes: which there are. class_names: theirs, for people. value_names: of the N values; None is numbers.
        class_laws: of the classes, float64 (N,)*D. regions: of the support of each.
        kinds: of guidance, the plan's first. strengths: as labels, in the order of a slider; schedules come last.
        laws: for every class, kind and strength, in this order.
    """

    classes: Sequence[int]
    class_names: Sequence[str]
    value_names: Sequence[str] | None
    class_laws: Sequence[Tensor]
    regions: Sequence[Sequence[Region]]
    kinds: Sequence[Kind]
    strengths: Sequence[str]
    laws: Sequence[PanelLaw]

    def at(self, target_class: int, kind: Kind) -> list[PanelLaw]:
        """The laws of one class and kind, in the order of the strengths."""
        return [law for law in self.laws if (law.target_class, law.guidance.kind) == (target_class, kind)]


def panel_of(target: TableMixture, learned: Denoiser | None, plan: Plan) -> Panel | None:
    """The laws of a table in one or two dimensions, for every class and kind; None for other tables and large ones.

    Under a policy, which takes the place of what a kind says of time, the plan's own kinds are the only ones.
    """
    states = target.num_tokens**target.num_dims
    if target.num_dims > 2 or states > MAX_STATES:
        return None
    kinds = list(dict.fromkeys(guidance.kind for guidance in plan.guidances))
    if plan.sampler.policy is None:
        kinds += [kind for kind in KINDS.values() if kind not in kinds]
    guidances = [replace(guidance, kind=kind) for kind in kinds for guidance in _strengths(plan)]
    classes = [k for k, weight in enumerate(target.class_weights.tolist()) if weight > 0]
    names = 2 if learned is None else 3
    if len(classes) * len(guidances) * names * states > MAX_NUMBERS:
        classes = [target_class_of(plan, target)]
    return Panel(
        classes=classes,
        class_names=[str(k) if target.class_names is None else target.class_names[k] for k in classes],
        value_names=target.value_names,
        class_laws=[target.class_pmf(k) for k in classes],
        regions=[regions(target, k) for k in classes],
        kinds=kinds,
        strengths=[guidance.label for guidance in guidances[: len(guidances) // len(kinds)]],
        laws=[_law(target, learned, guidance, k, plan) for k in classes for guidance in guidances],
    )


def _strengths(plan: Plan) -> list[Guidance]:
    """The plan's numbers among others, ascending, and then its schedules; values as its first guidance has them."""
    first = plan.guidances[0]
    own = [guidance for guidance in plan.guidances if not guidance.is_schedule]
    numbers = {w: replace(first, w=w) for w in STRENGTHS} | {g.constant: replace(first, w=g.constant) for g in own}
    schedules = [replace(first, w=g.w) for g in plan.guidances if g.is_schedule]
    return [numbers[w] for w in sorted(numbers)] + schedules


def _law(target: TableMixture, learned: Denoiser | None, guidance: Guidance, z: int, plan: Plan) -> PanelLaw:
    policy, exact = plan.sampler.policy, target.denoiser()
    laws = {"class": target.class_pmf(z), "exact": terminal_law(exact, guidance, z, policy)}
    if not guidance.is_schedule:
        laws["tilted"] = tilted_law(target, guidance.constant, z)
    if learned is not None:
        laws["learned"] = terminal_law(learned, guidance, z, policy)
    timed = policy is None and not guidance.filters
    return PanelLaw(
        z, guidance, laws, waiting(exact, guidance, z, len(TAUS)).log_still_masked(TAUS).exp() if timed else None
    )
