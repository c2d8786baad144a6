"""Sections on guided inpainting: hidden pixels, their completions, and the slices' ledgers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdlm_cfg.reports.completions import CompletionRow, draw_completions
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.inpainting.findings import InpaintingFindings, Slice

SHOWN = 4  # completions in a row of the picture


def inpainting_sections(findings: InpaintingFindings, folder: Path) -> list[Section]:
    """Everything that was found; writes its pictures to `folder`."""
    return [*(_slice(findings, s, folder) for s in findings.slices), _ledgers(findings)]


def _slice(findings: InpaintingFindings, s: Slice, folder: Path) -> Section:
    rows = []
    for found, between in zip(s.at, s.between):
        row = s.row(found)
        rows.append(
            [
                found.guidance.label,
                f"{row['truth_probability']:.3g}",
                str(row["truth_rank"]),
                *(format_number(value) for value in between),
                format_number(row["tv_tilted"]),
                format_number(row["ess"]),
                *([] if found.score_error is None else [format_number(found.score_error)]),
            ]
        )
    text = (
        f"Test image {s.index} of class {s.image_class}; {len(s.free)} pixels are hidden ({findings.how}), all others "
        f"known, and guidance is to class {s.target_class}. The {findings.judged} denoiser was asked for all "
        f"{findings.num_states:,} partial states under the class and under none: the law of the hidden pixels is "
        "exact, at every strength."
    )
    note = (
        "True: the probability of the hidden values, and the place of that completion among all. TV to the laws at the "
        "other strengths and to the tilted law (of a network: averaged over orders); effective: the share of samples "
        "that weights to it leave."
    )
    heads = [
        "w",
        "true",
        "place",
        *(f"TV to w = {found.guidance.label}" for found in s.at),
        "TV to tilted",
        "effective",
    ]
    if s.at[0].score_error is not None:
        heads.append("score error")
    picture = Picture(
        _draw(findings, s, folder),
        "Hidden pixels in colour: blue is off, orange is on. Over each completion its probability.",
    )
    return Section(f"Image {s.index}, guided to class {s.target_class}", text, Table(heads, rows, note), [picture])


def _draw(findings: InpaintingFindings, s: Slice, folder: Path) -> Path:
    shape = findings.grid_shape if len(findings.grid_shape) == 2 else (1, len(s.image))
    top = max(1, findings.num_tokens - 1)
    rows = [
        CompletionRow(
            f"w = {found.guidance.label}",
            [sum(v * p for v, p in enumerate(pixel)) / top for pixel in found.marginals],
            [([v / top for v in values], p) for values, p in found.completions(SHOWN)],
        )
        for found in s.at
    ]
    image = s.image.reshape(shape).numpy().astype(np.float64) / top
    return draw_completions(image, s.free.tolist(), rows, folder / f"{s.name}.png", "test image")


def _ledgers(findings: InpaintingFindings) -> Section:
    known = any(found.score_error is not None for s in findings.slices for found in s.at)
    rows = [
        [
            str(s.index),
            found.guidance.label,
            ledger.sampler.name if ledger.sampler.steps is None else f"{ledger.sampler.name} {ledger.sampler.steps}",
            *([format_number(ledger.tv["score error"])] if known else []),
            *(format_number(ledger.tv[line]) for line in ("discretisation error", "total")),
            f"{format_number(ledger.predicted_total.low)} to {format_number(ledger.predicted_total.high)}",
            "yes" if ledger.closes else "no",
        ]
        for s in findings.slices
        for found in s.at
        for ledger in found.ledgers
    ]
    true = known or findings.judged == "exact"
    text = (
        f"{findings.plan.num_samples:,} samples each, of the plan's sampler drawn of the whole denoiser from the image "
        "with its pixels hidden, of event-leaping in two steps of the slice. The total is their distance to the "
        f"slice's {'exact law' if true else 'own exact law, as the data are not known exactly'}; the ledger closes "
        "where it lies in the central 99% of what the law of the sampler's steps predicts. Steps: how far that law is "
        "from the one of steps one by one."
    )
    heads = ["image", "w", "sampler", *(["score error"] if known else []), "steps", "total", "predicted", "closes"]
    return Section("The slices' ledgers", text, Table(heads, rows))
