"""What a study of sequences finds: score errors, guided samples beside exact ones, and what order and steps change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.compare.score_error import ScoreError
from mdlm_cfg.compare.sequences import SequenceStatistics
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan

EXACT, LEARNED, FLOOR, CLASS = "exact", "learned", "floor", "class"
STATISTICS = ("posterior", "posterior_se", "log_prob", "log_prob_se", "impossible", "diversity", "pair_entropy")
Row = dict[str, Any]


@dataclass(frozen=True)
class SequenceSet:
    """One set of sequences at one guidance strength, as the class and the exact guided samples see it.

    Attributes:
        w: of its guidance.
        name: "exact", "learned", "floor" (exact ones again: what the noise of n samples looks like) or "class" (draws
            of the class itself, unguided).
        sampler: that drew it; None for the class itself.
        statistics: of the set.
        tv_class: TV of its n-grams to the class's own law of them, by n.
        tv_exact: TV of its n-grams to those of the exact guided samples, by n; empty for these themselves.
    """

    w: float
    name: str
    sampler: Sampler | None
    statistics: SequenceStatistics
    tv_class: dict[int, float]
    tv_exact: dict[int, float]

    def row(self) -> Row:
        """Flat plain numbers."""
        numbers = {name: getattr(self.statistics, name) for name in STATISTICS}
        numbers |= {f"tv_class_{n}": value for n, value in self.tv_class.items()}
        return numbers | {f"tv_exact_{n}": value for n, value in self.tv_exact.items()}


@dataclass(frozen=True)
class SequenceFindings:
    """Guided sequences by exact and by learned conditionals.

    Attributes:
        plan: what was asked for. name: of the data. target_class: z.
        num_tokens: N; num_dims: D. class_names, value_names: where there are any.
        grams: the lengths n of n-grams that were counted.
        score: "conditional" and "null"; empty without a learned denoiser.
        sets: of every strength, by the plan's sampler.
        compared: other orders and numbers of steps, at the weakest and the strongest strength; may be empty.
        aligned: by denoiser and w, sequences (m, D) by the same random numbers, one position after another in the same
            random order.
        samples: every set of `sets`, by its name in arrays.npz, (n, D).
    """

    plan: Plan
    name: str
    target_class: int
    num_tokens: int
    num_dims: int
    class_names: tuple[str, ...] | None
    value_names: tuple[str, ...] | None
    grams: list[int]
    score: dict[str, ScoreError]
    sets: list[SequenceSet]
    compared: list[SequenceSet]
    aligned: dict[str, dict[float, Tensor]]
    samples: dict[str, Tensor]

    @property
    def kind(self) -> str:
        """The kind of guidance, one for all strengths."""
        return str(self.plan.guidances[0].kind)

    @property
    def strengths(self) -> list[float]:
        """The guidance strengths, in the order asked for."""
        return [guidance.constant for guidance in self.plan.guidances]

    @property
    def has_learned(self) -> bool:
        """Whether a learned denoiser was judged."""
        return bool(self.score)

    @property
    def names(self) -> list[str]:
        """The sets that every strength has, in order."""
        return list(dict.fromkeys(one.name for one in self.sets))

    def at(self, w: float, name: str) -> SequenceSet:
        """One of `sets`."""
        return next(one for one in self.sets if (one.w, one.name) == (w, name))

    @property
    def verdict(self) -> list[str]:
        """What the network has wrong, what guidance does, and what the fastest samplers lose, in sentences."""
        sentences = [
            f"The score error is {error.kl:.2f} ± {error.kl_se:.2f} nats per sequence "
            f"{'with the class' if label == 'conditional' else 'without class'}, of {error.entropy:.1f}."
            for label, error in self.score.items()
        ]
        w = max(self.strengths)
        own, *guided = (self.at(w, name) for name in (CLASS, EXACT, *([LEARNED] if self.has_learned else [])))
        whose = "; ".join(
            f"{one.name} scores {one.statistics.posterior:.3f} and {one.statistics.log_prob:.1f}" for one in guided
        )
        sentences.append(
            f"At w = {w:g}, class posterior and log-likelihood (nats): the class itself "
            f"{own.statistics.posterior:.3f} and {own.statistics.log_prob:.1f}; {whose}."
        )
        if 2 in self.grams:
            named = ", ".join(f"{one.name} {one.tv_class[2]:.3f}" for one in (own, *guided))
            sentences.append(f"Their pairs of neighbours, in TV to the class's own law: {named}.")
            others = {one: self.at(w, one).tv_exact[2] for one in (LEARNED, FLOOR) if one in self.names}
            if self.has_learned:
                sentences.append(
                    f"The network's pairs are {others[LEARNED]:.3f} from those of exact guided samples, where as many "
                    f"exact samples again are {others[FLOOR]:.3f} from them."
                )
        return [*sentences, *self._of_the_samplers(w)]

    def _of_the_samplers(self, w: float) -> list[str]:
        exact = [one for one in self.compared if (one.w, one.name) == (w, EXACT)]
        if not exact:
            return []
        best, worst = (pick(exact, key=lambda one: one.statistics.log_prob) for pick in (max, min))
        return [
            f"Of {len(exact)} orders and numbers of calls on exact scores at w = {w:g}, log-likelihoods run from "
            f"{worst.statistics.log_prob:.1f} ({_label(worst)}) to {best.statistics.log_prob:.1f} ({_label(best)})."
        ]

    def rows(self) -> list[Row]:
        """Flat rows, one for each strength and set."""
        return [{"w": one.w, "kind": self.kind, "set": one.name, **one.row()} for one in self.sets]

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "score_kl_conditional", "posterior_learned_w2", and so on."""
        flat: dict[str, float] = {}
        for label, error in self.score.items():
            flat |= {f"score_error_{label}": error.difference, f"score_error_{label}_se": error.difference_se}
            flat |= {f"score_kl_{label}": error.kl, f"score_kl_{label}_se": error.kl_se}
        for one in self.sets:
            numbers = {key: value for key, value in one.row().items() if value is not None}
            flat |= {f"{key}_{one.name}_w{one.w:g}": value for key, value in numbers.items()}
        return flat

    def to_dict(self) -> dict[str, Any]:
        """All but the sequences, as plain numbers."""
        compared = [
            {
                "w": one.w, "kind": self.kind, "denoiser": one.name, **one.sampler.describe(),
                "calls": one.sampler.calls(self.num_dims), **one.row(),
            }
            for one in self.compared
            if one.sampler is not None
        ]  # fmt: skip
        return to_plain(
            {
                "version": REPORT_VERSION,
                "verdict": self.verdict,
                "plan": self.plan.describe(),
                "data": {"name": self.name, "classes": [self.target_class]},
                "distances": self.rows(),
                "score_error": {label: _plain_error(error) for label, error in self.score.items()},
                "samplers": compared,
            }
        )

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The samples of every set, (n, D), and the aligned ones, (m, D): the smallest whole numbers that hold them."""
        small = torch.uint8 if self.num_tokens <= 256 else torch.int32
        aligned = {f"aligned_{name}_w{w:g}": x for name, by_w in self.aligned.items() for w, x in by_w.items()}
        return {name: x.to(small).numpy() for name, x in (self.samples | aligned).items()}


def _label(one: SequenceSet) -> str:
    return "the class itself" if one.sampler is None else one.sampler.label


def _plain_error(error: ScoreError) -> dict[str, Any]:
    plain = asdict(error)
    return plain | {"num_sequences": plain.pop("num_images")}
