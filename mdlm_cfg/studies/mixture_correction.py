"""The tilted distribution of a Bernoulli mixture in many dimensions, sampled and compared with an exact reference.

This is `study=correction` for such data (theory, section 11).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.metrics import expected_share_tv, sign_beyond, student, total_variation
from mdlm_cfg.compare.mixtures import component_shares, mean_shares
from mdlm_cfg.sampling.reference import check_reference, tilted_reference
from mdlm_cfg.sampling.smc import Weighted, check_groups, even_of, sequential_monte_carlo
from mdlm_cfg.studies.common import BERNOULLI, MORE, draw_more
from mdlm_cfg.studies.findings import Block, Findings, Table, col, in_nats, in_tv
from mdlm_cfg.studies.protocol import Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import AtStrength, strongest, where
from mdlm_cfg.support.numbers import apart, short
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.posterior import posterior_of

REFERENCE = "reference"
SETS = ("class", "guided", "weighted", "resampled")  # the sets compared with the reference
NOTHING = 1e-9
SURE = 2.4  # standard errors, known exactly, from which a difference is more than chance
READING = """\
The tilted distribution is known in any dimension: it is proportional to p(x|z) (p(x|z) / p(x))^w, so samples of the \
class, weighted by (p(x|z) / p(x))^w, represent it. Where almost every image identifies its class, these weights are \
nearly equal, and the tilted distribution hardly differs from the class: any further change is an error of guidance."""
NOTE = """\
Reference: samples of the class with the weights of the tilted distribution. Class: samples of the class, unguided. \
Guided samples as they are, weighted at the end, and resampled on the way. Usage: the \
frequencies of the class's components, by their exact posterior, as total variation to those of the reference. The \
noise floor is that of the same number of samples of the tilted distribution."""
NORMALIZERS = """\
ln E W, estimated in three ways. The error is the relative standard error of E W, from the spread of independent \
groups. Where few samples carry most of the weight, both the error and the estimate are too small."""
CLASS = "name of the class, or its number if it has none"
SET = f'"{REFERENCE}" (the tilted distribution), {", ".join(SETS)}'


@dataclass(frozen=True)
class SetRow(AtStrength):
    """A set of samples, evaluated by the exact mixture."""

    set: str = col("set", SET, index=True)
    target_class: str = col("class", CLASS, index=True)
    usage_tv: float = in_tv(
        "component usage", "TV between the component frequencies and the reference's; 0 for the reference"
    )
    usage_se: float = in_tv(
        "its standard error", "standard error of the usage TV, from the spread of the groups of both sets"
    )
    usage_bias: float = in_tv(
        "its bias",
        "the most by which the noise of both sets raises the mean of the usage TV; that of the distributions is from "
        "usage_tv - usage_bias - 2 usage_se to usage_tv + 2 usage_se in 95% of reports",
    )
    usage_floor: float = in_tv(
        "its noise floor", "usage TV expected for the same number of samples of the tilted distribution"
    )
    class_posterior: float = col("mean p(z | x)", "exactly", unit="probability", digits=6)


@dataclass(frozen=True)
class NormalizerRow(AtStrength):
    """One estimate of ln E W."""

    set: str = col("set", f'"{REFERENCE}", "weighted" or "resampled"', index=True)
    target_class: str = col("class", CLASS, index=True)
    log_normalizer: float = in_nats("ln E W", "estimate of ln E W")
    relative_error: float = col("error", "relative standard error of the estimate of E W")
    ess: float = col("relative ESS", "relative effective sample size of the weights")


@dataclass(frozen=True)
class Seen:
    """A set of samples, evaluated by the exact mixture.

    Attributes:
        samples: n of them. components: of the class, as `component_shares`, (n, C + 1).
        class_posterior: mean of p(z | x).
    """

    samples: Weighted
    components: Tensor
    class_posterior: float

    @property
    def usage(self) -> Tensor:
        """The shares of the class's components, and the share of none, (C + 1,)."""
        return mean_shares(self.components, self.samples.weights)

    def usage_error(self, reference: Seen) -> float:
        """The standard error of the TV between this usage and another one, to first order."""
        signs = (self.usage - reference.usage).sign() / 2
        return math.hypot(*(one.samples.error_of(one.components @ signs) for one in (self, reference)))

    def usage_bias(self, reference: Seen) -> float:
        """An upper bound on the bias of that TV from noise: half the sum of the mean absolute noise of each share.

        E|d + noise| is at least |d| and at most |d| + E|noise|, and normal noise is sqrt(2 / pi) of its standard error.
        """
        errors = [math.hypot(*of_both) for of_both in zip(*(one.share_errors() for one in (self, reference)))]
        return math.fsum(errors) / math.sqrt(2 * math.pi)

    def share_errors(self) -> list[float]:
        """The standard error of each component's share."""
        return [self.samples.error_of(own) for own in self.components.T]


