"""study=correction_moves for images without exact conditionals: a network's samples after moves, compared with data.

A classifier and distances judge the sets, as in `images.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.image_judge import Judge
from mdlm_cfg.compare.metrics import student, sure_of, total_variation
from mdlm_cfg.compare.mixtures import component_usage, components_in_use
from mdlm_cfg.studies.common import as_images, held_out_of
from mdlm_cfg.studies.findings import Block, Curve, Findings, Mosaic, Table, View, col, in_tv
from mdlm_cfg.studies.image_models import accuracy_column, precision_column, recall_column
from mdlm_cfg.studies.images import BY_FEATURES, Images, compared, judging, of_classes, of_few
from mdlm_cfg.studies.moves import WHAT_MOVES_ARE, AfterMoves, MovedSets, Started, components_column, phrase
from mdlm_cfg.studies.protocol import LEARNED, Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import AtStrength, mean_of, measured, strongest, where
from mdlm_cfg.support.numbers import short
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli_fit import fit_em

HELD_OUT = "test images"
SHOWN = 8  # samples per set in the picture
FAR = ("energy_features", "energy_pixels")  # distances; the first available one decides
COMPONENTS = 20  # of the mixture that describes the binary images of a class, as in data=bernoulli_mnist
PARTS = 16  # a large move masks this fraction of an image's coordinates
STARTS: tuple[Mapping[str, Any], ...] = (
    {"name": "first_hitting"},
    {"name": "event_leaping", "steps": 64},
    {"name": "sampled_confidence", "steps": 64},
)
READING = f"""\
{WHAT_MOVES_ARE} Moves of one coordinate are Gibbs sampling. Larger moves refill all their coordinates in a single \
call and leave no distribution invariant. Energy distances are to training images of the class, and 0 on average for \
images from the same distribution. Usage refers to the components of a Bernoulli mixture that is fitted to the \
training images of the class, if the images are binary."""


@dataclass(frozen=True)
class ImageSetRow(AfterMoves, AtStrength):
    """A set of samples after a number of moves, or a set of test images; mean over classes."""

    accuracy: float | None = accuracy_column()
    precision: float | None = precision_column()
    recall: float | None = recall_column()
    energy_features: float | None = col(
        "energy distance, features", "energy distance to training images of the class, in the classifier's features"
    )
    energy_se: float | None = col(
        "standard error", "standard error of the energy distance in features, or in pixels if there is no classifier"
    )
    energy_pixels: float | None = col(
        "energy distance, pixels", "energy distance to training images of the class, in pixels"
    )
    diversity: float | None = col(
        "diversity", "mean number of pixels in which two images of a class differ", unit="pixels", digits=1
    )
    usage_tv: float | None = in_tv("usage", "TV between the component frequencies and those of the training images")
    components: float | None = components_column()


MEASURED = measured(ImageSetRow)[1:]  # all but the calls


@dataclass(frozen=True)
class ImageMoves(MovedSets):
    """Images of a network after moves, compared with test images, from several samplers, by size and number of moves.

    Args:
        sizes, moves, starts: as in `MovedSets`; sizes of None are 1 and a sixteenth of the coordinates.
        classifier: whether a classifier evaluates them, as in `Images`.

    Raises:
        UserError: numbers out of range, or an entry that is not a sampler.
    """

    starts: Sequence[Started] = STARTS
    classifier: bool = True
    name: ClassVar[str] = "correction_moves"
    needs: ClassVar[Needs] = Images.needs
    rows: ClassVar[Rows] = {"sets": ImageSetRow}

    def default_sizes(self, num_dims: int) -> Sequence[int]:
        """One coordinate, and a sixteenth of them."""
        return sorted({1, max(1, num_dims // PARTS)})

    def move_of(self, size: int) -> Correction:
        """A move of `size` coordinates that costs one call."""
        return Correction(size=size, parallel=size > 1)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """Test images evaluated, and the sets of all starts and moves."""
        for z in case.classes:
            yield case.piece(self._held_out, z, label=f"evaluating test images of class {z}", cost=0.0)
            for guidance in case.plan.guidances:
                yield from self.pieces_of_sets(case, guidance, z, LEARNED)

    def judged(self, case: Case, guidance: Guidance, z: int, x: Tensor) -> dict[str, Any]:
        """Measurements of the set, and its first images."""
        return {"numbers": self._numbers(case, z, x), "shown": x[:SHOWN].to(torch.uint8)}

    def _numbers(self, case: Case, z: int, x: Tensor) -> dict[str, float | None]:
        judges, classifier = judging(case, self.classifier)
        judge = judges[case.classes.index(z)]
        row = judge.row(x, classifier) | {"energy_se": judge.energy_error(x, classifier)} | usage_of(case, judge, x)
        return {name: row[name] for name in MEASURED}

    def _held_out(self, case: Case, z: int) -> dict[str, Any]:
        """Evaluated disjoint sets of as many test images, and the first images."""
        x = held_out_of(case, z)
        n = min(case.plan.num_samples, len(x))
        sets = [self._numbers(case, z, part) for part in x.split(max(n, 1)) if len(part) == n]
        return {"sets": sets, "shown": x[:SHOWN]}

    def findings(self, case: Case, made: Made) -> Findings:
        """A row for each strength, start, move and number of moves, and one for test images."""
        places = compared(case)
        held_out = [made.of(self._held_out, case.classes[at]) for at in places]
        data = _mean([dict(zip(MEASURED, _mean(one["sets"]))) for one in held_out])
        rows = []
        pictures = {}
        for g in case.plan.guidances:
            rows.append(ImageSetRow(g, HELD_OUT, "", 0, 0, *data))
            found = dict(self.each_set(case, made, g, LEARNED))
            rows += [
                ImageSetRow(g, *index, *_mean([seen[at]["numbers"] for at in places])) for index, seen in found.items()
            ]
            pictures[g] = {at: seen[0]["shown"] for at, seen in found.items()}
        sets = f"{case.plan.num_samples:,} samples of each class and set, seed {case.plan.seed}."
        text = f"{sets} {READING}{of_classes(case)}"
        blocks = [
            blocks_of(rows, f"{text} {BY_FEATURES}" if self.classifier else text),
            _shown(case, made.of(self._held_out, case.classes[0])["shown"], pictures),
        ]
        noise = {name: _noise([one["sets"] for one in held_out], name) for name in FAR}
        said = verdict_of(rows, noise, case.plan.num_samples) + of_few(case)
        facts = {"data": {"classes": list(case.classes)}, "noise": noise}
        return Findings(case.plan, blocks, said, facts)


def usage_of(case: Case, judge: Judge, x: Tensor) -> dict[str, float | None]:
    """The images' usage of mixture components, compared with training images; None without images, or if not binary.

    The mixture is fitted to the training images of the class (`fit_em`), once per process.
    """
    if case.data.num_tokens != 2 or not len(x):
        return {"usage_tv": None, "components": None}
    key = ("components", judge.target_class)
    if key not in case.made:
        one_class = torch.zeros(len(judge.train), dtype=torch.int64)
        generator = generator_for("components", case.plan.seed, judge.target_class)
        mixture = fit_em(judge.train, one_class, COMPONENTS, generator=generator)
        case.made[key] = mixture, component_usage(mixture, judge.train, 0)
    mixture, reference = case.made[key]
    usage = component_usage(mixture, x, 0)
    return {"usage_tv": total_variation(usage, reference), "components": components_in_use(usage)}


def _mean(rows: Sequence[Mapping[str, float | None]]) -> list[float | None]:
    """The mean of every measured column over the rows that have it; for standard errors, that of the mean."""
    return [mean_of(name, _known(rows, name)) for name in MEASURED]


def _known(rows: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    return [value for row in rows if (value := row[name]) is not None]


def _noise(sets: Sequence[Sequence[Mapping[str, float | None]]], name: str) -> float | None:
    """The root mean square of an energy distance of test images, averaged over classes; above 0 only by chance."""
    known = [_known(of_class, name) for of_class in sets]
    if not all(known):
        return None
    variances = [math.fsum(value**2 for value in values) / len(values) for values in known]
    return math.sqrt(math.fsum(variances)) / len(variances)


def blocks_of(rows: Sequence[ImageSetRow], text: str) -> Block:
    """Curves against calls, a panel for each sampler, and the table of all sets."""
    caption = "Against all calls, a panel for each sampler."
    data = {"start": HELD_OUT}
    shown = ("energy_features", "energy_pixels", "accuracy", "recall")
    views: list[View] = [Curve("calls", name, ["move"], caption, "start", reference=data) for name in shown]
    names = [name for name in MEASURED if getattr(rows[0], name) is not None]
    views.append(Table(["start", "move", "moves"], ["calls", *names]))
    return Block("sets", rows, "Samples after moves", text, ["w"], views, names, group="", printed=True)


def _shown(case: Case, data: Tensor, pictures: Mapping[Guidance, Mapping[Any, Tensor]]) -> Block:
    """The first samples of the first class, before and after moves: a row for each start and move."""
    top = case.data.num_tokens - 1
    views = []
    for g, sets in pictures.items():
        lines = list(dict.fromkeys((start, move) for start, move, *_ in sets))
        stages = list(dict.fromkeys(at[2] for at in sets))
        shape = (len(lines), SHOWN, *case.data.grid_shape)
        images = {HELD_OUT: np.full(shape, np.nan), **{f"{k} moves": np.full(shape, np.nan) for k in stages}}
        images[HELD_OUT][:, : len(data)] = as_images(case, data) / top
        for (start, move, number, _), x in sets.items():
            images[f"{number} moves"][lines.index((start, move)), : len(x)] = as_images(case, x) / top
        names = [f"{start}, {move}" for start, move in lines]
        views.append(Mosaic(images, names, f"Class {case.class_name(case.classes[0])}, w = {g.label}."))
    return Block("shown", [], "Samples before and after moves", views=views, group="")


@dataclass(frozen=True)
class Distance:
    """An energy distance to the data for comparing sets.

    Attributes:
        name: of its column. noise: its root mean square for test images. num_sets: number of sets that are compared.
        num_samples: of each class in a set.
    """

    name: str
    noise: float
    num_sets: int
    num_samples: int

    def of(self, row: ImageSetRow) -> float:
        """The distance of a set to the data."""
        return float(getattr(row, self.name))

    def chance(self, a: ImageSetRow, b: ImageSetRow) -> float:
        """The largest difference between two sets that may be chance; samples in common are not taken into account."""
        sure = student(sure_of(self.num_sets), self.num_samples)
        return sure * math.hypot(a.energy_se or 0.0, b.energy_se or 0.0, self.noise, self.noise)

    def clarity(self, a: ImageSetRow, b: ImageSetRow) -> float:
        """How much nearer b is to the data than a, relative to the difference that may be chance."""
        gain = self.of(a) - self.of(b)
        chance = self.chance(a, b)
        if not gain or not chance:
            return gain and math.copysign(math.inf, gain)
        return gain / chance


def verdict_of(rows: Sequence[ImageSetRow], noise: Mapping[str, float | None], num: int) -> list[str]:
    """Whether moves bring samples nearer to the data at the strongest guidance, and are worth their calls.

    Args:
        num: samples of each class.
    """
    top = strongest(rows)
    sets = [row for row in where(rows, w=top) if row.start != HELD_OUT]
    far = next((Distance(name, value, len(sets), num) for name in FAR if (value := noise[name]) is not None), None)
    if far is None:
        return ["There are too few test images to tell differences from chance."]
    old, row = clearest(sets, far)
    plain, near = worth(sets, far)
    nearer, pays = (far.clarity(*pair) > 1 for pair in ((old, row), (plain, near)))
    return [
        f"At w = {top.label} moves {'bring samples' if nearer else 'do not bring samples measurably'} nearer to the "
        f'data: the clearest change is by {phrase(row.moves, row.move)} after "{row.start}" (energy distance in '
        f"{far.name.removeprefix('energy_')} {short(far.of(old))} before, {short(far.of(row))} after; chance "
        f"{short(far.chance(old, row))}).",
        f"Moves {'are' if pays else 'are not measurably'} worth their calls: a set with moves has "
        f"{short(far.of(near))} with {near.calls} calls; the nearest of those without moves and with no more calls has "
        f'{short(far.of(plain))} with {plain.calls} ("{plain.start}").',
    ]


def clearest(sets: Sequence[ImageSetRow], far: Distance) -> tuple[ImageSetRow, ImageSetRow]:
    """The set that moves bring most clearly nearer to the data, preceded by the same sampler's set without moves."""
    before = {(row.start, row.move): row for row in sets if not row.moves}
    pairs = [(before[row.start, row.move], row) for row in sets if row.moves]
    return max(pairs, key=lambda pair: far.clarity(*pair))


def worth(sets: Sequence[ImageSetRow], far: Distance) -> tuple[ImageSetRow, ImageSetRow]:
    """The set with moves that is most clearly nearer than the nearest set without moves and with no more calls.
    The latter comes first."""

    def plain(row: ImageSetRow) -> ImageSetRow:
        return min((old for old in sets if not old.moves and old.calls <= row.calls), key=far.of)

    pairs = [(plain(row), row) for row in sets if row.moves]
    return max(pairs, key=lambda pair: far.clarity(*pair))
