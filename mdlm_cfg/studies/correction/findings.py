"""What the study of correction finds of a table: exact costs, and samples beside what is expected of them."""

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


@dataclass(frozen=True)
class Cost:
    """Exactly, what weighting the finished samples of one chain does.

    Attributes:
        guidance: strength and kind. policy: which coordinate comes next, by its name. own: whether it is the plan's.
        denoiser: "exact" or "learned".
        ess: relative effective sample size, in (0, 1].
        log_normalizer: ln E W, in nats.
        tv_guided: TV of the chain's law, unweighted, to the tilted law.
        tv_weighted: TV of its weighted law to the tilted law: 0 for exact scores.
        pays_from: from about how many samples on weighted ones are nearer to the tilted law; None is never.
    """

    guidance: Guidance
    policy: str
    own: bool
    denoiser: str
    ess: float
    log_normalizer: float
    tv_guided: float
    tv_weighted: float
    pays_from: int | None

    def row(self) -> dict[str, Any]:
        """Plain values; `cost` is how many samples one effective sample takes."""
        return {
            "w": self.guidance.constant, "kind": str(self.guidance.kind), "policy": self.policy, "own": self.own,
            "denoiser": self.denoiser, "ess": self.ess, "cost": 1 / self.ess, "log_normalizer": self.log_normalizer,
            "tv_guided": self.tv_guided, "tv_weighted": self.tv_weighted, "pays_from": self.pays_from,
        }  # fmt: skip


@dataclass(frozen=True)
class SampleRow:
    """Mean TV to the tilted law of sets of n samples.

    Attributes:
        num_samples: n. num_sets: how many sets the means are over.
        guided: as the chain gives them. weighted: the same, weighted. resampled: of sequential Monte Carlo.
        floor: the expected TV of n perfect samples of the tilted law.
        expected_guided, expected_weighted: what the exact laws say for n large; None of weighted ones where too few
            are effective for that.
    """

    guidance: Guidance
    num_samples: int
    num_sets: int
    guided: float
    weighted: float
    resampled: float
    floor: float
    expected_guided: float
    expected_weighted: float | None

    def row(self) -> dict[str, Any]:
        """Plain values."""
        tvs = {
            f"tv_{name}": getattr(self, name)
            for name in ("guided", "weighted", "resampled", "expected_guided", "expected_weighted")
        }
        return {
            "w": self.guidance.constant, "kind": str(self.guidance.kind), "num_samples": self.num_samples,
            "num_sets": self.num_sets, **tvs, "noise_floor": self.floor,
        }  # fmt: skip


@dataclass(frozen=True)
class ResamplingRow:
    """Sequential Monte Carlo at the plan's number of samples.

    Attributes:
        exact: ln E W of the same denoiser, exactly. log_normalizer: its estimate, with its relative_error.
        ess: of the final weights. ess_on_the_way, num_resampled: by step.
    """

    guidance: Guidance
    num_samples: int
    num_groups: int
    exact: float
    log_normalizer: float
    relative_error: float
    ess: float
    ess_on_the_way: tuple[float, ...]
    num_resampled: tuple[int, ...]

    @classmethod
    def of(cls, found: Weighted, guidance: Guidance, exact: float) -> ResamplingRow:
        """What a run of sequential Monte Carlo says of itself, beside the exact normaliser."""
        return cls(
            guidance, len(found.x), found.num_groups, exact, found.log_normalizer, found.relative_error, found.ess,
            found.ess_on_the_way, found.num_resampled,
        )  # fmt: skip

    def row(self) -> dict[str, Any]:
        """Plain values."""
        values = {name: value for name, value in vars(self).items() if name not in ("guidance", "exact")}
        head = {"w": self.guidance.constant, "kind": str(self.guidance.kind), "exact_log_normalizer": self.exact}
        return head | values


