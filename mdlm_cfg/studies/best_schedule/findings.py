"""What the study of the best strengths finds: schedules, and how their laws compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.best_schedule import EQUAL, rises
from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan

CONSTANT, RAMP, BEST, OTHERS_BEST = "constant", "ramp", "best", "exact's best"
SCHEDULES = (CONSTANT, RAMP, BEST, OTHERS_BEST)  # the last: what is best on exact scores, on learned ones
KEYS = {CONSTANT: "constant", RAMP: "ramp", BEST: "best", OTHERS_BEST: "exacts_best"}
NOTHING = 1e-6  # a gain below this is none


@dataclass(frozen=True)
class Reached:
    """Where one schedule leads.

    Attributes:
        scores: whose conditionals the chain takes: "exact" or "learned".
        schedule: one of `SCHEDULES`.
        strengths: w_0, ..., w_{D-1}.
        law: the terminal law, float64 (N,)*D.
        tv: TV(tilted, law). kl: KL(tilted || law) in nats.
        class_posterior: E p(z | x) under the law, in [0, 1]. entropy: of the law, in nats.
        value: of the objective, the smaller the better.
    """

    scores: str
    schedule: str
    strengths: tuple[float, ...]
    law: Tensor
    tv: float
    kl: float
    class_posterior: float
    entropy: float
    value: float

    def numbers(self) -> dict[str, Any]:
        """What report.json holds of it."""
        return {
            "scores": self.scores,
            "schedule": KEYS[self.schedule],
            "strengths": list(self.strengths),
            "tv_tilted": self.tv,
            "kl_tilted": self.kl,
            "class_posterior": self.class_posterior,
            "entropy": self.entropy,
            "objective": self.value,
        }


@dataclass(frozen=True)
class AtStrength:
    """Every schedule for one tilted law.

    Attributes:
        guidance: of the constant strength w, which the tilted law has too.
        tilted: the tilted law. class_posterior, entropy: of it.
        reached: by the exact scores, then by the learned ones where there are any.
    """

    guidance: Guidance
    tilted: Tensor
    class_posterior: float
    entropy: float
    reached: list[Reached]

    @property
    def w(self) -> float:
        """The strength of the tilted law."""
        return self.guidance.constant

    def of(self, scores: str, schedule: str) -> Reached:
        """Where a schedule leads on these scores."""
        return next(r for r in self.reached if (r.scores, r.schedule) == (scores, schedule))

    @property
    def share_kept(self) -> float | None:
        """On learned scores: what the schedule found on exact ones gains over the constant, of what their own gains.

        1 is all of it; None where there is nothing to gain.
        """
        constant, best, others = (self.of("learned", s).value for s in (CONSTANT, BEST, OTHERS_BEST))
        return (constant - others) / (constant - best) if constant - best > NOTHING else None


@dataclass(frozen=True)
class BestScheduleFindings:
    """The best strengths for every w of a plan.

    Attributes:
        plan: what was asked for. target_class: z.
        objective: what is made small: "kl", "tv" or "trade_off". entropy_weight: of the last; None for the others.
        at: by w.
    """

    plan: Plan
    target_class: int
    objective: str
    entropy_weight: float | None
    at: list[AtStrength]

    @property
    def scores(self) -> list[str]:
        """Whose conditionals there are: "exact", and "learned" where something was learned."""
        return list(dict.fromkeys(r.scores for r in self.at[0].reached))

    @property
    def aim(self) -> str:
        """The objective in words."""
        if self.objective == "trade_off":
            return f"-E ln p(z | x) - {self.entropy_weight:g} times the entropy, in nats"
        return {"kl": "KL(tilted || law), in nats", "tv": "TV(tilted, law)"}[self.objective]

    @property
    def verdict(self) -> list[str]:
        """What was found, in sentences."""
        sentences = [self._distances(scores) for scores in self.scores]
        if self.objective == "trade_off":
            sentences.append(self._trade_off())
        sentences.append(self._shape())
        if "learned" in self.scores:
            sentences.append(self._carries_over())
        return sentences

    def _distances(self, scores: str) -> str:
        parts = []
        for at in self.at:
            constant, ramp, best = (at.of(scores, s).tv for s in (CONSTANT, RAMP, BEST))
            parts.append(f"{constant:.4f}, {ramp:.4f}, {best:.4f} (w = {at.w:g})")
        return (
            f"With {scores} scores, TV to the tilted law under the constant w, a ramp from 0 to w, and the best "
            f"strengths: {'; '.join(parts)}."
        )

    def _trade_off(self) -> str:
        parts = [
            f"{scores}, w = {at.w:g}: {at.of(scores, CONSTANT).value:.4f} and {at.of(scores, BEST).value:.4f}"
            for scores in self.scores
            for at in self.at
        ]
        return f"The trade-off {self.aim}, under the constant and the best strengths: {'; '.join(parts)}."

    def _shape(self) -> str:
        """Whether the strengths rise with the number of unmasked coordinates."""
        guided = [at for at in self.at if at.w > 0]
        if not guided or self.at[0].tilted.ndim == 1:
            return "In one dimension there is one strength, and the constant is the best."
        rising = [at for at in guided if rises(at.of("exact", BEST).strengths)]
        if not rising:
            return "The best strengths do not rise from the first coordinate to the last at any w."
        where = "every w > 0" if len(rising) == len(guided) else f"w = {', '.join(f'{at.w:g}' for at in rising)} alone"
        own = all(abs(at.of("exact", BEST).strengths[-1] - at.w) < EQUAL for at in rising)
        last = ", to w itself for the last" if own else ""
        return f"The best strengths rise from the first coordinate to the last{last}, at {where}."

    def _carries_over(self) -> str:
        shares = [(at.w, at.share_kept) for at in self.at]
        found = [(w, share) for w, share in shares if share is not None]
        tvs = "; ".join(
            f"{at.of('learned', OTHERS_BEST).tv:.4f} and {at.of('learned', BEST).tv:.4f} (w = {at.w:g})"
            for at in self.at
        )
        text = f"On learned scores, TV to the tilted law by the schedule of exact scores and by their own: {tvs}. "
        if not found:
            return text + "No schedule gains anything over the constant there."
        w, least = min(found, key=lambda pair: pair[1])
        return text + (
            f"What is best for exact scores keeps at least {least:.1%} of the gain in the objective that their own "
            f"schedule brings (at w = {w:g})."
        )

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each w, scores and schedule; strengths as "w_0", "w_1", ..."""
        return [
            {"w": at.w, "kind": str(at.guidance.kind)}
            | {key: value for key, value in r.numbers().items() if key != "strengths"}
            | {f"w_{count}": strength for count, strength in enumerate(r.strengths)}
            for at in self.at
            for r in at.reached
        ]

    def numbers(self) -> dict[str, float]:
        """TV to the tilted law by scores and schedule: "tv_tilted_exact_best_w2", and so on."""
        return {f"tv_tilted_{r.scores}_{KEYS[r.schedule]}_w{at.w:g}": r.tv for at in self.at for r in at.reached}

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds (docs/report.md)."""
        return to_plain(
            {
                "version": REPORT_VERSION,
                "plan": self.plan.describe(),
                "target_class": self.target_class,
                "objective": {"name": self.objective, "entropy_weight": self.entropy_weight},
                "schedules": [
                    {
                        "w": at.w,
                        "kind": str(at.guidance.kind),
                        "tilted": {"class_posterior": at.class_posterior, "entropy": at.entropy},
                        "reached": [r.numbers() for r in at.reached],
                        "share_kept": at.share_kept if "learned" in self.scores else None,
                    }
                    for at in self.at
                ],
                "verdict": self.verdict,
            }
        )

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Every law: "tilted_w2", "exact_best_w2", and so on."""
        arrays = {}
        for at in self.at:
            arrays[f"tilted_w{at.w:g}"] = at.tilted.numpy()
            for r in at.reached:
                arrays[f"{r.scores}_{KEYS[r.schedule]}_w{at.w:g}"] = r.law.numpy()
        return arrays
