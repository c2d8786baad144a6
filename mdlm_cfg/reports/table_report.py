"""The report of a table target: numbers, laws, pictures and the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdlm_cfg.reports.curves import draw_distances
from mdlm_cfg.reports.heatmaps import draw_laws, draw_overlap_profile
from mdlm_cfg.reports.page import Picture, Section, write_page
from mdlm_cfg.reports.tables import (
    distance_table,
    divergence_table,
    moment_table,
    write_csv,
    write_json,
    write_laws,
)
from mdlm_cfg.studies.table.evaluation import TableEvaluation, mean_by_overlap

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


def write_table_report(
    evaluation: TableEvaluation,
    folder: Path,
    title: str,
    settings: Mapping[str, Any],
    more_sections: Sequence[Section] = (),
    more_json: Mapping[str, Any] | None = None,
) -> Path:
    """Write report.json, report.csv, laws.npz, PNG pictures and report.html.

    Args:
        evaluation: what `evaluate_table` found.
        folder: made if it is not there; files of an earlier report are replaced one by one.
        title: of the page.
        settings: what was run (command, data, checkpoint, ...); shown on the page and kept in report.json.
        more_sections: shown after those of this report.
        more_json: further entries of report.json, beside those of `TableEvaluation.to_dict`.

    Returns:
        The path of report.html.
    """
    folder = Path(folder)
    write_laws(evaluation.laws(), folder / "laws.npz")
    write_csv(evaluation.rows(), folder / "report.csv")
    head = {"title": title, "settings": dict(settings)}
    write_json(head | evaluation.to_dict() | dict(more_json or {}), folder / "report.json")
    sections = [*table_sections(evaluation, folder), *more_sections]
    return write_page(folder / "report.html", title, sections, settings)


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
    steps = "" if e.steps is None else f", {e.steps if isinstance(e.steps, int) else len(e.steps) - 1} steps"
    noise = f", {e.schedule} noise schedule" if isinstance(e.steps, int) else ""
    return (
        f"Class {e.target_class} of {e.num_classes} on {e.num_tokens} values in {e.num_dims} "
        f"dimension{'s' if e.num_dims > 1 else ''}; guidance of the kind “{e.kind}”; "
        f"{e.num_samples:,} samples per w of the {'learned' if e.has_learned else 'exact'} denoiser "
        f"by {e.sampler}{steps}{noise}, seed {e.seed}."
    )


def _reading(evaluation: TableEvaluation) -> str:
    stepped = STEPPED if evaluation.sampler != "first_hitting" else ""
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
