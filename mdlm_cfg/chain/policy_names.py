"""Policies as users write them: "confidence", "fixed_order(2,0,1)", "blocks(0,1|2,3; margin(temperature=0.5))".

`parse_policy` reads what `str(policy)` writes, for every policy of `mdlm_cfg.chain.policies` that a user can name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mdlm_cfg.chain.forms import read_form, whole, with_numbers
from mdlm_cfg.chain.policies import (
    POLICIES,
    Blocks,
    Confidence,
    Entropy,
    FixedOrder,
    Margin,
    Policy,
    Uniform,
)

ALLOWED = (
    f"{', '.join(POLICIES)}, fixed_order(2,0,1), blocks(0,1|2,3; confidence) or confidence(temperature=0.5) (also of "
    "margin and entropy)"
)


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
    forms: Mapping[str, Callable[[str], Policy]] = {
        "fixed_order": lambda inside: FixedOrder(_order(inside)),
        "blocks": _blocks,
        "confidence": with_numbers(lambda *, temperature: Confidence(temperature)),
        "margin": with_numbers(lambda *, temperature: Margin(temperature)),
        "entropy": with_numbers(lambda *, temperature: Entropy(temperature)),
    }
    return read_form("policy", text, POLICIES, forms, ALLOWED)


def _blocks(inside: str) -> Policy:
    blocks, separator, within = inside.partition(";")
    return Blocks(list(map(_order, blocks.split("|"))), parse_policy(within) if separator else Uniform())


def _order(text: str) -> list[int]:
    """Whole numbers between commas."""
    return list(map(whole, text.split(",")))
