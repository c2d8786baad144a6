"""The error ledger for every guidance and sampler of a study (theory, section 8)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.compare.ledger import LINES, Ledger, ledger_laws, ledger_of
from mdlm_cfg.laws.stepped import MAX_ENTRIES, kernel_entries
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, FIRST_HITTING, Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table.distances import TableEvaluation
from mdlm_cfg.studies.table.equal_cost import is_small
from mdlm_cfg.support.progress import silent
from mdlm_cfg.targets.table import TableMixture

STANDARD = (Sampler(FIRST_HITTING), Sampler("tau_leaping", 50), Sampler(EVENT_LEAPING, 2))
LEARNED_LINES = ("score error", "discretisation error, exact scores")  # say nothing where nothing was learned


def has_ledger(evaluation: TableEvaluation) -> bool:
    """Whether every law of a ledger is within reach: the judged denoiser's own, and that of the sampler's steps."""
    if evaluation.follows is None:
        return False
    e = evaluation
    return e.plan.sampler.exact_in_time or kernel_entries(e.num_tokens, e.num_dims) <= MAX_ENTRIES


def ledgers_of(
    target: TableMixture,
    learned: Denoiser | None,
    evaluation: TableEvaluation,
    progress: Callable[[str], None] | None = None,
) -> list[Ledger]:
    """A ledger for every guidance: of the plan's own sampler first, from the samples that are there, then of others.

    Args:
        learned: the network whose samples the evaluation holds, as a table; None where they are of exact scores.
    """
    plan, z = evaluation.plan, evaluation.target_class
    say = progress or silent
    entries = []
    for result in evaluation.results:
        say(f"error ledger, w = {result.guidance.label}")
        shared = ledger_laws(target, learned, result.guidance, z, plan.sampler.policy)
        for sampler in ledgers_samplers(target, plan):
            generator = plan.generator("ledger", result.guidance, z, sampler.label)
            samples = result.samples if sampler is plan.sampler else None
            entries.append(ledger_of(shared, sampler, plan.num_samples, generator, samples))
    return entries


def ledgers_samplers(target: TableMixture, plan: Plan) -> list[Sampler]:
    """The plan's own, and others where a step's kernel is small."""
    return [plan.sampler, *(_others(plan.sampler) if is_small(target.num_tokens, target.num_dims) else [])]


def _others(own: Sampler) -> list[Sampler]:
    """The standard samplers beside a plan's own, in its order: of its policy, those that take one."""
    others = list(STANDARD)
    if own.policy is not None:
        others = [replace(s, policy=own.policy) for s in STANDARD if s.name in (FIRST_HITTING, EVENT_LEAPING)]
    return [sampler for sampler in others if sampler != own]


def ledger_dict(entry: Ledger, judged: str) -> dict[str, Any]:
    """A ledger as plain values; lines that say nothing where nothing was learned are left out.

    A line that is of the tilted law is None for a schedule, which has none.

    Args:
        judged: "learned" or "exact".
    """
    absent = LEARNED_LINES if judged == "exact" else ()

    def lines(values: dict[str, Any]) -> dict[str, Any]:
        return {line: values.get(line) for line in LINES if line not in absent}

    numbers = {
        "w": entry.guidance.written,
        "kind": str(entry.guidance.kind),
        "denoiser": judged,
        **entry.sampler.describe(),
        "calls": entry.sampler.calls(entry.shared.target.num_dims),
        "num_samples": entry.num_samples,
        "tv": lines(entry.tv),
        "kl": lines({line: value if math.isfinite(value) else "inf" for line, value in entry.kl.items()}),
        "mean": lines(entry.mean),
        "covariance": lines(entry.covariance),
        "sampling_noise": vars(entry.noise),
        "expected_sampling_noise": entry.expected_noise,
        "predicted_total": vars(entry.predicted_total),
        "closes": entry.closes,
    }
    if judged == "exact":
        return numbers
    return numbers | {
        "score_error_if_only": entry.shared.score_share,
        "worst_states": [vars(state) for state in entry.shared.states],
        "visited_kl_by_level": [list(pair) for pair in entry.shared.visit_error],
    }
