"""study=calibration: the best strength for each number of unmasked coordinates, by a convex fit (theory, 21)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.guidance_schedules import Calibrated
from mdlm_cfg.compare.calibration import Calibration, Gain, exact_gain, group_of, held_out_gain
from mdlm_cfg.compare.metrics import sign_beyond, student, total_variation, tv_error
from mdlm_cfg.compare.mixtures import component_usage
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.sampling.reference import tilted_reference
from mdlm_cfg.studies.common import EVALUATE_AGAIN
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, col, in_nats, in_tv
from mdlm_cfg.studies.fitting import (
    FEWEST,
    GROUPS,
    NUM_EXAMPLES,
    TEST,
    check_samples,
    fitted_strengths,
    num_tested,
    origin_of_examples,
    part_of,
    too_few,
)
from mdlm_cfg.studies.mixture_correction import usage_noise
from mdlm_cfg.studies.protocol import Case, Made, Needs, Piece, Rows, Settings, whole
from mdlm_cfg.studies.rows import OfDenoiser, by, mean_rows, measured, strongest, where
from mdlm_cfg.support.numbers import instead_of, short
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.table import TableMixture

NUM_REFERENCE = 20_000  # samples of the class from which the tilted distribution's usage is estimated
CLEAR = 2  # standard errors
SAME = 1e-9  # of a total variation, or nats
READING = """\
Each number of unmasked coordinates (a level) has a strength of its own: the one at which the guided conditionals \
have the smallest cross entropy on the target samples. This is a convex problem in one number. The sum over levels is \
the NELBO of the guided conditionals. The gain is the NELBO with the constant strength w minus the NELBO with \
calibrated strengths, in nats."""
OF_TABLES = """\
The target is the tilted distribution of strength w. Everything is exact, computed by sums over all partial states. \
The chain unmasks in the order of its kind of guidance."""
OF_TARGETS = """\
The target samples are {num:,} of each class, weighted by p(z | x)^w: the tilted distribution of strength w.{few} \
Strengths are fitted to one set and tested on another; there is one strength for each of {groups} groups of \
neighbouring levels. A Gaussian prior of standard deviation 1 around w holds strengths that the samples do not \
determine."""
OF_EXAMPLES = """\
The target samples are data of the class, as they are: they have no p(z | x), and an example whose class is certain \
has weight 1. So the calibrated strengths are the same in each row, and w is the constant strength that they are \
compared with. {origin} {groups} groups of neighbouring levels have one strength each, with a Gaussian prior of \
standard deviation 1 around 0."""
FEWER = f"Fit fewer of them: {EVALUATE_AGAIN} study.groups=1"
STRENGTH_CURVE = "Calibrated strength by the number of unmasked coordinates."
CLASS = "its name, or its number where it has none"
AFTER = "the same with calibrated strengths"


@dataclass(frozen=True)
class EffectRow(OfDenoiser):
    """The effect of calibrated strengths."""

    gain: float | None = in_nats(
        "gain", "NELBO with constant w minus NELBO with calibrated strengths; absent where both are infinite"
    )
    gain_se: float = in_nats("error", "standard error of the gain; 0 where it is exact")
    tv_tilted: float | None = in_tv("TV to the tilted", "TV of the guided chain; tables only")
    tv_tilted_calibrated: float | None = in_tv("TV to the tilted, calibrated", AFTER)
    usage_tv: float | None = in_tv(
        "TV of the usage",
        "TV between the component frequencies of samples and of the tilted distribution; mixtures only",
    )
    usage_tv_calibrated: float | None = in_tv("TV of the usage, calibrated", AFTER)
    usage_floor: float | None = in_tv("noise floor", "usage TV of the same number of perfect samples")


EFFECTS = measured(EffectRow)


@dataclass(frozen=True)
class ClassRow(EffectRow):
    """The effect of calibrated strengths on one class."""

    target_class: str = col("class", CLASS, index=True)
    nelbo: float = in_nats("NELBO", "NELBO, on the target, of the conditionals guided with constant w")
    nelbo_calibrated: float = in_nats("NELBO, calibrated", AFTER)


@dataclass(frozen=True)
class MeanRow(EffectRow):
    """The effect of calibrated strengths: means over the classes."""

    classes: int = col("classes", "number of classes in the mean")


@dataclass(frozen=True)
class LevelRow(OfDenoiser):
    """The calibrated strength of one level, or of neighbouring levels that share one."""

    target_class: str = col("class", CLASS, index=True)
    unmasked: int = col("unmasked", "coordinates that are already unmasked; the smallest number of a group", index=True)
    levels: int = col("levels", "number of levels that share the strength")
    strength: float = col("strength", "calibrated strength", digits=3)
    strength_se: float = col(
        "error", "standard error of the strength, over samples and the prior; 0 where it is exact", digits=3
    )
    gain: float | None = in_nats("gain", "these levels' part of the gain; absent where both NELBOs are infinite there")
    gain_se: float = in_nats("error", "standard error of the gain; 0 where it is exact")


@dataclass(frozen=True)
class CalibrationStudy(Settings):
    """Calibrated strengths and their effect on likelihoods, total variations and the usage of components.

    Args:
        num_examples: of each class, if distributions are sampled: to fit strengths, and as many to evaluate them (all
            test data if validation data are held out of training).
        groups: of neighbouring levels that share a strength, if it is fitted to samples.
    """

    num_examples: int = whole(NUM_EXAMPLES, least=FEWEST)
    groups: int = whole(GROUPS, least=1)
    name: ClassVar[str] = "calibration"
    needs: ClassVar[Needs] = Needs(numbers=True, one_kind=True, unfiltered=True, guided=True)
    rows: ClassVar[Rows] = {"calibration": ClassRow, "strengths": LevelRow, "gains": MeanRow}

    def check(self, case: Case) -> None:
        """Refuse classes that cannot be targets, and too few examples."""
        for z in _classes(case):
            check_samples(case, z, self.num_examples)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """For each denoiser, class and strength: the fit, its gain, and its effect on samples or laws."""
        for who, z, g in self._cases(case):
            about = f"{who} conditionals, class {case.class_name(z)}, w = {g.label}"
            yield case.piece(self._fit, who, z, _aim(case, g), label=f"strengths, {about}")
            yield case.piece(self._gain, who, z, g, label=f"likelihoods, {about}")
            if case.is_exact:
                yield case.piece(self._distances, who, z, g, label=f"distributions, {about}")
            elif isinstance(case.target, BernoulliMixture):
                yield case.piece(self._usage, who, z, g, label=f"samples, {about}", cost=20.0)

    def _cases(self, case: Case) -> Iterable[tuple[str, int, Guidance]]:
        return ((who, z, g) for who in case.denoisers for z in _classes(case) for g in case.plan.guidances)

    def _fit(self, case: Case, who: str, z: int, w: float) -> tuple[list[float], list[float]]:
        found = fitted_strengths(case, who, z, w, self.num_examples, self.groups)
        return list(found.strengths), list(found.standard_errors)

    def fitted(self, case: Case, who: str, z: int, guidance: Guidance) -> Calibration:
        """The fit for one class and strength."""
        strengths, errors = case.made.of(self._fit, who, z, _aim(case, guidance))
        return Calibration(tuple(strengths), tuple(errors))

    def _gain(self, case: Case, who: str, z: int, guidance: Guidance) -> tuple[torch.Tensor, ...]:
        after = self.fitted(case, who, z, guidance).strengths
        before = [guidance.constant] * len(after)
        if case.is_exact:
            found = exact_gain(case.target, guidance.constant, z, case.denoiser(who), before=before, after=after)
        else:
            part = part_of(case, TEST, who, z, _aim(case, guidance), self.num_examples)
            found = held_out_gain(part, z, before=before, after=after)
        return (found.before, found.after, found.covariance)

    def _pair(self, case: Case, who: str, z: int, guidance: Guidance) -> dict[str, Guidance]:
        """The constant strength and the calibrated ones, by the end of a column's name."""
        values = self.fitted(case, who, z, guidance).strengths
        return {"": guidance, "_calibrated": replace(guidance, w=Calibrated(guidance.constant, values))}

    def _distances(self, case: Case, who: str, z: int, guidance: Guidance) -> dict[str, float]:
        """Total variations of the guided chain to the tilted distribution, with both lists of strengths."""
        tilted = tilted_law(case.target, guidance.constant, z)
        pair = self._pair(case, who, z, guidance).items()
        laws = {end: terminal_law(case.denoiser(who), given, z, case.plan.sampler.policy) for end, given in pair}
        return {f"tv_tilted{end}": total_variation(tilted, law) for end, law in laws.items()}

    def _usage(self, case: Case, who: str, z: int, guidance: Guidance) -> dict[str, float]:
        """The usage of components by samples, with both lists of strengths."""
        target: BernoulliMixture = case.target
        denoiser = case.denoisers[who]
        plan = case.plan
        generator = plan.generator("calibration reference", guidance, z)
        reference = tilted_reference(target, guidance.constant, z, NUM_REFERENCE, generator)
        aim = component_usage(target, reference.x, z, reference.weights)
        found = {"usage_floor": usage_noise(target, reference, z, plan.num_samples)}
        for end, given in self._pair(case, who, z, guidance).items():
            generator = plan.generator(f"calibration samples{end}", guidance, z, of=denoiser)
            x = plan.sampler.draw(denoiser, given, z, plan.num_samples, generator).cpu()
            found[f"usage_tv{end}"] = total_variation(component_usage(target, x, z), aim)
        return found

    def findings(self, case: Case, made: Made) -> Findings:
        """The effect of calibration by class and on average, and the strengths."""
        classes: list[ClassRow] = []
        levels: list[LevelRow] = []
        for who, z, g in self._cases(case):
            gain = Gain(*made.of(self._gain, who, z, g))
            found: dict[str, Any] = dict.fromkeys(EFFECTS)
            for make in (self._distances, self._usage):
                found |= made.get(case.key_of(make, who, z, g), {})
            found["gain"], found["gain_se"] = gain.of()
            found |= {"nelbo": float(gain.before.sum()), "nelbo_calibrated": float(gain.after.sum())}
            classes.append(ClassRow(w=g, denoiser=who, target_class=case.class_name(z), **found))
            levels += self._levels(case, who, z, g, gain)
        means = mean_rows(classes, MeanRow, classes=len)
        blocks = self._blocks(case, classes, levels, means)
        fewest = min(num_tested(case, _classes(case), self.num_examples))
        verdict = verdict_of(means, case.target is None, case.plan.num_samples, fewest)
        facts = {"exact": case.is_exact, "num_examples": self.num_examples, "classes": list(_classes(case))}
        return Findings(case.plan, blocks, verdict, facts)

    def _levels(self, case: Case, who: str, z: int, guidance: Guidance, gain: Gain) -> list[LevelRow]:
        found = self.fitted(case, who, z, guidance)
        d = len(found.strengths)
        group = group_of(torch.arange(d), d if case.is_exact else min(self.groups, d), d)
        rows = []
        for g in group.unique().tolist():
            places = (group == g).nonzero().flatten().tolist()
            part = slice(places[0], places[-1] + 1)
            strength = found.strengths[places[0]], found.standard_errors[places[0]]
            about = (guidance, who, case.class_name(z), places[0], len(places))
            rows.append(LevelRow(*about, *strength, *gain.of(part)))
        return rows

    def _blocks(
        self, case: Case, classes: Sequence[ClassRow], levels: Sequence[LevelRow], means: Sequence[MeanRow]
    ) -> list[Block]:
        how = OF_TABLES
        if case.target is None:
            origin = origin_of_examples(case, _classes(case), self.num_examples)
            how = OF_EXAMPLES.format(origin=origin, groups=self.groups)
        elif not case.is_exact:
            how = OF_TARGETS.format(num=self.num_examples, few=too_few(self.num_examples), groups=self.groups)
        effects = [name for name in EFFECTS if not (name == "gain_se" and case.is_exact)]
        every = Table(["w", "denoiser", "target_class"], ["nelbo", "nelbo_calibrated", *effects])
        of_level = ["denoiser", "target_class", "unmasked"]
        lines = ["target_class", "denoiser"]
        table = Table(of_level, ["strength", "gain"], "w")
        strength = Curve("unmasked", "strength", lines, STRENGTH_CURVE, panels="w")
        if case.target is None:  # the strengths are the same in all rows
            one = {"w": [min((row.w for row in levels), key=lambda w: w.constant)]}
            table = Table(["w", *of_level], ["strength", "strength_se", "gain", "gain_se"], where=one)
            strength = replace(strength, panels=None, where=one)
        first = Table(["w", "denoiser"], [*effects, "classes"])
        text = f"{READING}\n\n{how}"
        return [
            Block("gains", means, "What calibration gains", text, [], [first], ["gain"], "", True),
            Block("strengths", levels, "Strengths", views=[strength, table], group=""),
            Block("calibration", classes, "Every class", views=[every], logged=["gain"], group="Classes"),
        ]


