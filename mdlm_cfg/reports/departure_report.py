"""The page of `study=departure`: how far each rule is from the ideal, by level of unmasking, and where."""

from __future__ import annotations

from pathlib import Path

from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.style import file_name
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.departure.findings import NOTHING, DepartureFindings, RuleRow

READING = """\
The chain that ends in the tilted law with no weights has that law's own conditionals: the ideal guided ones. A rule \
of guidance departs from them at a partial state by KL(ideal || rule), in nats, averaged over the next coordinate by \
the rule's order; the sum over states, by how often the ideal chain visits them, is the divergence of the paths, and \
at least that of the tilted law from the law the rule ends in.

In one dimension, and for the last coordinate, guidance with exact scores is the ideal."""
SHOWN = 3  # states a rule


def departure_sections(findings: DepartureFindings, folder: Path) -> list[Section]:
    """A section for every strength, and one for the schedules beside the number they are held against."""
    f = findings
    subject = f"Class {f.target_class} on {f.num_tokens} values in {f.num_dims} dimensions. Nothing is sampled."
    sections = [Section("What is the ideal?", f"{subject}\n\n{READING}")]
    for guidance in f.plan.guidances:
        sections.append(_section(f, [row for row in f.rules if row.guidance == guidance], guidance, folder))
    return sections + _schedules(f, folder)


def _section(findings: DepartureFindings, rows: list[RuleRow], guidance: Guidance, folder: Path) -> Section:
    levels = range(findings.num_dims)
    cells = [
        [
            row.rule, row.denoiser, *(format_number(value) for value in row.found.by_level),
            format_number(row.found.total), format_number(row.kl_tilted), format_number(row.tv_tilted),
        ]
        for row in rows
    ]  # fmt: skip
    heads = ["rule", "scores", *(f"{level} unmasked" for level in levels), "sum", "KL of the laws", "TV of the laws"]
    note = f"Nats, by how many coordinates are unmasked already; the ideal is that of w = {rows[0].tilted_w:g}."
    title, table = f"w = {guidance.label}: departure from the ideal", Table(heads, cells, note)
    departing = [row for row in rows if row.found.total > NOTHING]
    if not departing:
        return Section(title, "No rule departs.", table)
    text = "The costliest partial states: " + "; ".join(_worst(findings, row) for row in departing) + "."
    picture = _picture(rows, f"w = {guidance.label}", folder / f"{file_name(f'departure_w{guidance.label}')}.png")
    return Section(title, text, table, picture)


def _worst(findings: DepartureFindings, row: RuleRow) -> str:
    states = [
        f"{name_state(list(s.state), findings.num_tokens)} {format_number(s.visits * s.kl)}"
        for s in row.found.states[:SHOWN]
    ]
    return f"{row.rule}, {row.denoiser} scores: {', '.join(states)}"


def _picture(rows: list[RuleRow], title: str, path: Path) -> list[Picture]:
    series = {_name(row): _points(row) for row in rows}
    line_plot(
        series, path, "coordinates unmasked already", "KL to the ideal (nats)", title,
        dashed=[_name(row) for row in rows if row.denoiser == "learned"],
    )  # fmt: skip
    return [Picture(path, "Departure from the ideal by level; learned scores are dashed.")]


def _name(row: RuleRow) -> str:
    return row.rule if row.denoiser == "exact" else f"{row.rule}, learned"


def _points(row: RuleRow) -> Points:
    # a level without departure may be rounding below 0, and such an axis would not start at 0
    return list(range(len(row.found.by_level))), [max(value, 0.0) for value in row.found.by_level]


def _schedules(findings: DepartureFindings, folder: Path) -> list[Section]:
    """Strengths against one ideal, by the first rule, with exact scores."""
    f = findings
    against = {row.tilted_w for row in f.rules if row.guidance.is_schedule}
    if not against:
        return []
    chosen = [
        row for row in f.rules
        if row.rule == f.rules[0].rule and row.denoiser == "exact" and row.tilted_w in against
    ]  # fmt: skip
    cells = [
        [row.guidance.label, *(format_number(v) for v in row.found.by_level), format_number(row.found.total)]
        for row in chosen
    ]
    title = f"Strengths against the ideal of w = {chosen[0].tilted_w:g}, {chosen[0].rule}"
    path = line_plot(
        {f"w = {row.guidance.label}": _points(row) for row in chosen}, folder / "departure_schedules.png",
        "coordinates unmasked already", "KL to the ideal (nats)", title,
    )  # fmt: skip
    table = Table(["w", *(f"{level} unmasked" for level in range(f.num_dims)), "sum"], cells, "Nats, exact scores.")
    return [Section(title, "", table, [Picture(path, "Departure by level, a line per strength.")])]
