"""Policies as users write them: "confidence", "fixed_order(2,0,1)", "blocks(0,1|2,3; margin(temperature=0.5))".

What is read here is what `str(policy)` writes, for every policy of `mdlm_cfg.chain.policies` that a user may ask for.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mdlm_cfg.chain.policies import (
    POLICIES,
    Blocks,
    Confidence,
    Entropy,
    FixedOrder,
    Margin,
    Policy,
    Uniform,
    policy_of,
)
from mdlm_cfg.support.errors import UserError, did_you_mean, shown

ALLOWED = (
    f"{', '.join(POLICIES)}, fixed_order(2,0,1), blocks(0,1|2,3; confidence) or confidence(temperature=0.5) (also of "
    "margin and entropy)"
)
WITH_TEMPERATURE: dict[str, Callable[[float], Policy]] = {
    "confidence": Confidence,
    "margin": Margin,
    "entropy": Entropy,
}


def parse_policy(text: str | Policy) -> Policy:
    """A policy as a user writes it, or itself.

    Args:
        text: a name; fixed_order(2,0,1); blocks(0,1|2,3) or blocks(0,1|2,3; POLICY), the policy within a block being
            uniform by default; confidence(temperature=0.5), margin(...), entropy(...).

    Raises:
        UserError: anything else, or coordinates that are not each of 0..D-1 once.
    """
    if isinstance(text, Policy):
        return text
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text, flags=re.DOTALL) if isinstance(text, str) else None
    name, inside = match.groups() if match else ("", None)
    if name in POLICIES and inside is None:
        return policy_of(name)
    policy = None if inside is None else _with_arguments(name, inside)
    if policy is None:
        near = "" if name in (*POLICIES, "blocks") else did_you_mean(name, (*POLICIES, "blocks"))
        raise UserError(f"the policy {shown(text)} cannot be read; write {ALLOWED}{near}")
    return policy


def _with_arguments(name: str, inside: str) -> Policy | None:
    """The policy NAME(INSIDE); None where that is none."""
    if name == "fixed_order":
        order = _integers(inside)
        return None if order is None else FixedOrder(order)
    if name == "blocks":
        text, separator, within = inside.partition(";")
        blocks = [block for part in text.split("|") if (block := _integers(part)) is not None]
        if len(blocks) < len(text.split("|")):
            return None
        return Blocks(blocks, parse_policy(within) if separator else Uniform())
    if name in WITH_TEMPERATURE and (match := re.fullmatch(r"\s*temperature\s*=\s*(\S+)\s*", inside)):
        try:
            temperature = float(match[1])
        except ValueError:
            return None
        return WITH_TEMPERATURE[name](temperature)
    return None


def _integers(text: str) -> list[int] | None:
    """Whole numbers between commas; None where there is anything else."""
    parts = [part.strip() for part in text.split(",")]
    return [int(part) for part in parts] if all(re.fullmatch(r"\d+", part, re.ASCII) for part in parts) else None
