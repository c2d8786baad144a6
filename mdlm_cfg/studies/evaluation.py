"""The distributions of one class of a table under guidance, side by side (theory, section 8).

The studies of the default report of a table read the same `TableEvaluation`: each distribution is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, total_variation
from mdlm_cfg.laws.terminal import tilted_law
from mdlm_cfg.studies.common import TABLE, law_made, law_piece
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case, Needs, Piece
from mdlm_cfg.targets.table import TableMixture

LAWS = ("class", "tilted", "exact", "learned", "samples")
NOTHING = 1e-12  # smaller values are rounding
TABLE_NEEDS = Needs(**TABLE, one_class=True, rules=True, guided=True)


@dataclass(frozen=True)
class StrengthEvaluation:
    """All results for one guidance.

    Attributes:
        guidance: strength and kind.
        laws: by name (`LAWS`), float64 (N,)*D each; "learned" only if there is a learned denoiser that is small
            enough, "tilted" only if the strength is one number.
        noise_floors: the mean TV of the same number of samples from "exact", and from "learned" if there is one.
        samples: int64 (n, D).
    """

    guidance: Guidance
    laws: Mapping[str, Tensor]
    noise_floors: Mapping[str, float]
    samples: Tensor

    def tv(self, first: str, second: str) -> float | None:
        """TV between two distributions by name; None if one of them is absent."""
        if first not in self.laws or second not in self.laws:
            return None
        return total_variation(self.laws[first], self.laws[second])

    @property
    def w(self) -> float:
        """The strength, if it is one number."""
        return self.guidance.one_strength

    @property
    def guidance_effect(self) -> float:
        """TV(class, exact): how far guidance moves the class."""
        return total_variation(self.laws["class"], self.laws["exact"])

    @property
    def gap_to_tilted(self) -> float:
        """TV(tilted, exact): how far the guided chain ends from the tilted distribution; only for a number w."""
        return total_variation(self.laws["tilted"], self.laws["exact"])


@dataclass(frozen=True)
class TableEvaluation:
    """Distributions and distances of one class of a table, for every guidance of the plan of a case.

    Attributes:
        case: the input. results: one per guidance, in the order of the plan.
    """

    case: Case
    results: Sequence[StrengthEvaluation]

    @property
    def target(self) -> TableMixture:
        """The table."""
        target: TableMixture = self.case.target
        return target

    @property
    def target_class(self) -> int:
        """z."""
        return self.case.one_class

    @property
    def strongest(self) -> StrengthEvaluation:
        """The result of the plan's strongest guidance."""
        return next(result for result in self.results if result.guidance == self.case.plan.strongest)

    @property
    def learned(self) -> Denoiser | None:
        """The learned denoiser as a table, if there is one that is small enough."""
        return self.case.table(LEARNED) if self.case.has_learned else None

    @property
    def law_names(self) -> list[str]:
        """The names in `LAWS` that exist for any guidance, in that order."""
        return [name for name in LAWS if any(name in result.laws for result in self.results)]

    @property
    def has_learned(self) -> bool:
        """Whether there is a learned distribution, of a small enough network."""
        return LEARNED in self.results[0].laws

    @property
    def follows(self) -> str | None:
        """The distribution of the samples in continuous time; None if it cannot be computed."""
        if self.case.judged == EXACT:
            return EXACT
        return LEARNED if self.has_learned else None


def evaluation_pieces(case: Case) -> Iterable[Piece]:
    """Every distribution and set of samples that `evaluation_of` reads."""
    z = case.one_class
    plan = case.plan
    for guidance in plan.guidances:
        yield law_piece(case, EXACT, guidance, z, plan.sampler.policy)
        if case.has_learned and case.table(LEARNED) is not None:
            yield law_piece(case, LEARNED, guidance, z, plan.sampler.policy)
        yield case.piece(_samples, guidance, label=f"{plan.num_samples:,} samples at w = {guidance.label}")


def _samples(case: Case, guidance: Guidance) -> Tensor:
    plan = case.plan
    z = case.one_class
    generator = plan.generator("table samples", guidance, z, num_dims=case.target.num_dims)
    return plan.sampler.draw(case.denoiser(case.judged), guidance, z, plan.num_samples, generator)


def evaluation_of(case: Case) -> TableEvaluation:
    """The results of the pieces of `evaluation_pieces` for a case; assembled once."""
    key = ("evaluation",)
    if key not in case.made:
        case.made[key] = TableEvaluation(case, [_result(case, guidance) for guidance in case.plan.guidances])
    found: TableEvaluation = case.made[key]
    return found


def _result(case: Case, guidance: Guidance) -> StrengthEvaluation:
    target = case.target
    z = case.one_class
    laws: dict[str, Tensor] = {"class": target.class_pmf(z)}
    if guidance.has_tilted:
        laws["tilted"] = tilted_law(target, guidance, z)
    for who in case.denoisers:
        if (law := law_made(case, who, guidance, z, case.plan.sampler.policy)) is not None:
            laws[who] = law
    x = case.made.of(_samples, guidance)
    floors = {who: expected_sampling_tv(laws[who], len(x)) for who in (EXACT, LEARNED) if who in laws}
    laws["samples"] = histogram(x, target.num_tokens)
    return StrengthEvaluation(guidance, laws, floors, x)


def eigenvalues_of(covariance: Tensor) -> list[float]:
    """The eigenvalues of a covariance, descending; rounding is set to 0."""
    found = torch.linalg.eigvalsh(covariance).flip(0).tolist()
    return [value if abs(value) > NOTHING else 0.0 for value in found]


def array_name(name: str, guidance: Guidance, key: str) -> str:
    """The name of a distribution in laws.npz, such as "exact_rate_w2"; the tilted one depends only on w."""
    return f"{name}_{key}" if name == "tilted" else f"{name}_{guidance.kind}_{key}"
