"""A Bernoulli mixture, whose conditionals are exact: the network's error in nats, and guided samples beside exact ones.

Two sets of guided samples are drawn with the exact conditionals: their difference is the noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.images import energy_by_chance, energy_distance, moment_difference, pixel_moments
from mdlm_cfg.compare.metrics import sign_beyond, student, total_variation
from mdlm_cfg.compare.mixtures import component_picture, component_usage, distinctness, pixel_picture
from mdlm_cfg.studies.common import BERNOULLI, LONGER, SURE, as_images, columns_shown, draw_pieces, samples_of
from mdlm_cfg.studies.conditionals_error import ConditionalsRow, error_block, error_pieces, error_rows, error_sentence
from mdlm_cfg.studies.findings import Block, Curve, Findings, Mosaic, Table, View, col, in_tv
from mdlm_cfg.studies.mixture_effects import (
    ComponentRow,
    PixelRow,
    component_block,
    component_row,
    pixel_block,
    pixel_row,
)
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case, Made, Needs, Piece, Rows, Settings, whole
from mdlm_cfg.studies.rows import AtStrength, mean_rows, measured, strongest, where
from mdlm_cfg.support.numbers import short
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture

AGAIN = "again"
FLOOR = "noise floor"
CLASS = "class"
DISTINCT_IMAGES = 200  # per component, to estimate its distinctness
CLEAR = 3.0  # times its size by chance, from which an energy distance is called clear
ROUNDING = 1e-9  # of an energy distance
RANKED = 0.2  # rank correlation from which a relation is reported
SETS = '"learned": from the network, "noise floor": a second exact guided set, "class": unguided'
SET_TEXT = """\
Each row compares a set with guided samples of the exact conditionals. "noise floor" is a second, independent exact \
set and shows how much of a difference is noise. "class" is the unguided class and shows how far guidance moves the \
distribution. The verdict calls a difference clear if the energy distance is at least three times what it is by \
chance: the root mean square between random halves of the two exact sets."""


@dataclass(frozen=True)
class SetRow(AtStrength):
    """A set of samples compared with guided samples of the exact conditionals; means over classes."""

    set: str = col("set", SETS, index=True)
    mean_rms: float = col("pixel mean (RMS)", "root mean square over pixels of the difference between means")
    covariance: float = col(
        "covariance (relative)", "Frobenius norm of the difference, divided by that of the exact samples' covariance"
    )
    component_tv: float = in_tv("component usage", "total variation between the component frequencies")
    energy: float = col("energy distance", "energy distance; 0 on average for equal distributions")


@dataclass(frozen=True)
class Mixtures(Settings):
    """The error of the network, and guided samples by class and strength compared with exact ones.

    Args:
        num_test: test images for the error of the network. num_draws: masks for each.
    """

    num_test: int = whole(2000, least=2)
    num_draws: int = whole(4, least=1)
    name: ClassVar[str] = "mixture"
    needs: ClassVar[Needs] = Needs(**BERNOULLI, numbers=True, one_kind=True, samples=2)
    rows: ClassVar[Rows] = {
        "distances": SetRow,
        "conditionals_error": ConditionalsRow,
        "pixels": PixelRow,
        "components": ComponentRow,
    }

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The error of the network, the components' distinctness, and comparisons of the sets of samples."""
        yield from error_pieces(case, self.num_test, self.num_draws)
        yield case.piece(_distinctness, label="distinctness of components", cost=0.0)
        for guidance in case.plan.guidances:
            for pieces in _draws(case, guidance).values():
                yield from (piece for of_class in pieces for piece in of_class)
            yield case.piece(_compared, guidance, label=f"comparison of samples at w = {guidance.label}", cost=0.0)

    def findings(self, case: Case, made: Made) -> Findings:
        """The network's error, sets of samples, pixels and components."""
        errors = error_rows(case, made, self.num_test, self.num_draws)
        compared = {g: made.of(_compared, g) for g in case.plan.guidances}
        sets = mean_rows(
            [SetRow(g, name, **row) for g, f in compared.items() for name, rows in f["sets"].items() for row in rows],
            SetRow,
        )
        pixels = [pixel_row(g, name, p) for g, found in compared.items() for name, p in found["pixels"].items()]
        components = [component_row(g, name, c) for g, f in compared.items() for name, c in f["components"].items()]
        drawn = {g: _drawn(case, made, g) for g in case.plan.guidances}
        samples = {g: {who: own[who] for who in case.denoisers} for g, own in drawn.items()}
        blocks = [
            _distances(case, sets),
            *([error_block(errors, "images of the mixture itself", "image")] if errors else []),
            pixel_block(case, pixels, compared, samples),
            component_block(components, compared, made.of(_distinctness)),
            *_shown(case, samples),
        ]
        chance = {g: found["by_chance"] for g, found in compared.items()}
        by_chance = {g.label: value for g, value in chance.items()}
        facts = {"data": {"classes": list(case.classes)}, "energy_by_chance": by_chance}
        arrays = {f"{who}_{g.identifier}": as_images(case, x) for g, own in samples.items() for who, x in own.items()}
        verdict = verdict_of(errors, sets, pixels, components, chance[strongest(sets)], case.plan.num_samples)
        return Findings(case.plan, blocks, verdict, facts, arrays, "samples.npz")


