"""The report of a table target: numbers, laws, pictures and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mdlm_cfg.reports.curves import draw_distances
from mdlm_cfg.reports.heatmaps import draw_laws, draw_overlap_profile
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.paper_report import paper_sections
from mdlm_cfg.reports.table_sections import table_findings_sections
from mdlm_cfg.reports.tables import distance_table, divergence_table, moment_table, strength_table
from mdlm_cfg.studies.table.distances import TableEvaluation
from mdlm_cfg.studies.table.overlap import OverlapRow
from mdlm_cfg.studies.table.study import TableFindings

READING = """\
Guidance of strength w raises the probability of what the class has and the other classes have not: \
w = 0 is the class itself, larger w pushes away from the others. (Where other codes write gamma or a \
guidance scale s, w = gamma - 1.)

The tilted law, proportional to p(x)^(-w) p(x | class)^(1+w), is what guidance is often believed to sample. \
The exact law is what the guided chain ends in when both conditionals are perfect and time is continuous; in \
one dimension the two agree, in more they generally do not. """
LEARNED = """\
The learned law is where the trained network's conditionals take the same chain, computed exactly and not \
from samples, so that its distance to the exact law is the error of the network alone."""
SAMPLES = """\
A histogram of finitely many samples is never at distance 0, however good the sampler: read the samples' \
distance beside its noise floor. """
STEPPED = """\
These samples were drawn in finitely many steps: what they show beyond the noise floor is the error of the \
steps."""


def table_report_sections(findings: TableFindings, folder: Path) -> list[Section]:
    """Draw the pictures into `folder`, and return the sections that show them; distances and claims are printed too."""
    claims = [] if findings.paper is None else paper_sections(*findings.paper)
    distances, *others = table_sections(findings.evaluation, findings.overlap, folder)
    details = [replace(section, printed=False) for section in [*others, *table_findings_sections(findings, folder)]]
    return [distances, *details[: len(others)], *claims, *details[len(others) :]]


def table_sections(evaluation: TableEvaluation, overlap: Sequence[OverlapRow], folder: Path) -> list[Section]:
    """Draw the pictures into `folder`, and return the sections that show them."""
    distances = Section(
        "Distances",
        f"{_subject(evaluation)}\n\n{_reading(evaluation)}",
        distance_table(evaluation),
        _curve(evaluation, folder),
    )
    laws = [Picture(draw_laws(evaluation, folder / "laws.png"), _caption(evaluation))]
    if evaluation.num_dims > 2 and len(overlap[0].mass) > 1:
        path = draw_overlap_profile(overlap, folder / "overlap.png")
        laws.append(Picture(path, "Mean probability per state of the class's support, by how many overlap."))
    return [
        distances,
        *strengths_sections(evaluation),
        Section("Laws side by side", "", None, laws),
        Section("Mean and covariance", "", moment_table(evaluation)),
        Section("Divergences", "Infinite where the second law lacks support.", divergence_table(evaluation)),
    ]


def strengths_sections(evaluation: TableEvaluation) -> list[Section]:
    """What every strength is on the way, where any changes on it."""
    if not any(result.guidance.is_schedule for result in evaluation.results):
        return []
    text = (
        "A schedule gives w for every number of unmasked coordinates: the first column is for the coordinate that is "
        "unmasked first, the last for the one that is unmasked last. There is no tilted law of a schedule, which would "
        "need one w: where that law is compared with, its rows are blank, and curves against w leave it out."
    )
    return [Section("Strength when j coordinates are unmasked", text, strength_table(evaluation))]


def _subject(evaluation: TableEvaluation) -> str:
    e = evaluation
    kinds = ", ".join(dict.fromkeys(f"“{result.guidance.kind}”" for result in e.results))
    policy = e.plan.sampler.policy
    order = "" if policy is None else f", the order of unmasking that of {policy} in the laws too"
    whose = {"learned": "learned", "exact": "exact"}[e.judged]
    return (
        f"Class {e.target_class} of {e.num_classes} on {e.num_tokens} values in {e.num_dims} "
        f"dimension{'s' if e.num_dims > 1 else ''}; guidance of the kind {kinds}{order}; "
        f"{e.plan.num_samples:,} samples per w of the {whose} denoiser by {e.plan.sampler.label}, seed {e.plan.seed}."
    )


def _reading(evaluation: TableEvaluation) -> str:
    stepped = "" if evaluation.plan.sampler.exact_in_time else STEPPED
    return READING + (LEARNED if evaluation.has_learned else "") + "\n\n" + SAMPLES + stepped


def _curve(evaluation: TableEvaluation, folder: Path) -> list[Picture]:
    if sum(not result.guidance.is_schedule for result in evaluation.results) < 2:
        return []
    path = draw_distances(evaluation, folder / "distances.png")
    return [Picture(path, "Total variation against w. The grey band is the samples' 95% bootstrap interval.")]


def _caption(evaluation: TableEvaluation) -> str:
    if evaluation.num_dims == 1:
        return "The laws of every strength over one another."
    caption = (
        "One row per strength, on one colour scale. The line surrounds the class's support, "
        "dotted where it overlaps with other classes'."
    )
    if evaluation.num_dims > 2:
        caption += " Shown are marginals of the first two coordinates; the distances are those of the whole laws."
    return caption