@dataclass(frozen=True)
class TableCorrection:
    """The tilted law of a table, sampled.

    Attributes:
        plan, options: what was asked for. target_class: z. judged: "learned" or "exact": whose samples these are.
        costs: for every guidance, denoiser and policy. rows: for every guidance and n. resampling: for every guidance.
        laws: by name, such as "tilted_w2", "guided_rate_w2", "weighted_rate_w2": of the judged denoiser.
    """

    plan: Plan
    options: Options
    target_class: int
    judged: str
    costs: list[Cost]
    samples: list[SampleRow]
    resampling: list[ResamplingRow]
    laws: dict[str, Tensor]

    def own(self, guidance: Guidance, denoiser: str | None = None) -> Cost:
        """The cost under the plan's own order; of the judged denoiser unless another is named."""
        name = denoiser or self.judged
        return next(c for c in self.costs if c.guidance == guidance and c.own and c.denoiser == name)

    def samples_at(self, guidance: Guidance) -> list[SampleRow]:
        """By n, ascending."""
        return [row for row in self.samples if row.guidance == guidance]

    @property
    def strongest(self) -> Guidance:
        """The guidance with the largest w."""
        return max(self.plan.guidances, key=lambda guidance: guidance.constant)

    @property
    def verdict(self) -> list[str]:
        """What correction would cost, in sentences."""
        g = self.strongest
        cost, last = self.own(g), self.samples_at(g)[-1]
        smc = next(row for row in self.resampling if row.guidance == g)
        at = f"w = {g.label} ({g.kind})"
        sentences = [
            f"At {at} guidance ends {cost.tv_guided:.4f} from the tilted law in total variation; weights would mend it "
            f"and leave {cost.ess:.3g} of the samples: {1 / cost.ess:.3g} samples for every effective one.",
            (
                "By their second moment, weighted samples are nearer to the tilted law than unweighted ones from about "
                f"{cost.pays_from:,} on."
                if cost.pays_from
                else "Weighted samples are at no number of samples nearer to the tilted law than unweighted ones."
            ),
            f"{last.num_samples:,} samples are {last.guided:.4f} from it as they are, {last.weighted:.4f} weighted, "
            f"{last.resampled:.4f} with resampling on the way; perfect ones would be {last.floor:.4f}.",
            f"Resampling keeps {smc.ess:.3g} of the samples and estimates ln E W = {smc.log_normalizer:.4f} ± "
            f"{smc.relative_error:.4f}, where it is {smc.exact:.4f}.",
        ]
        if self.judged == "learned":
            sentences.append(
                f"The network's weighted law, averaged over orders, is {cost.tv_weighted:.4f} from the tilted law, its "
                f"guided law {cost.tv_guided:.4f} (with exact scores {self.own(g, 'exact').tv_guided:.4f})."
            )
        return sentences

    def rows(self) -> list[dict[str, Any]]:
        """One row per guidance and number of samples."""
        return [row.row() for row in self.samples]

    def numbers(self) -> dict[str, float]:
        """Of the judged denoiser and the plan's order: "ess_w2", "log_normalizer_w2", "tv_guided_w2", ..."""
        flat: dict[str, float] = {}
        for guidance in self.plan.guidances:
            cost, last = self.own(guidance), self.samples_at(guidance)[-1]
            end = f"w{guidance.constant:g}"
            flat |= {f"ess_{end}": cost.ess, f"log_normalizer_{end}": cost.log_normalizer}
            flat |= {f"tv_guided_{end}": last.guided, f"tv_weighted_{end}": last.weighted}
            flat |= {f"tv_resampled_{end}": last.resampled}
        return flat

    def to_dict(self) -> dict[str, Any]:
        """Everything but the laws, as plain values."""
        return {
            "version": REPORT_VERSION,
            "verdict": self.verdict,
            "plan": self.plan.describe(),
            "target_class": self.target_class,
            "judged": self.judged,
            "threshold": self.options.threshold,
            "num_groups": self.options.num_groups,
            "costs": [cost.row() for cost in self.costs],
            "distances": self.rows(),
            "resampling": [row.row() for row in self.resampling],
            "laws": sorted(self.laws),
        }

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The laws, float64 (N, ..., N)."""
        return {name: law.numpy() for name, law in self.laws.items()}
