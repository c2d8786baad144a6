"""Checks and their statistics: each check is a number that must lie within limits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

CERTAIN = 1e-7  # the probability that a correct program fails one random check
FEW = 10.0  # cells with smaller expected counts are pooled before a chi-square test
LAW_TOLERANCE = 1e-11
DIFFERENCE = "difference"
P_VALUE = "p-value"
COVERAGE = "coverage"


@dataclass(frozen=True)
class Check:
    """One number and its limits.

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
        """Whether the value is within its limits; NaN never is."""
        return self.low <= self.value <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        own = asdict(self)
        detail = own.pop("detail")
        return own | {"passed": self.passed} | ({"detail": detail} if detail else {})


def difference(group: str, subject: str, case: str, found: Any, truth: Any, tolerance: float = LAW_TOLERANCE) -> Check:
    """The largest difference between numbers of the package and of the oracle, relative if the latter exceed 1."""
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
    """A p-value, which is uniform on (0, 1) if the program is right."""
    return Check(group, subject, case, P_VALUE, p, CERTAIN, 1.0, detail)


def z_value(group: str, subject: str, case: str, estimate: float, truth: float, standard_error: float) -> Check:
    """The two-sided p-value of a mean, from its distance to the truth in standard errors."""
    z = (estimate - truth) / standard_error
    more = {"z": z, "estimate": estimate, "truth": truth, "standard_error": standard_error}
    return p_value(group, subject, case, float(2 * stats.norm.sf(abs(z))), **more)


def coverage(group: str, subject: str, hits: int, repeats: int, claimed: tuple[float, float]) -> Check:
    """The share of intervals that covered the truth, compared with the claimed share (lowest, highest)."""
    low = float(stats.binom.ppf(CERTAIN, repeats, claimed[0])) / repeats
    high = float(stats.binom.isf(CERTAIN, repeats, claimed[1])) / repeats
    detail = {"hits": hits, "repeats": repeats, "claimed": list(claimed)}
    return Check(group, subject, f"{repeats} repetitions", COVERAGE, hits / repeats, low, high, detail)


def chi_square_p(counts: np.ndarray, law: np.ndarray) -> float:
    """The p-value of counts under a law by Pearson's chi-square test; 0 if something impossible was drawn.

    1 if the law has only one cell.

    Cells with expected counts below `FEW` are pooled, with the next larger cells until at least `FEW` are expected.
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
    """The p-values that depend on chance, which are uniform; a p-value of exactly 1 does not."""
    return [check.value for check in checks if check.measure == P_VALUE and check.value < 1]


def uniformity(checks: Iterable[Check]) -> list[Check]:
    """For every subject with several p-values, a check that they are uniform."""
    by_subject: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        by_subject.setdefault((check.group, check.subject), []).append(check)
    return [
        p_value(group, subject, f"all {len(values)} p-values are uniform", float(stats.kstest(values, "uniform")[1]))
        for (group, subject), own in by_subject.items()
        if len(values := by_chance(own)) >= 5
    ]
