"""How far every policy ends from the class and from the tilted law: plain numbers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan
from mdlm_cfg.studies.table.strength import strength_key

SAME = 1e-9  # distances closer than this are equal, in a sentence that says who is nearest


@dataclass(frozen=True)
class PolicyRow:
    """One law.

    Attributes:
        guidance: its strength. denoiser: "exact" or "learned" scores. policy: by name.
        together: coordinates unmasked a step, by the frozen state. calls: of the denoiser, per conditional.
        tv_class, tv_tilted: TV to p(. | z) and to the tilted law; kl_class, kl_tilted: KL of those to this law, in
            nats, inf where it lacks support. Those of the tilted law are None for a schedule, which has none.
    """

    guidance: Guidance
    denoiser: str
    policy: str
    together: int
    calls: int
    tv_class: float
    kl_class: float
    tv_tilted: float | None
    kl_tilted: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        strength = {key: value for key, value in self.guidance.describe().items() if key != "kind"}  # of no effect here
        return strength | {key: value for key, value in vars(self).items() if key != "guidance"}


@dataclass(frozen=True)
class PolicyFindings:
    """Every policy's laws beside the class and the tilted law.

    Attributes:
        plan: what was asked for. target_class: z. num_dims: D. laws: by guidance, denoiser, policy and step.
    """

    plan: Plan
    target_class: int
    num_dims: int
    laws: list[PolicyRow]

    @property
    def denoisers(self) -> list[str]:
        """ "exact" and, where something was learned, "learned"."""
        return list(dict.fromkeys(row.denoiser for row in self.laws))

    @property
    def policies(self) -> list[str]:
        """By name, in the order of the tables."""
        return list(dict.fromkeys(row.policy for row in self.laws))

    def of(self, guidance: Guidance, denoiser: str, together: int | None = None) -> list[PolicyRow]:
        """The rows of one guidance and denoiser; of one number of coordinates a step where it is given."""
        return [
            row for row in self.laws
            if (row.guidance, row.denoiser) == (guidance, denoiser) and together in (None, row.together)
        ]  # fmt: skip

    @property
    def verdict(self) -> list[str]:
        """Whether the order matters, and which is nearest, in sentences."""
        numbers = [g for g in self.plan.guidances if not g.is_schedule]
        sentences = []
        for denoiser in self.denoisers:
            if any(g.w == 0 for g in numbers):
                unguided = next(g for g in numbers if g.w == 0)
                sentences.append(_at_zero(self.of(unguided, denoiser, 1), denoiser))
            guided = [g for g in numbers if g.constant > 0]
            if guided:
                strongest = max(guided, key=lambda g: g.constant)
                for together in dict.fromkeys((1, max(row.together for row in self.laws))):
                    sentences.append(_nearest(self.of(strongest, denoiser, together), together, self.num_dims))
        if len(numbers) < len(self.plan.guidances):
            sentences.append("A schedule has no tilted law: its distances are to the class alone.")
        return sentences

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for every law; `set` says which curve over w it is a point of."""
        return [row.to_dict() | {"set": f"{row.denoiser}, {row.policy}, {row.together} a step"} for row in self.laws]

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "tv_tilted_exact_rate_1_w2", and so on."""
        return {
            f"{name}_{row.denoiser}_{row.policy}_{row.together}_{strength_key(row.guidance)}": value
            for row in self.laws
            for name, value in (("tv_class", row.tv_class), ("tv_tilted", row.tv_tilted))
            if value is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds (docs/policies.md)."""
        return to_plain(
            {
                "version": REPORT_VERSION,
                "plan": self.plan.describe(self.num_dims),
                "target_class": self.target_class,
                "policies": [row.to_dict() for row in self.laws],
                "verdict": self.verdict,
            }
        )

    def arrays(self) -> Mapping[str, np.ndarray]:
        """None: the laws are not kept."""
        return {}


def _at_zero(rows: Sequence[PolicyRow], denoiser: str) -> str:
    best, worst = min(rows, key=lambda r: r.tv_class), max(rows, key=lambda r: r.tv_class)
    if worst.tv_class < 1e-12:
        return f"With {denoiser} scores and w = 0, one at a time, every policy gives the class (within 1e-12)."
    return (
        f"With {denoiser} scores and w = 0, one at a time, the law of {best.policy} is {best.tv_class:.4f} from the "
        f"class in total variation, that of {worst.policy} {worst.tv_class:.4f}."
    )


def _nearest(rows: Sequence[PolicyRow], together: int, num_dims: int) -> str:
    """Which policies are nearest to the tilted law, and which farthest."""
    found = [(row.tv_tilted, row.policy) for row in rows if row.tv_tilted is not None]
    best, worst = min(tv for tv, _ in found), max(tv for tv, _ in found)
    near, far = (", ".join(p for tv, p in found if abs(tv - at) < SAME) for at in (best, worst))
    step = "one coordinate" if together == 1 else f"all {num_dims} coordinates"
    head = f"At w = {rows[0].guidance.label}, {rows[0].denoiser} scores, {step} a step, "
    if worst - best < SAME:
        return f"{head}every policy ends {best:.4f} from the tilted law."
    return f"{head}{near} ends nearest to the tilted law ({best:.4f}), {far} farthest ({worst:.4f})."
