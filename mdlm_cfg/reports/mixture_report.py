"""Sections on a Bernoulli mixture: the network's score error, its guided samples, and what guidance does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from mdlm_cfg.compare.mixtures import GROUPS
from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.images import sample_grid
from mdlm_cfg.reports.mean_images import mean_images
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.scatter import scatter_plots
from mdlm_cfg.reports.score_section import score_section
from mdlm_cfg.reports.style import COLOURS, GREY
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.mixture.findings import BernoulliEvaluation

SHOWN_COLUMNS = 40  # images in a row of the grid, over all strengths
HEADS = {
    "mean_rms": "pixel mean (RMS)",
    "covariance": "covariance (relative)",
    "component_tv": "component usage (TV)",
    "energy": "energy distance",
}
SETS = {"learned": "learned", "floor": "exact again (noise floor)", "class": "class, unguided"}


def bernoulli_sections(evaluation: BernoulliEvaluation, folder: Path) -> list[Section]:
    """Everything that was found; writes its pictures to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [score_section(evaluation, "images of the mixture itself", "image", 3)] if evaluation.has_learned else []
    return [
        *sections,
        _comparison(evaluation, folder),
        _pixels(evaluation, folder),
        _components(evaluation, folder),
        *_samples(evaluation, folder),
    ]


def _comparison(evaluation: BernoulliEvaluation, folder: Path) -> Section:
    e = evaluation
    rows = [
        [f"{w:g}", SETS[name], *(format_number(row[key]) for key in HEADS)]
        for w in e.strengths
        for name, row in e.at[w].compared.items()
    ]
    text = (
        f"{e.plan.num_samples:,} samples per class and set, all by {e.plan.sampler.label}, guidance of the kind "
        f"“{e.kind}”, seed {e.plan.seed}. "
        "Each row compares a set with exact guided samples; a second, independent exact set shows how much of that is "
        "noise, and the unguided class how far guidance moves the law."
    )
    note = (
        "Means over classes. Energy distances are of Euclidean distances between images, and 0 on average for one law."
    )
    table = Table(["w", "set", *HEADS.values()], rows, note)
    return Section("Guided samples against exact ones", text, table, _curves(e, folder))


def _curves(evaluation: BernoulliEvaluation, folder: Path) -> list[Picture]:
    e, pictures = evaluation, []
    if len(e.strengths) < 2:
        return []
    names = [name for name in SETS if name in e.at[e.strengths[0]].compared]
    colours = {"learned": COLOURS["learned"], "floor": GREY, "class": COLOURS["exact"]}
    for key in ("component_tv", "energy"):
        series: dict[str, Points] = {SETS[name]: (e.strengths, e.against_w(name, key)) for name in names}
        path = line_plot(
            series, folder / f"{key}.png", "guidance strength w", HEADS[key],
            colours={SETS[name]: colours[name] for name in names}, dashed=[SETS["floor"]],
        )  # fmt: skip
        pictures.append(Picture(path, f"{HEADS[key][0].upper()}{HEADS[key][1:]}, to exact guided samples."))
    return pictures


