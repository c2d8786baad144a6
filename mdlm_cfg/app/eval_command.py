"""The work of eval.py, given its settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from mdlm_cfg.app.build import build_data, build_loggers
from mdlm_cfg.app.evaluation import Report, evaluate, title_of
from mdlm_cfg.app.folders import place_for, write_config
from mdlm_cfg.app.jobs import Outcome
from mdlm_cfg.app.merging import merged, merged_data, naming_checkpoint
from mdlm_cfg.app.overrides import given_for, key_of
from mdlm_cfg.app.own import denoiser_of
from mdlm_cfg.app.places import shown_path
from mdlm_cfg.app.session import command_of, describe, log, outcome_of, start, wandb_finished
from mdlm_cfg.app.settings import checked_guides, plan_of
from mdlm_cfg.app.sharing import sampling_trainer, share_draws
from mdlm_cfg.app.study_choice import build_study, checked_study
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.studies.findings import COMMAND
from mdlm_cfg.studies.fitting import Fit
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Study
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import Made
from mdlm_cfg.support.instantiate import TARGET, names_in
from mdlm_cfg.support.schema import EvalSchema, EvaluationSchema, keys_of, plain
from mdlm_cfg.targets.data import Data
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.checkpoints import newest_run
from mdlm_cfg.training.metrics import METRICS
from mdlm_cfg.training.predicting import is_first_process
from mdlm_cfg.training.runs import LoadedRun, load_run

ALL_STEPS = sys.maxsize  # of metrics.csv are kept: an evaluation adds to what a run has logged in the same folder
SMALL_TABLE = 20_000  # states


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and by which study.

    Attributes:
        settings: all settings that decide the report.
        shown: at the head of the page. run_name: on wandb. step: of training.
        run_folder: of a trained network. who: the model in the page's title, if it is not a trained network.
    """

    data: Data
    denoiser: Denoiser | None
    plan: Plan
    study: Study
    settings: Mapping[str, Any]
    shown: Mapping[str, Any]
    run_name: str
    step: int = 0
    run_folder: Path | None = None
    who: str = ""


def judge(config: EvalSchema, overrides: Sequence[str], job: Path | None = None) -> Outcome:
    """Evaluate a trained network, or an exact denoiser.

    Args:
        config: of eval.py. overrides: of the command line. job: the folder, of a job of a sweep.
    """
    if not isinstance(config.denoiser, Mapping) and config.denoiser not in ("learned", "exact"):
        raise UserError(
            f"denoiser {config.denoiser!r} is unknown; choose one of learned, exact, or name your own with "
            "denoiser._target_=package.module.Name"
        )
    start(config)
    return (_judge_run if config.denoiser == "learned" else _judge_without_run)(config, overrides, job)


def _judge_without_run(config: EvalSchema, overrides: Sequence[str], job: Path | None) -> Outcome:
    """Judge the exact denoiser of the data, or a denoiser of the user's own."""
    if config.ckpt_path is not None:
        raise UserError(
            f"ckpt_path={config.ckpt_path} cannot be combined with a denoiser that is not a run's: leave out it or "
            "denoiser=..."
        )
    guides = checked_guides(config, overrides)  # refused before anything is loaded
    chosen = build_study(config.study, config.study)
    data = build_data(config.data, names_in(config.data))
    denoiser = None
    name = "exact"
    if isinstance(config.denoiser, Mapping):
        denoiser = denoiser_of(config.denoiser, data, names_in(config.denoiser))
        name = str(config.denoiser[TARGET]).rpartition(".")[2]
    elif data.target is None:
        raise UserError(f"denoiser=exact needs data known exactly, and {data.name} is not; train a network on it")
    guides = guides.completed(config, data.target)
    plan = plan_of(config, fit=Fit(data, denoiser, config.target_class, config.seed), guides=guides)
    study = checked_study(data, plan, config.paper, chosen, config.classifier, denoiser)
    trainer = sampling_trainer(config.trainer)
    shown = {"denoiser": name, "data": data.name, **guides.described}
    subject = Subject(data, denoiser, plan, study, plain(config), shown, f"{data.name}_{name}", who=name)
    return _evaluated(config, subject, trainer, overrides, job)


