"""The paper in two dimensions: Thm 3.2, section 3 on regions, and Prop 3.4."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from mdlm_cfg.compare.geometry import Region, region_mass, regions
from mdlm_cfg.compare.metrics import mean_and_covariance, total_variation
from mdlm_cfg.studies.evaluation import StrengthEvaluation, TableEvaluation
from mdlm_cfg.studies.paper.claims import (
    ABSENT,
    SAME,
    Claim,
    PaperResult,
    gain_in_time,
    learned_per_w,
    on_speed,
    per_w,
    verdict,
)


def by_regions(e: TableEvaluation) -> PaperResult:
    """Two dimensions: which regions gain and lose, and that the guided law is not the tilted one."""
    parts = regions(e.target, e.target_class)
    guided = [r for r in e.results if r.w > 0]
    gap = max(r.gap_to_tilted for r in guided)
    claims = [
        Claim(
            "Per state, weights obey R1 >= R2,i >= R3 >= R4 for w > 0 (section 3).",
            "see the table",
            "see the table" if "learned" in guided[0].laws else ABSENT,
            verdict(all(_ordered(r.laws["exact"], parts) for r in guided)),
        ),
        Claim(
            "In two dimensions the guided law is not the tilted law (Thm 3.2).",
            per_w(e, lambda r: r.gap_to_tilted),
            learned_per_w(e, lambda law, r: total_variation(r.laws["tilted"], law)),
            verdict(gap > SAME),
        ),
        _covariance(e.results[0], e.results[-1]),
    ]
    if not any(part.shared for part in parts):
        effect = min(r.guidance_effect for r in guided)
        claims.append(
            Claim(
                "Even a class whose support is disjoint from all others is reshaped if its projections are not.",
                per_w(e, lambda r: r.guidance_effect),
                learned_per_w(e, lambda law, r: total_variation(r.laws["class"], law)),
                verdict(effect > SAME),
            )
        )
    samples = "samples with exact conditionals" if e.learned is None else "samples of the network"
    return PaperResult(claims, [_table(e, parts, samples)])


def _ordered(law: Tensor, parts: list[Region]) -> bool:
    """Whether the mean per state in a more private type of region is always at least that in a less private one."""
    by_sort: dict[int, list[float]] = {}
    for part in parts:
        by_sort.setdefault(len(part.overlapping) + part.shared, []).append(region_mass(law, part)[1])
    means = [by_sort[sort] for sort in sorted(by_sort)]
    return all(min(more) >= max(less) - SAME for more, less in pairwise(means))


def _covariance(first: StrengthEvaluation, last: StrengthEvaluation) -> Claim:
    """The claim on the covariance, at the first and the last strength."""
    before, after = (mean_and_covariance(r.laws["exact"])[1] for r in (first, last))

    def both(name: str) -> str:
        return ", ".join(f"{_eigenvalues(r.laws[name])} at w = {r.w:g}" for r in (first, last))

    return Claim(
        "Guidance changes the covariance.",
        f"eigenvalues {both('exact')}",
        both("learned") if "learned" in first.laws else ABSENT,
        verdict(float((after - before).abs().max()) > SAME),
    )


def _eigenvalues(law: Tensor) -> str:
    return ", ".join(f"{v:.3f}" for v in torch.linalg.eigvalsh(mean_and_covariance(law)[1]).tolist())


def _table(e: TableEvaluation, parts: list[Region], samples: str) -> tuple[str, list[str], list[list[str]]]:
    """Mean probability per state by region and w, for every available law."""
    heads = {"exact": "exact", "learned": "learned", "samples": samples}
    names = [name for name in heads if all(name in r.laws for r in e.results)]
    rows = [
        [part.name, f"{r.w:g}", *(f"{1000 * region_mass(r.laws[name], part)[1]:.3f}" for name in names)]
        for part in parts
        for r in e.results
    ]
    return "1000 times the mean probability per state", ["region", "w", *(heads[name] for name in names)], rows


def tv_vs_w(e: TableEvaluation) -> PaperResult:
    """The speed of convergence in two dimensions, and where it stops growing."""
    exact, learned, decay = on_speed(e, "{v:.4f} (w = {w:g})")
    return PaperResult(
        [
            Claim(
                "-ln TV = exp(Theta(w)) ln[(1 - alpha(T)) / (1 - alpha(t))] (Prop 3.4).",
                exact,
                learned,
                "holds" if decay.growth == "exponential" else "holds for small w only. " + decay.statement,
            ),
            gain_in_time(decay.time_to_5_percent),
        ]
    )
