"""Images without exact conditionals, binary or with grey levels: samples compared with held-out data.

The page first says whether the network is trained and whether the classifier is good enough to judge samples.
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
from mdlm_cfg.compare.image_judge import Judge, Row, judge_all, judges_of
from mdlm_cfg.compare.metrics import recognised
from mdlm_cfg.studies.common import (
    as_images,
    class_weights_of,
    columns_shown,
    draw_more,
    draw_pieces,
    held_out_of,
    samples_of,
)
from mdlm_cfg.studies.findings import Block, Curve, Findings, Mosaic, Table, View, col
from mdlm_cfg.studies.image_models import (
    IMAGE,
    JudgeRow,
    accuracy_column,
    baselines_of,
    blocks_of_models,
    nelbos_of_classes,
    of_classifier,
    precision_column,
    recall_column,
)
from mdlm_cfg.studies.protocol import LEARNED, Case, Key, Made, Needs, Piece, Rows, Settings, whole
from mdlm_cfg.studies.rows import OfClass, at_strengths, measured, weak_and_strong
from mdlm_cfg.studies.simple_models import NelboRow, nelbo_rows, of_held, of_recognised, training_sentence
from mdlm_cfg.support.progress import share_shown
from mdlm_cfg.targets.data import Data
from mdlm_cfg.training.classifier import ImageClassifier, classifier_for

HELD_OUT = "data"  # in place of a strength: test images, judged like samples
CLASSIFIER: Key = ("classifier",)
FEWEST = 2  # test images of a class for a comparison
ENOUGH = 100  # images, from which a share has a standard error of at most 0.05
SUMS = "Means over classes, except that precision and recall are computed for all classes together."
READING = """\
In the row "data" test images take the place of samples. For differences it is \
the noise floor. Pixel means and covariances are compared with those of training images of the class. Diversity is the \
mean number of pixels in which two samples of a class differ; for grey levels, a pixel counts as the square of the \
difference between its two shades, where black and white differ by 1. Samples that copy the training set would be much \
nearer to it than test images are."""
BY_FEATURES = """\
Precision is the share of samples inside the data's manifold and recall the share of data inside the samples' \
manifold, both by nearest neighbours in the classifier's features."""
W = 'guidance strength; "data" stands for test images in the samples\' place'


@dataclass(frozen=True)
class ImageRow:
    """Images of all classes at one strength, or test images, compared with the training images."""

    w: Guidance | str = col("w", W, index=True)
    accuracy: float | None = accuracy_column()
    mean_rms: float | None = col("pixel mean (RMS)", "root mean square over pixels of the difference between means")
    covariance: float | None = col(
        "covariance (relative)", "Frobenius norm of the difference, divided by that of the data's covariance"
    )
    diversity: float | None = col(
        "diversity", "mean number of pixels in which two images of a class differ", unit="pixels"
    )
    nearest_train: float | None = col(
        "nearest training image", "mean distance to the nearest training image", unit="pixels"
    )
    precision: float | None = precision_column()
    recall: float | None = recall_column()
    energy_pixels: float | None = col(
        "energy distance", "energy distance to training images; 0 on average for equal distributions"
    )
    energy_features: float | None = col("energy distance, features", "the same in the classifier's features")


@dataclass(frozen=True)
class ClassRow(OfClass, ImageRow):
    """The same for one class."""


