"""The report of a table target: numbers, laws, pictures and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mdlm_cfg.reports.cells import cell_pictures
from mdlm_cfg.reports.curves import draw_distances, draw_errors
from mdlm_cfg.reports.differences import MAX_PAIRED, draw_differences, draw_pairs
from mdlm_cfg.reports.heatmaps import draw_laws, draw_overlap_profile
from mdlm_cfg.reports.page import PANEL_FILE, Picture, Section
from mdlm_cfg.reports.panel import panel_data, panel_rows
from mdlm_cfg.reports.paper_report import paper_sections
from mdlm_cfg.reports.table_sections import table_findings_sections
from mdlm_cfg.reports.tables import distance_table, divergence_table, moment_table, strength_table, write_csv
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
PANEL = """\
Move the slider (or use the arrow keys) to see every law at every strength; all numbers beside it are computed from \
the laws themselves. Ellipses stand at one standard deviation around the mean, the class's dashed; colour scales hold \
for all w."""
STEPPED = """\
These samples were drawn in finitely many steps: what they show beyond the noise floor is the error of the \
steps."""


def table_report_sections(findings: TableFindings, folder: Path) -> list[Section]:
    """Draw the pictures into `folder`, and return the sections that show them; distances and claims are printed too."""
    claims = [] if findings.paper is None else paper_sections(*findings.paper)
    panel = panel_sections(findings, folder)
    distances, *others = table_sections(findings.evaluation, findings.overlap, folder, findings.grid_shape)
    details = [replace(section, printed=False) for section in [*others, *table_findings_sections(findings, folder)]]
    return [*panel, distances, *details[: len(others)], *claims, *details[len(others) :]]


def panel_sections(findings: TableFindings, folder: Path) -> list[Section]:
    """The panel of a small table, and its distances in panel.csv."""
    if findings.panel is None:
        return []
    write_csv(panel_rows(findings.panel), folder / PANEL_FILE)
    return [Section("Move through the laws", PANEL, panel=panel_data(findings.panel, findings.evaluation.plan))]


def table_sections(
    evaluation: TableEvaluation,
    overlap: Sequence[OverlapRow],
    folder: Path,
    grid_shape: tuple[int, ...] | None = None,
) -> list[Section]:
    """Draw the pictures into `folder`, and return the sections that show them.

    Args:
        grid_shape: of the coordinates, where they are cells of a grid.
    """
    distances = Section(
        "Distances",
        f"{_subject(evaluation)}\n\n{_reading(evaluation)}",
        distance_table(evaluation),
        _curve(evaluation, folder),
    )
    if grid_shape is not None and len(grid_shape) == 2:
        laws = cell_pictures(evaluation, grid_shape, folder)
    else:
        laws = _laws(evaluation, folder)
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


def _laws(evaluation: TableEvaluation, folder: Path) -> list[Picture]:
    """The laws, and their differences: of two coordinates as they are, of more pair by pair."""
    laws = [Picture(draw_laws(evaluation, folder / "laws.png"), _caption(evaluation))]
    if evaluation.num_dims <= 2:
        path = draw_differences(evaluation, folder / "differences.png")
        return [*laws, Picture(path, "The first law less the second; each column has a scale of its own.")]
    if evaluation.num_dims > MAX_PAIRED:
        return laws
    last = evaluation.results[-1]
    caption = (
        f"Every two coordinates at w = {last.guidance.label}: below the diagonal the exact law, above it less the "
        "class, on it the marginals of one coordinate, the class's in grey."
    )
    return [*laws, Picture(draw_pairs(last, folder / "pairs.png"), caption)]


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
    pictures = [Picture(path, "Total variation against w. The grey band is the samples' 95% bootstrap interval.")]
    if evaluation.has_learned:
        path = draw_errors(evaluation, folder / "errors.png")
        pictures.append(Picture(path, "The errors by themselves, on a logarithmic axis."))
    return pictures


def _caption(evaluation: TableEvaluation) -> str:
    if evaluation.num_dims == 1:
        return "The laws of every strength over one another."
    caption = (
        "One row per strength, all on one colour scale. The line surrounds the class's support, "
        "dotted where it overlaps with other classes'."
    )
    if evaluation.num_dims > 2:
        caption += " Shown are marginals of the first two coordinates; the distances are those of the whole laws."
    return caption
