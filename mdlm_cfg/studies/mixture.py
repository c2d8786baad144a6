"""A Bernoulli mixture, whose conditionals are exact: the network's error in nats, and guided samples beside exact ones.

Guided samples are drawn with the exact conditionals twice: what the two sets differ by is the noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.images import energy_distance, moment_difference, pixel_moments
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.mixtures import component_picture, component_usage, distinctness, pixel_picture
from mdlm_cfg.studies.common import BERNOULLI, STRENGTH, as_images, draw_pieces, samples_of
from mdlm_cfg.studies.conditionals_error import ConditionalsRow, error_block, error_pieces, error_rows, error_sentence
from mdlm_cfg.studies.findings import Block, Cloud, Curve, Findings, Mosaic, Table, View, col
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case, Made, Needs, Piece, Settings, whole
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture

AGAIN = "again"
FLOOR = "noise floor"
CLASS = "class"
DISTINCT_IMAGES = 200  # of each component, to judge its distinctness by
SATURATED = 1e-3  # nats: components that differ less in distinctness cannot be ranked by it
CLEAR = 3.0  # times the noise floor from which an energy distance is called clear
RANKED = 0.2  # rank correlation from which a relation is spoken of
MOST_COLUMNS = 40  # images in a line of the picture, over all strengths
SETS = '"learned": of the network, "noise floor": exact guided again, "class": unguided'
WHOLE = "whole"
PARTIAL = "partial"
SET_TEXT = """\
Each row compares a set with guided samples of the exact conditionals. "noise floor" is a second, independent exact \
set and shows how much of a difference is noise. "class" is the unguided class and shows how far guidance moves the \
distribution."""
PIXEL_TEXT = """\
A value of a pixel is private to a class where it is more than 1.5 times as probable in the class as in the whole \
mixture, foreign where it is less than 1 / 1.5 times as probable, and shared between. If guidance acts as in two \
dimensions, it makes private values more probable, and the more so the stronger it is."""
PIXEL_NOTE = """\
Mean changes of the probability of a pixel's value, guided samples less the class. At w = 0 all changes are noise. \
The tilt is the change that tilting each pixel alone would make at first order."""
COMPONENT_TEXT = """\
A component counts as more distinct the more reliably its images identify the class: E log p(x | z) / p(x), by whole \
images or by partial images of every size, on which guidance acts. Where whole images always identify the class, \
guidance acts through partial images alone. If distinct components gain weight under guidance, gains and distinctness \
have the same ranks."""
COMPONENT_NOTE = """\
Spearman's correlation of log usage / weight with distinctness, within classes. Components in use: exp of the entropy \
of usage, which falls as guidance concentrates on few components."""


@dataclass(frozen=True)
class SetRow:
    """A set of samples beside guided samples of the exact conditionals; means over classes."""

    w: Guidance = col("w", STRENGTH, index=True)
    set: str = col("set", SETS, index=True)
    mean_rms: float = col("pixel mean (RMS)", "root mean square over pixels of the difference of means")
    covariance: float = col("covariance (relative)", "Frobenius norm of the difference, over the exact samples' own")
    component_tv: float = col("component usage", "total variation between the usages of components", unit="TV")
    energy: float = col("energy distance", "of Euclidean distances; 0 on average for one distribution")


@dataclass(frozen=True)
class ClassRow(SetRow):
    """The same, of one class."""

    target_class: int = col("class", "z", index=True)
    class_name: str = col("class", "its name", index=True)


@dataclass(frozen=True)
class PixelRow:
    """How guidance changes the probability of pixels' values, by how private they are to the class."""

    w: Guidance = col("w", STRENGTH, index=True)
    set: str = col("set", '"exact" (both exact sets together) or "learned"', index=True)
    correlation: float | None = col("correlation", "of log-ratio, class to mixture, and change", digits=3)
    tilt_correlation: float | None = col("with the tilt", "of change and what tilting each pixel would do", digits=3)
    slope: float | None = col("slope", "of change on log-ratio, per nat")
    change_private: float = col("private", "mean change of the probability of private values")
    change_shared: float = col("shared", "mean change of the probability of shared values")
    change_foreign: float = col("foreign", "mean change of the probability of foreign values")


@dataclass(frozen=True)
class ComponentRow:
    """Which components guidance uses, by how distinct they are."""

    w: Guidance = col("w", STRENGTH, index=True)
    set: str = col("set", '"exact" (both exact sets together) or "learned"', index=True)
    rank_correlation_partial: float | None = col("rank correlation (partial images)", "of gain, distinctness", digits=3)
    rank_correlation_whole: float | None = col("rank correlation (whole images)", "absent without a ranking", digits=3)
    components_in_use: float = col("components in use", "exp of the entropy of usage, mean over classes", digits=2)


