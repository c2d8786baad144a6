"""The laws of one target at one guidance, and how far apart they are (theory, section 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.metrics import (
    Estimate,
    kl_divergence,
    mean_and_covariance,
    relative_difference,
    total_variation,
)

LAWS = ("class", "tilted", "exact", "learned", "samples")
Row = dict[str, float | str | None]


@dataclass(frozen=True)
class Moments:
    """Mean (D,), covariance (D, D) and its ascending eigenvalues (D,), in units of the values 0..N-1."""

    mean: Tensor
    covariance: Tensor
    eigenvalues: Tensor


@dataclass(frozen=True)
class SampleTV:
    """TV between a law and samples, its bootstrap interval, and the mean TV of as many exact samples."""

    estimate: Estimate
    floor: float


@dataclass(frozen=True)
class StrengthEvaluation:
    """Everything at one guidance strength.

    Attributes:
        guidance: strength and kind.
        laws: by name (`LAWS`), float64 (N,)*D each; "learned" only where there is a learned denoiser, "tilted" only
            where the strength is one number.
        moments: of every law.
        sample_tv: of the samples to "exact", and to "learned" if there is one.
        samples: int64 (n, D).
    """

    guidance: Guidance
    laws: dict[str, Tensor]
    moments: dict[str, Moments]
    sample_tv: dict[str, SampleTV]
    samples: Tensor

    @property
    def w(self) -> float:
        """The strength, where it is one number."""
        return self.guidance.constant

    def tv(self, first: str, second: str) -> float | None:
        """TV between two laws by name; None if one of them is absent."""
        if first not in self.laws or second not in self.laws:
            return None
        return total_variation(self.laws[first], self.laws[second])

    def kl(self, first: str, second: str) -> float | None:
        """KL(first || second) in nats, inf where the second lacks support; None if one of them is absent."""
        if first not in self.laws or second not in self.laws:
            return None
        return kl_divergence(self.laws[first], self.laws[second])

    @property
    def guidance_effect(self) -> float:
        """TV(class, exact): how far guidance moves the law."""
        return total_variation(self.laws["class"], self.laws["exact"])

    @property
    def gap_to_tilted(self) -> float:
        """TV(tilted, exact): how far the guided chain ends from the tilted law; 0 in one dimension.

        A schedule has no tilted law: `tv("tilted", "exact")` is None for it.
        """
        return total_variation(self.laws["tilted"], self.laws["exact"])

    @property
    def score_error(self) -> float | None:
        """TV(exact, learned): exact scores against the network's, both in exact time."""
        return self.tv("exact", "learned")

    def covariance_difference(self, name: str) -> dict[str, float] | None:
        """Relative difference of a law's covariance to the exact one's, in Frobenius and spectral norm."""
        if name not in self.moments:
            return None
        return relative_difference(self.moments[name].covariance, self.moments["exact"].covariance)

    def row(self) -> Row:
        """The numbers of this strength under flat names; what is of a law that is absent is absent.

        But what is of the tilted law is None where a schedule has none: the other rows of a table may have one.
        """
        row: Row = {
            "w": self.guidance.written,
            "kind": str(self.guidance.kind),
            "tv_class_exact": self.guidance_effect,
            "tv_tilted_exact": self.tv("tilted", "exact"),
            "tv_exact_learned": self.score_error,
        }
        for name in ("exact", "learned"):
            found = self.sample_tv.get(name)
            row[f"tv_{name}_samples"] = found.estimate.value if found else None
            row[f"tv_{name}_samples_low"] = found.estimate.low if found else None
            row[f"tv_{name}_samples_high"] = found.estimate.high if found else None
            row[f"noise_floor_{name}"] = found.floor if found else None
        for name in ("class", "tilted", "learned"):
            row[f"kl_exact_{name}"] = self.kl("exact", name)
        for name in ("class", "tilted", "learned", "samples"):
            difference = self.covariance_difference(name)
            row[f"covariance_{name}_frobenius"] = difference["frobenius"] if difference else None
            row[f"covariance_{name}_spectral"] = difference["spectral"] if difference else None
        return {key: value for key, value in row.items() if value is not None or "tilted" in key}


def strength_key(guidance: Guidance) -> str:
    """A strength within the names of laws and numbers: "w2", "w0.5", "wramp(0,4)", "w2_temperature0.7"."""
    w = guidance.written
    key = f"w{w}" if isinstance(w, str) else f"w{int(w)}" if w.is_integer() else f"w{w!r}"
    more = {"temperature": guidance.temperature, "top_p": guidance.top_p}
    return "_".join([key, *(f"{what}{value!r}" for what, value in more.items() if value != 1)])


def moments_of(law: Tensor) -> Moments:
    """Mean, covariance and the covariance's eigenvalues of a law (N,)*D."""
    mean, covariance = mean_and_covariance(law)
    return Moments(mean, covariance, torch.linalg.eigvalsh(covariance))
