"""The five-dimensional experiment of the paper beside its exact values (theory, section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from mdlm_cfg.compare.geometry import overlap_masks
from mdlm_cfg.compare.metrics import histogram
from mdlm_cfg.studies.evaluation import StrengthEvaluation, TableEvaluation
from mdlm_cfg.studies.paper.claims import ABSENT, PAPER_SAMPLER, PAPER_STEPS, Claim, PaperResult, verdict

# arXiv 2506.10971: learned score, 50 tau-leaping steps, 10,000 samples; by the number k of coordinates equal to 2
PAPER_5D = {
    1.0: (4.984, 4.541, 4.020, 3.386, 2.208, 0.280),
    2.0: (5.573, 4.783, 3.867, 2.844, 1.588, 0.200),
}
PAPER_SAMPLES = 10_000
NUM_STATES = (32, 80, 80, 40, 10, 1)  # of the class's support, by k


@dataclass(frozen=True)
class AtStrength:
    """Laws at one strength, each as 1000 times the mean probability per state by k.

    Attributes:
        found: the results for its guidance.
        exact: of the exact chain. stepped: of the paper's 50 steps with exact conditionals.
        learned, learned_stepped: of the network's own chain and steps; None if nothing was learned.
        sampled: of 10,000 samples in 50 steps, the network's if there is one.
    """

    found: StrengthEvaluation
    exact: list[float]
    stepped: list[float]
    learned: list[float] | None
    learned_stepped: list[float] | None
    sampled: list[float]

    def rows(self) -> list[list[str]]:
        """One row per available law, and the paper's own measurement."""
        whose = "with exact conditionals" if self.learned_stepped is None else "of the network"
        values = {
            "exact": self.exact,
            f"exact conditionals, {PAPER_STEPS} steps": self.stepped,
            "learned": self.learned,
            f"learned, {PAPER_STEPS} steps": self.learned_stepped,
            f"{PAPER_SAMPLES:,} samples {whose}, {PAPER_STEPS} steps": self.sampled,
            "the paper's measurement": PAPER_5D.get(self.found.w),
        }
        rows = [(name, row) for name, row in values.items() if row is not None]
        return [[f"{self.found.w:g}", name, *(f"{v:.3f}" for v in row)] for name, row in rows]


def hypercube(e: TableEvaluation) -> PaperResult:
    """The paper's table beside exact values, and an analysis of its k = 5 entry."""
    masks = overlap_masks(e.target, e.target_class)
    rows: list[list[str]] = []
    claims: list[Claim] = []
    for r in e.results:
        at = _at_strength(e, r, masks)
        rows += at.rows()
        if r.w > 0:
            claims.append(_falls(at))
        if r.w == 2:
            claims.append(_fifth(at))
    columns = ["w", "law", *(f"k = {k}" for k in range(len(masks)))]
    return PaperResult(claims, [("1000 times the mean probability per state, by k", columns, rows)])


def _at_strength(e: TableEvaluation, r: StrengthEvaluation, masks: list[Tensor]) -> AtStrength:
    z = e.target_class
    exact = e.target.denoiser()
    learned = e.learned

    def by_k(law: Tensor) -> list[float]:
        return [1000 * float(law[mask].mean()) for mask in masks]

    generator = e.case.plan.generator("the paper's samples", r.guidance, z, num_dims=exact.num_dims)
    x = PAPER_SAMPLER.draw(learned or exact, r.guidance, z, PAPER_SAMPLES, generator)
    return AtStrength(
        found=r,
        exact=by_k(r.laws["exact"]),
        stepped=by_k(PAPER_SAMPLER.law(exact, r.guidance, z)),
        learned=by_k(r.laws["learned"]) if "learned" in r.laws else None,
        learned_stepped=None if learned is None else by_k(PAPER_SAMPLER.law(learned, r.guidance, z)),
        sampled=by_k(histogram(x, exact.num_tokens)),
    )


def _falls(at: AtStrength) -> Claim:
    return Claim(
        f"w = {at.found.w:g}: probability falls with the number k of coordinates in the overlap (a conjecture for "
        "D >= 3).",
        ", ".join(f"{v:.3f}" for v in at.exact),
        ABSENT if at.learned is None else ", ".join(f"{v:.3f}" for v in at.learned),
        verdict(all(b < a for a, b in pairwise(at.exact))),
    )


def _fifth(at: AtStrength) -> Claim:
    """How much of the paper's k = 5, w = 2 entry, a single state, comes from network, steps and sampling."""
    exact = at.exact[5]
    steps = at.stepped[5]
    sampled = at.sampled[5]
    one_hit = 1000 / PAPER_SAMPLES
    measured = PAPER_5D[2.0][5]
    text = (
        f"exact {exact:.3f}, {measured / exact:.0f} times smaller; {PAPER_STEPS} steps with exact conditionals "
        f"{steps:.3f}, so the steps add {steps - exact:.3f}; {PAPER_SAMPLES:,} samples of the exact law hit it "
        f"{exact / one_hit:.2f} times on average, one hit being {one_hit:.3f}"
    )
    learned = ABSENT
    if at.learned is not None and at.learned_stepped is not None:
        learned = (
            f"our network: conditionals alone {at.learned[5]:.3f}, with {PAPER_STEPS} steps "
            f"{at.learned_stepped[5]:.3f}; its {PAPER_SAMPLES:,} samples {sampled:.3f}"
        )
    elif at.learned_stepped is None:
        text += f"; {PAPER_SAMPLES:,} samples with exact conditionals {sampled:.3f}"
    hits = round(measured / one_hit)
    chance = 1 - sum(_poisson(steps / one_hit, n) for n in range(hits))
    return Claim(
        f"w = 2, k = 5 (a single state): the paper measures {measured:.3f}.",
        text,
        learned,
        f"{hits} hits ({measured:.3f}) or more have probability {chance:.3f} under exact conditionals and "
        f"{PAPER_STEPS} steps: steps and sampling explain "
        + ("the entry" if chance > 0.05 else "little of it; the rest is the error of the paper's network"),
    )


def _poisson(mean: float, n: int) -> float:
    return math.exp(-mean) * mean**n / math.factorial(n)
