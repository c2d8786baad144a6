"""The laws of one target under guidance, side by side, and how far apart they are (theory, section 8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.compare.metrics import (
    Estimate,
    expected_sampling_tv,
    histogram,
    kl_divergence,
    mean_and_covariance,
    relative_difference,
    sampled_tv,
    total_variation,
)
from mdlm_cfg.laws.push import terminal_law, tilted_law
from mdlm_cfg.sampling.sampler import Steps, check_sampler, sample
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.targets.table import TableMixture, check_class

LAWS = ("class", "tilted", "exact", "learned", "samples")
SETTINGS = (
    *("target_class", "num_classes", "num_tokens", "num_dims", "fingerprint"),
    *("kind", "sampler", "steps", "schedule", "num_samples", "seed"),
)
BOOTSTRAP_RESAMPLES = 200
BOOTSTRAP_CELLS = 2**26  # numbers a bootstrap may hold at a time: fewer resamples of larger laws
MIN_RESAMPLES = 20


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
        w: the strength.
        laws: by name (`LAWS`), float64 (N,)*D each; "learned" only where there is a learned denoiser.
        moments: of every law.
        sample_tv: of the samples to "exact", and to "learned" if there is one.
    """

    w: float
    laws: dict[str, Tensor]
    moments: dict[str, Moments]
    sample_tv: dict[str, SampleTV]

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
        """TV(tilted, exact): how far the guided chain ends from the tilted law; 0 in one dimension."""
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

    def row(self) -> dict[str, float | None]:
        """The numbers of this strength under flat names; None where a law is absent."""
        row: dict[str, float | None] = {
            "w": self.w,
            "tv_class_exact": self.guidance_effect,
            "tv_tilted_exact": self.gap_to_tilted,
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
        return row


@dataclass(frozen=True)
class TableEvaluation:
    """Laws and distances of one class of a table, for a list of guidance strengths.

    Attributes:
        target_class: z.
        class_law: p(. | z), (N,)*D.
        others_law: sum over the other classes of a_k p(. | k), (N,)*D: where z overlaps with anything else.
        fingerprint: tells which table this was.
        results: one per strength, in the order asked for.
    """

    target_class: int
    num_classes: int
    kind: str
    sampler: str
    steps: int | list[float] | None
    schedule: str | None
    num_samples: int
    seed: int
    fingerprint: str
    class_law: Tensor
    others_law: Tensor
    results: list[StrengthEvaluation]

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
        """Which of `LAWS` there are, in that order."""
        return [name for name in LAWS if name in self.results[0].laws]

    @property
    def has_learned(self) -> bool:
        """Whether a learned denoiser was evaluated, and not the exact one alone."""
        return "learned" in self.results[0].laws

    def laws(self) -> dict[str, Tensor]:
        """Every law under its name in laws.npz: "class", "tilted_w2", "exact_rate_w2", and so on."""
        laws = {"class": self.class_law}
        for result in self.results:
            for name in self.law_names[1:]:
                laws[law_key(name, self.kind, result.w)] = result.laws[name]
        return laws

    def rows(self) -> list[dict[str, float | None]]:
        """One flat row of numbers per strength, for a table or a csv file."""
        return [result.row() for result in self.results]

    def to_dict(self) -> dict[str, Any]:
        """All but the laws themselves, in plain JSON types ("inf" and "nan" as strings, absent as None)."""
        head = {name: getattr(self, name) for name in SETTINGS}
        results = [
            result.row() | {"moments": {name: vars(moments) for name, moments in result.moments.items()}}
            for result in self.results
        ]
        return to_plain(head | {"laws": list(self.laws()), "results": results})


def evaluate_table(
    target: TableMixture,
    denoiser: Denoiser | None,
    strengths: Sequence[float],
    target_class: int,
    kind: str = "rate",
    sampler: str = "first_hitting",
    steps: Steps | None = None,
    schedule: Schedule | None = None,
    num_samples: int = 10_000,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> TableEvaluation:
    """Laws of a table under guidance: the class, the tilted and the exact law, the network's, and samples.

    Args:
        target: the distribution, known exactly.
        denoiser: the learned one; None evaluates (and samples with) the exact one alone.
        strengths: guidance strengths w >= -1 (gamma = 1 + w in other codes), each once.
        target_class: z in 0..K-1.
        kind: "rate" or "normalized".
        sampler: how the samples are drawn; see `mdlm_cfg.sampling.sampler.sample`.
        steps: the sampler's number of steps, or its grid of clock times; None for first_hitting.
        schedule: the sampler's noise schedule.
        num_samples: n, per strength.
        seed: mixed with w, so that a result does not depend on which other strengths were asked for.
        progress: called with one short line before every strength, which says how long the rest takes.

    Returns:
        Everything, computed.

    Raises:
        UserError: no strengths or one twice or below -1, an unknown class, kind or sampler, a denoiser of
            another space than the target's, or more partial states than memory holds.
    """
    guidances = [Guidance(float(w), kind) for w in strengths]
    _check(target, denoiser, [float(w) for w in strengths], target_class, num_samples)
    check_sampler(sampler, steps)
    say = Pieces([1] * len(guidances), progress)
    results = []
    for guidance in guidances:
        say(f"laws and samples at w = {guidance.strength(0, 1):g}")
        laws = _laws(target, denoiser, guidance, target_class)
        generator = torch.Generator().manual_seed(hash((seed, guidance.strength(0, 1))) % 2**63)
        x = sample(
            denoiser if denoiser is not None else target.denoiser(),
            guidance, target_class, num_samples, sampler, steps, schedule, generator,
        )  # fmt: skip
        results.append(_compare(guidance.strength(0, 1), laws, x, generator))
    return TableEvaluation(
        target_class=target_class,
        num_classes=target.num_classes,
        kind=kind,
        sampler=sampler,
        steps=steps if steps is None or isinstance(steps, int) else [float(tau) for tau in steps],
        schedule=None if sampler == "first_hitting" else (schedule or Schedule()).name,
        num_samples=num_samples,
        seed=seed,
        fingerprint=target.fingerprint(),
        class_law=target.class_pmf(target_class),
        others_law=_others(target, target_class),
        results=results,
    )


def law_key(name: str, kind: str, w: float) -> str:
    """The name of a law in laws.npz, such as "exact_rate_w2"; the tilted law knows no kind of guidance."""
    if name == "class":
        return name
    strength = f"w{int(w)}" if float(w).is_integer() else f"w{float(w)!r}"
    return f"{name}_{strength}" if name == "tilted" else f"{name}_{kind}_{strength}"


def moments_of(law: Tensor) -> Moments:
    """Mean, covariance and the covariance's eigenvalues of a law (N,)*D."""
    mean, covariance = mean_and_covariance(law)
    return Moments(mean, covariance, torch.linalg.eigvalsh(covariance))


def overlap_counts(class_law: Tensor, others_law: Tensor) -> Tensor:
    """How many coordinates of x take a value that other classes take too: int64 (N,)*D (theory, section 7).

    In one dimension 1 is the overlap itself; in the five-dimensional example of theory, section 4, it is k.
    """
    dims = range(class_law.ndim)
    counts = torch.zeros(class_law.shape, dtype=torch.int64)
    for i in dims:
        drop = [j for j in dims if j != i]
        own, other = (law.sum(dim=drop) if drop else law for law in (class_law, others_law))
        shape = [-1 if j == i else 1 for j in dims]
        counts = counts + ((own > 0) & (other > 0)).long().reshape(shape)
    return counts


def mean_by_overlap(law: Tensor, class_law: Tensor, others_law: Tensor) -> dict[int, float]:
    """Mean probability per state of the class's support, by the number of coordinates that overlap."""
    counts, support = overlap_counts(class_law, others_law), class_law > 0
    return {int(k): float(law[support & (counts == k)].mean()) for k in counts[support].unique()}


def to_plain(value: Any) -> Any:
    """The same in types that JSON has: tensors as lists, numbers that are not finite as "inf" or "nan"."""
    if isinstance(value, Tensor):
        return to_plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Estimate):
        return to_plain(asdict(value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _check(
    target: TableMixture,
    denoiser: Denoiser | None,
    strengths: list[float],
    target_class: int,
    num_samples: int,
) -> None:
    if not strengths:
        raise UserError("no guidance strength w was given; give at least one")
    twice = [w for k, w in enumerate(strengths) if w in strengths[:k]]
    if twice:
        raise UserError(f"guidance strength w = {twice[0]:g} was given twice; give each once")
    if num_samples < 1:
        raise UserError(f"the number of samples is {num_samples}, and must be at least 1")
    check_class(target_class, target.num_classes)
    spaces = [(d.num_tokens, d.num_dims, d.num_classes) for d in (target, denoiser) if d is not None]
    if spaces[0] != spaces[-1]:
        raise UserError(
            "the denoiser has (values, dimensions, classes) = "
            f"{spaces[-1]}, the target has {spaces[0]}: it was made for other data"
        )


def _laws(target: TableMixture, denoiser: Denoiser | None, guidance: Guidance, target_class: int) -> dict[str, Tensor]:
    laws = {
        "class": target.class_pmf(target_class),
        "tilted": tilted_law(target, guidance.strength(0, 1), target_class),
        "exact": terminal_law(target.denoiser(), guidance, target_class),
    }
    if denoiser is not None:
        laws["learned"] = terminal_law(denoiser, guidance, target_class)
    return laws


def _compare(w: float, laws: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> StrengthEvaluation:
    cells = max(laws["exact"].numel(), len(x))
    resamples = max(MIN_RESAMPLES, min(BOOTSTRAP_RESAMPLES, BOOTSTRAP_CELLS // cells))
    sample_tv: dict[str, SampleTV] = {
        name: SampleTV(sampled_tv(laws[name], x, resamples, generator), expected_sampling_tv(laws[name], len(x)))
        for name in laws
        if name in ("exact", "learned")
    }
    laws = laws | {"samples": histogram(x, laws["exact"].shape[0])}
    return StrengthEvaluation(w, laws, {name: moments_of(law) for name, law in laws.items()}, sample_tv)


def _others(target: TableMixture, target_class: int) -> Tensor:
    weights = target.class_weights.clone()
    weights[target_class] = 0
    return torch.tensordot(weights, target.class_pmfs, dims=1)