@dataclass(frozen=True)
class MixtureCorrection:
    """Guided, weighted and resampled samples, compared with the tilted distribution of a Bernoulli mixture.

    Args:
        threshold: relative effective sample size below which a group is resampled.
        num_groups: independent groups of sequential Monte Carlo, which give the normaliser's error.
        num_reference: samples of the class from which the tilted distribution is estimated.
    """

    threshold: float = 0.5
    num_groups: int = 10
    num_reference: int = 20_000
    name: ClassVar[str] = "correction"
    needs: ClassVar[Needs] = Needs(**BERNOULLI, numbers=True, one_kind=True, samples=2, guided=True)
    rows: ClassVar[Rows] = {"distances": SetRow, "normalizers": NormalizerRow}

    def check(self, case: Case) -> None:
        """Refuse guidance without weights, and numbers that the groups do not divide."""
        for guidance in case.plan.guidances:
            case.plan.sampler.check_weighted(guidance)
        check_groups(case.plan.num_samples, self.num_groups, self.threshold)
        check_reference(self.num_reference)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """Three sets of samples for each strength and class; any process may draw them."""
        for guidance in case.plan.guidances:
            for z in case.classes:
                for what, make in self._makers.items():
                    label = f"{what} samples of class {case.class_name(z)}, w = {guidance.label}"
                    cost = 0.1 if what == REFERENCE else 1.0
                    yield case.piece(make, guidance, z, label=label, cost=cost, shared=True)

    @property
    def _makers(self) -> dict[str, Callable[..., Any]]:
        return {REFERENCE: self._reference, "weighted": self._weighted, "resampled": self._resampled}

    def _reference(self, case: Case, guidance: Guidance, z: int) -> tuple[Any, ...]:
        generator = case.plan.generator("reference", guidance, z, num_dims=case.target.num_dims)
        return _plain(tilted_reference(case.target, guidance.constant, z, self.num_reference, generator))

    def _weighted(self, case: Case, guidance: Guidance, z: int) -> tuple[Any, ...]:
        denoiser = case.denoisers[case.judged]
        plan = case.plan
        generator = plan.generator("weighted samples", guidance, z, of=denoiser)
        drawn = plan.sampler.draw_weighted(denoiser, guidance, z, plan.num_samples, generator)
        return _plain(Weighted(*drawn, self.num_groups))

    def _resampled(self, case: Case, guidance: Guidance, z: int) -> tuple[Any, ...]:
        denoiser = case.denoisers[case.judged]
        plan = case.plan
        how: Any = {"policy": plan.sampler.policy, "threshold": self.threshold, "num_groups": self.num_groups}
        generator = plan.generator("resampled samples", guidance, z, of=denoiser)
        return _plain(sequential_monte_carlo(denoiser, guidance, z, plan.num_samples, generator=generator, **how))

    def weighted_sets(self, case: Case, made: Made, guidance: Guidance, z: int) -> dict[str, Weighted]:
        """Every set of samples of one class at one strength, by name."""
        drawn = {what: _weighted_of(made.of(make, guidance, z)) for what, make in self._makers.items()}
        own, _ = case.target.sample(case.plan.num_samples, generator_for("class samples", case.plan.seed, z), z)
        even = {name: even_of(x, self.num_groups) for name, x in (("class", own), ("guided", drawn["weighted"].x))}
        return {name: (drawn | even)[name] for name in (REFERENCE, *SETS)}

    def findings(self, case: Case, made: Made) -> Findings:
        """Every set compared with the reference, estimates of the normaliser, and images."""
        rows: dict[str, list[Any]] = {name: [] for name in self.rows}
        arrays: dict[str, np.ndarray] = {}
        for g in case.plan.guidances:
            for z in case.classes:
                sets = self.weighted_sets(case, made, g, z)
                name = case.class_name(z)
                seen = {what: seen_of(case.target, found, z) for what, found in sets.items()}
                rows["distances"] += set_rows(g, name, seen, case.plan.num_samples)
                for what, one in ((what, sets[what]) for what in (REFERENCE, *SETS[2:])):
                    numbers = (one.log_normalizer, one.relative_error, one.ess)
                    rows["normalizers"].append(NormalizerRow(g, what, name, *numbers))
                end = f"{g.kind}_{g.identifier}_class{z}"
                for what, key in (("weighted", "guided"), ("resampled", "resampled")):
                    arrays[f"{key}_{end}"] = sets[what].x.reshape(-1, *case.data.grid_shape).numpy().astype(np.uint8)
                    arrays[f"{key}_{end}_log_weights"] = sets[what].log_weights.numpy()
        settings = {"threshold": self.threshold, "num_groups": self.num_groups, "num_reference": self.num_reference}
        facts = {"judged": case.judged, **settings, "data": {"classes": list(case.classes)}}
        verdict = verdict_of(rows["distances"], rows["normalizers"], case.plan.num_samples, self.num_groups)
        return Findings(case.plan, self._blocks(case, rows), verdict, facts, arrays)

    def _blocks(self, case: Case, rows: Mapping[str, Sequence[Any]]) -> list[Block]:
        plan = case.plan
        text = (
            f"{plan.num_samples:,} samples for each class, strength and set, of the {case.judged} conditionals, by "
            f"{plan.sampler.label}, seed {plan.seed}, resampled in {self.num_groups} groups (threshold "
            f"{self.threshold:g}); {self.num_reference:,} samples for the reference.\n\n{READING}"
        )
        index = ["w", "target_class", "set"]
        title = "Samples and the tilted distribution"
        main = [Table(index, ["usage_tv", "usage_floor", "class_posterior"], note=NOTE)]
        logged = ["usage_tv", "class_posterior"]
        estimates = [Table(index, ["log_normalizer", "relative_error", "ess"])]
        return [
            Block("distances", rows["distances"], title, text, [], main, logged, group="", printed=True),
            Block("normalizers", rows["normalizers"], "The normaliser", NORMALIZERS, [], estimates, ["ess"], "Weights"),
        ]


