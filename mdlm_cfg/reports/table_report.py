"""The report of a table target: numbers, laws, pictures and the page that shows them."""

from __future__ import annotations

from pathlib import Path

from mdlm_cfg.reports.curves import draw_distances
from mdlm_cfg.reports.heatmaps import draw_laws, draw_overlap_profile
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.paper_report import paper_sections
from mdlm_cfg.reports.table_sections import table_findings_sections
from mdlm_cfg.reports.tables import distance_table, divergence_table, moment_table
from mdlm_cfg.studies.table.distances import TableEvaluation, mean_by_overlap
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
    """Draw the pictures into `folder`, and return the sections that show them: the verdict first."""
    verdict = Section("Verdict", "\n\n".join(findings.to_dict()["verdict"]))
    claims = [] if findings.paper is None else paper_sections(*findings.paper)
    return [
        verdict,
        *table_sections(findings.evaluation, folder),
        *claims,
        *table_findings_sections(findings, folder),
    ]


def table_sections(evaluation: TableEvaluation, folder: Path) -> list[Section]:
    """Draw the pictures into `folder`, and return the sections that show them."""
    distances = Section(
        "Distances",
        f"{_subject(evaluation)}\n\n{_reading(evaluation)}",
        distance_table(evaluation),
        _curve(evaluation, folder),
    )
    laws = [Picture(draw_laws(evaluation, folder / "laws.png"), _caption(evaluation))]
    if evaluation.num_dims > 2 and len(_overlaps(evaluation)) > 1:
        path = draw_overlap_profile(evaluation, folder / "overlap.png")
        laws.append(Picture(path, "Mean probability per state of the class's support, by how many overlap."))
    return [
        distances,
        Section("Laws side by side", "", None, laws),
        Section("Mean and covariance", "", moment_table(evaluation)),
        Section("Divergences", "Infinite where the second law lacks support.", divergence_table(evaluation)),
    ]


def _overlaps(evaluation: TableEvaluation) -> dict[int, float]:
    return mean_by_overlap(evaluation.class_law, evaluation.class_law, evaluation.others_law)


def _subject(evaluation: TableEvaluation) -> str:
    e = evaluation
    kinds = ", ".join(dict.fromkeys(f"“{result.guidance.kind}”" for result in e.results))
    whose = {"learned": "learned", "exact": "exact"}[e.judged]
    return (
        f"Class {e.target_class} of {e.num_classes} on {e.num_tokens} values in {e.num_dims} "
        f"dimension{'s' if e.num_dims > 1 else ''}; guidance of the kind {kinds}; {e.plan.num_samples:,} samples per w "
        f"of the {whose} denoiser by {e.plan.sampler.label}, seed {e.plan.seed}."
    )


def _reading(evaluation: TableEvaluation) -> str:
    stepped = "" if evaluation.plan.sampler.exact_in_time else STEPPED
    return READING + (LEARNED if evaluation.has_learned else "") + "\n\n" + SAMPLES + stepped


def _curve(evaluation: TableEvaluation, folder: Path) -> list[Picture]:
    if len(evaluation.results) < 2:
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
