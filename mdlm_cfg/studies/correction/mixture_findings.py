"""What the study of correction finds of a Bernoulli mixture in many dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.sampling.smc import Weighted
from mdlm_cfg.studies.correction.options import Options
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan

SETS = ("class", "guided", "weighted", "resampled")  # what is held against the reference


@dataclass(frozen=True)
class SetRow:
    """A set of samples, as the exact mixture sees it.

    Attributes:
        usage: the class's components' shares, (C,).
        usage_tv: TV of that to the reference's; 0 for the reference itself.
        class_posterior: mean of p(z | x). mean_rms: root mean square over pixels of the difference of means to the
            reference's.
        images: a few to look at, uint8 (m, D); of weighted sets drawn by their weights.
    """

    usage: Tensor
    usage_tv: float
    class_posterior: float
    mean_rms: float
    images: Tensor


@dataclass(frozen=True)
class ClassCorrection:
    """One class at one strength.

    Attributes:
        guidance, target_class: which.
        reference: samples of the class weighted by (p_z / p)^w: unbiased, of no chain.
        weighted: guided samples with their weights. resampled: of sequential Monte Carlo.
        sets: by "reference" and `SETS`.
        floor: expected TV of the usage of as many perfect samples.
    """

    guidance: Guidance
    target_class: int
    reference: Weighted
    weighted: Weighted
    resampled: Weighted
    sets: dict[str, SetRow]
    floor: float

    @property
    def _head(self) -> dict[str, Any]:
        return {"w": self.guidance.constant, "kind": str(self.guidance.kind), "class": self.target_class}

    def rows(self) -> list[dict[str, Any]]:
        """One per set, plain."""
        return [
            {
                **self._head, "set": name, "usage_tv": s.usage_tv, "class_posterior": s.class_posterior,
                "mean_rms": s.mean_rms, "usage_floor": self.floor,
            }
            for name, s in self.sets.items()
        ]  # fmt: skip

    def normalizers(self) -> list[dict[str, Any]]:
        """ln E W by every way to estimate it, plain."""
        ways = {"reference": self.reference, "weighted": self.weighted, "resampled": self.resampled}
        return [
            {
                **self._head, "set": name, "num_samples": len(found.x), "log_normalizer": found.log_normalizer,
                "relative_error": found.relative_error, "ess": found.ess,
            }
            for name, found in ways.items()
        ]  # fmt: skip


@dataclass(frozen=True)
class MixtureCorrection:
    """The tilted law of a Bernoulli mixture, sampled.

    Attributes:
        plan, options: what was asked for. name: of the data. grid_shape: (height, width).
        judged: "learned" or "exact": whose guided samples these are.
        found: for every guidance and class.
    """

    plan: Plan
    options: Options
    name: str
    grid_shape: tuple[int, ...]
    judged: str
    found: list[ClassCorrection]

    @property
    def classes(self) -> list[int]:
        """Which were sampled."""
        return list(dict.fromkeys(one.target_class for one in self.found))

    @property
    def verdict(self) -> list[str]:
        """What correction does at the strongest guidance, in sentences."""
        strongest = max(self.plan.guidances, key=lambda guidance: guidance.constant)
        sentences = []
        for one in (one for one in self.found if one.guidance == strongest):
            tv = {name: one.sets[name].usage_tv for name in SETS}
            at = f"At w = {strongest.label} ({strongest.kind}), class {one.target_class}"
            smc, known = one.resampled, one.reference
            sentences += [
                f"{at}: component usage is {tv['guided']:.3f} (TV) from the tilted law's under guidance, "
                f"{tv['resampled']:.3f} with resampling on the way, {tv['class']:.3f} for the class itself; as many "
                f"perfect samples would show {one.floor:.3f}.",
                f"{at}: ln E W is {smc.log_normalizer:.3f} ± {smc.relative_error:.3f} by resampling and "
                f"{known.log_normalizer:.4f} ± {known.relative_error:.4f} by samples of the class; finished samples' "
                f"weights leave {one.weighted.ess:.3g} of them, resampling {smc.ess:.3g}.",
            ]
        return sentences

    def rows(self) -> list[dict[str, Any]]:
        """One row per guidance, class and set."""
        return [row for one in self.found for row in one.rows()]

    def numbers(self) -> dict[str, float]:
        """Means over classes: "usage_tv_resampled_w3", "class_posterior_guided_w3", "ess_resampled_w3", ..."""
        flat: dict[str, float] = {}
        for guidance in self.plan.guidances:
            here = [one for one in self.found if one.guidance == guidance]
            end = f"w{guidance.constant:g}"
            for name in SETS:
                flat[f"usage_tv_{name}_{end}"] = sum(one.sets[name].usage_tv for one in here) / len(here)
                flat[f"class_posterior_{name}_{end}"] = sum(one.sets[name].class_posterior for one in here) / len(here)
            flat[f"ess_weighted_{end}"] = sum(one.weighted.ess for one in here) / len(here)
            flat[f"ess_resampled_{end}"] = sum(one.resampled.ess for one in here) / len(here)
        return flat

    def to_dict(self) -> dict[str, Any]:
        """All but images, as plain numbers."""
        return {
            "version": REPORT_VERSION,
            "verdict": self.verdict,
            "plan": self.plan.describe(),
            "judged": self.judged,
            "threshold": self.options.threshold,
            "num_groups": self.options.num_groups,
            "num_reference": self.options.num_reference,
            "data": {"name": self.name, "grid_shape": list(self.grid_shape), "classes": self.classes},
            "distances": self.rows(),
            "normalizers": [row for one in self.found for row in one.normalizers()],
            "resampling": [
                {
                    **one._head, "ess_on_the_way": one.resampled.ess_on_the_way,
                    "num_resampled": one.resampled.num_resampled,
                }
                for one in self.found
            ],
            "usage": [
                {**one._head, "set": name, "usage": s.usage.tolist()}
                for one in self.found
                for name, s in one.sets.items()
            ],
        }  # fmt: skip

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Guided and resampled samples, uint8 (n, height, width), and their log-weights, float64 (n,)."""
        kept: dict[str, np.ndarray] = {}
        for one in self.found:
            end = f"{one.guidance.kind}_w{one.guidance.constant:g}_class{one.target_class}"
            for name, samples in (("guided", one.weighted), ("resampled", one.resampled)):
                x = samples.x.reshape(-1, *self.grid_shape)
                kept[f"{name}_{end}"] = x.cpu().numpy().astype(np.uint8)
                kept[f"{name}_{end}_log_weights"] = samples.log_weights.cpu().numpy()
        return kept
