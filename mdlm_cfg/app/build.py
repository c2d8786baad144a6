"""Data, loggers and trainer from a plain configuration; `mdlm_cfg.training.build` makes the rest of a run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import (
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mdlm_cfg.app.overrides import key_of
from mdlm_cfg.app.wandb_runs import begin_wandb, check_wandb, earlier_wandb_run, keep_wandb_files_in
from mdlm_cfg.support.annotations import parameters_of
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import Made
from mdlm_cfg.support.instantiate import TARGET, locate, make, mark_calls, names_in
from mdlm_cfg.support.machine import SPEEDUP, bf16_speedup
from mdlm_cfg.support.numeric import number
from mdlm_cfg.support.schema import TrainSchema
from mdlm_cfg.training.callbacks import RunProgress
from mdlm_cfg.training.checkpoints import stamp
from mdlm_cfg.training.data.base import DiffusionData
from mdlm_cfg.training.lean import Unprofiled
from mdlm_cfg.training.metrics import METRICS, MetricsLog
from mdlm_cfg.training.predicting import is_first_process
from mdlm_cfg.training.saving import WholeFiles

LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0}  # of the trainer
TIME = re.compile(r"\d+:\d\d:\d\d:\d\d")  # days, hours, minutes, seconds
REFUSALS = (ValueError, TypeError, AttributeError, ImportError, MisconfigurationException)  # of Lightning
DATA = ("mdlm_cfg.training.data", "mdlm_cfg.targets.*")  # modules that a checkpoint may name for its data
ELSEWHERE = {  # callbacks of Lightning, and the setting that already does what each would do
    WeightAveraging: "ema_decay",
    StochasticWeightAveraging: "ema_decay",
    LearningRateFinder: "optimizer.lr",
    BatchSizeFinder: "data.batch_size",
}
UNSAVED = {"enable_checkpointing": False, "barebones": True}  # settings of the trainer under which nothing is saved
LAUNCHERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)


def for_own_targets(config: TrainSchema, overrides: Sequence[str]) -> TrainSchema:
    """The settings, without those of files that were meant for another network, objective or optimiser.

    Where `net._target_=...` or `net=...` is given, the other settings of `net` that come from files count only if
    that network takes them.

    Args:
        config: of a training run.
        overrides: of the command line; what is given there always counts.
    """
    changed: dict[str, Any] = {}
    keys = [key_of(item) for item in overrides]
    for part in ("net", "objective", "optimizer"):
        given = {key.removeprefix(f"{part}.") for key in keys if key.startswith(f"{part}.")}
        if TARGET in given or part in keys:
            settings = getattr(config, part)
            name = str(settings[TARGET])
            taken = {TARGET, *parameters_of(locate(name, part, (), {name}))} | given
            changed[part] = {key: value for key, value in settings.items() if key in taken}
    return replace(config, **changed)


def build_data(settings: dict[str, Any], trusted: Collection[str] = ()) -> Any:
    """A data module, set up. Settings may come from a checkpoint, so they may name only this package's data.

    `path` is the setting in which a user names a file; it is not an argument itself, but other arguments refer to it.

    Args:
        settings: with `_target_`.
        trusted: names given by whoever runs the program.

    Raises:
        UserError: a name outside `mdlm_cfg.training.data` and `mdlm_cfg.targets` that is not trusted.
    """
    arguments = {key: value for key, value in settings.items() if key != "path"}
    data = make(arguments, "data", DATA, trusted)
    if not isinstance(data, DiffusionData):
        raise UserError(f"{settings['_target_']} cannot provide data: it makes a {type(data).__name__}")
    data.prepare_data()
    data.setup("fit")
    return data


def build_loggers(
    settings: dict[str, Any],
    folder: Path,
    run: str,
    job_type: str,
    config: Mapping[str, Any],
    made: Made,
    kept_steps: int = 0,
) -> list[Logger]:
    """metrics.csv in the run folder always, and the configured logger if it is another.

    Args:
        settings: of the logger, with `_target_`.
        folder: for its files.
        run: NAME/DATE_TIME of the training run, or NAME of an exact evaluation. On wandb, NAME (the experiment) is the
            group that its seeds and their evaluations share.
        job_type: "train" or "eval".
        config: the whole configuration, which wandb shows with the run.
        made: the record of what the command makes, for the loggers' files.
        kept_steps: lines of metrics.csv for steps before this one are kept, for a run that resumes in its folder.
    """
    if settings.get("mode") in ("offline", "disabled"):
        os.environ.setdefault("WANDB_SILENT", "true")  # its summary would bury ours
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it would still contact its server
    target = str(settings.get(TARGET))
    is_wandb = target.endswith("WandbLogger")
    if is_wandb:
        keep_wandb_files_in(folder)
        check_wandb(settings)
        made.tree(folder / "wandb")
    loggers: list[Logger] = [MetricsLog(made.file(folder / METRICS).parent, kept_steps)]
    if not target.endswith("CSVLogger"):
        filled: dict[str, Any] = {"save_dir": str(folder), "name": f"{run} {job_type}"}
        if is_wandb:
            about = {"run": run, "version": stamp()["version"], **config}
            filled |= {"group": run.split("/")[0], "job_type": job_type, "config": about}
            if job_type == "train" and kept_steps and (earlier := earlier_wandb_run(folder)) is not None:
                filled["id"] = earlier
        logger = make(settings, "logger", (), names_in(settings), **filled)
        if not isinstance(logger, Logger):
            raise UserError(f"logger._target_={target} makes a {type(logger).__name__}, not a logger of Lightning")
        loggers.append(logger)
        if is_wandb:
            begin_wandb(loggers[-1], settings.get("mode"))
        else:
            mark_calls(logger, Logger, target)
    return loggers


def build_trainer(settings: dict[str, Any], loggers: list[Logger], callbacks: list[Any]) -> Trainer:
    """Lightning's trainer, with a progress bar if configured; precision "auto" is bf16-mixed where that is fast.

    Raises:
        UserError: settings that Lightning's Trainer does not take.
    """
    accelerator = str(settings.get("accelerator", "auto"))
    device = device_meant_by(accelerator)
    if accelerator == "auto" and device == "cpu" and torch.backends.mps.is_available():  # Lightning would take it
        settings = settings | {"accelerator": "cpu"}
    if settings.get("precision") == "auto":
        settings = settings | {"precision": "bf16-mixed" if bf16_speedup(device) >= SPEEDUP else "32-true"}
    bar = [RunProgress()] if settings.get("enable_progress_bar", True) else []
    is_alone = means_one_process(settings) or is_alone_in_slurm()
    plugins = [WholeFiles(), *([LightningEnvironment()] if is_alone else [])]
    filled: dict[str, Any] = {"logger": loggers, "callbacks": [*callbacks, *bar], "plugins": plugins}
    for key in ("logger", "callbacks", "plugins"):  # the user's own join ours, which save what a run needs
        own = settings.get(key) or []
        own = own if isinstance(own, list) else [own]
        made = [make(one, f"trainer.{key}", (), names_in(one)) for one in own]
        for one, thing in zip(own, made):
            mark_calls(thing, Callback if isinstance(thing, Callback) else Logger, str(one[TARGET]))
        for kind, instead in ELSEWHERE.items():
            if any(isinstance(one, kind) for one in made):
                raise UserError(f"trainer.{key} holds a {kind.__name__}, which is not supported here: give {instead}")
        filled[key] += made
    settings = {key: value for key, value in settings.items() if key not in filled}
    if settings.get("profiler") is None:
        filled["profiler"] = Unprofiled()
    try:
        trainer = make(settings, "trainer", (), names_in(settings), **filled)
    except REFUSALS as error:
        said = re.sub(r" object at 0x\w+", "", str(error))
        raise UserError(f"the trainer cannot be made: {said}") from error
    if not isinstance(trainer, Trainer):
        raise UserError(
            f"trainer._target_={settings[TARGET]} makes a {type(trainer).__name__}, not a trainer of Lightning"
        )
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):  # weights trained in copies never come back
        raise UserError(f"trainer.strategy = {settings.get('strategy')} trains in copies of this process: give ddp")
    trainer.loggers = filled["logger"]  # `fast_dev_run` removes them, but every run has a metrics.csv
    return trainer


def means_one_process(trainer: Mapping[str, Any] | None) -> bool:
    """Whether a trainer's settings mean this process alone, whatever number a launcher has given it.

    Slurm, torchrun and the like number the processes that they start, even where each of them is a separate run.
    """
    return not trainer or (str(trainer.get("devices", "auto")) == "1" and str(trainer.get("num_nodes", 1)) == "1")


def rank_without_launcher(trainer: Mapping[str, Any] | None) -> int | None:
    """The number of this process in its run, 0 for the first; None where a launcher that Lightning knows has given it.

    Lightning also reads the number from RANK but then does not act on it: a cluster or a shell may have set that.
    """
    if means_one_process(trainer):
        return 0
    if not is_alone_in_slurm() and any(launcher.detect() for launcher in LAUNCHERS):
        return None
    environment = LightningEnvironment()
    return environment.local_rank() + environment.node_rank()


def is_alone_in_slurm(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is in an allocation of Slurm, but is not one of its tasks.

    This is the case in the shell of `salloc`, in `srun --pty bash`, and in a batch script that does not call `srun`.
    Lightning would take it for one of SLURM_NTASKS processes, and wait for the others.
    """
    is_task = "SLURM_STEP_ID" in environment and "SLURM_PTY_PORT" not in environment
    return "SLURM_NTASKS" in environment and not is_task and "TORCHELASTIC_RUN_ID" not in environment


