"""Sections on samples of images: pictures, and how they compare with data as guidance grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.images import sample_grid
from mdlm_cfg.reports.mean_images import mean_images
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.style import CYCLE
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.images.findings import ImageEvaluation

SHOWN_COLUMNS = 40  # images in a row of the grid, over all strengths
HEADS = {
    "accuracy": "classifier's accuracy",
    "mean_rms": "pixel mean (RMS)",
    "covariance": "covariance (relative)",
    "diversity": "diversity (pixels)",
    "nearest_train": "nearest training image (pixels)",
    "precision": "precision",
    "recall": "recall",
    "energy_pixels": "energy distance (pixels)",
    "energy_features": "energy distance (features)",
}
LAST_ROW = (
    "The last row judges test images in the samples' place: what the data themselves would score, and for differences "
    "the noise floor."
)
NOTE = f"Means over classes; precision and recall are of all classes together. {LAST_ROW}"
NOTE_ON_PIXELS = f"Means over classes. {LAST_ROW}"


def image_sections(evaluation: ImageEvaluation, folder: Path) -> list[Section]:
    """The samples, and everything that was measured of them; writes its pictures to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    by_class = [] if evaluation.classifier_accuracy is None else [_accuracy_by_class(evaluation)]
    return [_samples(evaluation, folder), _comparison(evaluation, folder), *by_class, _means(evaluation, folder)]


