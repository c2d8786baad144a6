"""The page of the best strengths: what they are, and how near they bring the chain to the tilted law."""

from __future__ import annotations

from pathlib import Path

from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.style import COLOURS, GREY
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.best_schedule.findings import BEST, CONSTANT, OTHERS_BEST, RAMP, SCHEDULES, BestScheduleFindings

SCHEDULE_COLOURS = {CONSTANT: GREY, RAMP: COLOURS["tilted"], BEST: COLOURS["exact"], OTHERS_BEST: COLOURS["learned"]}


def best_schedule_sections(findings: BestScheduleFindings, folder: Path) -> list[Section]:
    """The distances, the strengths, and what the laws are like; pictures are drawn into `folder`."""
    return [_distances(findings, folder), _strengths(findings, folder), _laws(findings)]


def _distances(findings: BestScheduleFindings, folder: Path) -> Section:
    sampler = findings.plan.sampler
    policy = "" if sampler.policy is None else f", the next coordinate by {sampler.policy}"
    text = (
        f"Class {findings.target_class}, one strength for every number of coordinates that are unmasked already. The "
        f"best make {findings.aim}, as small as they can, by the exact gradient of the law. All are laws of the guided "
        f"chain in continuous time, one coordinate after another{policy}: nothing is sampled, so that steps and "
        "samples play no part."
    )
    names = [(r.scores, r.schedule) for r in findings.at[0].reached]
    columns = ["w", *(_named(*name) for name in names)]
    rows = [[f"{at.w:g}", *(format_number(at.of(*name).tv) for name in names)] for at in findings.at]
    note = "Total variation to the tilted law. The ramp goes from 0, for the first coordinate, to w for the last."
    if "learned" in findings.scores:
        note += " On learned scores, “exact's best” is what was found on exact ones, “best” on the learned ones."
    return Section("How near to the tilted law?", text, Table(columns, rows, note), _by_w(findings, folder))


def _named(scores: str, schedule: str) -> str:
    return schedule if scores == "exact" else f"learned: {schedule}"


def _by_w(findings: BestScheduleFindings, folder: Path) -> list[Picture]:
    """TV against w, a picture for the exact scores and one for the learned ones."""
    if len(findings.at) < 2:
        return []
    w, pictures = [at.w for at in findings.at], []
    for scores in findings.scores:
        names = [r.schedule for r in findings.at[0].reached if r.scores == scores]
        names.sort(key=SCHEDULES.index)  # what is dashed comes last, or it would be hidden
        series: dict[str, Points] = {name: (w, [at.of(scores, name).tv for at in findings.at]) for name in names}
        path = line_plot(
            series, folder / f"best_schedule_{scores}.png", "guidance strength w", "TV to the tilted law",
            f"{scores} scores", colours=SCHEDULE_COLOURS, dashed=[OTHERS_BEST],
        )  # fmt: skip
        pictures.append(Picture(path, f"TV to the tilted law against w, {scores} scores."))
    return pictures


def _strengths(findings: BestScheduleFindings, folder: Path) -> Section:
    rows, pictures = [], []
    for scores in findings.scores:
        series: dict[str, Points] = {}
        for at in findings.at:
            found = at.of(scores, BEST).strengths
            series[f"w = {at.w:g}"] = (range(len(found)), found)
            rows.append([f"{at.w:g}", scores, *(format_number(w, 3) for w in found)])
        path = line_plot(
            series, folder / f"strengths_{scores}.png", "coordinates unmasked already", "best strength",
            f"{scores} scores",
        )  # fmt: skip
        pictures.append(Picture(path, f"The best strength for every number of unmasked coordinates, {scores} scores."))
    heads = [f"w_{count}" for count in range(findings.at[0].tilted.ndim)]
    table = Table(["w", "scores", *heads], rows, "w_j is the strength while j coordinates are unmasked.")
    return Section("The best strengths", "", table, pictures)


def _laws(findings: BestScheduleFindings) -> Section:
    rows = []
    for at in findings.at:
        rows.append([f"{at.w:g}", "", "tilted", "0", format_number(at.class_posterior), format_number(at.entropy), "-"])
        for r in at.reached:
            values = (r.kl, r.class_posterior, r.entropy, r.value)
            rows.append([f"{at.w:g}", r.scores, r.schedule, *(format_number(value) for value in values)])
    columns = ["w", "scores", "law", "KL", "E p(z|x)", "entropy", "objective"]
    note = f"KL(tilted ‖ law) and the entropy of the law in nats. The objective is {findings.aim}."
    return Section("What the laws are like", "", Table(columns, rows, note))