def check_trainer(settings: Mapping[str, Any] | None) -> None:
    """Raise UserError for a device on which no result here could be right.

    Also for numbers that Lightning would reject, or misread, only once training has begun.
    """
    settings = settings or {}
    for key, least in LEAST.items():
        if (value := settings.get(key)) is not None:
            number(f"trainer.{key}", value, least)
    for key, value in UNSAVED.items():
        if settings.get(key) is value:
            raise UserError(f"trainer.{key} = {value} is not possible: a run saves checkpoints, so leave it out")
    if settings.get("val_check_interval") == 0:
        raise UserError("trainer.val_check_interval = 0 is not allowed: give a number of batches or a part of an epoch")
    limit = settings.get("max_time")
    if isinstance(limit, str | int | float) and not TIME.fullmatch(str(limit)):
        raise UserError(f"max_time = {limit} is not a time: give DD:HH:MM:SS, such as 00:00:30:00 for half an hour")
    accelerator = settings.get("accelerator", "auto")
    if accelerator not in ("auto", "cpu", "gpu", "cuda", "mps"):
        raise UserError(f"trainer.accelerator={accelerator} is not supported: give auto, cpu or gpu")
    if accelerator == "mps":
        raise UserError("mps has no float64, in which losses and laws are computed: give trainer.accelerator=cpu")


