"""What a study of a Bernoulli mixture finds: score errors, guided samples beside exact ones, pixels and components."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mdlm_cfg.compare.mixtures import ComponentPicture, PixelPicture
from mdlm_cfg.compare.score_error import ScoreError
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan

STATISTICS = ("mean_rms", "covariance", "component_tv", "energy")
SATURATED = 1e-3  # nats: components that differ less in distinctness cannot be ranked by it
Row = dict[str, float]


@dataclass(frozen=True)
class Distinctness:
    """How surely the images of each component tell the class, whole or partial ones: E log p(x | z) / p(x) in nats.

    Attributes:
        values: float64 (classes, C).
    """

    values: Tensor

    @property
    def centred(self) -> Tensor:
        """Less the mean of the component's class, (classes, C)."""
        return self.values - self.values.mean(dim=1, keepdim=True)

    @property
    def mean(self) -> float:
        """Over all components, in nats."""
        return float(self.values.mean())

    @property
    def spread(self) -> float:
        """Standard deviation within classes, in nats."""
        return float(self.centred.std())

    @property
    def ranks(self) -> bool:
        """Whether components differ enough to be ranked."""
        return self.spread > SATURATED


@dataclass(frozen=True)
class SetsAtStrength:
    """Everything at one guidance strength.

    Attributes:
        samples: by set ("exact", and "learned" where there is one), uint8 (classes, n, D), on the CPU.
        by_class: what is compared with the exact guided samples, and its `STATISTICS` per class. "learned": the
            network's samples; "floor": other exact ones; "class": the class's own, unguided.
        compared: means of those over classes.
        pixels, components: by set; of "exact" twice as many samples.
        exact_means: pixel means of exact samples, (classes, D).
    """

    samples: dict[str, Tensor]
    by_class: dict[str, list[Row]]
    compared: dict[str, Row]
    pixels: dict[str, PixelPicture]
    components: dict[str, ComponentPicture]
    exact_means: Tensor

    @property
    def mean_errors(self) -> Tensor:
        """Pixel means of the network's samples less those of exact ones, (classes, D)."""
        return self.samples["learned"].double().mean(dim=1) - self.exact_means


@dataclass(frozen=True)
class BernoulliEvaluation:
    """Guided samples of a Bernoulli mixture by its exact denoiser and by a learned one.

    Attributes:
        plan: what was asked for: guidances, sampler, number of samples per class, strength and set, seed.
        name: of the data. grid_shape: (height, width).
        classes: which were sampled.
        score: "conditional" and "null"; empty without a learned denoiser.
        at: by w.
        distinct: of components, by whole images; distinct_partial: by partial ones.
    """

    plan: Plan
    name: str
    grid_shape: tuple[int, ...]
    classes: list[int]
    score: dict[str, ScoreError]
    at: dict[float, SetsAtStrength]
    distinct: Distinctness
    distinct_partial: Distinctness

    @property
    def strengths(self) -> list[float]:
        """The guidance strengths, in the order asked for."""
        return list(self.at)

    @property
    def kind(self) -> str:
        """The kind of guidance, one for all strengths."""
        return str(self.plan.guidances[0].kind)

    @property
    def has_learned(self) -> bool:
        """Whether a learned denoiser was judged."""
        return bool(self.score)

    def against_w(self, name: str, statistic: str) -> list[float]:
        """One of `STATISTICS` of a set, in the order of the strengths."""
        return [self.at[w].compared[name][statistic] for w in self.strengths]

    def rank_correlation_whole(self, w: float, name: str) -> float | None:
        """Gains of components against distinctness by whole images; None where those do not differ."""
        return self.at[w].components[name].rank_correlation if self.distinct.ranks else None

    def rows(self) -> list[dict[str, float | int | str]]:
        """Flat rows: per w, set and class; class "all" is their mean."""
        rows: list[dict[str, float | int | str]] = []
        for w in self.strengths:
            head: dict[str, float | int | str] = {"w": w, "kind": self.kind}
            for name, by_class in self.at[w].by_class.items():
                rows += [{**head, "set": name, "class": k, **row} for k, row in zip(self.classes, by_class)]
                rows.append({**head, "set": name, "class": "all", **self.at[w].compared[name]})
        return rows

    @property
    def verdict(self) -> list[str]:
        """What the network has wrong, and how far its samples and guidance go, in sentences."""
        strongest = max(self.strengths)
        compared = self.at[strongest].compared
        sentences = [
            f"The score error is {error.difference:.2f} +- {error.difference_se:.2f} nats per image "
            f"({'with the class' if label == 'conditional' else 'without class'})."
            for label, error in self.score.items()
        ]
        distances = ", ".join(f"{name} {row['energy']:.4f}" for name, row in compared.items())
        return [*sentences, f"Energy distance to exact guided samples at w = {strongest:g}: {distances}."]

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "score_error_conditional", "energy_learned_w2", and so on."""
        flat: dict[str, float] = {}
        for label, error in self.score.items():
            flat |= {f"score_error_{label}": error.difference, f"score_error_{label}_se": error.difference_se}
            flat |= {f"score_kl_{label}": error.kl, f"score_kl_{label}_se": error.kl_se}
        for w, found in self.at.items():
            for name, row in found.compared.items():
                flat |= {f"{key}_{name}_w{w:g}": value for key, value in row.items()}
            for name, pixels in found.pixels.items():
                flat[f"pixel_correlation_{name}_w{w:g}"] = pixels.correlation
                flat[f"component_rank_correlation_{name}_w{w:g}"] = found.components[name].rank_correlation_partial
        return flat

    def arrays(self) -> dict[str, np.ndarray]:
        """Every sample by set and strength, "exact_w2", uint8 (classes, n, height, width)."""
        return {
            f"{name}_w{w:g}": x.reshape(*x.shape[:2], *self.grid_shape).numpy()
            for w in self.strengths
            for name, x in self.at[w].samples.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """All but images and scatter plots, as plain numbers."""
        return {
            "version": REPORT_VERSION,
            "verdict": self.verdict,
            "plan": self.plan.describe(),
            "data": {"name": self.name, "grid_shape": list(self.grid_shape), "classes": list(self.classes)},
            "distances": self.rows(),
            "score_error": {label: asdict(error) for label, error in self.score.items()},
            "pixels": [row for w in self.strengths for row in self._pixel_rows(w)],
            "components": [row for w in self.strengths for row in self._component_rows(w)],
            "distinctness": {
                f"{name}_{key}": value
                for name, found in (("whole", self.distinct), ("partial", self.distinct_partial))
                for key, value in (("mean", found.mean), ("spread", found.spread))
            },
        }

    def _pixel_rows(self, w: float) -> list[dict[str, Any]]:
        return [
            {
                "w": w, "kind": self.kind, "set": name, "correlation": p.correlation,
                "tilt_correlation": p.tilt_correlation, "slope": p.slope,
                **{f"change_{group}": change for group, change in p.groups.items()},
            }
            for name, p in self.at[w].pixels.items()
        ]  # fmt: skip

    def _component_rows(self, w: float) -> list[dict[str, Any]]:
        return [
            {
                "w": w, "kind": self.kind, "set": name, "rank_correlation_partial": c.rank_correlation_partial,
                "rank_correlation_whole": self.rank_correlation_whole(w, name), "components_in_use": c.entropy,
            }
            for name, c in self.at[w].components.items()
        ]  # fmt: skip