def _draws(case: Case, guidance: Guidance) -> dict[str, list[list[Piece]]]:
    """The pieces that draw each set, by class."""
    learned = {LEARNED: LEARNED} if case.has_learned else {}
    return {
        name: [draw_pieces(case, who, guidance, k, name=name) for k in case.classes]
        for name, who in {EXACT: EXACT, AGAIN: EXACT, **learned}.items()
    }


def _drawn(case: Case, made: Made, guidance: Guidance) -> dict[str, Tensor]:
    """Every set, uint8 (classes, n, D)."""
    return {
        name: torch.stack([samples_of(made, pieces) for pieces in by_class])
        for name, by_class in _draws(case, guidance).items()
    }


def _distinctness(case: Case) -> Tensor:
    """E log p(x | z) / p(x) in nats of partial images of every component of the classes, float64 (classes, C)."""
    seed = case.plan.seed
    found = [
        distinctness(case.target, k, DISTINCT_IMAGES, generator_for("distinct", "partial", seed, k))
        for k in case.classes
    ]
    return torch.stack(found)


def _compared(case: Case, guidance: Guidance) -> dict[str, Any]:
    """Sets compared with the exact one, by class, and what guidance does to pixels and components."""
    target: BernoulliMixture = case.target
    drawn = _drawn(case, case.made, guidance)
    learned = {LEARNED: drawn[LEARNED]} if LEARNED in drawn else {}
    others = learned | {FLOOR: drawn[AGAIN], CLASS: _unguided(case, guidance)}
    described = {EXACT: torch.cat([drawn[EXACT], drawn[AGAIN]], dim=1)} | learned
    distinct = case.made.of(_distinctness)
    classes = list(case.classes)
    return {
        "sets": {name: _beside(case, x, drawn[EXACT]) for name, x in others.items()},
        "by_chance": _by_chance(case, guidance, described[EXACT]),
        "pixels": {name: vars(pixel_picture(target, classes, x)) for name, x in described.items()},
        "components": {name: vars(component_picture(target, classes, x, distinct)) for name, x in described.items()},
    }


def _unguided(case: Case, guidance: Guidance) -> Tensor:
    """The same number of draws from the classes themselves, uint8 (classes, n, D)."""
    plan = case.plan
    num_dims = case.target.num_dims
    drawn = [
        case.target.sample(plan.num_samples, plan.generator("samples", guidance, k, "class", num_dims=num_dims), k)[0]
        for k in case.classes
    ]
    return torch.stack(drawn).to(torch.uint8)


def _by_chance(case: Case, guidance: Guidance, exact: Tensor) -> float:
    """The size by chance of the mean energy distance of two exact sets, estimated from both, (classes, 2n, D)."""
    generator = case.plan.generator("splits", guidance, case.classes[0], num_dims=case.target.num_dims)
    return math.hypot(*(energy_by_chance(one, generator) for one in exact)) / len(exact)


def _beside(case: Case, x: Tensor, exact: Tensor) -> list[dict[str, float]]:
    """A set compared with the exact one, both (classes, n, D): a row for each class."""
    rows = []
    for k, own, other in zip(case.classes, x, exact):
        usage = [component_usage(case.target, one, k) for one in (own, other)]
        distances = {"component_tv": total_variation(*usage), "energy": energy_distance(own, other)}
        rows.append(moment_difference(own, *pixel_moments(other)) | distances)
    return rows


