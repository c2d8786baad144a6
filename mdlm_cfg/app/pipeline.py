"""Training a run and judging a denoiser: what train.py and eval.py do, with objects in place of a configuration."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger, WandbLogger
from rich.console import Console
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.schedules import Schedule, exponential
from mdlm_cfg.compare.metrics import expected_sampling_tv, sampled_tv
from mdlm_cfg.laws.push import terminal_law
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.reports.bernoulli_report import bernoulli_sections
from mdlm_cfg.reports.curves import draw_nelbo
from mdlm_cfg.reports.image_report import image_sections
from mdlm_cfg.reports.page import Picture, Section, write_page
from mdlm_cfg.reports.paper_report import paper_sections, write_markdown
from mdlm_cfg.reports.science_report import science_sections
from mdlm_cfg.reports.table_report import write_table_report
from mdlm_cfg.reports.tables import Table, distance_table, format_number, print_table, write_csv, write_json
from mdlm_cfg.sampling.sampler import check_sampler, sample
from mdlm_cfg.studies.images.evaluation import ImageEvaluation, evaluate_images
from mdlm_cfg.studies.mixture.evaluation import BernoulliEvaluation, evaluate_bernoulli
from mdlm_cfg.studies.paper.claims import EXPERIMENTS
from mdlm_cfg.studies.table.evaluation import TableEvaluation, evaluate_table
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.progress import share_shown
from mdlm_cfg.targets.table import TableMixture, check_class
from mdlm_cfg.training.classifier import classifier_for
from mdlm_cfg.training.data import BernoulliData, BinaryImageData
from mdlm_cfg.training.runs import LoadedRun

METRICS = "metrics.csv"  # of a run, beside its report's folder
DEFAULT_STEPS = 50  # of the samplers that take steps
LEARNED_LAW_ENTRIES = 2e7  # (N+1)^D * D * N up to which a network's exact law is computed


@dataclass(frozen=True)
class EvaluationSettings:
    """What to evaluate.

    Attributes:
        w: guidance strengths, each >= -1 (gamma = 1 + w in other codes).
        target_class: z; None is class 0 of a table, and every class of images.
        guidance: "rate" or "normalized".
        sampler: see `mdlm_cfg.sampling.sampler.SAMPLERS`.
        steps: of a sampler that takes steps; None is `DEFAULT_STEPS` there.
        schedule: "linear", "cosine" or "exponential"; None is linear, and cosine for event_leaping.
        num_samples: per strength, and per class for images.
        seed: of the samples.
        paper: a name in `mdlm_cfg.studies.paper.claims.EXPERIMENTS` whose claims are held against the laws of a table.
    """

    w: Sequence[float]
    target_class: int | None
    guidance: str
    sampler: str
    steps: int | None
    schedule: str | None
    num_samples: int
    seed: int
    paper: str | None = None

    def guidances(self) -> list[Guidance]:
        """One per strength."""
        return [Guidance(float(w), self.guidance) for w in self.w]

    def sampler_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `sample` and `evaluate_table`; refuses steps that the sampler does not take."""
        if self.num_samples < 1:
            raise UserError(f"num_samples must be at least 1, not {self.num_samples}")
        steps = self.steps
        if steps is None and self.sampler != "first_hitting":
            steps = DEFAULT_STEPS
        check_sampler(self.sampler, steps)
        schedule = None
        if self.schedule is not None:
            schedule = exponential() if self.schedule == "exponential" else Schedule(self.schedule)
        return {"sampler": self.sampler, "steps": steps, "schedule": schedule}

    def check(self, num_classes: int) -> None:
        """Raise UserError for anything that evaluating would refuse, before any time is spent."""
        self.guidances()
        self.sampler_arguments()
        if self.target_class is not None:
            check_class(self.target_class, num_classes)
        if self.paper is not None and self.paper not in EXPERIMENTS:
            raise UserError(f"paper experiment {self.paper!r} is unknown; choose one of {', '.join(EXPERIMENTS)}")


@dataclass(frozen=True)
class Report:
    """Where an evaluation goes, and what it says beside its own results.

    Attributes:
        folder: for the files.
        title: of the page.
        shown: what was run.
        console: gets tables, and what is being computed.
        numbers: results of the test.
    """

    folder: Path
    title: str
    shown: dict[str, Any]
    console: Console
    numbers: dict[str, float]

    def say(self, line: str) -> None:
        """One line on what is being computed."""
        self.console.print(line, style="dim", highlight=False)

    def opening(self) -> list[Section]:
        """What a trained network's report begins with: its test and its training."""
        return [*_number_sections(self.numbers), *_training_section(self.folder)]


