"""How well a network predicts test images, and how often classifiers are right about their class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.compare.images import class_nelbos, independent_nelbos
from mdlm_cfg.studies.common import LONGER
from mdlm_cfg.studies.findings import Block, Table, col
from mdlm_cfg.studies.protocol import LEARNED, Case
from mdlm_cfg.support.seeds import generator_for

GOOD = 0.9  # accuracy on test images from which a classifier's numbers are taken as they are
SURE = 2.0  # standard errors from which a difference is more than chance
MODELS = ("network", "independent pixels", "uniform values")


@dataclass(frozen=True)
class NelboRow:
    """How well a model predicts test images, given their class."""

    model: str = col("model", '"network", or the model it is compared with', index=True)
    nelbo: float = col("NELBO", "negative ELBO given the class; of the others minus the log-probability", unit="nats")
    excess: float = col("over the network's", "this less the network's, of the same images", unit="nats", digits=2)
    excess_se: float = col("standard error", "of that difference, over images", unit="nats", digits=2)


@dataclass(frozen=True)
class JudgeRow:
    """How often a classifier of test images is right."""

    judge: str = col("classifier", '"classifier", or "nelbo": the class of the smallest NELBO', index=True)
    test_accuracy: float = col("accuracy", "on test images", unit="share")
    commonest: float = col("commonest class", "the share that always naming it gets right", unit="share")
    num_images: int = col("images", "test images that were classified")

    @property
    def is_useless(self) -> bool:
        """Whether it is not surely better than always naming the commonest class."""
        p = self.commonest
        return self.test_accuracy - p < SURE * math.sqrt(p * (1 - p) / self.num_images) or self.test_accuracy <= p


def nelbos_of_classes(case: Case, num: int, num_draws: int) -> tuple[Tensor, Tensor]:
    """Places of test images, int64 (n,), and their NELBO under every class, float64 (n, K)."""
    generator = generator_for("classified", case.plan.seed)
    x = case.data.test_examples()[0]
    chosen = torch.randperm(len(x), generator=generator)[:num]
    return chosen, class_nelbos(case.denoisers[LEARNED], x[chosen].long(), num_draws, generator)


def commonest(labels: Tensor) -> float:
    return float(labels.long().bincount().max() / len(labels))


def baselines_of(case: Case, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Minus the log-probability of images under models without any structure, float64 (n,) each."""
    independent = torch.empty(len(x), dtype=torch.float64)
    for k in labels.unique().tolist():
        train = case.data.train_examples(k, generator_for("reference", case.plan.seed, k))
        independent[labels == k] = independent_nelbos(x[labels == k], train, case.data.num_tokens)
    uniform = x.shape[1] * math.log(case.data.num_tokens)
    return {"independent pixels": independent, "uniform values": torch.full_like(independent, uniform)}


def nelbo_rows(network: Tensor, baselines: Mapping[str, Tensor]) -> list[NelboRow]:
    """The network's NELBO and that of baselines, with their difference on the same images.

    Args:
        network: float64 (n,), in nats. baselines: the same by name.
    """
    rows = []
    for model, values in {"network": network, **baselines}.items():
        excess = values - network
        spread = float(excess.std()) / math.sqrt(len(excess)) if len(excess) > 1 else 0.0
        rows.append(NelboRow(model, float(values.mean()), float(excess.mean()), spread))
    return rows


def blocks_of_models(nelbos: Sequence[NelboRow], classifiers: Sequence[JudgeRow]) -> list[Block]:
    group = "Network and classifier on test images"
    text = (
        "The network's NELBO given the class, beside two models without structure: independent pixels "
        "with the frequencies of the class's training images, and uniform values. All use the same test images."
    )
    of_network = [Table(["model"], ["nelbo", "excess", "excess_se"], note="Nats per image.")]
    accuracy = 'The classifier of the samples, and the network itself ("nelbo"): the class of the smallest NELBO.'
    of_judge = [Table(["judge"], ["test_accuracy", "commonest", "num_images"])]
    return [
        Block("nelbo", nelbos, "NELBO beside simple models", text, [], of_network, ["nelbo"], group),
        Block("classifiers", classifiers, "Accuracy on test images", accuracy, [], of_judge, ["test_accuracy"], group),
    ]


def training_sentence(rows: Sequence[NelboRow]) -> str:
    """Whether the network predicts test images better than models without structure."""
    by_model = {row.model: row for row in rows}
    network, independent, uniform = (by_model[model] for model in MODELS)
    own = f"its NELBO is {network.nelbo:.1f} nats per test image"
    if uniform.excess <= SURE * uniform.excess_se:
        return f"The network is not trained: {own}, no better than uniform values ({uniform.nelbo:.1f}). {LONGER}"
    if independent.excess <= SURE * independent.excess_se:
        return (
            f"The network is barely trained: {own}, no better than independent pixels of each class "
            f"({independent.nelbo:.1f}); uniform values have {uniform.nelbo:.1f}. {LONGER}"
        )
    return (
        f"The network has learned how pixels depend on each other: {own}, below the {independent.nelbo:.1f} of "
        f"independent pixels of each class by {independent.excess:.1f} ± {independent.excess_se:.1f}."
    )


def of_classifier(row: JudgeRow) -> list[str]:
    """A warning where the classifier is not good enough to judge samples by."""
    right = f"it is right on {row.test_accuracy:.1%} of test images, and always choosing the most common class on "
    right += f"{row.commonest:.1%}"
    if row.commonest == 1:
        return ["All test images are of one class: the classifier cannot be tested."]
    if row.is_useless:
        return [f"The classifier is too weak for samples: {right}. Disregard accuracy, precision and recall."]
    if row.test_accuracy < GOOD:
        return [f"The classifier classifies samples only roughly: {right}."]
    return []
