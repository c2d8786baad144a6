"""Judging a denoiser: the study of its data, and everything that a report of it is written to."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mdlm_cfg.app.earlier import NUMBERS, files_of, kept_in, remove_earlier, say_kept
from mdlm_cfg.app.settings import IMAGES, TABLE, check_study, own_study, study_of
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.reports.curves import draw_nelbo
from mdlm_cfg.reports.image_report import image_sections
from mdlm_cfg.reports.mixture_report import bernoulli_sections
from mdlm_cfg.reports.page import Picture, Section, write_page
from mdlm_cfg.reports.pages import sections_of
from mdlm_cfg.reports.paper_report import write_markdown
from mdlm_cfg.reports.table_report import PANEL_FILE, table_report_sections
from mdlm_cfg.reports.tables import (
    Table,
    distance_table,
    format_number,
    print_table,
    write_arrays,
    write_csv,
    write_json,
    write_laws,
)
from mdlm_cfg.studies.images.study import evaluate_images
from mdlm_cfg.studies.mixture.study import evaluate_bernoulli
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.study import Findings, Study
from mdlm_cfg.studies.table import study as table_study
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep
from mdlm_cfg.support.progress import share_shown
from mdlm_cfg.training.classifier import classifier_for

METRICS = "metrics.csv"  # of a run, beside its report's folder
PAGE, TABLE_FILE, ARRAYS = "report.html", "report.csv", "arrays.npz"


@dataclass(frozen=True)
class Report:
    """Where an evaluation goes, and what it says beside its own findings.

    Attributes:
        folder: for the files.
        title: of the page.
        run: what was run: command, checkpoint, ...
        data: what the data say of themselves.
        test: results of the test, by name; empty for none.
        console: gets tables, and what is being computed.
    """

    folder: Path
    title: str
    run: dict[str, Any]
    data: dict[str, Any]
    test: dict[str, float]
    console: Console

    def say(self, line: str) -> None:
        """One line on what is being computed."""
        self.console.print(line, style="dim", highlight=False)

    def head(self) -> dict[str, Any]:
        """What report.json begins with."""
        return {"title": self.title, "run": self.run, "data": self.data, "test": self.test}


@dataclass(frozen=True)
class Written:
    """A report that is there.

    Attributes:
        path: of report.html. numbers: flat, to log. rows: one per strength (and class), plain. ledger: plain rows.
        pictures: every PNG of the page.
    """

    path: Path
    numbers: dict[str, float]
    rows: list[dict[str, Any]]
    ledger: list[dict[str, Any]]
    pictures: list[Path]


def evaluate(
    data: Any,
    denoiser: Denoiser | None,
    plan: Plan,
    report: Report,
    paper: str | None = None,
    asked: Study | None = None,
) -> Written:
    """Study a denoiser against what is known of its data, and write the report.

    Args:
        data: a data module that is set up.
        denoiser: a learned one; None is the target's own exact one.
        plan: what to study.
        paper: a paper's experiment whose claims are held against the laws of a table.
        asked: a study by name, in place of the one for these data.

    Raises:
        UserError: as `check_study` and the studies.
    """
    check_study(data, plan, paper, asked)
    if denoiser is None and data.target is None:
        raise UserError(f"denoiser=exact needs data known exactly, and {data.name} is not; train a network on it")
    report.folder.mkdir(parents=True, exist_ok=True)
    earlier, keep = files_of(report.folder), kept_in(report.folder, report.data, denoiser)
    asked = asked or own_study(data)
    try:
        if asked is not None:
            written = _asked(asked.run(data, denoiser, plan, report.say), report)
        elif study_of(data) == TABLE:
            written = _table(data, denoiser, plan, report, paper)
        else:
            written = (_images if study_of(data) == IMAGES else _mixture)(data, denoiser, plan, report, keep)
    except KeyboardInterrupt:
        say_kept(report.folder, keep)
        raise
    remove_earlier(report.folder, earlier)
    keep.clear()
    return written


def _asked(findings: Findings, report: Report) -> Written:
    """The report of a study that was, or can be, asked for by name."""
    arrays = findings.arrays()
    if arrays:
        write_arrays(arrays, report.folder / ARRAYS)
    return _sampled(findings, sections_of(findings, report.folder), report, [ARRAYS] if arrays else [])


def _mixture(data: Any, denoiser: Denoiser | None, plan: Plan, report: Report, keep: Keep) -> Written:
    findings = evaluate_bernoulli(data, denoiser, plan, progress=report.say, keep=keep)
    return _sampled(findings, bernoulli_sections(findings, report.folder), report)


def _table(data: Any, denoiser: Denoiser | None, plan: Plan, report: Report, paper: str | None) -> Written:
    findings = table_study.run(data.target, denoiser, plan, paper, report.say, tuple(data.grid_shape))
    sections = table_report_sections(findings, report.folder)
    tests = _test_sections(report.test)
    write_laws(findings.evaluation.laws(), report.folder / "laws.npz")
    more = ["laws.npz", *([PANEL_FILE] if findings.panel is not None else [])]
    if findings.paper is not None:
        command = f"python {report.run.get('command', '')}"
        write_markdown(findings.paper[0], command, findings.paper[1], report.folder / "paper.md")
        more.append("paper.md")
    plain = findings.to_dict()
    written = _write(findings.evaluation.rows(), plain, findings.numbers(), [*sections, *tests], report, more)
    claims = [section for section in sections if section.title.startswith("The paper")]
    _print([*tests, *claims], report.console)
    print_table(distance_table(findings.evaluation), report.title, report.console)
    for line in plain["verdict"]:
        report.console.print(line, highlight=False)
    return replace(written, rows=plain["distances"], ledger=plain["ledger"])


def _images(data: Any, denoiser: Denoiser | None, plan: Plan, report: Report, keep: Keep) -> Written:
    """Samples per class and w, judged by a classifier and beside held-out data."""
    assert denoiser is not None  # nothing is known exactly of images
    with share_shown("training the classifier") as show:
        classifier = classifier_for(data, progress=lambda step, steps, _: show(step / steps))
    findings = evaluate_images(data, denoiser, classifier, plan, progress=report.say, keep=keep)
    arrays: dict[str, Any] = {
        f"w{w:g}": x.reshape(*x.shape[:2], *data.grid_shape).numpy().astype(np.uint8)
        for w, x in findings.samples.items()
    }
    write_arrays(arrays, report.folder / "samples.npz")
    return _sampled(findings, image_sections(findings, report.folder), report, ["samples.npz"])


def _sampled(findings: Any, sections: Sequence[Section], report: Report, more: Sequence[str] = ()) -> Written:
    """What every report of images ends with."""
    sections = [*_test_sections(report.test), *_training_sections(report.folder), *sections]
    plain = findings.to_dict()
    sections = [Section("Verdict", "\n\n".join(plain["verdict"])), *sections]
    written = _write(findings.rows(), plain, findings.numbers(), sections, report, more)
    _print(sections, report.console)
    for line in plain["verdict"]:
        report.console.print(line, highlight=False)
    return written


def _write(
    rows: list[dict[str, Any]],
    plain: dict[str, Any],
    numbers: dict[str, float],
    sections: Sequence[Section],
    report: Report,
    more: Sequence[str],
) -> Written:
    """report.csv, report.json and the page; `more` are the names of files that are written already."""
    shown = [picture for section in sections for picture in section.pictures]
    pictures = [picture.path for picture in shown]
    files = [PAGE, TABLE_FILE, NUMBERS, *more, *(path.name for p in shown for path in (p.path, p.numbers))]
    write_csv(rows, report.folder / TABLE_FILE)
    data = {"data": report.data | plain.get("data", {}), "files": files}
    write_json(report.head() | plain | data, report.folder / NUMBERS)
    path = write_page(report.folder / PAGE, report.title, sections, report.run)
    return Written(path, numbers, rows, [], pictures)


def _print(sections: Sequence[Section], console: Console) -> None:
    for section in sections:
        if section.table is not None:
            print_table(section.table, section.title, console)


def _test_sections(numbers: dict[str, float]) -> list[Section]:
    if not numbers:
        return []
    rows = [[name.removeprefix("test/"), format_number(value)] for name, value in numbers.items()]
    text = (
        "Negative ELBO in nats per data point: with the class, and without one (null). mc_se is the standard error of "
        "the random masks, data_se that of masks and data."
    )
    return [Section("Test set", text, Table(("number", "value"), rows))]


def _training_sections(folder: Path) -> list[Section]:
    """The curve of the validation NELBO against minutes, where the run's metrics.csv lies beside the report."""
    path = folder.parent / METRICS
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/nelbo") and row.get("val/minutes")]
    if len(rows) < 2:
        return []
    minutes = [float(row["val/minutes"]) for row in rows]
    series = {
        label: (minutes, [float(row[name]) for row in rows])
        for label, name in (("with the class", "val/nelbo"), ("without (null)", "val/nelbo_null"))
    }
    picture = Picture(draw_nelbo(series, folder / "training.png"), "NELBO on the validation data against minutes.")
    table = Table(
        ("minutes", "NELBO", "NELBO without class"),
        [[f"{t:.1f}", f"{a:.2f}", f"{b:.2f}"] for t, a, b in zip(minutes, *(y for _, y in series.values()))],
    )
    return [Section("Training", "Nats per data point, validation data, averaged weights.", table, [picture])]