def _samples(evaluation: ImageEvaluation, folder: Path) -> Section:
    shown = max(2, min(10, SHOWN_COLUMNS // (len(evaluation.strengths) + 1), evaluation.plan.num_samples))
    grids: dict[float | str, np.ndarray] = {
        w: _as_grid(x[:, :shown], evaluation.grid_shape) for w, x in evaluation.samples.items()
    }
    if evaluation.shown.shape[1] >= shown:
        grids = {"test images": _as_grid(evaluation.shown[:, :shown], evaluation.grid_shape), **grids}
    path = sample_grid(grids, folder / "samples.png", _names(evaluation))
    text = f"A row per class, a block per guidance strength, beside images of the test set. {_how(evaluation)}"
    return Section("Samples", text, None, [Picture(path, "Test images, and samples at every strength.")])


def _how(evaluation: ImageEvaluation) -> str:
    e = evaluation
    return (
        f"{e.plan.num_samples:,} samples per class and strength, by {e.plan.sampler.label}, guidance of the kind "
        f"“{e.kind}”, seed {e.plan.seed}; the first of each are shown."
    )


def _comparison(evaluation: ImageEvaluation, folder: Path) -> Section:
    heads = {key: head for key, head in HEADS.items() if key in evaluation.held_out.pooled}
    rows = [
        [name, *(format_number(row[key]) for key in heads)]
        for name, row in [
            *((f"{w:g}", evaluation.judged[w].pooled) for w in evaluation.strengths),
            ("test images", evaluation.held_out.pooled),
        ]
    ]
    table = Table(["w", *heads.values()], rows, NOTE if "recall" in heads else NOTE_ON_PIXELS)
    return Section("Samples against data", _text(evaluation), table, _curves(evaluation, folder))


def _text(evaluation: ImageEvaluation) -> str:
    e = evaluation
    fewer = ""
    if e.num_held_out < e.plan.num_samples:
        fewer = (
            f" A class has no more than {e.num_held_out:,} test images, fewer than samples: their row is then too "
            "high for differences, and a little off for recall."
        )
    text = (
        "Pixel mean and covariance are compared with those of training images of the class. Diversity is the mean "
        f"number of pixels in which two samples of a class differ{_by_shades(e)}; samples that copy the training set "
        f"would be much nearer to it than test images are.{fewer}"
    )
    if e.classifier_accuracy is not None:
        text = (
            f"The classifier is right on {e.classifier_accuracy:.2%} of all test images. Precision is the share of "
            "samples inside the data's manifold, recall the share of data inside the samples', both in its features "
            f"by nearest neighbours. {text}"
        )
    if e.nelbo is not None:
        text += (
            f"\n\nAsked for the class of {e.nelbo.num_images:,} random test images, the denoiser itself is right on "
            f"{e.nelbo.accuracy:.1%}: the class with the smallest negative ELBO, by {e.nelbo.num_draws} masks that all "
            "classes share."
        )
    return text


def _by_shades(evaluation: ImageEvaluation) -> str:
    """How pixels differ that are neither black nor white."""
    if evaluation.num_tokens == 2:
        return ""
    return " (by the square of the difference between their shades, of which black to white is 1)"


def _curves(evaluation: ImageEvaluation, folder: Path) -> list[Picture]:
    if len(evaluation.strengths) < 2:
        return []
    e, x_label = evaluation, "guidance strength w"
    distances = {"diversity": "diversity", "nearest training image": "nearest_train"}
    diversity = _against_w(e, distances, folder / "diversity.png", "pixels")
    pixels = Picture(diversity, "Mean distance between samples of a class, and to the nearest training image.")
    if e.classifier_accuracy is None:
        return [pixels]
    mistaken, floor = e.mistaken()
    accuracy = line_plot(
        {"samples": (e.strengths, mistaken)}, folder / "accuracy.png", x_label, "share taken for another class",
        levels={"test images": floor},
    )  # fmt: skip
    fidelity = _against_w(e, {"precision": "precision", "recall": "recall"}, folder / "precision_recall.png", "share")
    return [
        Picture(accuracy, "The share of samples that the classifier takes for another class (1 - accuracy) against w."),
        Picture(fidelity, "Precision and recall against w."),
        pixels,
    ]


def _against_w(evaluation: ImageEvaluation, keys: dict[str, str], path: Path, y_label: str) -> Path:
    """Statistics against w, each with a dashed line of its colour where test images are."""
    series: dict[str, Points] = {}
    colours: dict[str, str] = {}
    dashed: list[str] = []
    for colour, (name, key) in zip(CYCLE, keys.items()):
        w = evaluation.strengths
        level = f"{name}, test images"
        series[name] = (w, evaluation.against_w(key))
        series[level] = (w, [evaluation.held_out.pooled[key]] * len(w))
        colours |= {name: colour, level: colour}
        dashed.append(level)
    return line_plot(series, path, "guidance strength w", y_label, colours=colours, dashed=dashed)


def _accuracy_by_class(evaluation: ImageEvaluation) -> Section:
    e = evaluation
    blocks = [*((f"{w:g}", e.judged[w].by_class) for w in e.strengths), ("test images", e.held_out.by_class)]
    rows = [[name, *(format_number(row["accuracy"], 3) for row in by_class)] for name, by_class in blocks]
    note = "The classifier's accuracy by class. The last row is of as many test images."
    return Section("Accuracy by class", "", Table(["w", *_names(e)], rows, note))


def _means(evaluation: ImageEvaluation, folder: Path) -> Section:
    e = evaluation
    sampled = {f"w = {w:g}": _as_grid(means, e.grid_shape) for w, means in e.sample_means.items()}
    blocks = {"data": _as_grid(e.data_means, e.grid_shape)} | sampled
    varied = {f"w = {w:g}": _as_grid(found, e.grid_shape) for w, found in e.sample_components.items()}
    components = {"data": _as_grid(e.data_components, e.grid_shape)} | varied
    changes = {f"w = {w:g}": _as_grid(change, e.grid_shape) for w, change in e.mean_changes.items()}
    return Section(
        "Pixel means and covariances",
        "The mean image of every class: what guidance makes certain turns black or white. Below them "
        "the direction in which a class's images differ most: guidance that makes samples alike makes it pale.",
        None,
        [
            Picture(mean_images(blocks, folder / "means.png", _names(e)), "Pixel means of data and of samples."),
            Picture(
                mean_images(changes, folder / "mean_changes.png", _names(e), "change of the mean"), "Samples less data."
            ),
            Picture(
                mean_images(components, folder / "components.png", _names(e), "one standard deviation"),
                "The leading component of every class's covariance: what its images vary in most, and by how much.",
            ),
        ],
    )


def _as_grid(x: Tensor, grid_shape: Sequence[int]) -> np.ndarray:
    return x.reshape(*x.shape[:-1], *grid_shape).numpy()


def _names(evaluation: ImageEvaluation) -> list[str]:
    names = evaluation.class_names
    return [str(k) if names is None else names[k] for k in evaluation.classes]
