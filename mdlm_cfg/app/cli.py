"""The commands: `python train.py`, `python eval.py` and `python -m mdlm_cfg.sample` (mdlm-train, -eval and -sample).

Nothing heavy is imported before a configuration has been checked: help and typos are answered within a second.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from argparse import ArgumentParser
from collections.abc import Collection, Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mdlm_cfg.app.errors import USER_ERROR, Account, Failure, as_command, exit_with, interrupted, no_exit_of_own_code
from mdlm_cfg.app.groups import with_options, with_recipe
from mdlm_cfg.app.help import help_text, suggestion
from mdlm_cfg.app.jobs import Outcome
from mdlm_cfg.app.overrides import for_any_data, last_of_each, quoted, with_objects
from mdlm_cfg.app.places import check_places, with_absolute_paths
from mdlm_cfg.app.refusals import (
    check_config,
    check_config_folders,
    check_hydras,
    check_keys,
    check_truth_values,
    options_apart,
    refuse_one_wandb_run,
    refuse_processes,
    unreadable,
)
from mdlm_cfg.app.sweeps import Sweep, check_has_jobs, ended, errors_raised_alone, jobs_checked_first, sweep_of
from mdlm_cfg.app.terminal import steady_streams
from mdlm_cfg.support.errors import UserError, text_of
from mdlm_cfg.support.schema import SCHEMAS
from mdlm_cfg.support.signals import errors_of_interrupts, interrupts_alike, is_default, is_heard

PACKAGE = Path(__file__).resolve().parent.parent
CONFIGS = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
WORK = {
    "train": "train_command.train",
    "eval": "eval_command.judge",
    "sample": "sample_command.draw",
}  # in mdlm_cfg.app

for command, schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{command}_schema", node=schema)


def train() -> None:
    """Train a network, test it, and evaluate it: `python train.py [data=...] [experiment=...]`."""
    _run("train")


def evaluate() -> None:
    """Evaluate a trained network, or an exact denoiser: `python eval.py [ckpt_path=...] [w=[0,1,2,4]]`."""
    _run("eval")


def sample() -> None:
    """Draw guided samples from a network: `python -m mdlm_cfg.sample [ckpt_path=...] [target_class=3] [w=2]`."""
    _run("sample")


def _work(name: str, config: Any, overrides: Sequence[str], folder: Path | None) -> Outcome:
    """The work of a command, given its settings, the overrides of the command line, and the folder of a job."""
    module, _, function = WORK[name].partition(".")
    config = with_absolute_paths(config)
    job = None if folder is None else folder.absolute()
    with chdir("."), no_exit_of_own_code(), errors_of_interrupts():  # own code may change to another directory
        work = getattr(_imported(module), function)
        from mdlm_cfg.support.torch_state import torch_as_it_is  # torch takes seconds

        with torch_as_it_is():
            outcome: Outcome = work(config, overrides, job)
    return outcome


@cache
def _imported(module: str) -> ModuleType:
    """A module beside this one. Imports leave no garbage, and looking for it takes a second or two."""
    gc.disable()
    try:
        return import_module(f"mdlm_cfg.app.{module}")
    finally:
        gc.enable()
        gc.freeze()  # later collections skip the imported objects as well
        atexit.register(gc.unfreeze)  # or libraries would report at exit that it was never freed


def settings_of(name: str, cfg: DictConfig) -> Any:
    """The settings of a command, resolved and checked: an object of its schema, with plain values."""
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), cfg))


def _checked(name: str, chosen: str | None, cfg: DictConfig) -> Any:
    """The settings of a command after all checks of the configuration alone; `chosen`: the configuration's name."""
    check_config(name, chosen, cfg)
    config = settings_of(name, cfg)
    check_places(config)
    return config


def _checked_job(name: str, chosen: str | None, cfg: DictConfig) -> Any:
    """The same of a job of a sweep."""
    config = _checked(name, chosen, cfg)
    refuse_processes(config.trainer)
    refuse_one_wandb_run(getattr(config, "logger", None))
    return config


