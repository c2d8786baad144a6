"""How well a network predicts test images, and how often classifiers assign the right class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.compare.images import class_nelbos
from mdlm_cfg.studies.common import SURE
from mdlm_cfg.studies.findings import Block, Table, col
from mdlm_cfg.studies.protocol import LEARNED, Case
from mdlm_cfg.studies.simple_models import NelboRow, Words, nelbo_block, without_structure
from mdlm_cfg.support.numbers import percent
from mdlm_cfg.support.seeds import generator_for

GOOD = 0.9  # accuracy on test images from which a classifier's numbers are trusted
IMAGE = Words("image", "pixels", "test images")


def accuracy_column() -> Any:
    """The accuracy column of a row of images."""
    return col("accuracy", "share of images that the classifier assigns to the intended class", unit="share")


def precision_column() -> Any:
    """The precision column of a row of images."""
    return col("precision", "share of images that are near data in the classifier's features", unit="share")


def recall_column() -> Any:
    """The recall column of a row of images."""
    return col("recall", "share of data that are near images in the classifier's features", unit="share")


@dataclass(frozen=True)
class JudgeRow:
    """How often a classifier of test images is right."""

    judge: str = col("classifier", '"classifier", or "nelbo": the class of the smallest NELBO', index=True)
    test_accuracy: float = col("accuracy", "share of test images that are classified correctly", unit="share")
    class_accuracy: float = col("mean over classes", "mean of the classes' accuracies", unit="share")
    commonest: float = col(
        "commonest class", "accuracy of always naming the most common class of the training images", unit="share"
    )
    num_images: int = col("images", "number of test images that were classified")

    @classmethod
    def of(cls, judge: str, hits: Tensor, labels: Tensor, weights: Tensor) -> JudgeRow:
        """The row of a classifier.

        Args:
            hits: which test images are classified correctly, (n,). labels: their classes, int64 (n,). weights: of the
                classes in training, (K,).
        """
        hits = hits.double()
        means = torch.stack([hits[labels == k].mean() for k in labels.unique()])
        of_commonest = float((labels == weights.argmax()).double().mean())  # that of the test images would fit them
        return cls(judge, float(hits.mean()), float(means.mean()), of_commonest, len(labels))

    @property
    def is_useless(self) -> bool:
        """Whether it is not clearly better than always naming the most common class."""
        p = self.commonest
        return self.test_accuracy - p < SURE * math.sqrt(p * (1 - p) / self.num_images) or self.test_accuracy <= p


def nelbos_of_classes(case: Case, num: int, num_draws: int) -> tuple[Tensor, Tensor]:
    """Indices of test images, int64 (n,), and their NELBO under every class, float64 (n, K)."""
    generator = generator_for("classified", case.plan.seed)
    x = case.data.test_examples()[0]
    chosen = torch.randperm(len(x), generator=generator)[:num]
    return chosen, class_nelbos(case.denoisers[LEARNED], x[chosen].long(), num_draws, generator)


def baselines_of(case: Case, x: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probability of images under models without any structure, float64 (2, n)."""
    found = torch.empty(2, len(x), dtype=torch.float64)
    for k in labels.unique().tolist():
        train = case.data.train_examples(k, generator_for("reference", case.plan.seed, k))
        found[:, labels == k] = without_structure(x[labels == k], train, case.data.num_tokens)
    return found


def blocks_of_models(nelbos: Sequence[NelboRow], classifiers: Sequence[JudgeRow]) -> list[Block]:
    """The NELBO of the network, and the accuracy of the classifier and of the network."""
    group = "Network and classifier on test images"
    accuracy = 'The classifier of the samples, and the network itself ("nelbo"): the class of the smallest NELBO.'
    of_judge = [Table(["judge"], ["test_accuracy", "class_accuracy", "commonest", "num_images"])]
    return [
        nelbo_block(nelbos, IMAGE, group),
        Block("classifiers", classifiers, "Accuracy on test images", accuracy, [], of_judge, ["test_accuracy"], group),
    ]


def of_classifier(row: JudgeRow) -> list[str]:
    """A warning if the classifier is not good enough to judge samples, whose accuracies are means over classes."""
    if min(row.test_accuracy, row.class_accuracy) >= GOOD and not row.is_useless:
        return []
    judged = "judges samples only roughly"
    if row.is_useless:
        judged = "cannot judge samples: disregard accuracy, precision and recall"
    return [
        f"The classifier {judged}. It is right on {percent(row.test_accuracy, 1)} of test images "
        f"({percent(row.class_accuracy, 1)} in the mean over classes), and always choosing the most common class on "
        f"{percent(row.commonest, 1)}."
    ]
