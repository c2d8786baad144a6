"""Samples of binary images under guidance, judged beside held-out data by the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.compare.images import (
    bayes_classify,
    energy_distance,
    mean_pairwise_hamming,
    moment_difference,
    nearest_hamming,
    pixel_moments,
    precision_and_recall,
)
from mdlm_cfg.sampling.sampler import Steps, check_sampler, num_rows, sample
from mdlm_cfg.studies.table.evaluation import to_plain
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.table import check_class
from mdlm_cfg.training.classifier import ImageClassifier
from mdlm_cfg.training.data import BinaryImageData
from mdlm_cfg.training.data.idx import binarize

MAX_REFERENCE = 2000  # training images per class that moments and energy distances refer to
NEIGHBOURS = 3  # of precision and recall
STATISTICS = (
    *("accuracy", "mean_rms", "covariance", "diversity", "nearest_train"),
    *("precision", "recall", "energy_pixels", "energy_features"),
)
Row = dict[str, float]


@dataclass(frozen=True)
class ImageEvaluation:
    """Samples by guidance strength, and numbers that say how they compare with data.

    Attributes:
        name: of the data.
        kind: of guidance; sampler, steps, schedule: how the samples were drawn.
        num_samples: n, per class and strength.
        num_held_out: test images per class that were judged like samples (as many, where there are so many).
        seed: of the samples.
        classes: which were sampled, C of them.
        grid_shape: (height, width).
        samples: by w, uint8 (C, n, D).
        class_rows: per w, and per class, a row of `STATISTICS`; under `held_out` those of test images.
        pooled_rows: the same, per w, of all classes: means over them, and precision and recall of the union.
        held_out_class_rows: of test images, per class; held_out: of all classes.
        data_means: pixel means of training images, (C, D).
        classifier_accuracy: of the classifier that judges, on test images.
        nelbo_accuracy: of the denoiser as a classifier of test images (by class-conditional NELBO), None if not asked.
        num_classified: test images that were classified so; num_draws: masks for each.
    """

    name: str
    kind: str
    sampler: str
    steps: int | list[float] | None
    schedule: str | None
    num_samples: int
    num_held_out: int
    seed: int
    classes: list[int]
    grid_shape: tuple[int, ...]
    samples: dict[float, Tensor]
    class_rows: dict[float, list[Row]]
    pooled_rows: dict[float, Row]
    held_out_class_rows: list[Row]
    held_out: Row
    data_means: Tensor
    classifier_accuracy: float
    nelbo_accuracy: float | None
    num_classified: int
    num_draws: int

    @property
    def strengths(self) -> list[float]:
        """The guidance strengths, in the order asked for."""
        return list(self.samples)

    def rows(self) -> list[dict[str, float | int | str]]:
        """Flat rows for a csv file: per w and class, and held-out data under w = "data"; class "all" is pooled."""
        blocks: list[tuple[float | str, list[Row], Row]] = [
            (w, self.class_rows[w], self.pooled_rows[w]) for w in self.strengths
        ]
        blocks.append(("data", self.held_out_class_rows, self.held_out))
        rows: list[dict[str, float | int | str]] = []
        for w, by_class, pooled in blocks:
            rows += [{"w": w, "class": k, **row} for k, row in zip(self.classes, by_class)]
            rows.append({"w": w, "class": "all", **pooled})
        return rows

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "accuracy_w2", "recall_data", and so on."""
        blocks = {f"w{w:g}": self.pooled_rows[w] for w in self.strengths} | {"data": self.held_out}
        flat = {f"{name}_{key}": row[name] for key, row in blocks.items() for name in STATISTICS}
        flat["classifier_test_accuracy"] = self.classifier_accuracy
        return flat if self.nelbo_accuracy is None else flat | {"nelbo_test_accuracy": self.nelbo_accuracy}

    def to_dict(self) -> dict[str, Any]:
        """All but the images, in plain JSON types."""
        left_out = ("samples", "data_means", "class_rows", "pooled_rows", "held_out_class_rows", "held_out")
        head = {name: value for name, value in vars(self).items() if name not in left_out}
        return to_plain(head | {"strengths": self.strengths, "rows": self.rows()})