def _judge_run(config: EvalSchema, overrides: Sequence[str], job: Path | None) -> Outcome:
    path = config.ckpt_path or newest_run(config.runs)
    run = load_run(path, config.batch_size, names_in(config.net))

    def of_command() -> None:
        checked_guides(config, overrides)
        build_study(config.study, config.study)

    with naming_checkpoint(run.path, of_command):
        settings = merged(run.config, config, list(overrides))
        guides = checked_guides(settings, overrides, config)  # refused before anything is loaded
        chosen = build_study(settings.study, config.study)
    data, data_settings = _data_of(run, config, overrides)
    trainer = sampling_trainer(config.trainer, run.net)
    guides = guides.completed(settings, data.target, run.denoiser)
    guides.to(run.denoiser.device)
    plan = plan_of(settings, config, Fit(data, run.denoiser, settings.target_class, config.seed), guides)
    study = checked_study(data, plan, config.paper, chosen, settings.classifier, run.denoiser)
    if is_first_process():
        print(f"evaluating {shown_path(run.path)}", file=sys.stderr)
    shown = {**describe(run), **guides.described}
    run_name = f"{run.folder.parent.name}/{run.folder.name}"
    given_here = {key: value for key, value in plain(settings).items() if key in keys_of(EvaluationSchema)}
    here = {"data": data_settings, "denoiser": config.denoiser, "seed": config.seed, "ckpt_path": str(run.path)}
    decided = run.config | given_here | here
    subject = Subject(data, run.denoiser, plan, study, decided, shown, run_name, run.step, run.folder)
    return _evaluated(config, subject, trainer, overrides, job)


def _evaluated(
    config: EvalSchema, subject: Subject, trainer: Trainer | None, overrides: Sequence[str], job: Path | None
) -> Outcome:
    """Evaluate, and write and log the report."""
    data = subject.data
    _one_thread_for_small_tables(config, data)
    made = Made()
    if job is not None:
        write_config(subject.settings, job, made)
    run = subject.run_folder
    root, name, key = (config.runs, subject.run_name, "runs") if run is None else (run, "evaluations", "out")
    out = place_for(config.out, job, root, name, overrides, made, key)
    shown = {COMMAND: command_of("eval.py", overrides), **subject.shown}
    title = title_of(data.name, subject.study, subject.who)
    report = Report(out, title, shown, data.describe(), settings=subject.settings)
    if subject.run_folder == out.resolve().parent:  # as the report of train.py, which shows how the network was trained
        report = replace(report, metrics=out.parent / METRICS)
    loggers: list[Logger] = []
    with made.taken_back():
        if config.logger:
            settings = (subject.settings, made, ALL_STEPS)
            loggers = build_loggers(config.logger, out, subject.run_name, "eval", *settings)
    written = None
    subject_of = (data, subject.denoiser, subject.plan)
    with wandb_finished(loggers):
        if share_draws(trainer, subject.study, *subject_of, out):
            written = evaluate(*subject_of, report, subject.study)
            log(loggers, written, subject.step)
    return outcome_of(written)


def _data_of(run: LoadedRun, config: EvalSchema, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """The data to evaluate a run on, and their settings: those it was trained on; any others are refused."""
    saved = run.config.get("data")
    if not isinstance(saved, dict):
        if given_for(overrides, "data") is None:
            raise UserError(f"the checkpoint {run.path} does not say how its data were made: give data=...")
        saved = {}
    settings = merged_data(saved, config, list(overrides))
    try:
        data = build_data(settings, names_in(config.data))
    except UserError as error:
        path = settings.get("path")
        if isinstance(path, str) and not os.path.exists(path):
            raise UserError(f"{error}; if the data of {run.path} have moved, give data.path=NEW") from error
        if any(key_of(item).partition(".")[0] in ("data", "experiment") for item in overrides):
            raise
        raise UserError(f"{error}; the data are those of the checkpoint {run.path}") from error
    run.check_data(data.describe())
    return data, settings


def _one_thread_for_small_tables(config: EvalSchema, data: Data) -> None:
    """Use one thread: laws of small tables are very many tiny operations, which threads only slow down."""
    if config.threads is None and isinstance(data.target, TableMixture) and data.target.pmf.numel() <= SMALL_TABLE:
        torch.set_num_threads(1)