@dataclass(frozen=True)
class DistinctRow:
    """How reliably the images of a component identify the class."""

    images: str = col("images", '"whole" or "partial"', index=True)
    mean: float = col("mean", "over components, of E log p(x | z) / p(x)", unit="nats", digits=3)
    spread: float = col("spread", "standard deviation over the components of a class", unit="nats")


@dataclass(frozen=True)
class Mixtures(Settings):
    """The error of the network, and guided samples by class and strength beside exact ones.

    Args:
        num_test: test images for the error of the network. num_draws: masks for each.
    """

    num_test: int = whole(2000, least=2)
    num_draws: int = whole(4, least=1)
    name: ClassVar[str] = "mixture"
    needs: ClassVar[Needs] = Needs(**BERNOULLI, numbers=True, one_kind=True, samples=2)
    rows: ClassVar[Mapping[str, type]] = {
        "distances": SetRow,
        "by_class": ClassRow,
        "conditionals_error": ConditionalsRow,
        "pixels": PixelRow,
        "components": ComponentRow,
        "distinctness": DistinctRow,
    }

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The error of the network, the components' distinctness, and the sets of samples, compared."""
        yield from error_pieces(case, self.num_test, self.num_draws)
        for how in (WHOLE, PARTIAL):
            yield case.piece(_distinctness, how, label=f"distinctness of components by {how} images", cost=0.0)
        for guidance in case.plan.guidances:
            for pieces in _draws(case, guidance).values():
                yield from (piece for of_class in pieces for piece in of_class)
            yield case.piece(_compared, guidance, label=f"comparison of samples at w = {guidance.label}", cost=0.0)

    def findings(self, case: Case, made: Made) -> Findings:
        """The network's error, sets of samples, pixels and components."""
        errors = error_rows(case, made, self.num_test, self.num_draws)
        compared = {g: made.of(_compared, g) for g in case.plan.guidances}
        by_class = [
            ClassRow(g, name, **row, target_class=k, class_name=case.class_name(k))
            for g, found in compared.items()
            for name, rows in found["sets"].items()
            for k, row in zip(case.classes, rows)
        ]
        sets = [
            SetRow(g, name, **{key: math.fsum(row[key] for row in rows) / len(rows) for key in rows[0]})
            for g, found in compared.items()
            for name, rows in found["sets"].items()
        ]
        distinct = [distinct_row(how, made.of(_distinctness, how)) for how in (WHOLE, PARTIAL)]
        pixels = [pixel_row(g, name, p) for g, found in compared.items() for name, p in found["pixels"].items()]
        components = [
            component_row(g, name, c, distinct[0])
            for g, found in compared.items()
            for name, c in found["components"].items()
        ]
        samples = {g: _sets(case, made, g) for g in case.plan.guidances}
        blocks = [
            _distances(case, sets),
            *([error_block(errors, "images of the mixture itself", "image")] if errors else []),
            _by_class(by_class),
            _pixels(case, pixels, compared, samples),
            _components(components, compared, made.of(_distinctness, PARTIAL)),
            _distinct(distinct),
            *_shown(case, samples),
        ]
        return Findings(
            plan=case.plan,
            blocks=blocks,
            verdict=verdict_of(errors, sets, pixels, components),
            facts={"data": {"name": case.data.name, "classes": list(case.classes)}},
            arrays={
                f"{name}_w{g.written:g}": as_images(case, x) for g, own in samples.items() for name, x in own.items()
            },
            arrays_file="samples.npz",
        )


def _names(case: Case) -> dict[str, str]:
    """The sets of samples, and whose conditionals they are drawn with."""
    own = {EXACT: EXACT, AGAIN: EXACT}
    return own | {LEARNED: LEARNED} if case.has_learned else own


def _draws(case: Case, guidance: Guidance) -> dict[str, list[list[Piece]]]:
    """The pieces that draw each set, by class."""
    return {
        name: [draw_pieces(case, who, guidance, k, name=name) for k in case.classes]
        for name, who in _names(case).items()
    }


def _drawn(case: Case, made: Made, guidance: Guidance) -> dict[str, Tensor]:
    """Every set, uint8 (classes, n, D)."""
    return {
        name: torch.stack([samples_of(made, pieces) for pieces in by_class])
        for name, by_class in _draws(case, guidance).items()
    }


def _sets(case: Case, made: Made, guidance: Guidance) -> dict[str, Tensor]:
    """The sets that are shown: without the second exact one."""
    return {name: x for name, x in _drawn(case, made, guidance).items() if name != AGAIN}


def _distinctness(case: Case, how: str) -> Tensor:
    """E log p(x | z) / p(x) in nats of every component of the classes, float64 (classes, C)."""
    seed = case.plan.seed
    found = [
        distinctness(case.target, k, DISTINCT_IMAGES, how == PARTIAL, generator_for("distinct", how, seed, k))
        for k in case.classes
    ]
    return torch.stack(found)