@dataclass(frozen=True)
class _Judge:
    """What images of one class are judged against.

    Attributes:
        target_class: k.
        train: every training image of the class, one binarization, uint8 (m, D).
        features: of the first `MAX_REFERENCE` of them.
        mean, covariance: of the same.
    """

    target_class: int
    train: Tensor
    features: Tensor
    mean: Tensor
    covariance: Tensor

    def row(self, x: Tensor, features: Tensor, predicted: Tensor) -> Row:
        """Every statistic of images (n, D) that claim to be of this class."""
        near = features_of_size(self.features, len(x))
        precision, recall = _precision_and_recall(near, features)
        return {
            "accuracy": float((predicted == self.target_class).double().mean()),
            **moment_difference(x, self.mean, self.covariance),
            "diversity": mean_pairwise_hamming(x),
            "nearest_train": float(nearest_hamming(x, self.train)[0].mean()),
            "precision": precision,
            "recall": recall,
            "energy_pixels": energy_distance(x, self.train[:MAX_REFERENCE]),
            "energy_features": energy_distance(features, self.features),
        }


def features_of_size(features: Tensor, num: int) -> Tensor:
    """The first `num` reference features: precision and recall want sets of one size."""
    return features[: max(2, num)]


def _precision_and_recall(reference: Tensor, features: Tensor) -> tuple[float, float]:
    k = min(NEIGHBOURS, len(reference) - 1, len(features) - 1)
    return precision_and_recall(reference, features, k)


def evaluate_images(
    data: BinaryImageData,
    denoiser: Denoiser,
    classifier: ImageClassifier,
    strengths: Sequence[float],
    kind: str = "rate",
    sampler: str = "event_leaping",
    steps: Steps | None = 64,
    schedule: Schedule | None = None,
    num_samples_per_class: int = 100,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    classes: Sequence[int] | None = None,
    num_classified: int = 200,
    num_draws: int = 16,
) -> ImageEvaluation:
    """Sample every class at every strength, and judge the samples beside as many test images.

    Args:
        data: binary images, set up.
        denoiser: a learned one.
        classifier: of the same images.
        strengths: guidance strengths w >= -1 (gamma = 1 + w in other codes), each once.
        kind: "rate" or "normalized".
        sampler, steps, schedule: see `mdlm_cfg.sampling.sampler.sample`; event-leaping with few steps costs little, and
            first_hitting has no discretisation error, at D denoiser calls per conditional.
        num_samples_per_class: n >= 2, per strength.
        seed: mixed with w and the class, so that no result depends on which others were asked for.
        progress: called with one short line before every piece of work, which says how long the rest takes.
        classes: which to sample; default all.
        num_classified: test images to classify by NELBO, chosen at random; 0 leaves that out.
        num_draws: masks per image and class for it.

    Raises:
        UserError: no strengths or one twice or below -1, an unknown class, kind or sampler, too few samples, or a
            denoiser of other images.
    """
    guidances = [Guidance(float(w), kind) for w in strengths]
    chosen = list(range(data.num_classes)) if classes is None else list(classes)
    _check(data, denoiser, [float(w) for w in strengths], chosen, num_samples_per_class)
    check_sampler(sampler, steps)
    costs = [num_rows(num_samples_per_class * len(chosen), denoiser.num_dims, g, sampler, steps) for g in guidances]
    say = Pieces([*costs, num_classified * num_draws * data.num_classes], progress)
    judges = _judges(data, classifier, chosen)
    order = torch.randperm(len(data.test_x), generator=generator_for("held out"))  # MNIST's first half is cleaner
    test_x, test_classes = data.test_x[order], data.test_classes[order]
    held_out = [test_x[test_classes == k][:num_samples_per_class] for k in chosen]
    held_out_rows, held_out_row = _judge_all(judges, held_out, classifier)
    samples, class_rows, pooled_rows = {}, {}, {}
    for guidance in guidances:
        w = guidance.strength(0, 1)
        say(f"samples of {len(chosen)} classes at w = {w:g}")
        drawn = [
            sample(
                denoiser, guidance, k, num_samples_per_class, sampler, steps, schedule,
                generator_for("samples", seed, str(w), k),
            )
            for k in chosen
        ]  # fmt: skip
        samples[w] = torch.stack(drawn).to(torch.uint8)
        class_rows[w], pooled_rows[w] = _judge_all(judges, list(samples[w]), classifier)
    accuracy = None
    if num_classified:
        say(f"classification of {num_classified} test images by NELBO")
        accuracy = _nelbo_accuracy(data, denoiser, num_classified, num_draws)
    return ImageEvaluation(
        name=data.name,
        kind=kind,
        sampler=sampler,
        steps=steps if steps is None or isinstance(steps, int) else [float(tau) for tau in steps],
        schedule=None if sampler == "first_hitting" or schedule is None else schedule.name,
        num_samples=num_samples_per_class,
        num_held_out=min(len(x) for x in held_out),
        seed=seed,
        classes=chosen,
        grid_shape=tuple(data.grid_shape),
        samples=samples,
        class_rows=class_rows,
        pooled_rows=pooled_rows,
        held_out_class_rows=held_out_rows,
        held_out=held_out_row,
        data_means=torch.stack([judge.mean for judge in judges]),
        classifier_accuracy=classifier.accuracy(data.test_x, data.test_classes),
        nelbo_accuracy=accuracy,
        num_classified=num_classified,
        num_draws=num_draws,
    )