def _classes(case: Case) -> tuple[int, ...]:
    """The plan's classes; if none is given, class 0 of a table."""
    return (case.one_class,) if isinstance(case.target, TableMixture) else case.classes


def _aim(case: Case, guidance: Guidance) -> float:
    """w of the target tilted distribution; 0 for data known only by examples."""
    return 0.0 if case.target is None else guidance.constant


def verdict_of(means: Sequence[MeanRow], of_examples: bool, num: int, num_examples: int) -> list[str]:
    """How much calibration gains, and whether it brings the distribution nearer.

    Args:
        num: samples of a class, if distributions are sampled. num_examples: on which gains are measured, of the
            class that has fewest.
    """
    said = []
    for _, own in by(means, "denoiser"):
        weakest = min((row.w for row in own), key=lambda guidance: guidance.constant)
        (chosen,) = where(own, w=weakest if of_examples else strongest(own))
        said += [_gained(chosen, of_examples, num_examples), *_of_distances(chosen, num)]
    return said


def _gained(row: MeanRow, of_examples: bool, num_examples: int) -> str:
    head = f"With {row.denoiser} conditionals, calibrated strengths"
    if row.gain is None:
        return (
            f"{head} cannot be compared with the constant w = {row.w.label}: the NELBO of a class is infinite with "
            "both, because the conditionals give probability 0 to values that are possible."
        )
    over = f"over the constant w = {row.w.label}"
    size = f"{short(row.gain)} ± {row.gain_se:.2g} nats" if row.gain_se else f"{short(row.gain)} nats"
    use = "w=calibrated" if of_examples else f"w=calibrated({row.w.label})"
    gains = {
        1: f"{head} gain {size} {over}; {use} uses them.",
        0: f"{head} show no gain {over}: {size}.",
        -1: f"{head} gain {size} {over}: they follow the noise of the fit. {FEWER}",
    }
    return gains[sign_beyond(row.gain, max(SAME, student(CLEAR, num_examples) * row.gain_se))]


def _of_distances(row: MeanRow, num: int) -> list[str]:
    chance = CLEAR * math.sqrt(2 / row.classes) * tv_error(num)
    head = f"At w = {row.w.label}, with {row.denoiser} conditionals, they"
    changes = (
        ("the distribution", row.tv_tilted, row.tv_tilted_calibrated, 0.0),
        ("the usage of the components", row.usage_tv, row.usage_tv_calibrated, chance),
    )
    return [_of_distance(head, what, a, b, noise) for what, a, b, noise in changes if a is not None and b is not None]


def _of_distance(head: str, what: str, before: float, after: float, noise: float) -> str:
    does = {
        1: f"bring {what} nearer to",
        0: f"do not measurably change the distance of {what} to",
        -1: f"move {what} away from",
    }[sign_beyond(before - after, noise or SAME)]
    chance = f", by chance up to {short(noise)}" if noise else ""
    return f"{head} {does} the tilted distribution: total variation {instead_of(after, before)}{chance}."