def check_something_to_train(settings: Mapping[str, Any], before: Path | None) -> None:
    """Raise UserError for a trainer that would not take a step, unless there is an earlier checkpoint to test."""
    for key in ("max_epochs", "max_steps", "max_time", "limit_train_batches"):
        value = settings.get(key)
        is_nothing = not any(value.values()) if isinstance(value, Mapping) else value in (0, "", "00:00:00:00")
        if before is None and is_nothing:
            raise UserError(f"trainer.{key} = {value} leaves nothing to train: give more, or a ckpt_path to test")


def device_meant_by(accelerator: str) -> str:
    """The kind of device that a Lightning accelerator means on this machine."""
    devices = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
    device = devices.get(accelerator, "cuda" if torch.cuda.is_available() else "cpu")
    # if there is none, the trainer says so
    return "cpu" if device == "cuda" and not torch.cuda.is_available() else device


def say_precision(config: TrainSchema, device: torch.device) -> None:
    """Print one line on what precision "auto" became, if the configuration contains it."""
    parts = [part for part in ("trainer", "optimizer") if getattr(config, part).get("precision") == "auto"]
    if not parts or not is_first_process():
        return
    speedup = bf16_speedup(device)
    choice = "bfloat16" if speedup >= SPEEDUP else "float32"
    times = f"{speedup:.2g} times as fast as float32" if speedup else "not possible"
    chosen = " and ".join(f"{part}.precision" for part in parts)
    print(f"{chosen}: {choice}, because bfloat16 products are {times} on {device.type}", file=sys.stderr)