def evaluate(
    data: Any,
    denoiser: Denoiser | None,
    settings: EvaluationSettings,
    folder: Path,
    title: str,
    shown: dict[str, Any],
    console: Console,
    numbers: dict[str, float] | None = None,
) -> tuple[Path, dict[str, float]]:
    """Evaluate a denoiser against what is known of its data, and write the report.

    Args:
        data: a data module that is set up.
        denoiser: a learned one; None is the target's own exact one.
        settings: what to evaluate.
        folder: for the report's files.
        title: of the report.
        shown: what was run, for the report.
        console: gets the table.
        numbers: results of the test, for the report.

    Returns:
        the report's path, and flat numbers to log.
    """
    settings.check(data.num_classes)
    report = Report(folder, title, shown | asdict(settings), console, numbers or {})
    if isinstance(data.target, TableMixture):
        return _evaluate_table(data.target, denoiser, settings, report)
    if isinstance(data, BernoulliData):
        return _evaluate_bernoulli(data, denoiser, settings, report)
    if denoiser is None:
        denoiser = exact_denoiser(data)
    return _evaluate_images(data, denoiser, settings, report)


def exact_denoiser(data: Any) -> Denoiser:
    """The exact denoiser of a data module's target.

    Raises:
        UserError: nothing is known exactly about these data.
    """
    if data.target is None:
        raise UserError(f"denoiser=exact needs data known exactly, and {data.name} is not; train a network on it")
    return data.target.denoiser()


def log_report(loggers: Sequence[Logger], numbers: dict[str, float], folder: Path, step: int) -> None:
    """Send an evaluation's numbers to every logger, and its pictures to wandb."""
    finite = {f"eval/{name}": value for name, value in numbers.items() if math.isfinite(value)}
    for logger in loggers:
        logger.log_metrics(finite, step=step)
        if isinstance(logger, WandbLogger):
            for picture in sorted(folder.glob("*.png")):
                logger.log_image(key=f"eval/{picture.stem}", images=[str(picture)])
        logger.save()


def _evaluate_table(
    target: TableMixture,
    denoiser: Denoiser | None,
    settings: EvaluationSettings,
    report: Report,
) -> tuple[Path, dict[str, float]]:
    learned, sections = denoiser, _number_sections(report.numbers)
    if denoiser is not None:
        n, d = target.num_tokens, target.num_dims
        if (n + 1) ** d * n * d <= LEARNED_LAW_ENTRIES:
            learned = TabulatedDenoiser(denoiser)
        else:
            learned = None
            sections = [_sampled_section(target, denoiser, settings), *sections]

    evaluation = evaluate_table(
        target,
        learned,
        settings.w,
        settings.target_class or 0,
        settings.guidance,
        num_samples=settings.num_samples,
        seed=settings.seed,
        progress=report.say,
        **settings.sampler_arguments(),
    )
    science, science_numbers = science_sections(target, evaluation, learned, report.folder, report.say)
    if settings.paper is not None:
        result = EXPERIMENTS[settings.paper](target, evaluation, learned)
        science = paper_sections(settings.paper, result) + science
        write_markdown(settings.paper, f"python {report.shown.get('command', '')}", result, report.folder / "paper.md")
    more = {"numbers": report.numbers} | science_numbers
    path = write_table_report(evaluation, report.folder, report.title, report.shown, [*science, *sections], more)
    claims = science[:1] if settings.paper is not None else []
    _print_sections([*sections, *claims], report.console)
    print_table(distance_table(evaluation), report.title, report.console)
    return path, _flat(evaluation)


def _flat(evaluation: TableEvaluation) -> dict[str, float]:
    """The rows of an evaluation as one dict: "tv_exact_learned_w2", ..."""
    return {
        f"{name}_w{row['w']:g}": float(value)
        for row in evaluation.rows()
        for name, value in row.items()
        if name.startswith(("tv_", "noise_floor_", "kl_")) and value is not None
    }


def _sampled_section(target: TableMixture, denoiser: Denoiser, settings: EvaluationSettings) -> Section:
    """Samples of a network whose own law is out of reach, against the exact law."""
    rows = []
    for guidance in settings.guidances():
        law = terminal_law(target.denoiser(), guidance, settings.target_class or 0)
        x = draw(denoiser, guidance, settings.target_class or 0, settings)
        found = sampled_tv(law, x, num_resamples=20)
        floor = expected_sampling_tv(law, len(x))
        numbers = (found.value, found.low, found.high, floor)
        rows.append([f"{guidance.strength(0, 1):g}", *(format_number(number) for number in numbers)])
    text = "The network's own exact law would need too many evaluations: samples stand in for it."
    heads = ("w", "TV of the network's samples", "low", "high", "noise floor")
    return Section("Samples of the network", text, Table(heads, rows))