def _pixels(evaluation: BernoulliEvaluation, folder: Path) -> Section:
    e = evaluation
    rows = [
        [
            f"{w:g}", name,
            *(format_number(value, 3) for value in (p.correlation, p.tilt_correlation)), format_number(p.slope),
            *(f"{p.groups[group]:+.4f}" for group in GROUPS),
        ]
        for w in e.strengths
        for name, p in e.at[w].pixels.items()
    ]  # fmt: skip
    exact = {w: found.pixels["exact"] for w, found in e.at.items()}
    panels = {f"w = {w:g}": (p.log_ratio.numpy(), p.change.numpy()) for w, p in exact.items()}
    scatter = scatter_plots(
        panels, folder / "pixels.png", "log-ratio of the value, class to mixture (nats)", "change of its probability"
    )
    names = [str(k) for k in e.classes]
    means = {f"w = {w:g}": _grid(found.exact_means, e.grid_shape) for w, found in e.at.items()}
    pictures = [
        Picture(scatter, "A point per class, pixel and value: exact guided samples less the class."),
        Picture(
            mean_images(means, folder / "means.png", names),
            "Pixel means of exact guided samples.",
        ),
    ]
    if e.has_learned:
        wrong = {f"w = {w:g}": _grid(found.mean_errors, e.grid_shape) for w, found in e.at.items()}
        path = mean_images(wrong, folder / "mean_errors.png", names, "error of the mean")
        pictures.append(Picture(path, "Pixel means of the network's samples less those of exact ones."))
    note = (
        "Mean change of the probability of a pixel's value: private values are more than 1.5 times as probable in the "
        "class as in the mixture, foreign ones less than 1 / 1.5 times, shared ones between. At w = 0 all is noise. "
        "The tilt is the change that tilting every pixel by itself would make at first order: "
        "small where the class hardly takes a value."
    )
    text = (
        "A pixel's value is the more private to a class the likelier it is there than in the whole mixture. If the "
        "two-dimensional picture holds, guidance makes private values likelier, and the more so the stronger it is."
    )
    heads = ["w", "samples", "correlation", "with the tilt", "slope (per nat)", *GROUPS]
    return Section("Pixels: private amplified?", text, Table(heads, rows, note), pictures)


def _components(evaluation: BernoulliEvaluation, folder: Path) -> Section:
    e = evaluation
    rows = [
        [
            f"{w:g}", name, format_number(c.rank_correlation_partial, 3),
            format_number(e.rank_correlation_whole(w, name), 3), format_number(c.entropy, 2),
        ]
        for w in e.strengths
        for name, c in e.at[w].components.items()
    ]  # fmt: skip
    partial = e.distinct_partial.centred.flatten().numpy()
    panels = {
        f"w = {w:g}": (partial, found.components["exact"].log_gain.flatten().numpy()) for w, found in e.at.items()
    }
    path = scatter_plots(
        panels, folder / "components.png", "distinctness by partial images, less its class's mean (nats)",
        "log usage / weight",
    )  # fmt: skip
    text = (
        "A component is the more distinct the more surely its images tell the class: E log p(x | z) / p(x), by whole "
        "images or by partial ones of every size, on which guidance acts. Whole images of these components reach "
        f"{e.distinct.mean:.3f} nats on average and differ by {e.distinct.spread:.1e} within a class, partial ones "
        f"{e.distinct_partial.mean:.3f} and by {e.distinct_partial.spread:.3f}: where whole images always tell "
        "the class, guidance could not move their law if it were tilted at the end, and acts through partial images "
        "alone. If distinct components gain weight under guidance, gains and distinctness rank alike."
    )
    note = (
        "Spearman's correlation of log usage / weight with distinctness, within classes; in use: exp of the usage's "
        "entropy, which falls as guidance concentrates on few components."
    )
    heads = ["w", "samples", "rank correlation (partial images)", "(whole images)", "components in use"]
    return Section(
        "Components: do the distinct ones gain?", text, Table(heads, rows, note),
        [Picture(path, "A point per component: exact guided samples.")],
    )  # fmt: skip


def _samples(evaluation: BernoulliEvaluation, folder: Path) -> list[Section]:
    e = evaluation
    shown = max(2, min(10, SHOWN_COLUMNS // len(e.strengths), e.plan.num_samples))
    pictures = []
    for name in e.at[e.strengths[0]].samples:
        grids = {w: _grid(found.samples[name][:, :shown], e.grid_shape) for w, found in e.at.items()}
        path = sample_grid(grids, folder / f"samples_{name}.png", [str(k) for k in e.classes])
        pictures.append(Picture(path, f"By the {name} denoiser."))
    return [Section("Samples", "A row per class, a block per guidance strength.", None, pictures)]


def _grid(x: Tensor, grid_shape: Sequence[int]) -> np.ndarray:
    return x.reshape(*x.shape[:-1], *grid_shape).numpy()