def _distances(case: Case, rows: Sequence[SetRow]) -> Block:
    plan = case.plan
    text = f"{plan.num_samples:,} samples for each class and set, all {plan.drawn}. {SET_TEXT}"
    views: list[View] = [
        Table(["w", "set"], measured(SetRow), note="Means over classes."),
        Curve("w", "energy", ["set"], "Energy distance to exact guided samples."),
        Curve("w", "component_tv", ["set"], "Usage of components: total variation to that of exact guided samples."),
    ]
    title = "Guided samples compared with exact ones"
    return Block("distances", rows, title, text, [], views, measured(SetRow), "Guided samples", printed=True)


def _shown(case: Case, samples: Mapping[Guidance, Mapping[str, Tensor]]) -> list[Block]:
    """The first samples of every class and strength, a block for each set."""
    columns = columns_shown(case, len(samples))
    names = [case.class_name(k) for k in case.classes]
    blocks = []
    for name in case.denoisers:
        drawn = {f"w = {g.label}": as_images(case, own[name][:, :columns]) for g, own in samples.items()}
        view = Mosaic(drawn, names, f"With {name} conditionals; a line for each class.")
        blocks.append(Block(f"samples_{name}", [], f"Samples, {name} conditionals", views=[view], group=""))
    return blocks


def verdict_of(
    errors: Sequence[ConditionalsRow],
    sets: Sequence[SetRow],
    pixels: Sequence[PixelRow],
    components: Sequence[ComponentRow],
    chance: float,
    num: int,
) -> list[str]:
    """Whether the network is trained, how far its samples are from exact ones, and what guidance does.

    Args:
        chance: the size of an energy distance between equal distributions, at the largest strength.
        num: samples of each class.
    """
    top = strongest(sets)
    energy = {row.set: row.energy for row in where(sets, w=top)}
    said = [error_sentence(errors, "image")] if errors else []
    if LEARNED in energy:
        said.append(
            f"At w = {top.label} the network's samples {_differ(energy[LEARNED], chance)} from exact "
            f"guided samples (energy distance {short(energy[LEARNED])}; by chance {short(chance)})."
        )
        if top.constant and energy[LEARNED] >= energy[CLASS] and is_clear(energy[LEARNED], chance):
            said.append(
                f"Unguided samples of the class are at least as near to them ({short(energy[CLASS])}): the "
                f"network is not trained well enough for w = {top.label}. {LONGER}"
            )
    if top.constant == 0:
        return [*said, "No strength above 0 was given, so the effect of guidance is not shown."]
    said.append(
        f"At w = {top.label} exact guided samples {_differ(energy[CLASS], chance)} from the unguided "
        f"class (energy distance {short(energy[CLASS])}; by chance {short(chance)})."
    )
    (pixel,) = where(pixels, w=top, set=EXACT)
    if pixel.change_private is not None:
        said.append(_of_pixels(pixel, num))
    (component,) = where(components, w=top, set=EXACT)
    if component.rank_correlation_partial is not None:
        said.append(_of_components(component.rank_correlation_partial, component.gain_in_errors or 0.0, num))
    return said


def components_gain(rank: float, in_errors: float, num: int) -> int:
    """1 if `num` samples of a class clearly show that distinct components gain weight, -1 if they lose it, else 0."""
    sign = sign_beyond(rank, RANKED)
    return sign if sign == sign_beyond(in_errors, student(SURE, num)) else 0


def _of_components(rank: float, in_errors: float, num: int) -> str:
    do = {1: "gain", 0: "cannot be shown to gain or lose", -1: "lose"}[components_gain(rank, in_errors, num)]
    about = f"(rank correlation {rank:.2f} with the gain, partial images; {abs(in_errors):.1f} standard errors)"
    return f"Distinct components {do} weight {about}."


def amplifies(pixel: PixelRow, num: int) -> int:
    """1 if `num` samples of each class clearly show that private values gain, -1 if they lose, else 0."""
    return sign_beyond(pixel.change_private or 0.0, student(SURE, num) * (pixel.private_se or 0.0) + ROUNDING)


def _of_pixels(pixel: PixelRow, num: int) -> str:
    does = {1: "amplifies", 0: "cannot be shown to amplify", -1: "weakens"}[amplifies(pixel, num)]
    change, error = (short(value, 4) for value in (pixel.change_private, pixel.private_se))
    return (
        f"There guidance {does} the values of pixels that are private to a class: their probability changes by "
        f"{change} ± {error} on average."
    )


def is_clear(energy: float, chance: float) -> bool:
    """Whether an energy distance is clearly larger than by chance."""
    return energy > CLEAR * chance + ROUNDING


def _differ(energy: float, chance: float) -> str:
    return "differ clearly" if is_clear(energy, chance) else "do not differ clearly"