def draw(denoiser: Denoiser, guidance: Guidance, target_class: int, settings: EvaluationSettings) -> Tensor:
    """`num_samples` samples of one class, int64 (n, D), by a generator of their own."""
    key = hash((settings.seed, guidance.strength(0, 1), target_class)) % 2**63
    generator = torch.Generator().manual_seed(key)
    return sample(
        denoiser,
        guidance,
        target_class,
        settings.num_samples,
        generator=generator,
        **settings.sampler_arguments(),
    )


def _evaluate_images(
    data: BinaryImageData,
    denoiser: Denoiser,
    settings: EvaluationSettings,
    report: Report,
) -> tuple[Path, dict[str, float]]:
    """Samples per class and w, judged by a classifier and beside held-out data."""
    with share_shown("training the classifier") as show:
        classifier = classifier_for(data, progress=lambda step, steps, _: show(step / steps))
    evaluation = evaluate_images(
        data,
        denoiser,
        classifier,
        settings.w,
        settings.guidance,
        num_samples_per_class=settings.num_samples,
        seed=settings.seed,
        progress=report.say,
        classes=None if settings.target_class is None else [settings.target_class],
        **settings.sampler_arguments(),
    )
    sections = [*report.opening(), *image_sections(evaluation, report.folder)]
    arrays: dict[str, Any] = {
        f"w{w:g}": x.reshape(*x.shape[:2], *data.grid_shape).numpy().astype(np.uint8)
        for w, x in evaluation.samples.items()
    }
    np.savez_compressed(report.folder / "samples.npz", **arrays)
    return _write_report(evaluation, sections, report)


def _evaluate_bernoulli(
    data: BernoulliData,
    denoiser: Denoiser | None,
    settings: EvaluationSettings,
    report: Report,
) -> tuple[Path, dict[str, float]]:
    """Samples of a network beside exact guided samples, in as many dimensions as an image has."""
    evaluation = evaluate_bernoulli(
        data,
        denoiser,
        settings.w,
        settings.guidance,
        num_samples_per_class=settings.num_samples,
        seed=settings.seed,
        progress=report.say,
        classes=None if settings.target_class is None else [settings.target_class],
        **settings.sampler_arguments(),
    )
    sections = [*report.opening(), *bernoulli_sections(evaluation, report.folder)]
    return _write_report(evaluation, sections, report)


def _write_report(
    evaluation: ImageEvaluation | BernoulliEvaluation, sections: Sequence[Section], report: Report
) -> tuple[Path, dict[str, float]]:
    """report.csv, report.json, the tables on the terminal and the page: what every report of images ends with."""
    write_csv(evaluation.rows(), report.folder / "report.csv")
    head = {"title": report.title, "settings": report.shown, "numbers": report.numbers}
    write_json(head | evaluation.to_dict(), report.folder / "report.json")
    _print_sections(sections, report.console)
    return write_page(report.folder / "report.html", report.title, sections, report.shown), evaluation.numbers()


def _print_sections(sections: Sequence[Section], console: Console) -> None:
    for section in sections:
        if section.table is not None:
            print_table(section.table, section.title, console)


def _number_sections(numbers: dict[str, float]) -> list[Section]:
    if not numbers:
        return []
    rows = [[name.removeprefix("test/"), format_number(value)] for name, value in numbers.items()]
    text = (
        "Negative ELBO in nats per data point: with the class, and without one (null). mc_se is the standard error of "
        "the random masks, data_se that of masks and data."
    )
    return [Section("Test set", text, Table(("number", "value"), rows))]


def _training_section(folder: Path) -> list[Section]:
    """The curve of the validation NELBO against minutes, where the run's metrics.csv lies beside the report."""
    path = folder.parent / METRICS
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/nelbo") and row.get("val/minutes")]
    if len(rows) < 2:
        return []
    minutes = [float(row["val/minutes"]) for row in rows]
    series = {
        label: (minutes, [float(row[name]) for row in rows])
        for label, name in (("with the class", "val/nelbo"), ("without (null)", "val/nelbo_null"))
    }
    folder.mkdir(parents=True, exist_ok=True)
    picture = Picture(draw_nelbo(series, folder / "training.png"), "NELBO on the validation images against minutes.")
    table = Table(
        ("minutes", "NELBO", "NELBO without class"),
        [[f"{t:.1f}", f"{a:.2f}", f"{b:.2f}"] for t, a, b in zip(minutes, *(y for _, y in series.values()))],
    )
    return [Section("Training", "Nats per data point, validation images, averaged weights.", table, [picture])]


def describe_run(run: LoadedRun) -> dict[str, Any]:
    """What a report says of the run it judges."""
    return {"checkpoint": str(run.path), "steps of training": run.step, "data": run.data["name"]}
