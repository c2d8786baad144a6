"""Evaluating a denoiser: the study of its data, and all the outputs of its report."""

from __future__ import annotations

import csv
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mdlm_cfg.app.places import shown_path
from mdlm_cfg.app.report_cache import (
    NUMBERS,
    cache_of,
    check_places_for,
    files_of,
    saying_cached,
    written_together,
)
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.reports.page import Picture, Section, command_apart, write_page
from mdlm_cfg.reports.pictures import save
from mdlm_cfg.reports.pictures.lines import Lines
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.reports.tables import Table, print_table, write_arrays, write_csv, write_json
from mdlm_cfg.studies.common import EVALUATE_AGAIN, LONGER, TRAIN_AGAIN
from mdlm_cfg.studies.findings import CHECKPOINT, COMMAND, DONE, STEPS, Findings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, Study, name_of, run
from mdlm_cfg.support.atomic import remove_parts
from mdlm_cfg.support.instantiate import code_of_the_user
from mdlm_cfg.support.numbers import format_column, percent
from mdlm_cfg.support.progress import signs_of_life
from mdlm_cfg.targets.data import Data

TRAINING = "In nats per data point, on validation data, with averaged weights."
NEEDED = {"val/minutes", "val/nelbo", "val/nelbo_null"}  # of a validation in metrics.csv
EXCESS = {"val/excess", "val/excess_null"}  # and of data whose entropy is known
WIDE = 10  # the ratio of the largest NELBO to the smallest from which the axis is logarithmic
PAGE = "report.html"
TABLE_FILE = "report.csv"


@dataclass(frozen=True)
class Report:
    """The folder of an evaluation, and the sections it adds to its findings.

    Attributes:
        folder: for the files.
        title: of the page.
        run: what was run: command, checkpoint, ...
        data: the description of the data.
        test: results of the test, by name; empty for none.
        console: where tables and the verdict are printed.
        settings: the configuration's settings that decide the report, and the others.
        metrics: the metrics.csv of the training of the network that is judged, if the page is to show it.
    """

    folder: Path
    title: str
    run: dict[str, Any]
    data: dict[str, Any]
    test: dict[str, float] = field(default_factory=dict)
    console: Console = field(default_factory=Console)
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Path | None = None

    def head(self) -> dict[str, Any]:
        """The first entries of report.json."""
        about = {"run": self.run, "settings": dict(self.settings), "data": self.data, "test": self.test}
        return {"title": self.title, **about, "code": code_of_the_user()}


@dataclass(frozen=True)
class Written:
    """A report that was written.

    Attributes:
        path: of report.html. numbers: flat, to log. rows: one per strength (and class), plain. ledger: plain rows.
        pictures: every PNG of the page.
    """

    path: Path
    numbers: dict[str, float]
    rows: list[dict[str, Any]]
    ledger: list[dict[str, Any]]
    pictures: list[Path]


def title_of(data_name: str, study: Study, who: str = "") -> str:
    """The title of a page: the data, the study, and the conditionals if they are not those of a trained network."""
    what = name_of(study).replace("_", " ")
    return f"mdlm_cfg: {', '.join(part for part in dict.fromkeys((data_name, what, who)) if part)}"


def evaluate(data: Data, denoiser: Denoiser | None, plan: Plan, report: Report, study: Study) -> Written:
    """Study a denoiser against what is known of its data, and write the report.

    Args:
        data: a data module that is set up.
        denoiser: a learned one; None is the target's own exact one.
        plan: what to study.
        study: of these data.

    Raises:
        UserError: as the study.
    """
    report.folder.mkdir(parents=True, exist_ok=True)
    remove_parts(report.folder)  # of an evaluation that was killed while it wrote
    check_places_for((PAGE, TABLE_FILE, NUMBERS), report.folder, files_of(report.folder))
    cache = cache_of(report.folder, data, denoiser)
    is_reused = denoiser is None or isinstance(denoiser, NetDenoiser)  # nothing is reused for any other
    again = f"out={shown_path(report.folder)} (eval.py), or ckpt_path=auto (train.py)"
    with saying_cached(cache, again) if is_reused else nullcontext():
        with signs_of_life() as say:
            findings = run(study, Case.of(data, denoiser, plan, cache), say)
        verdict = [with_commands(sentence, report.run) for sentence in findings.verdict]
        findings = replace(findings, verdict=[*_of_the_training(report.run), *verdict])
        with written_together(report.folder, NUMBERS, "report", (PAGE, TABLE_FILE)) as part:
            written, sections = _write(findings, report, part)
    cache.clear()
    _print(sections, findings.verdict, report)
    return written


def _of_the_training(about: Mapping[str, Any]) -> list[str]:
    """The note on a network whose training was not finished when it was saved."""
    done = about.get(DONE, 1.0)
    if done >= 1:
        return []
    return [
        f"The network was saved when {percent(done)} of its training was done ({about[STEPS]:,} steps); an interrupted "
        "run resumes with its own command and ckpt_path=auto."
    ]


