"""The paper in one dimension: Thm 3.1 and Prop 3.2."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from mdlm_cfg.compare.geometry import local_moments, region_mass, regions
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.studies.evaluation import TableEvaluation
from mdlm_cfg.studies.paper.claims import (
    ABSENT,
    DECAY_STRENGTHS,
    DECAY_TAU,
    SAME,
    Claim,
    PaperResult,
    decay_of,
    gain_in_time,
    learned_per_w,
    on_speed,
    per_w,
    still_masked,
    verdict,
)
from mdlm_cfg.support.numbers import short


def disjoint(e: TableEvaluation) -> PaperResult:
    """Disjoint classes in one dimension: guidance changes only the speed."""
    unchanged = max(r.guidance_effect for r in e.results)
    expected = -math.log(float(e.target.class_weights[e.target_class]))
    slope = decay_of(e).fit_slope[1]
    return PaperResult(
        [
            Claim(
                "If the class shares no state with another, the guided law is the class for every w (Thm 3.1).",
                f"largest TV(class, guided) {unchanged:.1e}",
                learned_per_w(e, lambda law, r: total_variation(r.laws["class"], law)),
                verdict(unchanged < SAME),
            ),
            Claim(
                "It is reached faster: -ln TV = tau Z with Z = a_z^(-w) here (Prop 3.2).",
                f"slope of ln(-ln TV) in w {slope:.6f}, -ln a_z = {expected:.6f}",
                still_masked(e),
                verdict(abs(slope - expected) < 1e-8),
            ),
        ]
    )


def overlap(e: TableEvaluation) -> PaperResult:
    """Overlapping classes in one dimension: the overlap is emptied, the private part keeps its shape."""
    private, shared = regions(e.target, e.target_class)
    gap = max(r.gap_to_tilted for r in e.results)
    masses = [region_mass(r.laws["exact"], shared)[0] for r in e.results]
    base = local_moments(e.results[0].laws["class"], private)

    def moved(law: Tensor) -> float:
        """The largest change of a local mean or covariance."""
        return max(float((m - b).abs().max()) for m, b in zip(local_moments(law, private), base))

    most = max(moved(r.laws["exact"]) for r in e.results)
    return PaperResult(
        [
            Claim(
                "In one dimension the guided law is the tilted law (Thm 3.1).",
                f"largest TV(tilted, guided) {gap:.1e}",
                learned_per_w(e, lambda law, r: total_variation(r.laws["tilted"], law)),
                verdict(gap < SAME),
            ),
            Claim(
                "Guidance suppresses what the class shares: the overlap's mass falls with w.",
                per_w(e, lambda r: region_mass(r.laws["exact"], shared)[0]),
                learned_per_w(e, lambda law, _: region_mass(law, shared)[0]),
                verdict(all(b < a for a, b in pairwise(masses))),
            ),
            Claim(
                "On the private part the law keeps its shape: local mean and covariance do not change.",
                f"largest change {most:.1e}",
                learned_per_w(e, lambda law, _: moved(law)),
                verdict(most < SAME),
            ),
        ]
    )


def tv_vs_w(e: TableEvaluation) -> PaperResult:
    """The speed of convergence in one dimension."""
    p = e.target.pmf
    pz = e.target.class_pmf(e.target_class)
    inside = pz > 0
    rates = [float((pz * (pz / p) ** w)[inside].sum()) for w in DECAY_STRENGTHS]
    exact, learned, decay = on_speed(e, "{v:.4g}")
    worst = max(abs(v / (DECAY_TAU * r) - 1) for v, r in zip((-decay.log_tv[:, 0]).tolist(), rates))
    return PaperResult(
        [
            Claim(
                "TV(q_t, q) = [(1 - alpha(t)) / (1 - alpha(T))]^Z with Z = sum_x p(x|z) (p(x|z)/p(x))^w (Prop 3.2).",
                exact,
                learned,
                f"{verdict(worst < 1e-9)} (relative difference {worst:.1e})",
            ),
            Claim(
                "TV decays double-exponentially in w: ln(-ln TV) grows linearly.",
                f"slope {short(decay.fit_slope[0])} over small, {short(decay.fit_slope[1])} over large w",
                ABSENT,
                verdict(decay.growth == "exponential" and decay.fit_slope[1] > max(SAME, 0.9 * decay.fit_slope[0])),
            ),
            gain_in_time(decay.time_to_5_percent),
        ]
    )
