"""study=samplers: the exact distance of every parallel sampler to the chain, at equal cost (theory, 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mdlm_cfg.chain.guidance import Guidance, effective_guidance
from mdlm_cfg.chain.steps import JUMPS
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.stepped import FrozenChain, freeze, kernel_entries
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.common import CALLS, SAMPLER, calls_of
from mdlm_cfg.studies.evaluation import TABLE_NEEDS
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_tv
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, Made, Needs, Piece, Rows, Settings, wholes
from mdlm_cfg.studies.rows import OfDenoiser, least_and_most, where
from mdlm_cfg.support.numbers import short

BUDGETS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
MAX_KERNEL_ENTRIES = 200_000  # per step, up to which every report has distributions of steps
STEPPED = (*JUMPS, EVENT_LEAPING)
COST = 2.5  # of one strength and denoiser, relative to the samples of one strength
AFFORDED = 16  # largest number of calls at which the verdict compares methods
NOTHING = 1e-13
ERROR = "the discretisation error"


@dataclass(frozen=True)
class SamplerRow(OfDenoiser):
    """The exact distance of a sampler to the chain in continuous time."""

    sampler: Sampler = col("sampler", SAMPLER, index=True)
    method: str = col("method", "sampler without its number of steps")
    calls: int = col("calls", CALLS)
    tv: float = in_tv("TV to continuous time", "TV between the distribution after the steps and that of the chain")


@dataclass(frozen=True)
class Samplers(Settings):
    """The exact distance of every parallel sampler to the chain of the same denoiser in continuous time.

    Args:
        budgets: numbers of steps to compare.
    """

    budgets: Sequence[int] = wholes(BUDGETS)
    needs: ClassVar[Needs] = TABLE_NEEDS
    rows: ClassVar[Rows] = {"samplers": SamplerRow}

    def pieces(self, case: Case) -> Iterable[Piece]:
        """One piece for each strength and denoiser."""
        for g, who in self._cases(case):
            label = f"samplers at equal cost, {who} conditionals, w = {g.label}"
            yield case.piece(self._distances, g, who, label=label, cost=COST)

    def _cases(self, case: Case) -> list[tuple[Guidance, str]]:
        """Each strength with the denoisers that are small enough for distributions of steps."""
        return [(g, who) for g, who in case.by_denoiser() if case.table(who) is not None]

    def compared(self, plan: Plan) -> list[Sampler]:
        """Every parallel sampler at every budget, on the plan's noise schedule if it has one; and the plan's own.

        Under a policy also event-leaping in that order: it is the only one of these samplers that takes a policy.
        """
        schedule = plan.sampler.schedule
        policy = plan.sampler.policy
        samplers = [Sampler(name, budget, schedule) for name in STEPPED for budget in self.budgets]
        if policy is not None:
            samplers += [Sampler(EVENT_LEAPING, budget, schedule, policy=policy) for budget in self.budgets]
        if not plan.sampler.exact_in_time and plan.sampler not in samplers:
            samplers.append(plan.sampler)
        return samplers

    def _distances(self, case: Case, guidance: Guidance, who: str) -> list[float]:
        denoiser = case.denoiser(who)
        z = case.one_class
        chains: dict[Guidance, FrozenChain] = {}
        ends = {}
        found = []
        for sampler in self.compared(case.plan):
            given = effective_guidance(guidance, sampler.policy)
            if given not in chains:
                chains[given] = freeze(denoiser, given, z)
            if sampler.policy not in ends:
                ends[sampler.policy] = terminal_law(denoiser, guidance, z, sampler.policy)
            law = sampler.law(denoiser, guidance, z, chains[given])
            found.append(total_variation(law, ends[sampler.policy]))
        return found

    def findings(self, case: Case, made: Made) -> Findings:
        """A row for each strength, denoiser and sampler."""
        num_dims = case.num_dims
        rows = [
            SamplerRow(g, who, sampler, method_of(sampler), sampler.calls(num_dims), tv)
            for g, who in self._cases(case)
            for sampler, tv in zip(self.compared(case.plan), made.of(self._distances, g, who))
        ]
        caption = "Exact total variation to continuous time against calls, one panel for each w."
        curve = Curve("calls", "tv", ["method", "denoiser"], caption, "w", log_x=True, log_y=True)
        text = (
            "Every step freezes the state; each masked coordinate then jumps independently. The distance between the "
            "distribution after all steps and that of the same denoiser's chain in continuous time is the "
            "discretisation error; no samples are drawn."
        )
        views: list[View] = [
            curve,
            Table(["w", "denoiser", "method"], ["tv"], "calls", "Exact total variation, by calls."),
        ]
        block = Block("samplers", rows, "Samplers at equal cost", text, views=views, group="Samplers")
        own = None if case.plan.sampler.exact_in_time else case.plan.sampler
        return Findings(case.plan, [block], verdict_of(rows, own))


def verdict_of(rows: Sequence[SamplerRow], own: Sampler | None = None) -> list[str]:
    """The method with the smallest discretisation error at the largest strength, or at the last schedule.

    Args:
        own: the plan's own sampler, the subject of the first sentence.
    """
    numbers = [row.w for row in rows if not row.w.is_schedule]
    top = max(numbers, key=lambda guidance: guidance.one_strength) if numbers else rows[-1].w
    here = where(rows, w=top, denoiser=rows[-1].denoiser)
    said = []
    for row in where(here, sampler=own):
        found = f"{short(row.tv)} from the chain in continuous time"
        said.append(f"At w = {top.label}, {row.sampler.label} ends {found}, with {calls_of(row.calls)}.")
    afforded = [row for row in here if row.calls <= AFFORDED]  # event-leaping needs at most D calls
    nearest = {row.method: row for row in sorted(afforded, key=lambda row: row.tv, reverse=True)}.values()
    if not nearest:
        return said
    head = f"At w = {top.label} and with at most {AFFORDED} calls, "
    return [*said, head + least_and_most(ERROR, list(nearest), "tv", "method", NOTHING, _with_calls)]


def _with_calls(rows: Sequence[SamplerRow]) -> str:
    """The numbers of calls of rows with the same error, as text."""
    *others, last = sorted({row.calls for row in rows})
    return f" with {', '.join(map(str, others))}{' or ' if others else ''}{calls_of(last)}"


def method_of(sampler: Sampler) -> str:
    """A sampler's name without its number of steps: name, policy, and its own grid."""
    parts = [sampler.name]
    if sampler.policy is not None:
        parts.append(str(sampler.policy))
    if isinstance(sampler.events, int):
        parts.append(f"{sampler.events} per step")
    elif sampler.events is not None:
        parts.append(f"{'+'.join(map(str, sampler.events))} per step")
    elif not isinstance(sampler.steps, int) and sampler.steps is not None:
        parts.append("own grid")
    return ", ".join(parts)


def is_small(num_tokens: int, num_dims: int) -> bool:
    """Whether every report computes distributions of steps."""
    return kernel_entries(num_tokens, num_dims) <= MAX_KERNEL_ENTRIES
