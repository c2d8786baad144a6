"""What the study of inpainting finds: exact laws of hidden pixels, their completions, and a ledger for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import flat_index, points_at
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.slice_ledger import SliceLedger
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan


@dataclass(frozen=True)
class SliceAtStrength:
    """The hidden pixels at one guidance.

    Attributes:
        guidance: strength and kind.
        law: of the hidden pixels, exactly, by the judged denoiser, float64 (N,)*|S|.
        tilted: the (order-averaged) tilted law, the same shape. ess: the effective share of samples that weights to
            it leave.
        score_error: TV of the exact denoiser's law to the learned one's; None where the truth is not known or nothing
            was learned.
        ledgers: of the plan's sampler first.
    """

    guidance: Guidance
    law: Tensor
    tilted: Tensor
    ess: float
    score_error: float | None
    ledgers: list[SliceLedger]

    def completions(self, most: int) -> list[tuple[list[int], float]]:
        """The most probable completions, values of the hidden pixels and probability, the likeliest first."""
        probability, index = self.law.flatten().topk(min(most, self.law.numel()))
        values = points_at(index, self.law.shape[0], self.law.ndim)
        return list(zip(values.tolist(), probability.tolist()))

    def probability(self, values: Tensor) -> float:
        """Of one completion, int64 (|S|,)."""
        return float(self.law.flatten()[flat_index(values, self.law.shape[0])])

    def rank(self, values: Tensor) -> int:
        """How many completions are likelier than this one, plus 1."""
        return int((self.law > self.probability(values)).sum()) + 1

    @property
    def marginals(self) -> list[list[float]]:
        """The probability of every value of every hidden pixel, (|S|, N)."""
        s = self.law.ndim
        return [
            self.law.sum(dim=[j for j in range(s) if j != i]).tolist() if s > 1 else self.law.tolist() for i in range(s)
        ]


@dataclass(frozen=True)
class Slice:
    """One image with hidden pixels.

    Attributes:
        index: of the image among the test data. image_class: its own. target_class: what is guided to.
        image: int64 (D,), complete. free: the hidden coordinates, int64 (|S|,), ascending.
        at: by guidance, in the plan's order.
    """

    index: int
    image_class: int
    target_class: int
    image: Tensor
    free: Tensor
    at: list[SliceAtStrength]

    @property
    def truth(self) -> Tensor:
        """The hidden values, int64 (|S|,)."""
        return self.image[self.free]

    @property
    def name(self) -> str:
        """For files and arrays, such as "image18_class8"."""
        return f"image{self.index}_class{self.target_class}"

    @property
    def between(self) -> list[list[float]]:
        """TV between the laws of every two guidances."""
        return [[total_variation(a.law, b.law) for b in self.at] for a in self.at]

    def row(self, found: SliceAtStrength) -> dict[str, Any]:
        """Plain numbers of one guidance."""
        ledger = found.ledgers[0]
        row = {
            "image": self.index,
            "image_class": self.image_class,
            "class": self.target_class,
            "w": found.guidance.constant,
            "kind": str(found.guidance.kind),
            "truth_probability": found.probability(self.truth),
            "truth_rank": found.rank(self.truth),
            "tv_first": total_variation(self.at[0].law, found.law),
            "tv_tilted": total_variation(found.tilted, found.law),
            "ess": found.ess,
            "tv_samples": ledger.tv["total"],
            "noise_floor": ledger.expected_noise,
            "closes": ledger.closes,
        }
        return row if found.score_error is None else row | {"score_error": found.score_error}


@dataclass(frozen=True)
class InpaintingFindings:
    """Guided inpainting of several images.

    Attributes:
        plan: what was asked for. name: of the data. grid_shape: of an image. num_tokens: N.
        judged: "learned" or "exact". how: by which hidden pixels were chosen.
        num_states: partial states that each slice's denoiser was asked for, under each label.
        slices: one per image and class.
    """

    plan: Plan
    name: str
    grid_shape: tuple[int, ...]
    num_tokens: int
    judged: str
    how: str
    num_states: int
    slices: list[Slice]

    @property
    def entries(self) -> list[SliceLedger]:
        """Every ledger."""
        return [ledger for s in self.slices for found in s.at for ledger in found.ledgers]

    @property
    def verdict(self) -> list[str]:
        """What guidance makes of the hidden pixels, and whether the ledgers close, in sentences."""
        sentences = []
        for s in self.slices:
            first = s.at[0]
            last = max(s.at, key=lambda found: found.guidance.constant)
            moved = total_variation(first.law, last.law)
            sentences.append(
                f"Test image {s.index} (class {s.image_class}), {len(s.free)} hidden pixels, guided to class "
                f"{s.target_class}: from w = {first.guidance.label} to {last.guidance.label} their law moves by "
                f"{moved:.4f} in total variation, the hidden values' own probability from "
                f"{first.probability(s.truth):.3g} to {last.probability(s.truth):.3g}; to the tilted law it is then "
                f"{total_variation(last.tilted, last.law):.4f}, weights keep {last.ess:.1%}."
            )
        errors = [(f.score_error, s, f) for s in self.slices for f in s.at if f.score_error is not None]
        if errors:
            worst = max(errors, key=lambda item: item[0])
            sentences.append(
                f"The network's law of the hidden pixels is at worst {worst[0]:.4f} from the exact one (image "
                f"{worst[1].index}, w = {worst[2].guidance.label})."
            )
        elif self.judged == "learned":
            sentences.append("The data are not known exactly: of the score error nothing can be said.")
        missed = sum(not ledger.closes for ledger in self.entries)
        total = len(self.entries)
        rule = "one in a hundred is expected to miss"
        sentences.append(
            f"The slices' ledgers close in all of {total} entries."
            if not missed
            else f"The slices' ledgers do not close in {missed} of {total} entries; {rule}."
        )
        return sentences

    def rows(self) -> list[dict[str, Any]]:
        """One row per image and guidance."""
        return [s.row(found) for s in self.slices for found in s.at]

    def numbers(self) -> dict[str, float]:
        """Means over images: "tv_first_w2", "tv_tilted_w2", "ess_w2", ..."""
        flat: dict[str, float] = {}
        for guidance in self.plan.guidances:
            rows = [s.row(found) for s in self.slices for found in s.at if found.guidance == guidance]
            for key in ("tv_first", "tv_tilted", "ess", "truth_probability", "score_error"):
                if all(key in row for row in rows):
                    flat[f"{key}_w{guidance.constant:g}"] = sum(row[key] for row in rows) / len(rows)
        return flat

    def to_dict(self) -> dict[str, Any]:
        """All but the laws, as plain values."""
        return {
            "version": REPORT_VERSION,
            "verdict": self.verdict,
            "plan": self.plan.describe(),
            "data": {"name": self.name, "grid_shape": list(self.grid_shape)},
            "judged": self.judged,
            "pixels": self.how,
            "num_states": self.num_states,
            "distances": self.rows(),
            "slices": [_slice_dict(s) for s in self.slices],
        }

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The laws of the hidden pixels, float64 (N, ..., N), by image, class, kind and w."""
        return {
            f"{s.name}_{found.guidance.kind}_w{found.guidance.constant:g}": found.law.numpy()
            for s in self.slices
            for found in s.at
        }


SHOWN_COMPLETIONS = 10


def _slice_dict(s: Slice) -> dict[str, Any]:
    return {
        "image": s.index,
        "image_class": s.image_class,
        "class": s.target_class,
        "free": s.free.tolist(),
        "truth": s.truth.tolist(),
        "tv_between": s.between,
        "at": [
            {
                "w": found.guidance.constant,
                "kind": str(found.guidance.kind),
                "marginals": found.marginals,
                "completions": [
                    {"values": values, "probability": p} for values, p in found.completions(SHOWN_COMPLETIONS)
                ],
                "ledger": [
                    {
                        **ledger.sampler.describe(),
                        "num_samples": ledger.num_samples,
                        "tv": ledger.tv,
                        "expected_sampling_noise": ledger.expected_noise,
                        "predicted_total": vars(ledger.predicted_total),
                        "closes": ledger.closes,
                    }
                    for ledger in found.ledgers
                ],
            }
            for found in s.at
        ],
    }
