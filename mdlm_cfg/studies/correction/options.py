"""The settings of the study of correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How the tilted law is sampled.

    Args:
        policies: whose effective sample sizes stand beside those of the plan's own order; of tables.
        threshold: relative effective sample size below which a group is resampled on the way.
        num_groups: independent groups of sequential Monte Carlo: they give the normaliser's error.
        num_reference: samples of the class that a mixture's tilted law is estimated from.
    """

    policies: Sequence[str] = ("rate", "uniform", "fixed_order", "confidence")
    threshold: float = 0.5
    num_groups: int = 10
    num_reference: int = 20_000
