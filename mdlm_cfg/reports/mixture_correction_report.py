"""Sections on the tilted law of a Bernoulli mixture, sampled in many dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdlm_cfg.reports.bars import bar_plots
from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.images import sample_grid
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.style import COLOURS
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.correction.mixture_findings import MixtureCorrection

NAMES = {
    "reference": "tilted law", "class": "class", "guided": "guided", "weighted": "weighted", "resampled": "resampled",
}  # fmt: skip
BARS = {
    "reference": ("tilted law", COLOURS["tilted"]), "guided": ("guided", COLOURS["exact"]),
    "resampled": ("resampled", "#009E73"),
}  # fmt: skip


def mixture_correction_sections(findings: MixtureCorrection, folder: Path) -> list[Section]:
    """Everything that was found; writes its pictures to `folder`."""
    return [_sets(findings, folder), _normalizers(findings, folder), _images(findings, folder)]


def _sets(findings: MixtureCorrection, folder: Path) -> Section:
    rows = [
        [
            one.guidance.label, str(one.target_class), NAMES[name], format_number(s.usage_tv, 3),
            format_number(one.floor, 3) if name != "reference" else "", f"{s.class_posterior:.6f}",
            format_number(s.mean_rms),
        ]
        for one in findings.found
        for name, s in one.sets.items()
    ]  # fmt: skip
    text = (
        f"{findings.plan.num_samples:,} samples per class, strength and set, of {findings.judged} scores, by "
        f"{findings.plan.sampler.label}, seed {findings.plan.seed}. The tilted law is known in any dimension: "
        "p(x)^(-w) p(x|z)^(1+w) = p(x|z) (p(x|z)/p(x))^w, so samples of the class weighted by (p(x|z)/p(x))^w are "
        f"samples of it, here {findings.options.num_reference:,} of them. Where images tell their class those weights "
        "are even, and the tilted law hardly differs from the class: what guidance changes is then its own doing."
    )
    note = (
        "Tilted law: samples of the class, weighted. Class: its own, unguided. Guided samples as they are, weighted at "
        "the end, and resampled on the way. Usage: of the class's components, by their exact posterior, TV to the "
        "tilted law's; its floor is what as many perfect samples show. Posterior: the mean exact p(z|x). Pixel mean: "
        "RMS difference to the tilted law's."
    )
    heads = ["w", "class", "set", "usage (TV)", "its floor", "posterior", "pixel mean (RMS)"]
    pictures = []
    for z in findings.classes:
        here = [one for one in findings.found if one.target_class == z]
        order = np.argsort(-here[0].sets["reference"].usage.numpy(), kind="stable")
        panels = {
            f"w = {one.guidance.label}": {
                label: one.sets[name].usage.numpy()[order].tolist() for name, (label, _) in BARS.items()
            }
            for one in here
        }
        path = bar_plots(
            panels, folder / f"usage_class{z}.png", [str(c) for c in order], "component", "share",
            dict(BARS.values()),
        )  # fmt: skip
        pictures.append(Picture(path, f"Class {z}: which of its components images come from."))
    return Section("Corrected and uncorrected samples", text, Table(heads, rows, note), pictures)


def _normalizers(findings: MixtureCorrection, folder: Path) -> Section:
    rows = [
        [
            str(row["w"]), str(row["class"]), NAMES[row["set"]], f"{row['num_samples']:,}",
            f"{row['log_normalizer']:.4f} ± {row['relative_error']:.4f}", format_number(row["ess"]),
        ]
        for one in findings.found
        for row in one.normalizers()
    ]  # fmt: skip
    text = (
        "ln E W estimated three ways. The error is the relative standard error of E W by independent groups; where "
        "few samples carry all the weight it says too little, and the estimate is low."
    )
    series: dict[str, Points] = {}
    for one in findings.found:
        ess = list(one.resampled.ess_on_the_way)
        series[f"w = {one.guidance.label}, class {one.target_class}"] = (list(range(1, len(ess) + 1)), ess)
    path = line_plot(series, folder / "ess_on_the_way.png", "coordinates unmasked", "effective share in a group")
    heads = ["w", "class", "samples", "n", "ln E W", "effective"]
    picture = Picture(
        path,
        "The groups' mean effective share at each step, before any resampling "
        f"(threshold {findings.options.threshold:g}, {findings.options.num_groups} groups).",
    )
    return Section("The normaliser, and the weights on the way", text, Table(heads, rows), [picture])


def _images(findings: MixtureCorrection, folder: Path) -> Section:
    pictures = []
    for z in findings.classes:
        here = [one for one in findings.found if one.target_class == z]
        shown = ("reference", "guided", "resampled")
        grids = {
            one.guidance.constant: np.stack(
                [one.sets[name].images.reshape(-1, *findings.grid_shape).numpy() for name in shown]
            )
            for one in here
        }
        path = sample_grid(grids, folder / f"samples_class{z}.png", ["tilted", "guided", "resampled"])
        pictures.append(Picture(path, f"Class {z}."))
    text = "A row per set, a block per guidance strength; weighted sets are drawn by their weights."
    return Section("Samples", text, None, pictures)
