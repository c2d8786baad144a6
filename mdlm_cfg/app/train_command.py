"""The work of train.py, given its settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer

from mdlm_cfg.app.build import (
    build_data,
    build_loggers,
    build_trainer,
    check_something_to_train,
    check_trainer,
    for_own_targets,
    say_precision,
)
from mdlm_cfg.app.commands import INTERRUPTED
from mdlm_cfg.app.errors import in_own_code, sentence
from mdlm_cfg.app.evaluation import Report, evaluate, title_of
from mdlm_cfg.app.folders import checkpoint_of, run_folder
from mdlm_cfg.app.guides import Guides
from mdlm_cfg.app.jobs import Outcome
from mdlm_cfg.app.overrides import given_for, values_of
from mdlm_cfg.app.places import shown_path
from mdlm_cfg.app.session import command_of, describe, log, outcome_of, start, wandb_finished
from mdlm_cfg.app.settings import plan_of, training_guides
from mdlm_cfg.app.sharing import share_draws
from mdlm_cfg.app.study_choice import build_study, checked_study, study_of
from mdlm_cfg.app.training_pictures import PicturesByStep
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.studies.findings import COMMAND
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import names_in
from mdlm_cfg.support.schema import TrainSchema, plain
from mdlm_cfg.targets.data import Data
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.callbacks import AveragedWeights
from mdlm_cfg.training.checkpoints import CHECKPOINT, run_folder_of
from mdlm_cfg.training.fit import NotBegun, check_resume, train as train_and_test
from mdlm_cfg.training.metrics import METRICS
from mdlm_cfg.training.module import Diverged, MaskedDiffusion
from mdlm_cfg.training.predicting import is_first_process
from mdlm_cfg.training.runs import LoadedRun, load_run
from mdlm_cfg.training.saving import Checkpoints, check_saving
from mdlm_cfg.training.step_memory import check_step_memory
from mdlm_cfg.training.unfinished import finish_the_same, mark_finished


def train(config: TrainSchema, overrides: Sequence[str], job: Path | None = None) -> Outcome:
    """Train a network, test it, and evaluate it.

    Args:
        config: of train.py. overrides: of the command line. job: the folder, of a job of a sweep.
    """
    config = for_own_targets(config, overrides)
    guides = training_guides(config, overrides)
    chosen = build_study(config.study, config.study)
    check_trainer(config.trainer)
    check_saving(config.save_minutes, config.keep_steps)
    start(config)
    trusted = names_in(plain(config))  # all of it is the user's own
    data = build_data(config.data, trusted)
    guides = guides.completed(config, data.target)
    plan = plan_of(config, guides=guides)
    module = build_module(config, data.describe(), trusted)
    check_step_memory(data, module.objective, str(config.trainer.get("accelerator", "auto")))
    study = _study_after_training(config, overrides, data, NetDenoiser(module.net), plan, chosen)
    before = checkpoint_of(config, data.name, job)
    check_something_to_train(config.trainer, before)
    steps = 0 if before is None else check_resume(before, module.hparams)
    with run_folder(config, data.name, before, overrides, job) as (folder, made):
        with made.taken_back():
            run_name = f"{folder.parent.name}/{folder.name}"
            loggers = build_loggers(config.logger, folder, run_name, "train", plain(config), made, steps)
            saving = Checkpoints((folder / CHECKPOINT).parent, config.save_minutes, config.keep_steps)
            averaged = [PicturesByStep(data, plan), AveragedWeights(config.ema_decay)]  # pictures of averaged weights
            trainer = build_trainer(config.trainer, loggers, [*averaged, saving])
        say_precision(config, trainer.strategy.root_device)
        written = None
        with made.taken_back(NotBegun), wandb_finished(loggers):
            numbers, path = _fit(trainer, module, data, before, saving)
            if study is not None:
                run = _trained(trainer, path, config, guides)
                shown = {COMMAND: command_of("train.py", overrides), **describe(run), **guides.described}
                about = (title_of(data.name, study), shown, data.describe(), numbers)
                report = Report(folder / "report", *about, settings=plain(config), metrics=folder / METRICS)
                if share_draws(trainer, study, data, run.denoiser, plan, report.folder):
                    written = evaluate(data, run.denoiser, plan, report, study)
                    log(loggers, written, run.step)
            if is_first_process():
                mark_finished(folder)  # before wandb uploads the rest, which may be interrupted
    if before is not None and is_first_process():
        finish_the_same(run_folder_of(before), plain(config))
    return outcome_of(written, numbers, module.val_nelbo) if is_first_process() else Outcome()


def _trained(trainer: Trainer, path: Path, config: TrainSchema, guides: Guides) -> LoadedRun:
    """The run that the first process saved, or the earlier one if nothing was left to train.

    Its network and the guides are moved to where it was trained.
    """
    run = load_run(trainer.strategy.broadcast(path), config.batch_size, names_in(plain(config)))
    run.net.to(trainer.strategy.root_device)
    guides.to(trainer.strategy.root_device)
    return replace(run, begun_with=run.begun_with_under(plain(config)))


def _study_after_training(
    config: TrainSchema, overrides: Sequence[str], data: Data, denoiser: NetDenoiser, plan: Plan, chosen: Any
) -> Any:
    """The study that follows training, checked; None if there is none, with a message unless configured so."""
    if not config.evaluate:
        return None
    if not _is_given(overrides, "evaluate") and not (chosen or study_of(data, config.paper)):
        print(f"there is no evaluation of {data.name} yet: the network is trained and tested", file=sys.stderr)
        return None
    return checked_study(data, plan, config.paper, chosen, config.classifier, denoiser)


def _fit(
    trainer: Trainer, module: MaskedDiffusion, data: LightningDataModule, before: Path | None, saving: Checkpoints
) -> tuple[dict[str, float], Path]:
    """Train and test; print where the checkpoint is, also after an interrupt (Lightning then exits with code 1)."""
    path = saving.last
    try:
        numbers, trained = train_and_test(module, data, trainer, before)
    except SystemExit as error:
        if not trainer.interrupted or in_own_code(error) is not None:
            raise
        print(f"interrupted{_how_to_resume(path, before)}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    except (Diverged, OSError, RuntimeError) as error:  # of the disk, or of another process
        if (said := sentence(error)) is None:
            raise
        if not is_first_process():
            raise
        raise UserError(f"{said}; {_last_good(saving, before)}") from error
    if not trained:
        assert before is not None  # else the error would be NotBegun
        path = before
    if trainer.is_global_zero:
        if not trained:
            print(
                f"there is nothing left to train in {shown_path(path)}: its epochs, steps or time are used up, or a "
                "callback has ended it",
                file=sys.stderr,
            )
        print(f"checkpoint: {shown_path(path)}")
    return numbers, path


def _how_to_resume(path: Path, before: Path | None) -> str:
    """What follows "interrupted": only the first process knows the run's folder."""
    if not is_first_process():
        return ""
    left = path if path.is_file() else before
    return "; before anything was saved" if left is None else f"; resume with ckpt_path={shown_path(left)}"


def _last_good(saving: Checkpoints, before: Path | None) -> str:
    """A sentence on the checkpoints left after training has failed."""
    for path in (saving.last, saving.best, *reversed(saving.saved), before):
        if path is not None and path.is_file():
            return f"the last good checkpoint is {shown_path(path)}"
    where = shown_path(saving.last.parent)
    return f"the checkpoints in {where} are gone" if saving.saved else "no checkpoint was saved"


def _is_given(overrides: Sequence[str], key: str) -> bool:
    """Whether a key was given as true on the command line, and not by a file."""
    override = given_for(overrides, key)
    return override is not None and values_of(override) == [True]
