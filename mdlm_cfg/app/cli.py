"""The commands: `python train.py` (mdlm-train) and `python eval.py` (mdlm-eval).

The only file that sees hydra's configuration objects: everything below it gets plain values and objects.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mdlm_cfg.app import pipeline
from mdlm_cfg.app.build import build_data, build_loggers, build_trainer, for_own_targets, say_precision
from mdlm_cfg.app.errors import INTERRUPTED, Failure, exit_with
from mdlm_cfg.app.pipeline import EvaluationSettings, describe_run, exact_denoiser, log_report
from mdlm_cfg.app.schema import EVALUATION_KEYS, register
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.machine import keep_freed_memory
from mdlm_cfg.support.named import names_in
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.callbacks import AveragedWeights, SaveLast
from mdlm_cfg.training.fit import check_resume
from mdlm_cfg.training.fit import train as train_and_test
from mdlm_cfg.training.module import Diverged, MaskedDiffusion
from mdlm_cfg.training.runs import CHECKPOINT, CONFIG, LoadedRun, load_run, new_run_folder, newest_run

PACKAGE = Path(__file__).resolve().parent.parent
CONFIGS = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
NOISE = (
    r".*does not have many workers.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*Experiment logs directory .* exists.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*WeightAveraging callback.*",
)

register()


def train() -> None:
    """Train a network, test it, and judge it: `python train.py [data=...] [experiment=...]`."""
    _run("train", _train)


def evaluate() -> None:
    """Judge a trained network, or an exact denoiser: `python eval.py [ckpt_path=...] [w=[0,1,2,4]]`."""
    _run("eval", _evaluate)


def _train(cfg: DictConfig, overrides: Sequence[str]) -> None:
    config = for_own_targets(to_plain_config(cfg), overrides)
    settings = evaluation_settings(config)
    _start(config)
    trusted = names_in(config)  # all of it is the user's own
    data = build_data(config["data"], trusted)
    module = build_module(config, data.describe(), trusted)
    settings.check(data.num_classes)
    callbacks: list[Any] = [AveragedWeights(config["ema_decay"])]
    if config["ckpt_path"] is not None:
        check_resume(config["ckpt_path"], module.hparams)
    folder = _run_folder(config, data.name)
    loggers = build_loggers(config, folder)
    trainer = build_trainer(config["trainer"], loggers, [*callbacks, SaveLast(folder / CHECKPOINT)])
    say_precision(config, trainer.strategy.root_device)
    try:
        numbers, path = _fit(trainer, module, data, config, folder)
        if config["evaluate"] and trainer.is_global_zero:
            run = load_run(path, config["batch_size"], trusted)
            run.net.to(trainer.strategy.root_device)
            out = folder / "report"
            command = "train.py " + " ".join(overrides)
            shown = {"command": command.strip(), **describe_run(run)}
            report, found = pipeline.evaluate(
                data, run.denoiser, settings, out, f"mdlm_cfg: {data.name}", shown, Console(), numbers
            )
            log_report(loggers, found, out, run.step)
            print(f"report: {report}")
    finally:
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            import wandb

            wandb.finish()


def _fit(
    trainer: Trainer, module: MaskedDiffusion, data: LightningDataModule, config: dict[str, Any], folder: Path
) -> tuple[dict[str, float], Path]:
    """Train and test; say where the checkpoint is, also after an interrupt (Lightning then exits with code 1)."""
    path, before = folder / CHECKPOINT, config["ckpt_path"]
    try:
        numbers, trained = train_and_test(module, data, trainer, before)
    except SystemExit as error:
        if not trainer.interrupted or not path.is_file():
            raise
        print(f"interrupted; go on from here with ckpt_path={path}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    except Diverged as error:
        good = path if path.is_file() else before
        last = f"the last good checkpoint is {good}" if good else "no checkpoint was saved"
        raise Diverged(f"{error}; {last}") from error
    if not trained:
        if before is None:
            raise UserError(
                "nothing was trained: give trainer.max_epochs, max_steps and max_time that leave some steps"
            )
        path = Path(before)
    if trainer.is_global_zero:
        if not trained:
            print(f"nothing was left to train in {path}: its epochs, steps or time are used up")
        print(f"checkpoint: {path}")
    return numbers, path


def _evaluate(cfg: DictConfig, overrides: Sequence[str]) -> None:
    config = to_plain_config(cfg)
    given = {re.split("[=.]", override.lstrip("+~"), maxsplit=1)[0] for override in overrides}
    if config["denoiser"] not in ("learned", "exact"):
        raise UserError(f"denoiser {config['denoiser']!r} is unknown; choose one of learned, exact")
    _start(config)
    command = ("eval.py " + " ".join(overrides)).strip()
    if config["denoiser"] == "exact":
        data, settings = build_data(config["data"]), evaluation_settings(config)
        exact_denoiser(data)
        settings.check(data.num_classes)
        out = _out(config) or new_run_folder(config["runs"], f"{data.name}_exact")
        shown = {"command": command, "denoiser": "exact", "data": data.name}
        report, _ = pipeline.evaluate(data, None, settings, out, f"mdlm_cfg: {data.name}, exact", shown, Console())
    else:
        path = config["ckpt_path"] or newest_run(config["runs"])
        run = load_run(path, config["batch_size"], names_in(config["net"]))
        data = data_of_run(run, config, given)
        settings = evaluation_settings(merged_settings(run.config, config, given))
        settings.check(data.num_classes)
        run.net.to("cuda" if torch.cuda.is_available() else "cpu")
        out = _out(config) or new_run_folder(run.folder, "evaluations")
        shown = {"command": command, **describe_run(run)}
        report, _ = pipeline.evaluate(data, run.denoiser, settings, out, f"mdlm_cfg: {data.name}", shown, Console())
    print(f"report: {report}")


def data_of_run(run: LoadedRun, config: dict[str, Any], given: set[str]) -> Any:
    """The data to judge a run on: those it was trained on; refuses others asked for explicitly."""
    named = names_in(config["data"])
    if given & {"data", "experiment"}:
        data = build_data(config["data"], named)
    elif isinstance(run.config.get("data"), dict):
        data = build_data(run.config["data"], named)
    else:
        raise UserError(f"the checkpoint {run.path} does not say how its data were made: give data=...")
    run.check_data(data.describe())
    return data


def merged_settings(saved: Mapping[str, Any], config: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """Evaluation settings of the command line where given, and of the training run otherwise."""
    if "experiment" in given:
        return config
    kept = {key: saved[key] for key in EVALUATION_KEYS if key in saved and key not in given}
    if "sampler" in given and "steps" not in given:
        kept.pop("steps", None)  # they were chosen for another sampler
    return config | kept


# building objects from plain settings


def to_plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, resolved."""
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def evaluation_settings(config: Mapping[str, Any]) -> EvaluationSettings:
    """The evaluation's part of a configuration."""
    w = config["w"] if isinstance(config["w"], list) else [config["w"]]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in w):
        raise UserError(f"w = {config['w']} must be a number or a list of numbers, such as w=[0,1,2]")
    rest = {key: config[key] for key in EVALUATION_KEYS if key != "w"}
    settings = EvaluationSettings(w=[float(value) for value in w], seed=config["seed"], **rest)
    settings.guidances()
    settings.sampler_arguments()
    return settings


