"""The distributions of one class of a table under guidance, side by side (theory, section 8).

The studies of the default report of a table read the same `TableEvaluation`: each distribution is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.divergence import divergence_from, log_terminal_law
from mdlm_cfg.compare.metrics import (
    Estimate,
    expected_sampling_tv,
    histogram,
    mean_and_covariance,
    relative_difference,
    sampled_tv,
    total_variation,
)
from mdlm_cfg.laws.terminal import log_tilted_law, tilted_law
from mdlm_cfg.studies.common import TABLE, law_made, law_piece
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case, Needs, Piece
from mdlm_cfg.targets.table import TableMixture

LAWS = ("class", "tilted", "exact", "learned", "samples")
BOOTSTRAP_RESAMPLES = 200
BOOTSTRAP_CELLS = 2**26  # numbers that a bootstrap may hold at a time: fewer resamples of larger distributions
MIN_RESAMPLES = 20
TABLE_NEEDS = Needs(**TABLE, one_class=True, rules=True, guided=True)


@dataclass(frozen=True)
class Moments:
    """Mean (D,), covariance (D, D) and its ascending eigenvalues (D,), in units of the values 0..N-1."""

    mean: Tensor
    covariance: Tensor
    eigenvalues: Tensor


@dataclass(frozen=True)
class SampleTV:
    """TV between a distribution and samples with its bootstrap interval, and the mean TV of as many exact samples."""

    estimate: Estimate
    floor: float


@dataclass(frozen=True)
class StrengthEvaluation:
    """Everything at one guidance.

    Attributes:
        guidance: strength and kind.
        laws: by name (`LAWS`), float64 (N,)*D each; "learned" only where there is a learned denoiser that is small
            enough, "tilted" only where the strength is one number.
        moments: of every distribution.
        sample_tv: of the samples to "exact", and to "learned" if there is one.
        kl: KL(exact || distribution) in nats, by the name of the distribution; inf where that one lacks support.
        samples: int64 (n, D).
    """

    guidance: Guidance
    laws: Mapping[str, Tensor]
    moments: Mapping[str, Moments]
    sample_tv: Mapping[str, SampleTV]
    kl: Mapping[str, float]
    samples: Tensor

    def tv(self, first: str, second: str) -> float | None:
        """TV between two distributions by name; None if one of them is absent."""
        if first not in self.laws or second not in self.laws:
            return None
        return total_variation(self.laws[first], self.laws[second])

    @property
    def w(self) -> float:
        """The strength, where it is one number."""
        return self.guidance.one_strength

    @property
    def guidance_effect(self) -> float:
        """TV(class, exact): how far guidance moves the class."""
        return total_variation(self.laws["class"], self.laws["exact"])

    @property
    def gap_to_tilted(self) -> float:
        """TV(tilted, exact): how far the guided chain ends from the tilted distribution; numbers w alone have it."""
        return total_variation(self.laws["tilted"], self.laws["exact"])

    def covariance_difference(self, name: str) -> Mapping[str, float] | None:
        """Relative difference of a covariance to the exact one, in Frobenius and spectral norm; None if absent."""
        if name not in self.moments:
            return None
        return relative_difference(self.moments[name].covariance, self.moments["exact"].covariance)


@dataclass(frozen=True)
class TableEvaluation:
    """Distributions and distances of one class of a table, for every guidance of a plan.

    Attributes:
        plan: of the evaluation. target_class: z. num_classes: K.
        judged: whose samples these are: "learned" or "exact".
        class_law: p(. | z), (N,)*D.
        others_law: sum over the other classes of a_k p(. | k), (N,)*D: where the class overlaps with others.
        results: one per guidance, in the order of the plan.
        value_names: of the N values, for people; None is numbers.
    """

    plan: Plan
    target_class: int
    num_classes: int
    judged: str
    class_law: Tensor
    others_law: Tensor
    results: Sequence[StrengthEvaluation]
    value_names: Sequence[str] | None = None

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.class_law.shape[0]

    @property
    def num_dims(self) -> int:
        """D."""
        return self.class_law.ndim

    @property
    def law_names(self) -> list[str]:
        """Which of `LAWS` there are for any of the guidances, in that order."""
        return [name for name in LAWS if any(name in result.laws for result in self.results)]

    @property
    def has_learned(self) -> bool:
        """Whether there is a learned distribution: of a network that is small enough for one."""
        return LEARNED in self.results[0].laws

    @property
    def follows(self) -> str | None:
        """The distribution that the samples have in exact time; None where it is out of reach."""
        if self.judged == EXACT:
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
        case.made[key] = _evaluation(case)
    found: TableEvaluation = case.made[key]
    return found


def _evaluation(case: Case) -> TableEvaluation:
    target: TableMixture = case.target
    weights = target.class_weights.clone()
    weights[case.one_class] = 0
    return TableEvaluation(
        plan=case.plan,
        target_class=case.one_class,
        num_classes=target.num_classes,
        judged=case.judged,
        class_law=target.class_pmf(case.one_class),
        others_law=torch.tensordot(weights, target.class_pmfs, dims=1),
        results=[_result(case, guidance) for guidance in case.plan.guidances],
        value_names=target.value_names,
    )


def _result(case: Case, guidance: Guidance) -> StrengthEvaluation:
    target = case.target
    z = case.one_class
    policy = case.plan.sampler.policy
    laws: dict[str, Tensor] = {"class": target.class_pmf(z)}
    if guidance.has_tilted:
        laws["tilted"] = tilted_law(target, guidance, z)
    for who in case.denoisers:
        if (law := law_made(case, who, guidance, z, policy)) is not None:
            laws[who] = law
    x = case.made.of(_samples, guidance)
    generator = case.plan.generator("bootstrap", guidance, z, num_dims=target.num_dims)
    resamples = max(MIN_RESAMPLES, min(BOOTSTRAP_RESAMPLES, BOOTSTRAP_CELLS // max(laws[EXACT].numel(), len(x))))
    sample_tv = {
        who: SampleTV(sampled_tv(laws[who], x, resamples, generator), expected_sampling_tv(laws[who], len(x)))
        for who in (EXACT, LEARNED)
        if who in laws
    }
    log_laws: dict[str, Callable[[], Tensor]] = {
        "class": lambda: laws["class"].log(),
        "tilted": lambda: log_tilted_law(target, guidance, z),
        LEARNED: lambda: log_terminal_law(case.denoiser(LEARNED), guidance, z, policy),
    }
    kl = {name: divergence_from(laws[EXACT], laws[name], log_q) for name, log_q in log_laws.items() if name in laws}
    laws["samples"] = histogram(x, target.num_tokens)
    moments = {name: moments_of(law) for name, law in laws.items()}
    return StrengthEvaluation(guidance, laws, moments, sample_tv, kl, x)


def moments_of(law: Tensor) -> Moments:
    """Mean, covariance and the covariance's eigenvalues of a distribution (N,)*D."""
    mean, covariance = mean_and_covariance(law)
    return Moments(mean, covariance, torch.linalg.eigvalsh(covariance))


def strongest(evaluation: TableEvaluation) -> StrengthEvaluation:
    """The result of the largest number; of the first schedule where there are schedules alone."""
    numbers = [result for result in evaluation.results if not result.guidance.is_schedule]
    return max(numbers, key=lambda result: result.w) if numbers else evaluation.results[0]


def array_name(name: str, guidance: Guidance, key: str) -> str:
    """The name of a distribution in laws.npz, such as "exact_rate_w2"; the tilted one depends on w alone."""
    return f"{name}_{key}" if name == "tilted" else f"{name}_{guidance.kind}_{key}"
