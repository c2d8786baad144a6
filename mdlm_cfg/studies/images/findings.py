"""What a study of images finds: plain numbers by name, and the samples themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.compare.images import leading_component, pixel_moments
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan

STATISTICS = (
    *("accuracy", "mean_rms", "covariance", "diversity", "nearest_train"),
    *("precision", "recall", "energy_pixels", "energy_features"),
)
BY_CLASSIFIER = ("accuracy", "precision", "recall", "energy_features")  # which are not there without one
Row = dict[str, float]


@dataclass(frozen=True)
class Judged:
    """A set of images of every class, judged.

    Attributes:
        by_class: per class, a row of `STATISTICS` (without a classifier, none of `BY_CLASSIFIER`): shares in [0, 1],
            distances in pixels or units of the values; NaN where a class has fewer than two images.
        pooled: of all classes: means over them, and precision and recall of the union.
    """

    by_class: list[Row]
    pooled: Row


@dataclass(frozen=True)
class NelboClassification:
    """The denoiser as a classifier of test images, by class-conditional NELBO.

    Attributes:
        accuracy: share of the images whose class it finds.
        num_images: test images that were classified; num_draws: masks for each.
    """

    accuracy: float
    num_images: int
    num_draws: int


@dataclass(frozen=True)
class ImageEvaluation:
    """Samples by guidance strength, and numbers that say how they compare with data.

    Attributes:
        plan: what was asked for: guidances, sampler, number of samples per class and strength, seed.
        name: of the data. grid_shape: (height, width). num_tokens: N, black to white.
        class_names: of all K classes, or None.
        classes: which were sampled, C of them.
        num_held_out: test images per class that were judged like samples (as many, where there are so many).
        samples: by w, uint8 (C, n, D), on the CPU.
        judged: by w, of the samples. held_out: of test images. shown: some of those of every class, uint8 (C, m, D).
        data_means: pixel means of training images, 0 black and 1 white, (C, D). sample_means: of samples, by w, (C, D).
        data_components: of the covariance of training images, `leading_component`, (C, D).
        classifier_accuracy: of the classifier that judges, on test images; None without one.
        nelbo: None if not asked.
    """

    plan: Plan
    name: str
    grid_shape: tuple[int, ...]
    num_tokens: int
    class_names: tuple[str, ...] | None
    classes: list[int]
    num_held_out: int
    samples: dict[float, Tensor]
    judged: dict[float, Judged]
    held_out: Judged
    shown: Tensor
    data_means: Tensor
    sample_means: dict[float, Tensor]
    data_components: Tensor
    classifier_accuracy: float | None
    nelbo: NelboClassification | None

    @property
    def strengths(self) -> list[float]:
        """The guidance strengths, in the order asked for."""
        return list(self.samples)

    @property
    def kind(self) -> str:
        """The kind of guidance, one for all strengths."""
        return str(self.plan.guidances[0].kind)

    @property
    def mean_changes(self) -> dict[float, Tensor]:
        """Pixel means of samples less those of training images, by w, (C, D)."""
        return {w: means - self.data_means for w, means in self.sample_means.items()}

    @property
    def sample_components(self) -> dict[float, Tensor]:
        """As `data_components`, of samples, by w, (C, D): of the two signs the one that is nearer to the data's."""
        return {w: self._components(x) for w, x in self.samples.items()}

    def _components(self, samples: Tensor) -> Tensor:
        found = torch.stack([leading_component(pixel_moments(x)[1]) for x in samples])
        return torch.where((found * self.data_components).sum(dim=1, keepdim=True) < 0, -found, found)

    def against_w(self, statistic: str) -> list[float]:
        """One of `STATISTICS`, of all classes, in the order of the strengths."""
        return [self.judged[w].pooled[statistic] for w in self.strengths]

    def mistaken(self) -> tuple[list[float], float]:
        """The share taken for another class, 1 - accuracy: of samples, by strength, and of test images."""
        return [1 - value for value in self.against_w("accuracy")], 1 - self.held_out.pooled["accuracy"]

    def rows(self) -> list[dict[str, float | int | str | None]]:
        """Flat rows: per w and class, and test images under w = "data" with no kind; class "all" is pooled."""
        rows = [row for w in self.strengths for row in self._block(w, self.kind, self.judged[w])]
        return rows + self._block("data", None, self.held_out)

    def _block(self, w: float | str, kind: str | None, judged: Judged) -> list[dict[str, float | int | str | None]]:
        labelled: Sequence[tuple[int | str, Row]] = [*zip(self.classes, judged.by_class), ("all", judged.pooled)]
        return [{"w": w, "kind": kind, "class": k, **row} for k, row in labelled]

    @property
    def verdict(self) -> list[str]:
        """What guidance did to the samples, and what it cost, in sentences."""
        weakest, strongest = min(self.strengths), max(self.strengths)
        start, end, data = self.judged[weakest].pooled, self.judged[strongest].pooled, self.held_out.pooled
        if self.classifier_accuracy is None:
            return [
                f"Two samples of a class differ in {start['diversity']:.1f} pixels at w = {weakest:g} and in "
                f"{end['diversity']:.1f} at w = {strongest:g}; two test images in {data['diversity']:.1f}. No "
                "classifier was asked: its accuracy, precision and recall are not known."
            ]
        return [
            f"At w = {weakest:g} the classifier takes {start['accuracy']:.1%} of the samples for their class, at w = "
            f"{strongest:g} {end['accuracy']:.1%}; of test images {data['accuracy']:.1%}.",
            f"Recall is {start['recall']:.2f} at w = {weakest:g} and {end['recall']:.2f} at w = {strongest:g}; test "
            f"images have {data['recall']:.2f}.",
        ]

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "accuracy_w2", "recall_data", and so on."""
        blocks = {f"w{w:g}": self.judged[w].pooled for w in self.strengths} | {"data": self.held_out.pooled}
        flat = {f"{name}_{key}": value for key, row in blocks.items() for name, value in row.items()}
        if self.classifier_accuracy is not None:
            flat["classifier_test_accuracy"] = self.classifier_accuracy
        return flat if self.nelbo is None else flat | {"nelbo_test_accuracy": self.nelbo.accuracy}

    def arrays(self) -> dict[str, np.ndarray]:
        """Every sample by its strength, "w2", uint8 (C, n, height, width)."""
        return {f"w{w:g}": x.reshape(*x.shape[:2], *self.grid_shape).numpy() for w, x in self.samples.items()}

    def to_dict(self) -> dict[str, Any]:
        """All but the images, as plain numbers."""
        data = {"name": self.name, "grid_shape": list(self.grid_shape), "classes": list(self.classes)}
        return {
            "version": REPORT_VERSION,
            "plan": self.plan.describe(),
            "data": data | {"num_held_out": self.num_held_out},
            "verdict": self.verdict,
            "distances": self.rows(),
            **({} if self.classifier_accuracy is None else {"classifier_accuracy": self.classifier_accuracy}),
            "nelbo_classification": None if self.nelbo is None else dict(vars(self.nelbo)),
        }
