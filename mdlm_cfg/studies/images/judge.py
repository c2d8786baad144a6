"""Judging images of every class beside the training images of their class, by a classifier and by distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.compare.images import (
    energy_distance,
    mean_pixel_distance,
    moment_difference,
    nearest_image,
    pixel_moments,
    precision_and_recall,
)
from mdlm_cfg.studies.images.findings import STATISTICS, Judged, Row
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.training.classifier import ImageClassifier
from mdlm_cfg.training.data import ImageData

MAX_REFERENCE = 2000  # training images per class that moments and energy distances refer to
NEIGHBOURS = 3  # of precision and recall


@dataclass(frozen=True)
class Judge:
    """What images of one class are judged against.

    Attributes:
        target_class: k. top: N - 1, white.
        train: every training image of the class, one binarization or its levels, uint8 (m, D).
        features: of the first `MAX_REFERENCE` of them.
        mean, covariance: of the same, black being 0 and white 1.
    """

    target_class: int
    top: int
    train: Tensor
    features: Tensor
    mean: Tensor
    covariance: Tensor

    def row(self, x: Tensor, features: Tensor, predicted: Tensor) -> Row:
        """Every statistic of images (n, D) that claim to be of this class; NaN for fewer than two."""
        if len(x) < 2:
            return dict.fromkeys(STATISTICS, math.nan)
        precision, recall = _precision_and_recall(self.nearby(len(x)), features)
        return {
            "accuracy": float((predicted == self.target_class).double().mean()),
            **moment_difference(x.double() / self.top, self.mean, self.covariance),
            "diversity": mean_pixel_distance(x, self.top),
            "nearest_train": float(nearest_image(x, self.train, self.top)[0].mean()),
            "precision": precision,
            "recall": recall,
            "energy_pixels": energy_distance(x, self.train[:MAX_REFERENCE]) / self.top,
            "energy_features": energy_distance(features, self.features),
        }

    def nearby(self, num: int) -> Tensor:
        """The first `num` reference features: precision and recall want sets of one size."""
        return self.features[: max(2, num)]


def judges_of(data: ImageData, classifier: ImageClassifier, classes: Sequence[int], seed: int) -> list[Judge]:
    """One judge per class; `seed` is of the binarization and the order of its images."""
    judges, top = [], data.num_tokens - 1
    for k in classes:
        generator = generator_for("reference", seed, k)
        train = data.tokens(data.train_images[data.train_labels == k].cpu(), generator)
        train = train[torch.randperm(len(train), generator=generator)]
        mean, covariance = pixel_moments(train[:MAX_REFERENCE].double() / top)
        judges.append(Judge(k, top, train, classifier.features(train[:MAX_REFERENCE]), mean, covariance))
    return judges


def judge_all(judges: Sequence[Judge], images: Sequence[Tensor], classifier: ImageClassifier) -> Judged:
    """Rows per class and of all classes, for images of every class."""
    features = [classifier.features(x) for x in images]
    rows = [judge.row(x, own, classifier.predict(x)) for judge, x, own in zip(judges, images, features)]
    pooled = {name: float(torch.tensor([row[name] for row in rows]).nanmean()) for name in STATISTICS}
    reference = torch.cat([judge.nearby(len(own)) for judge, own in zip(judges, features)])
    pooled["precision"], pooled["recall"] = _precision_and_recall(reference, torch.cat(features))
    return Judged(rows, pooled)


def _precision_and_recall(reference: Tensor, features: Tensor) -> tuple[float, float]:
    k = min(NEIGHBOURS, len(reference) - 1, len(features) - 1)
    return precision_and_recall(reference, features, k) if k >= 1 else (math.nan, math.nan)