def _run_folder(config: dict[str, Any], data_name: str) -> Path:
    """A new folder with the resolved configuration; processes other than the first only need its name."""
    name = config["name"] or data_name
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return Path(config["runs"], name, "other_ranks")
    folder = new_run_folder(config["runs"], name)
    (folder / CHECKPOINT).parent.mkdir()
    (folder / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    return folder


def _out(config: dict[str, Any]) -> Path | None:
    return None if config["out"] is None else Path(config["out"])


def _start(config: dict[str, Any]) -> None:
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    keep_freed_memory()
    if config["threads"] is not None:
        if config["threads"] < 1:
            raise UserError(f"threads must be at least 1, not {config['threads']}")
        torch.set_num_threads(config["threads"])
    seed_everything(config["seed"], workers=True, verbose=False)


# errors


def _run(name: str, task: Callable[[DictConfig, Sequence[str]], None]) -> None:
    """Run a task under hydra, and end as `mdlm_cfg.app.errors` says (HYDRA_FULL_ERROR=1: with tracebacks).

    A job of a sweep that fails does not end the others; every failure is named at the end.
    """
    failures: list[Failure] = []
    before = os.environ.get("HYDRA_FULL_ERROR")
    full = before not in (None, "", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or hydra would print errors itself, and exit

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)
    def main(cfg: DictConfig) -> None:
        config = HydraConfig.get()
        job = " ".join(config.overrides.task) if config.mode == RunMode.MULTIRUN else ""
        try:
            task(cfg, list(config.overrides.task))
        except Exception as error:  # hydra would print all overrides; and one job must not end a sweep
            failures.append(Failure(job, error))

    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        failures.append(Failure("", error))
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before or "0"
    exit_with(failures, full)