def centred(values: Tensor) -> Tensor:
    """Distinctness (classes, C) less the mean of its class."""
    return values - values.mean(dim=1, keepdim=True)


def distinct_row(how: str, values: Tensor) -> DistinctRow:
    """The mean of distinctness (classes, C), and its spread within classes."""
    spread = float(centred(values).std()) if values.numel() > 1 else 0.0
    return DistinctRow(how, float(values.mean()), spread)


def _compared(case: Case, guidance: Guidance) -> dict[str, Any]:
    """Sets beside the exact one, by class, and what guidance does to pixels and components."""
    target: BernoulliMixture = case.target
    drawn = _drawn(case, case.made, guidance)
    learned = {LEARNED: drawn[LEARNED]} if LEARNED in drawn else {}
    others = learned | {FLOOR: drawn[AGAIN], CLASS: _unguided(case, guidance)}
    described = {EXACT: torch.cat([drawn[EXACT], drawn[AGAIN]], dim=1)} | learned
    distinct = [case.made.of(_distinctness, how) for how in (WHOLE, PARTIAL)]
    components = {}
    for name, x in described.items():
        usage = torch.stack([component_usage(target, one, k) for one, k in zip(x, case.classes)])
        components[name] = vars(component_picture(target, list(case.classes), usage, x.shape[1], *distinct))
    return {
        "sets": {name: _beside(case, x, drawn[EXACT]) for name, x in others.items()},
        "pixels": {
            name: vars(pixel_picture(target, list(case.classes), x.double().mean(dim=1)))
            for name, x in described.items()
        },
        "components": components,
    }


def _unguided(case: Case, guidance: Guidance) -> Tensor:
    """As many draws of the classes themselves, uint8 (classes, n, D)."""
    plan = case.plan
    num_dims = case.target.num_dims
    drawn = [
        case.target.sample(plan.num_samples, plan.generator("samples", guidance, k, "class", num_dims=num_dims), k)[0]
        for k in case.classes
    ]
    return torch.stack(drawn).to(torch.uint8)


def _beside(case: Case, x: Tensor, exact: Tensor) -> list[dict[str, float]]:
    """A set beside the exact one, both (classes, n, D): a row for each class."""
    rows = []
    for k, own, other in zip(case.classes, x, exact):
        usage = [component_usage(case.target, one, k) for one in (own, other)]
        rows.append(
            {
                **moment_difference(own, *pixel_moments(other)),
                "component_tv": total_variation(*usage),
                "energy": energy_distance(own, other),
            }
        )
    return rows


def _known(value: float) -> float | None:
    """A correlation, where there is one."""
    return value if math.isfinite(value) else None


def pixel_row(guidance: Guidance, name: str, found: Mapping[str, Any]) -> PixelRow:
    """A row of what `mdlm_cfg.compare.mixtures.pixel_picture` found."""
    changes = {f"change_{group}": float(value) for group, value in found["groups"].items()}
    correlation, tilt, slope = (_known(found[key]) for key in ("correlation", "tilt_correlation", "slope"))
    return PixelRow(guidance, name, correlation, tilt, slope, **changes)


def component_row(guidance: Guidance, name: str, found: Mapping[str, Any], whole: DistinctRow) -> ComponentRow:
    """A row of what `mdlm_cfg.compare.mixtures.component_picture` found; ranks only where components differ."""
    by_whole = _known(found["rank_correlation"]) if whole.spread > SATURATED else None
    return ComponentRow(guidance, name, _known(found["rank_correlation_partial"]), by_whole, found["entropy"])


def _distances(case: Case, rows: Sequence[SetRow]) -> Block:
    plan = case.plan
    text = (
        f"{plan.num_samples:,} samples for each class and set, all by {plan.sampler.label}, guidance of the kind "
        f'"{plan.guidances[0].kind}", seed {plan.seed}. {SET_TEXT}'
    )
    names = ["mean_rms", "covariance", "component_tv", "energy"]
    views: list[View] = [
        Table(["w", "set"], names, note="Means over classes."),
        Curve("w", "energy", ["set"], "Energy distance to exact guided samples."),
        Curve("w", "component_tv", ["set"], "Usage of components: total variation to that of exact guided samples."),
    ]
    title = "Guided samples beside exact ones"
    return Block("distances", rows, title, text, [], views, names, "Guided samples", printed=True)


def _by_class(rows: Sequence[ClassRow]) -> Block:
    views = [Table(["w", "set"], ["energy"], "class_name", "Energy distance to exact guided samples, by class.")]
    return Block("by_class", rows, "By class", views=views, group="Guided samples")


def _tiles(case: Case, means: Mapping[Guidance, Tensor]) -> dict[str, np.ndarray]:
    return {f"w = {g.label}": as_images(case, x)[:, None] for g, x in means.items()}


