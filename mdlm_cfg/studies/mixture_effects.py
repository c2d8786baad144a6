"""What guidance does to the pixels and the components of a Bernoulli mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.studies.common import as_images
from mdlm_cfg.studies.findings import Block, Cloud, Mosaic, Table, View, col
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case
from mdlm_cfg.studies.rows import AtStrength

PIXEL_TEXT = """\
A value of a pixel is private to a class where it is more than 1.5 times as probable in the class as in the whole \
mixture, foreign where it is less than 1 / 1.5 times as probable, and shared in between. If guidance acts as in two \
dimensions, it makes private values more probable, and more so the stronger it is."""
PIXEL_NOTE = """\
Mean changes in the probability of a pixel's value, guided samples minus the class. At w = 0 all changes are noise."""
COMPONENT_TEXT = """\
The more reliably its images identify the class, the more distinct a component is: E log p(x | z) / p(x), for partial \
images of every size, on which guidance acts. If distinct components gain weight under guidance, gain and \
distinctness are positively correlated."""
COMPONENT_NOTE = """\
Spearman correlation of log usage / weight with distinctness, within classes. Components in use: exp of the entropy \
of usage, which falls as guidance concentrates on few components."""


@dataclass(frozen=True)
class PixelRow(AtStrength):
    """How guidance changes the probability of pixels' values, by how private they are to the class."""

    set: str = col("set", '"exact" (both exact sets together) or "learned"', index=True)
    correlation: float | None = col(
        "correlation", "correlation between the log-ratio of class to mixture and the change", digits=3
    )
    change_private: float | None = col(
        "private", ("mean change in the probability of private values; absent if there are none")
    )
    change_shared: float | None = col("shared", "the same for shared values")
    change_foreign: float | None = col("foreign", "the same for foreign values")
    private_se: float | None = col("error of private", "standard error of that mean change")


@dataclass(frozen=True)
class ComponentRow(AtStrength):
    """Which components guidance uses, by how distinct they are."""

    set: str = col("set", '"exact" (both exact sets together) or "learned"', index=True)
    rank_correlation_partial: float | None = col(
        "rank correlation (partial images)",
        "rank correlation between gain and distinctness by partial images",
        digits=3,
    )
    gain_in_errors: float | None = col(
        "gain of distinct components", "rank correlation by partial images, in standard errors", digits=1
    )
    components_in_use: float = col("components in use", "exp of the entropy of the usage, mean over classes", digits=2)


def _known(value: float) -> float | None:
    """A number, or None if it is not finite."""
    return value if math.isfinite(value) else None


def pixel_row(guidance: Guidance, name: str, found: Mapping[str, Any]) -> PixelRow:
    """The row of a result of `mdlm_cfg.compare.mixtures.pixel_picture`."""
    changes = {f"change_{group}": _known(value) for group, value in found["groups"].items()}
    return PixelRow(guidance, name, _known(found["correlation"]), **changes, private_se=_known(found["private_error"]))


def component_row(guidance: Guidance, name: str, found: Mapping[str, Any]) -> ComponentRow:
    """The row of a result of `mdlm_cfg.compare.mixtures.component_picture`."""
    rank, in_errors = (_known(found[key]) for key in ("rank_correlation", "gain_in_errors"))
    return ComponentRow(guidance, name, rank, in_errors, found["in_use"])


def _tiles(case: Case, means: Mapping[Guidance, Tensor]) -> dict[str, np.ndarray]:
    return {f"w = {g.label}": as_images(case, x)[:, None] for g, x in means.items()}


def pixel_block(
    case: Case,
    rows: Sequence[PixelRow],
    compared: Mapping[Guidance, Any],
    samples: Mapping[Guidance, Mapping[str, Tensor]],
) -> Block:
    """How guidance changes pixels, by how specific they are to the class."""
    names = [case.class_name(k) for k in case.classes]
    points = {
        f"w = {g.label}": (found["pixels"][EXACT]["log_ratio"].numpy(), found["pixels"][EXACT]["change"].numpy())
        for g, found in compared.items()
    }
    labels = ("log-ratio of the value, class to mixture (nats)", "change of its probability")
    means = {g: own[EXACT].double().mean(dim=1) for g, own in samples.items()}
    numbers = ["correlation", "change_private", "change_shared", "change_foreign"]
    views: list[View] = [
        Table(["w", "set"], numbers, note=PIXEL_NOTE),
        Cloud(points, labels, "One point for each class, pixel and value: exact guided samples minus the class."),
        Mosaic(_tiles(case, means), names, "Pixel means of exact guided samples."),
    ]
    if case.has_learned:
        wrong = {g: own[LEARNED].double().mean(dim=1) - means[g] for g, own in samples.items()}
        caption = "Pixel means of the network's samples minus those of exact samples."
        views.append(Mosaic(_tiles(case, wrong), names, caption, "error of the mean"))
    title = "Are class-specific pixels amplified?"
    return Block("pixels", rows, title, PIXEL_TEXT, [], views, ["correlation"], "Pixels")


def component_block(rows: Sequence[ComponentRow], compared: Mapping[Guidance, Any], distinct: Tensor) -> Block:
    """How guidance changes the usage of components, by how distinct they are."""
    x = (distinct - distinct.mean(dim=1, keepdim=True)).flatten().numpy()
    points = {
        f"w = {g.label}": (x, found["components"][EXACT]["log_gain"].flatten().numpy()) for g, found in compared.items()
    }
    labels = ("distinctness by partial images, minus the mean of its class (nats)", "log usage / weight")
    numbers = ["rank_correlation_partial", "gain_in_errors", "components_in_use"]
    views: list[View] = [
        Table(["w", "set"], numbers, note=COMPONENT_NOTE),
        Cloud(points, labels, "One point for each component: exact guided samples."),
    ]
    title = "Do distinct components gain weight?"
    logged = ["rank_correlation_partial"]
    return Block("components", rows, title, COMPONENT_TEXT, [], views, logged, "Components")
