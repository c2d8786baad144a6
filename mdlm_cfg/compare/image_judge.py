"""Evaluates images of every class against the training images of their class, by a classifier and by distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mdlm_cfg.compare.images import (
    energy_distance,
    energy_error,
    mean_pixel_distance,
    moment_difference,
    nearest_image,
    pixel_moments,
    precision_and_recall,
)
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.data import Data

STATISTICS = (
    *("accuracy", "mean_rms", "covariance", "diversity", "nearest_train"),
    *("precision", "recall", "energy_pixels", "energy_features"),
)
BY_CLASSIFIER = ("accuracy", "precision", "recall", "energy_features")  # which are absent without one
Row = dict[str, float | None]
MAX_REFERENCE = 2000  # training images per class that moments and energy distances refer to
NEIGHBOURS = 3  # of precision and recall


class Classifier(Protocol):
    """A classifier of images (n, D)."""

    def features(self, x: Tensor) -> Tensor:
        """Of the penultimate layer, (n, F)."""
        ...

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class, int64 (n,)."""
        ...


@dataclass(frozen=True)
class Judge:
    """The references that images of one class are compared with.

    Attributes:
        target_class: k. top: N - 1, white.
        train: every training image of the class, one binarisation or its levels, uint8 (m, D).
        features: of the first `MAX_REFERENCE` of them; None without a classifier.
        mean, covariance: of the same, black being 0 and white 1.
    """

    target_class: int
    top: int
    train: Tensor
    features: Tensor | None
    mean: Tensor
    covariance: Tensor

    def row(self, x: Tensor, classifier: Classifier | None) -> Row:
        """Every statistic of images (n, D) that are meant to be of this class.

        Returns:
            by name: shares in [0, 1], distances in pixels or units of the values. All are None for fewer than two
            images, and those of `BY_CLASSIFIER` without a classifier.
        """
        if len(x) < 2:
            return dict.fromkeys(STATISTICS)
        by_classifier = {} if classifier is None else self._by_classifier(x, classifier)
        return dict.fromkeys(STATISTICS) | self._by_pixels(x) | by_classifier

    def _by_pixels(self, x: Tensor) -> Row:
        return {
            **moment_difference(x.double() / self.top, self.mean, self.covariance),
            "diversity": mean_pixel_distance(x, self.top),
            "nearest_train": float(nearest_image(x, self.train, self.top)[0].mean()),
            "energy_pixels": energy_distance(x, self.train[:MAX_REFERENCE]) / self.top,
        }

    def _by_classifier(self, x: Tensor, classifier: Classifier) -> Row:
        assert self.features is not None
        features = classifier.features(x)
        precision, recall = _precision_and_recall(self.nearby(len(x)), features)
        return {
            "accuracy": float((classifier.predict(x) == self.target_class).double().mean()),
            "precision": precision,
            "recall": recall,
            "energy_features": energy_distance(features, self.features),
        }

    def energy_error(self, x: Tensor, classifier: Classifier | None) -> float | None:
        """The standard error of the energy distance in features, or of that in pixels without a classifier."""
        if len(x) < 2:
            return None
        if classifier is None or self.features is None:
            return energy_error(x, self.train[:MAX_REFERENCE]) / self.top
        return energy_error(classifier.features(x), self.features)

    def nearby(self, num: int) -> Tensor:
        """The first `num` reference features: precision and recall need sets of equal size."""
        assert self.features is not None
        return self.features[: max(2, num)]


def judges_of(data: Data, classifier: Classifier | None, classes: Sequence[int], seed: int) -> list[Judge]:
    """One judge per class; `seed` decides the binarisation and the order of its images."""
    judges = []
    top = data.num_tokens - 1
    for k in classes:
        generator = generator_for("reference", seed, k)
        train = data.train_examples(k, generator)
        train = train[torch.randperm(len(train), generator=generator)]
        mean, covariance = pixel_moments(train[:MAX_REFERENCE].double() / top)
        features = None if classifier is None else classifier.features(train[:MAX_REFERENCE])
        judges.append(Judge(k, top, train, features, mean, covariance))
    return judges


def judge_all(
    judges: Sequence[Judge], images: Sequence[Tensor], classifier: Classifier | None, together: Sequence[int]
) -> tuple[list[Row], Row]:
    """The row of each class, and the row of some of them together.

    Args:
        together: places of these classes, at least one.

    Returns:
        rows by class, and means over those of `together` that have a value; precision and recall are of their union.
    """
    rows = [judge.row(x, classifier) for judge, x in zip(judges, images)]
    pooled: Row = {name: _mean([rows[at][name] for at in together]) for name in STATISTICS}
    if classifier is not None:
        features = torch.cat([classifier.features(images[at]) for at in together])
        reference = torch.cat([judges[at].nearby(len(images[at])) for at in together])
        pooled["precision"], pooled["recall"] = _precision_and_recall(reference, features)
    return rows, pooled


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _precision_and_recall(reference: Tensor, features: Tensor) -> tuple[float | None, float | None]:
    k = min(NEIGHBOURS, len(reference) - 1, len(features) - 1)
    return precision_and_recall(reference, features, k) if k >= 1 else (None, None)
