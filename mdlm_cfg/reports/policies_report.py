"""The page of `study=policies`: every policy's distances, and the error against coordinates a step."""

from __future__ import annotations

import textwrap
from pathlib import Path

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.style import file_name
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.policies.findings import PolicyFindings

READING = """\
A policy chooses which coordinate is unmasked next, guidance what it becomes. All laws are exact: nothing is sampled. \
Of several coordinates a step the values are drawn from the frozen state, and the coordinates one by one by the policy.

With exact scores and w = 0, one at a time, every order gives the class. With guidance the order matters; so it does \
with several coordinates a step, and with learned scores already at w = 0."""
DIGITS = 9  # to which distances are equal
LEGEND_WIDTH = 28  # letters


def policies_sections(findings: PolicyFindings, folder: Path) -> list[Section]:
    """A section for every strength and denoiser: its picture goes into `folder`."""
    f = findings
    subject = f"Class {f.target_class} in {f.num_dims} dimensions; scores: {', '.join(f.denoisers)}."
    sections = [Section("Which coordinate comes next?", f"{subject}\n\n{READING}")]
    for guidance in f.plan.guidances:
        for denoiser in f.denoisers:
            sections += _sections(f, guidance, denoiser, folder)
    return sections


def _sections(findings: PolicyFindings, guidance: Guidance, denoiser: str, folder: Path) -> list[Section]:
    """Distances of one strength and denoiser: to the tilted law, or to the class where there is none or it is that."""
    to_class = guidance.is_schedule or guidance.constant == 0
    reference = "the class" if to_class else "the tilted law"
    steps = list(dict.fromkeys(row.together for row in findings.laws))
    tv: dict[str, list[float | None]] = {}
    kl: dict[str, list[float | None]] = {}
    for policy in findings.policies:
        own = [row for row in findings.of(guidance, denoiser) if row.policy == policy]
        tv[policy] = [row.tv_class if to_class else row.tv_tilted for row in own]
        kl[policy] = [row.kl_class if to_class else row.kl_tilted for row in own]
    title = f"w = {guidance.label}, {denoiser} scores: distance to {reference}"
    path = folder / f"{file_name(f'policies_{denoiser}_w{guidance.label}')}.png"
    note = "Exact total variation, by how many coordinates a step unmasks."
    divergence = f"KL({reference} || the policy's law) in nats, by how many coordinates a step unmasks."
    return [
        Section(title, "", _table(tv, steps, note), _picture(tv, steps, title, path)),
        Section(f"{title}, in KL", "", _table(kl, steps, divergence)),
    ]


def _table(found: dict[str, list[float | None]], steps: list[int], note: str) -> Table:
    rows = [[policy, *(format_number(value) for value in values)] for policy, values in found.items()]
    return Table(["policy", *(f"{k} a step" for k in steps)], rows, note)


def _picture(found: dict[str, list[float | None]], steps: list[int], title: str, path: Path) -> list[Picture]:
    """TV against coordinates a step, policies that coincide as one line."""
    if len(steps) < 2:
        return []
    lines: dict[tuple[float, ...], list[str]] = {}
    for policy, values in found.items():
        lines.setdefault(tuple(round(value or 0.0, DIGITS) for value in values), []).append(policy)
    series: dict[str, Points] = {
        textwrap.fill(", ".join(names), LEGEND_WIDTH, break_long_words=False): (steps, values)
        for values, names in lines.items()
    }
    line_plot(series, path, "coordinates a step", "total variation", title)
    return [Picture(path, "Exact total variation against coordinates a step; policies that coincide are one line.")]