@dataclass(frozen=True)
class Images(Settings):
    """Samples of images by class and strength, compared with test images by the same statistics.

    Args:
        classifier: whether a classifier judges them; it is trained first if there is none yet for these images.
            Without one, its measurements are left out.
        num_classified: test images that the network itself classifies by NELBO, at random; 0 leaves that out, and with
            it the verdict on whether the network is trained.
        num_draws: masks for each image and class.
    """

    classifier: bool = True
    num_classified: int = whole(200, least=0)
    num_draws: int = whole(16, least=1)
    needs: ClassVar[Needs] = Needs(
        what="images with one number for each pixel",
        example="data=mnist",
        accepts=lambda data: data.example_kind == "images" and len(data.grid_shape) == 2,
        learned="required",
        numbers=True,
        one_kind=True,
        samples=2,
    )
    rows: ClassVar[Rows] = {"distances": ImageRow, "by_class": ClassRow, "nelbo": NelboRow, "classifiers": JudgeRow}

    def pieces(self, case: Case) -> Iterable[Piece]:
        """Evaluate test images, draw samples, evaluate them, then classify test images by NELBO."""
        yield case.piece(self._held_out, label="evaluating test images", cost=0.0)
        for guidance in case.plan.guidances:
            for k in case.classes:
                yield from draw_pieces(case, LEARNED, guidance, k)
            yield case.piece(self._judged, guidance, label=f"evaluating samples at w = {guidance.label}", cost=0.0)
        if num := self._num_classified(case.data):
            label = f"classification of {num} test images by NELBO"
            cost = num * self.num_draws * case.data.num_classes
            yield case.piece(nelbos_of_classes, num, self.num_draws, label=label, cost=cost)

    def _num_classified(self, data: Data) -> int:
        return min(self.num_classified, len(data.test_examples()[0]))

    def _judged(self, case: Case, guidance: Guidance) -> tuple[list[Row], Row]:
        judges, classifier = judging(case, self.classifier)
        return judge_all(judges, list(_samples(case, case.made, guidance)), classifier, compared(case))

    def _held_out(self, case: Case) -> dict[str, Any]:
        """Evaluated test images, which of all of them the classifier recognises, and pixel means of training images."""
        judges, classifier = judging(case, self.classifier)
        by_class, pooled = judge_all(judges, held_out(case), classifier, compared(case))
        return {
            "judged": (by_class, pooled),
            "hits": None if classifier is None else classifier.hits(*case.data.test_examples()),
            "means": torch.stack([judge.mean for judge in judges]),
        }

    def findings(self, case: Case, made: Made) -> Findings:
        """Samples, numbers and a verdict."""
        reference = made.of(self._held_out)
        judged = {g: made.of(self._judged, g) for g in case.plan.guidances} | {HELD_OUT: reference["judged"]}
        rows = [ImageRow(w, **pooled) for w, (_, pooled) in judged.items()]
        by_class = [
            ClassRow(w, **row, target_class=k, class_name=case.class_name(k))
            for w, (found, _) in judged.items()
            for k, row in zip(case.classes, found)
        ]
        nelbos, classifiers = self._judgements(case, made, reference["hits"])
        samples = {g: _samples(case, made, g) for g in case.plan.guidances}
        of_models = blocks_of_models(nelbos, classifiers)
        first = [_distances(case, rows), _shown(case, samples), *of_models]
        blocks = [*first, _by_class(by_class), _means(case, samples, reference)]
        num = len(compared(case)) * case.plan.num_samples
        verdict = [*verdict_of(rows, nelbos, classifiers, num, case.num_dims), *of_few(case)]
        fewest = min(len(x) for x in held_out(case))
        facts = {"data": {"classes": list(case.classes), "num_held_out": fewest}, "num_draws": self.num_draws}
        arrays = {g.identifier: as_images(case, x) for g, x in samples.items()}
        return Findings(case.plan, blocks, verdict, facts, arrays, "samples.npz")

    def _judgements(self, case: Case, made: Made, hits: Tensor | None) -> tuple[list[NelboRow], list[JudgeRow]]:
        """The network and the classifiers on test images."""
        x, labels = case.data.test_examples()
        weights = class_weights_of(case)
        judges = [] if hits is None else [JudgeRow.of("classifier", hits, labels, weights)]
        if not (num := self._num_classified(case.data)):
            return [], judges
        chosen, nelbos = made.of(nelbos_of_classes, num, self.num_draws)
        own = labels[chosen].long()
        judges.append(JudgeRow.of("nelbo", recognised(-nelbos, own), own, weights))
        return nelbo_rows(nelbos.gather(1, own[:, None])[:, 0], baselines_of(case, x[chosen], own), IMAGE), judges


def judging(case: Case, with_classifier: bool) -> tuple[list[Judge], ImageClassifier | None]:
    """The judges of images of every class; made once, and only if something is still to be evaluated."""
    key = ("judges",)
    if key not in case.made:
        if with_classifier and CLASSIFIER not in case.made:
            case.made[CLASSIFIER] = _trained(case.data)
        classifier = case.made[CLASSIFIER] if with_classifier else None
        case.made[key] = judges_of(case.data, classifier, case.classes, case.plan.seed), classifier
    judges, classifier = case.made[key]
    return judges, classifier


def _trained(data: Any) -> ImageClassifier:
    with share_shown("training the classifier") as show:
        return classifier_for(data, progress=lambda step, steps, _: show(step / steps))


def held_out(case: Case) -> list[Tensor]:
    """Test images of every class, as many as samples if there are enough: uint8 (n, D) each."""
    return [held_out_of(case, k)[: case.plan.num_samples] for k in case.classes]


def compared(case: Case) -> list[int]:
    """Indices of the classes over which means are taken: all but those without enough test images.

    Otherwise means of samples would cover classes other than those of test images.
    """
    enough = [at for at, x in enumerate(held_out(case)) if len(x) >= FEWEST]
    return enough or list(range(len(case.classes)))


def of_classes(case: Case) -> str:
    """The end of a text: the classes that are not `compared`, and whether the others have few test images."""
    at = compared(case)
    left_out = [case.class_name(k) for place, k in enumerate(case.classes) if place not in at]
    text = f" Left out, with fewer than {FEWEST} test images: {', '.join(left_out)}." if left_out else ""
    sizes = [len(x) for x in held_out(case)]
    fewest = min(sizes[place] for place in at)
    if FEWEST <= fewest < case.plan.num_samples:
        text += (
            f" The smallest class has {fewest} for {case.plan.num_samples} samples. The numbers of the test images "
            "then overstate differences, and their recall is less certain."
        )
    return text