def _plain(found: Weighted) -> tuple[Any, ...]:
    """The stored form of samples for `_weighted_of`: binary values, on the CPU."""
    return found.x.to("cpu", torch.uint8), found.log_weights.cpu(), found.num_groups


def _weighted_of(made: Sequence[Any]) -> Weighted:
    x, log_weights, num_groups = made
    return Weighted(x.long(), log_weights, num_groups)


def usage_noise(target: BernoulliMixture, reference: Weighted, target_class: int, num_samples: int) -> float:
    """The expected usage TV of `num_samples` samples from the law that weighted samples represent."""
    return expected_share_tv(component_shares(target, reference.x, target_class), reference.weights, num_samples)


def seen_of(target: BernoulliMixture, found: Weighted, target_class: int) -> Seen:
    """A set of samples, evaluated by the exact mixture."""
    posterior = float(found.weights @ posterior_of(target)(found.x)[:, target_class].exp())
    return Seen(found, component_shares(target, found.x, target_class), posterior)


def set_rows(w: Guidance, target_class: str, seen: Mapping[str, Seen], num_samples: int) -> list[SetRow]:
    """Every set compared with the reference."""
    reference = seen[REFERENCE]
    floor = expected_share_tv(reference.components, reference.samples.weights, num_samples)
    rows = []
    for what, own in seen.items():
        tv = total_variation(own.usage, reference.usage)
        noise = (own.usage_error(reference), own.usage_bias(reference)) if what != REFERENCE else (0.0, 0.0)
        rows.append(SetRow(w, what, target_class, tv, *noise, floor, own.class_posterior))
    return rows


def _gain(rows: Sequence[SetRow], tv: Mapping[str, float], num_groups: int) -> int:
    """1 if resampling brings the usage closer to the tilted distribution's, -1 if it moves it away, else 0.

    The difference must exceed the spread, and the possible noise bias of the larger TV.
    """
    bias = {name: fmean(row.usage_bias for row in where(rows, set=name)) for name in ("guided", "resampled")}
    moved = [row.usage_se for row in rows if row.set in bias]
    gained = tv["guided"] - tv["resampled"]
    added = bias["guided"] if gained > 0 else bias["resampled"]
    return sign_beyond(gained, added + student(SURE, num_groups) * math.hypot(*moved) * len(bias) / len(moved))


def verdict_of(
    rows: Sequence[SetRow], weights: Sequence[NormalizerRow], num_samples: int, num_groups: int
) -> list[str]:
    """Whether resampling brings guided samples closer to the tilted distribution at the strongest guidance."""
    g = strongest(rows)
    here = where(rows, w=g)
    tv = {name: fmean(row.usage_tv for row in where(here, set=name)) for name in SETS}
    if max(tv.values()) < NOTHING:
        return [f"At w = {g.label} all sets use the components of the class equally."]
    gain = _gain(here, tv, num_groups)
    does = {1: "brings", 0: "cannot be shown to bring", -1: "does not bring"}[gain]
    # equal weights resample nothing, and no number of samples distinguishes equal sets
    differ = any(row.ess < 1 - NOTHING for row in where(weights, w=g, set="weighted"))
    helps = gain == 0 and differ and abs(tv["resampled"] - tv["guided"]) > NOTHING
    more = f" {draw_more(MORE * num_samples)}" if helps else ""
    resampled, guided = apart(tv["resampled"], tv["guided"], 3)
    return [
        f"At w = {g.label} resampling {does} the usage of the components closer to that of the tilted distribution "
        f"(total variation, mean over classes: {resampled} resampled, {guided} under guidance, {short(tv['class'], 3)} "
        f"for the class itself; noise floor {short(fmean(row.usage_floor for row in here), 3)}).{more}"
    ]