def _run(name: str) -> None:
    """Run a command under hydra, and end as `mdlm_cfg.app.errors` says (HYDRA_FULL_ERROR=1: with tracebacks).

    A job of a sweep that fails does not end the others; every failure is named at the end.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        with as_command():
            print(help_text(name, CONFIGS, sys.argv[0]), end="")
        return
    with steady_streams(), interrupts_alike():
        _run_work(name)


def _run_work(name: str) -> None:
    """As `_run`, once streams are set up, unless help is requested."""
    full = os.environ.get("HYDRA_FULL_ERROR") not in (None, "", "0")
    failures: list[Failure | Account] = []
    sweep = None
    code = 0
    try:
        check_keys(sys.argv[1:])
        check_truth_values(sys.argv[1:])
        check_hydras(sys.argv[1:])
        check_config_folders(sys.argv[1:])
        typed = last_of_each(quoted(sys.argv[1:]))
        given = with_objects(with_options(typed, name, CONFIGS))
        arguments = with_recipe(given, CONFIGS) if name == "train" else given
        arguments = for_any_data(given) if name == "eval" else arguments
        sweep = sweep_of(given)
        sys.argv[1:] = options_apart(arguments if sweep is None else [*arguments, *sweep.arguments])
        recipe = set(arguments) - set(given) if name == "train" else set()
        failures += _main(name, sweep, full, recipe, typed)
        if sweep is not None:
            check_has_jobs(sweep)
    except KeyboardInterrupt:
        code = interrupted()
    except SystemExit as error:
        code = int(error.code or 0)
    except Exception as error:
        found = unreadable(error, sys.argv[1:], CONFIGS)
        failures.append(Failure("", found, suggestion(text_of(error), CONFIGS, name) if found is error else ""))
    if sweep is not None:
        failures += ended(sweep, code == USER_ERROR or (bool(failures) and not sweep.has_begun))
    exit_with(failures, full)
    if code:
        sys.exit(code)


def _main(name: str, sweep: Sweep | None, full: bool, recipe: Collection[str], typed: Sequence[str]) -> list[Failure]:
    """Let hydra compose the configuration of the run, or of every job, and run it; returns the failures.

    Args:
        recipe: arguments that the user did not give: the recipe of the data. They appear in no folder name and no page.
        typed: the arguments as they were given. Lightning starts the other processes of a run with them; from arguments
            already rewritten for hydra, they could not compose the same configuration.
    """
    failures = []

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)
    def main(cfg: DictConfig) -> float | None:
        settings = HydraConfig.get()
        given = [str(item) for item in OmegaConf.to_container(settings.overrides.task, resolve=False) or ()]
        overrides = [item for item in given if item not in recipe]
        if sweep is not None:
            params = OmegaConf.select(settings, "sweeper.params") or ()  # type: ignore[arg-type]
            job = sweep.job(settings.job.num, overrides, params)
            is_elsewhere = os.getpid() != sweep.process
            try:
                config = _checked_job(name, settings.job.config_name, cfg)
                decided = job.check(config)
            except UserError as error:  # of the whole sweep, which ends here without a message from hydra
                if is_elsewhere:  # hydra passes it to the process of the command
                    raise
                exit_with([Failure("", error)])
            # a launcher's handler may do nothing (submitit), and the process of the command waits for the job's end
            with interrupts_alike(is_heard if is_elsewhere else is_default):
                return job.run(lambda folder: _work(name, config, overrides, folder), full, decided)
        sys.argv[1:] = typed
        try:
            _work(name, _checked(name, settings.job.config_name, cfg), overrides, None)
        except Exception as error:  # hydra would print all overrides
            failures.append(Failure("", error))
        return None

    of_a_sweep = nullcontext() if sweep is None else sweep.as_a_whole()
    with help_as_text(), errors_raised_alone(), jobs_checked_first(partial(_checked_job, name)), of_a_sweep:
        main()
    return failures


@contextmanager
def help_as_text() -> Iterator[None]:
    """Inside, argparse accepts an option whose help is not text.

    Hydra 1.3 declares `--shell-completion` with such a help. Python 3.14's argparse checks every help when an option is
    declared, and ends each command in "badly formed help string" (facebookresearch/hydra, issue 3121).
    """
    original = ArgumentParser.add_argument

    def add_argument(parser: ArgumentParser, *names: str, **settings: Any) -> Any:
        if not isinstance(settings.get("help", ""), str | None):
            settings["help"] = "see hydra's documentation"
        return original(parser, *names, **settings)

    ArgumentParser.add_argument = add_argument  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ArgumentParser.add_argument = original  # type: ignore[method-assign]
