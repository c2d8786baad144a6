"""Samplers at equal numbers of denoiser calls: exact distances, no samples (theory, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.chain.steps import JUMPS
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.stepped import freeze, kernel_entries
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.progress import silent

BUDGETS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
MAX_KERNEL_ENTRIES = 200_000  # of one step, up to which stepped laws come with every report
STEPPED = (*JUMPS, EVENT_LEAPING)


@dataclass(frozen=True)
class SamplerRow:
    """How far a sampler ends from the chain in continuous time, exactly.

    Attributes:
        guidance, sampler: what was run. denoiser: "exact" or "learned". calls: of the denoiser, per conditional.
        tv: total variation between the law of its steps and the terminal law of the same denoiser.
    """

    guidance: Guidance
    sampler: Sampler
    denoiser: str
    calls: int
    tv: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "w": self.guidance.written, "kind": str(self.guidance.kind), "denoiser": self.denoiser,
            **self.sampler.describe(), "calls": self.calls, "tv": self.tv,
        }  # fmt: skip


def is_small(num_tokens: int, num_dims: int) -> bool:
    """Whether the laws of steps are computed with every report."""
    return kernel_entries(num_tokens, num_dims) <= MAX_KERNEL_ENTRIES


def compared_samplers(plan: Plan) -> list[Sampler]:
    """Every parallel sampler at every budget, on the plan's noise schedule where it has one; and the plan's own.

    Under a policy also event-leaping in that order: of these samplers it alone takes one.
    """
    schedule, policy = plan.sampler.schedule, plan.sampler.policy
    samplers = [Sampler(name, budget, schedule) for name in STEPPED for budget in BUDGETS]
    if policy is not None:
        samplers += [Sampler(EVENT_LEAPING, budget, schedule, policy=policy) for budget in BUDGETS]
    if not plan.sampler.exact_in_time and plan.sampler not in samplers:
        samplers.append(plan.sampler)
    return samplers


def equal_cost(
    denoisers: dict[str, Denoiser], target_class: int, plan: Plan, progress: Callable[[str], None] | None = None
) -> list[SamplerRow]:
    """Every compared sampler's exact TV to the terminal law of the same denoiser.

    Args:
        denoisers: by "exact" and, where there is one, "learned".
        target_class: z.
        plan: its guidances, and its sampler's schedule.
        progress: told what is being computed.
    """
    say = progress or silent
    rows: list[SamplerRow] = []
    for guidance in plan.guidances:
        for name, denoiser in denoisers.items():
            say(f"samplers at equal cost, {name} scores, w = {guidance.label}")
            rows += _rows(name, denoiser, target_class, guidance, compared_samplers(plan))
    return rows


def _rows(
    name: str, denoiser: Denoiser, target_class: int, guidance: Guidance, samplers: list[Sampler]
) -> Iterator[SamplerRow]:
    chain = freeze(denoiser, guidance, target_class)
    # under a policy, another chain: once, and not for every number of steps
    rate_guidance = replace(guidance, kind=KINDS["rate"])
    undivided = chain if guidance == rate_guidance else freeze(denoiser, rate_guidance, target_class)
    policies = {sampler.policy for sampler in samplers}
    ends = {policy: terminal_law(denoiser, guidance, target_class, policy) for policy in policies}
    for sampler in samplers:
        given = chain if sampler.policy is None else undivided
        tv = total_variation(sampler.law(denoiser, guidance, target_class, given), ends[sampler.policy])
        yield SamplerRow(guidance, sampler, name, sampler.calls(denoiser.num_dims), tv)