def _pixels(
    case: Case,
    rows: Sequence[PixelRow],
    compared: Mapping[Guidance, Any],
    samples: Mapping[Guidance, Mapping[str, Tensor]],
) -> Block:
    names = [case.class_name(k) for k in case.classes]
    points = {
        f"w = {g.label}": (found["pixels"][EXACT]["log_ratio"].numpy(), found["pixels"][EXACT]["change"].numpy())
        for g, found in compared.items()
    }
    labels = ("log-ratio of the value, class to mixture (nats)", "change of its probability")
    means = {g: own[EXACT].double().mean(dim=1) for g, own in samples.items()}
    numbers = ["correlation", "tilt_correlation", "slope", "change_private", "change_shared", "change_foreign"]
    views: list[View] = [
        Table(["w", "set"], numbers, note=PIXEL_NOTE),
        Cloud(points, labels, "A point for each class, pixel and value: exact guided samples less the class."),
        Mosaic(_tiles(case, means), names, "Pixel means of exact guided samples."),
    ]
    if case.has_learned:
        wrong = {g: own[LEARNED].double().mean(dim=1) - means[g] for g, own in samples.items()}
        caption = "Pixel means of the network's samples less those of exact ones."
        views.append(Mosaic(_tiles(case, wrong), names, caption, "error of the mean"))
    title = "Are class-specific pixels amplified?"
    return Block("pixels", rows, title, PIXEL_TEXT, [], views, ["correlation"], "Pixels")


def _components(rows: Sequence[ComponentRow], compared: Mapping[Guidance, Any], distinct: Tensor) -> Block:
    x = centred(distinct).flatten().numpy()
    points = {
        f"w = {g.label}": (x, found["components"][EXACT]["log_gain"].flatten().numpy()) for g, found in compared.items()
    }
    labels = ("distinctness by partial images, less its class's mean (nats)", "log usage / weight")
    numbers = ["rank_correlation_partial", "rank_correlation_whole", "components_in_use"]
    views: list[View] = [
        Table(["w", "set"], numbers, note=COMPONENT_NOTE),
        Cloud(points, labels, "A point for each component: exact guided samples."),
    ]
    title = "Do distinct components gain weight?"
    logged = ["rank_correlation_partial"]
    return Block("components", rows, title, COMPONENT_TEXT, [], views, logged, "Components")


def _distinct(rows: Sequence[DistinctRow]) -> Block:
    views = [Table(["images"], ["mean", "spread"], note="In nats, over components.")]
    return Block("distinctness", rows, "How distinct components are", views=views, group="Components")


def _shown(case: Case, samples: Mapping[Guidance, Mapping[str, Tensor]]) -> list[Block]:
    """The first samples of every class and strength, a block for each set."""
    columns = max(2, min(10, MOST_COLUMNS // len(samples), case.plan.num_samples))
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
) -> list[str]:
    """Whether the network is trained, how far its samples are from exact ones, and what guidance does."""
    strongest = max((row.w for row in sets), key=lambda w: w.constant)
    energy = {row.set: row.energy for row in sets if row.w == strongest}
    said = [error_sentence(errors, "image")] if errors else []
    if LEARNED in energy:
        said.append(
            f"At w = {strongest.label} the network's samples {_differ(energy[LEARNED], energy[FLOOR])} from exact "
            f"guided samples (energy distance {energy[LEARNED]:.4f}; noise floor {energy[FLOOR]:.4f})."
        )
    if strongest.constant == 0:
        return [*said, "No strength above 0 was given, so the effect of guidance is not shown."]
    said.append(
        f"At w = {strongest.label} exact guided samples {_differ(energy[CLASS], energy[FLOOR])} from the unguided "
        f"class (energy distance {energy[CLASS]:.4f}; noise floor {energy[FLOOR]:.4f})."
    )
    pixel = next(row for row in pixels if (row.w, row.set) == (strongest, EXACT))
    changes = f"private values change by {pixel.change_private:+.4f}, foreign ones by {pixel.change_foreign:+.4f}"
    if pixel.change_private > 0 > pixel.change_foreign:
        said.append(f"There guidance amplifies class-specific pixels: {changes} in probability.")
    else:
        said.append(f"There guidance does not amplify class-specific pixels: {changes} in probability.")
    component = next(row for row in components if (row.w, row.set) == (strongest, EXACT))
    rank = component.rank_correlation_partial
    if rank is not None:
        which = "gain" if rank > RANKED else "lose" if rank < -RANKED else "neither gain nor lose"
        said.append(f"Distinct components {which} weight (rank correlation {rank:.2f} with the gain, partial images).")
    return said


def _differ(energy: float, floor: float) -> str:
    return "differ clearly" if energy > CLEAR * abs(floor) else "do not differ clearly"