def _judges(data: BinaryImageData, classifier: ImageClassifier, classes: Sequence[int]) -> list[_Judge]:
    judges = []
    for k in classes:
        generator = generator_for("reference", k)
        train = binarize(data.train_images[data.train_labels == k], "dynamic", generator)
        train = train[torch.randperm(len(train), generator=generator)]
        mean, covariance = pixel_moments(train[:MAX_REFERENCE])
        judges.append(_Judge(k, train, classifier.features(train[:MAX_REFERENCE]), mean, covariance))
    return judges


def _judge_all(
    judges: Sequence[_Judge], images: Sequence[Tensor], classifier: ImageClassifier
) -> tuple[list[Row], Row]:
    """Rows per class and of all classes, for images of every class."""
    features = [classifier.features(x) for x in images]
    rows = [
        judge.row(x, own, classifier.predict(x)) if len(x) > 1 else dict.fromkeys(STATISTICS, math.nan)
        for judge, x, own in zip(judges, images, features)
    ]
    pooled = {name: float(torch.tensor([row[name] for row in rows]).nanmean()) for name in STATISTICS}
    reference = torch.cat([features_of_size(judge.features, len(own)) for judge, own in zip(judges, features)])
    pooled["precision"], pooled["recall"] = _precision_and_recall(reference, torch.cat(features))
    return rows, pooled


def _nelbo_accuracy(data: BinaryImageData, denoiser: Denoiser, num: int, num_draws: int) -> float:
    generator = generator_for("classified")
    rows = torch.randperm(len(data.test_x), generator=generator)[:num]
    predicted = bayes_classify(denoiser, data.test_x[rows].long(), num_draws, generator)
    return float((predicted == data.test_classes[rows]).double().mean())


def _check(
    data: BinaryImageData, denoiser: Denoiser, strengths: list[float], classes: Sequence[int], num_samples: int
) -> None:
    if not strengths or len(set(strengths)) < len(strengths):
        raise UserError(f"guidance strengths {strengths} must be at least one, and each given once")
    for k in classes:
        check_class(k, data.num_classes)
    if num_samples < 2:
        raise UserError(f"the number of samples per class is {num_samples}, and must be at least 2")
    spaces = [(2, math.prod(data.grid_shape), data.num_classes)]
    spaces.append((denoiser.num_tokens, denoiser.num_dims, denoiser.num_classes))
    if spaces[0] != spaces[1]:
        raise UserError(
            f"the denoiser has (values, dimensions, classes) = {spaces[1]}, and the images {spaces[0]}: "
            "it was made for other data"
        )
