"""Checks, and the statistics that decide them: each check is a number that must lie within limits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

CERTAIN = 1e-7  # the probability that a correct program fails one random check
FEW = 10.0  # expected counts below this are put together before a chi-square test
LAW_TOLERANCE = 1e-11
DIFFERENCE = "difference"
P_VALUE = "p-value"
COVERAGE = "coverage"


@dataclass(frozen=True)
class Check:
    """One number and the limits that it must keep.

    Attributes:
        group: "laws", "samples", "intervals", "training" or "resume".
        subject: what is checked, such as "terminal law, rate". case: on what.
        measure: "difference" (the largest absolute one), "p-value" or "coverage" (a share).
        value: the number. low, high: its limits.
        detail: more numbers, for the JSON file.
    """

    group: str
    subject: str
    case: str
    measure: str
    value: float
    low: float
    high: float
    detail: dict[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """Whether the value keeps its limits; NaN never does."""
        return self.low <= self.value <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        own = asdict(self)
        detail = own.pop("detail")
        return own | {"passed": self.passed} | ({"detail": detail} if detail else {})


def difference(group: str, subject: str, case: str, found: Any, truth: Any, tolerance: float = LAW_TOLERANCE) -> Check:
    """The largest difference between numbers of the package and of the oracle, relative where those exceed 1."""
    ours = np.asarray(found, dtype=np.float64)
    theirs = np.asarray(truth, dtype=np.float64)
    if ours.shape != theirs.shape:
        return Check(group, subject, case, DIFFERENCE, math.inf, 0.0, tolerance, {"shapes": [ours.shape, theirs.shape]})
    same = ours == theirs  # infinities too
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0.0, np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1.0))
    worst = float(np.max(gaps, initial=0.0)) if not np.isnan(gaps).any() else math.inf
    return Check(group, subject, case, DIFFERENCE, worst, 0.0, tolerance)


def p_value(group: str, subject: str, case: str, p: float, **detail: Any) -> Check:
    """A p-value, which is uniform on (0, 1) where the program is right."""
    return Check(group, subject, case, P_VALUE, p, CERTAIN, 1.0, detail)


def z_value(group: str, subject: str, case: str, estimate: float, truth: float, standard_error: float) -> Check:
    """The two-sided p-value of a mean whose distance from the truth is so many standard errors."""
    z = (estimate - truth) / standard_error
    more = {"z": z, "estimate": estimate, "truth": truth, "standard_error": standard_error}
    return p_value(group, subject, case, float(2 * stats.norm.sf(abs(z))), **more)


def coverage(group: str, subject: str, hits: int, repeats: int, claimed: tuple[float, float]) -> Check:
    """How often an interval covered the truth, beside the share that is claimed, (lowest, highest)."""
    low = float(stats.binom.ppf(CERTAIN, repeats, claimed[0])) / repeats
    high = float(stats.binom.isf(CERTAIN, repeats, claimed[1])) / repeats
    detail = {"hits": hits, "repeats": repeats, "claimed": list(claimed)}
    return Check(group, subject, f"{repeats} repetitions", COVERAGE, hits / repeats, low, high, detail)


def chi_square_p(counts: np.ndarray, law: np.ndarray) -> float:
    """The p-value of counts under a law by Pearson's chi-square test; 0 where something impossible was drawn.

    1 where the law has one cell only.

    Cells in which fewer than `FEW` are expected are one cell, together with the next larger ones until `FEW` are.
    """
    observed = counts.flatten()
    expected = law.flatten() / law.sum() * counts.sum()
    if observed[expected <= 0].any():
        return 0.0
    observed = observed[expected > 0]
    expected = expected[expected > 0]
    order = np.argsort(expected)
    merged = int((expected < FEW).sum())
    while 0 < merged < len(order) and expected[order[:merged]].sum() < FEW:
        merged += 1
    if merged:
        observed = np.append(observed[order[merged:]], observed[order[:merged]].sum())
        expected = np.append(expected[order[merged:]], expected[order[:merged]].sum())
    if len(observed) < 2:
        return 1.0
    return float(stats.chisquare(observed, expected).pvalue)


def by_chance(checks: Iterable[Check]) -> list[float]:
    """The p-values that chance decides, which are uniform: 1 exactly says that nothing was left to it."""
    return [check.value for check in checks if check.measure == P_VALUE and check.value < 1]


def uniformity(checks: Iterable[Check]) -> list[Check]:
    """One more check for every subject with several p-values: that these are uniform."""
    by_subject: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        by_subject.setdefault((check.group, check.subject), []).append(check)
    return [
        p_value(group, subject, f"all {len(values)} p-values are uniform", float(stats.kstest(values, "uniform")[1]))
        for (group, subject), own in by_subject.items()
        if len(values := by_chance(own)) >= 5
    ]
