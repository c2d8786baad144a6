"""How fast the guided chain of a study converges (theory, section 5)."""

from __future__ import annotations

from typing import Any

import torch

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.compare.decay import Decay, tv_decay
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.targets.table import TableMixture

MAX_STATES = 20_000  # partial states up to which the decay is computed
STRENGTHS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
TAUS = torch.logspace(-2, 1, 31, dtype=torch.float64)
MOST_NEUTRAL = 20  # states that are listed


def own_kinds(plan: Plan) -> list[Kind]:
    """The kinds whose own chain a plan asks for: in their own order, with values that no temperature or top-p changes.

    What is said of time, and of infinite w, is said of these chains alone.
    """
    if plan.sampler.policy is not None:
        return []
    return list(dict.fromkeys(guidance.kind for guidance in plan.guidances if not guidance.filters))


def decay_of(target: TableMixture, target_class: int, kind: Kind) -> Decay | None:
    """The decay of the exact chain of one kind of guidance; None for a table that is too large."""
    if (target.num_tokens + 1) ** target.num_dims > MAX_STATES:
        return None
    return tv_decay(target, target_class, [Guidance(w, kind) for w in STRENGTHS], TAUS)


def decay_dict(decay: Decay) -> dict[str, Any]:
    """A decay as plain values."""
    return {
        "kind": str(decay.kind),
        "statement": decay.statement,
        "double_exponential": decay.double_exponential,
        "w": decay.strengths,
        "tau": decay.taus.tolist(),
        "log_tv": decay.log_tv.tolist(),
        "fit_tau": decay.fit_tau,
        "fit_slope": list(decay.fit_slope),
        "tau_at_tv_0.05": decay.time_to_5_percent,
        "growth": decay.growth,
        "neutral_states": [vars(state) for state in decay.neutral[:MOST_NEUTRAL]],
    }