def with_commands(sentence: str, about: Mapping[str, Any]) -> str:
    """A sentence of a verdict, with this report's commands, where known, in place of "the same options".

    Args:
        about: see `Report.run`.
    """
    program, *options = shlex.split(str(about.get(COMMAND, ""))) or [""]
    known = {program: options}
    if CHECKPOINT not in about:  # a model that was not trained here
        sentence = sentence.replace(LONGER, "Train it longer.")
    elif program == "train.py":
        known["eval.py"] = [f"ckpt_path={about[CHECKPOINT]}"]
    for same, again in ((TRAIN_AGAIN, "train.py"), (EVALUATE_AGAIN, "eval.py")):
        said, found, new = sentence.partition(same)
        if found and again in known:
            of_key = {option.partition("=")[0]: option for option in [*known[again], *new.split()]}  # the last counts
            sentence = f"{said}python {shlex.join([again, *of_key.values()])}"
    return sentence


def _write(findings: Findings, report: Report, part: Path) -> tuple[Written, list[Section]]:
    """The page and the files of findings, written into the folder `part`; and the sections of the page."""
    plain = findings.to_dict()
    sections = [
        Section("Verdict", "\n\n".join(findings.verdict)),
        *sections_of(findings, part),
        *_training_sections(report.metrics, part),
        *_test_sections(report.test),
    ]
    pictures = [report.folder / picture.path.name for section in sections for picture in section.pictures]
    if findings.arrays:
        write_arrays(findings.arrays, part / findings.arrays_file)
    rows = findings.rows()
    write_csv(rows, part / TABLE_FILE)
    write_json(report.head() | plain | {"data": report.data | plain.get("data", {})}, part / NUMBERS)
    write_page(part / PAGE, report.title, sections, report.run)
    ledger = plain.get("ledger", [])
    return Written(report.folder / PAGE, findings.numbers(), plain.get("distances", rows), ledger, pictures), sections


def _print(sections: Sequence[Section], verdict: Sequence[str], report: Report) -> None:
    report.console.print(Text(f"\n{report.title}"), style="bold")
    for section in sections:
        if section.table is not None and section.printed:
            print_table(section.table, section.title, report.console)
    for line in verdict:
        said, command = command_apart(line)
        report.console.print(Text(said))
        if command:
            report.console.print(Text(f"    {command}"), soft_wrap=True)


TEST_ROWS = {
    "nelbo": "NELBO",
    "nelbo_mc_se": "its standard error, due to the masks",
    "nelbo_data_se": "its standard error, due to masks and data",
    "exact_nelbo": "expected NELBO, exact",
    "excess": "the same minus the entropy",
}
TEST_TEXT = """\
Negative ELBO in nats per data point, with the class and without it."""
OF_DISTANCES = """\
Total variation (TV) is between the learned and the exact distribution, for the class where it is largest and the kind \
of guidance given to the training run."""


def _test_sections(numbers: Mapping[str, float]) -> list[Section]:
    """The results of the test, by their names in words."""
    found = {name.removeprefix("test/"): value for name, value in numbers.items()}
    rows = []
    for name, words in TEST_ROWS.items():
        null = name.replace("nelbo", "nelbo_null") if "exact" not in name and "nelbo" in name else f"{name}_null"
        if name in found or null in found:
            rows.append([words, *format_column([found.pop(name, None), found.pop(null, None)])])
    text = TEST_TEXT + (f" {OF_DISTANCES}" if any(name.startswith("tv_") for name in found) else "")
    for name, number in zip(found, format_column(list(found.values()))):
        w = re.fullmatch(r"tv_w(.+)", name)
        rows.append([name if w is None else f"TV, worst class, w = {w[1]}", number, ""])
    if not rows:
        return []
    table = Table(("quantity", "with the class", "without"), rows)
    return [Section("Test set", text, table, group="Training")]


def _training_sections(path: Path | None, folder: Path) -> list[Section]:
    """The validation curve against minutes, drawn in `folder` from a run's metrics.csv at `path`.

    It shows the excess of the NELBO over the entropy where the entropy is known, and otherwise the NELBO.
    """
    rows = [] if path is None or not path.is_file() else _validations(path)
    if len(rows) < 2:
        return []
    minutes = [row["val/minutes"] for row in rows]
    has_excess = all(row.keys() >= EXCESS for row in rows)
    what, label = ("excess", "NELBO above the entropy (nats)") if has_excess else ("nelbo", "NELBO (nats)")
    series = {
        of: (minutes, [row[name] for row in rows])
        for of, name in (("with the class", f"val/{what}"), ("without (null)", f"val/{what}_null"))
    }
    values = [value for _, own in series.values() for value in own]
    is_wide = min(values) > 0 and max(values) > WIDE * min(values)
    lines = Lines({"": series}, "minutes of training", label, log_y=is_wide, from_zero=False)
    picture = Picture(save(lines, folder / "training.png"), f"{label} on the validation data against minutes.")
    columns = [format_column(column, 2) for column in (minutes, *(y for _, y in series.values()))]
    table = Table(("minutes", *series), list(zip(*columns)), f"{label}, validation data, averaged weights.")
    return [Section("Training", "", table, [picture], printed=False, group="Training")]


def _validations(path: Path) -> list[dict[str, float]]:
    """The numbers of each validation in a metrics.csv; none if a user has edited it so that it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        rows = [{key: float(text) for key, text in row.items() if key in NEEDED | EXCESS and text} for row in table]
    except (ValueError, TypeError, csv.Error) as error:
        print(f"{path} cannot be read ({error}): the page has no training curve", file=sys.stderr)
        return []
    return [row for row in rows if row.keys() >= NEEDED]