def _samples(case: Case, made: Made, guidance: Guidance) -> Tensor:
    """Of all classes, uint8 (C, n, D)."""
    return torch.stack([samples_of(made, draw_pieces(case, LEARNED, guidance, k)) for k in case.classes])


def _distances(case: Case, rows: Sequence[ImageRow]) -> Block:
    data = rows[-1]
    names = measured(ImageRow)
    text = READING if data.recall is None else f"{BY_FEATURES} {READING}"
    text += of_classes(case)
    curves = {
        ("accuracy",): "Share of samples that the classifier assigns to the intended class.",
        ("precision", "recall"): "Precision and recall.",
        ("diversity", "nearest_train"): "Distance between two samples, and to the nearest training image.",
    }
    views: list[View] = [Table(["w"], names, note=SUMS)]
    views += [Curve("w", y, caption=caption, reference={"w": HELD_OUT}) for y, caption in curves.items()]
    how: dict[str, Any] = {"logged": names, "group": "Samples against data", "printed": True}
    return Block("distances", rows, "Samples against data", text, views=views, **how)


def _shown(case: Case, samples: Mapping[Guidance, Tensor]) -> Block:
    """The first samples of every class and strength, beside test images."""
    top = case.data.num_tokens - 1
    columns = columns_shown(case, len(samples) + 1)
    test = np.full((len(case.classes), columns, *case.data.grid_shape), np.nan)
    for at, x in enumerate(held_out(case)):
        test[at, : len(x)] = as_images(case, x[:columns]) / top
    drawn = {f"w = {g.label}": as_images(case, x[:, :columns]) / top for g, x in samples.items()}
    names = [case.class_name(k) for k in case.classes]
    caption = "Test images (light blue where there are no more), and samples at every strength."
    view = Mosaic({"test images": test, **drawn}, names, caption)
    plan = case.plan
    text = (
        f"{plan.num_samples:,} samples for each class and strength {plan.drawn}; the first ones are shown, a line for "
        "each class."
    )
    return Block("samples", [], "Samples", text, views=[view], group="")


def _by_class(rows: Sequence[ClassRow]) -> Block:
    name = "diversity" if all(row.accuracy is None for row in rows) else "accuracy"
    views = [Table(["w"], [name], "class_name", f"The {name} of each class; by_class.csv has every number.")]
    return Block("by_class", rows, "By class", views=views, group="By class")


def _means(case: Case, samples: Mapping[Guidance, Tensor], reference: Mapping[str, Tensor]) -> Block:
    """Mean images of data and samples."""
    top = case.data.num_tokens - 1
    means = {f"w = {g.label}": x.double().mean(dim=1) / top for g, x in samples.items()}
    changes = {name: mean - reference["means"] for name, mean in means.items()}
    names = [case.class_name(k) for k in case.classes]

    def tiles(blocks: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        return {title: as_images(case, block)[:, None] for title, block in blocks.items()}

    text = "The mean image of every class shows which pixels guidance makes certain to be black or white."
    views = [
        Mosaic(tiles({"data": reference["means"], **means}), names, "Pixel means of data and of samples."),
        Mosaic(tiles(changes), names, "Pixel means of samples minus those of data.", "change of the mean"),
    ]
    return Block("means", [], "Pixel means", text, views=views, group="Pixel means")


def verdict_of(
    rows: Sequence[ImageRow], nelbos: Sequence[NelboRow], classifiers: Sequence[JudgeRow], num: int, num_dims: int
) -> list[str]:
    """Whether the network is trained, whether the classifier is reliable, and what guidance does to samples.

    Args:
        num: samples at each strength. num_dims: pixels of an image.
    """
    said = [training_sentence(nelbos, IMAGE, num_dims)] if nelbos else []
    said += [sentence for row in classifiers if row.judge == "classifier" for sentence in of_classifier(row)]
    *samples, data = rows
    ends = weak_and_strong(samples)
    if any(row.accuracy is not None for row in rows):
        said.append(of_recognised("classifier", ends, [num] * len(ends), data, IMAGE))
    name, form = ("diversity", "{:.1f}".format) if data.recall is None else ("recall", "{:.2f}".format)
    return [*said, f"The {name} is {at_strengths(ends, name, form)} ({of_held(data, name, form, IMAGE)})."]


def of_few(case: Case) -> list[str]:
    """A warning if the classes that are compared have too few samples for firm statements."""
    num = len(compared(case)) * case.plan.num_samples
    if num >= ENOUGH:
        return []
    return [
        f"{num} samples at each strength are few: shares of them have standard errors of up to "
        f"{0.5 / math.sqrt(num):.2f}, and differences below three times that may be chance. {draw_more(ENOUGH)}"
    ]
