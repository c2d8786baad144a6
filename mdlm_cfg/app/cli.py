"""The commands: `python train.py` (mdlm-train) and `python eval.py` (mdlm-eval).

Nothing heavy is imported before a configuration is known to be right: help and a typo are answered within a second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mdlm_cfg.app.errors import INTERRUPTED, Failure, exit_with
from mdlm_cfg.app.help import help_text, suggestion
from mdlm_cfg.app.processes import refuse_processes
from mdlm_cfg.app.quoting import quoted
from mdlm_cfg.app.recipes import with_recipe
from mdlm_cfg.app.schema import register
from mdlm_cfg.support.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
CONFIGS = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
Task = Callable[[dict[str, Any], Sequence[str]], None]

register()


def train() -> None:
    """Train a network, test it, and judge it: `python train.py [data=...] [experiment=...]`."""

    def task(config: dict[str, Any], overrides: Sequence[str]) -> None:
        from mdlm_cfg.app import commands

        commands.train(config, overrides)

    _run("train", task)


def evaluate() -> None:
    """Judge a trained network, or an exact denoiser: `python eval.py [ckpt_path=...] [w=[0,1,2,4]]`."""

    def task(config: dict[str, Any], overrides: Sequence[str]) -> None:
        from mdlm_cfg.app import commands

        commands.judge(config, overrides)

    _run("eval", task)


def to_plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, resolved."""
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True, enum_to_str=True)
    return {str(key): value for key, value in dict(plain).items()}  # type: ignore[arg-type]


def _run(name: str, task: Task) -> None:
    """Run a task under hydra, and end as `mdlm_cfg.app.errors` says (HYDRA_FULL_ERROR=1: with tracebacks).

    A job of a sweep that fails does not end the others; every failure is named at the end.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(name, CONFIGS), end="")
        return
    failures: list[Failure] = []
    given = quoted(sys.argv[1:])
    try:
        sys.argv[1:] = with_recipe(given, CONFIGS) if name == "train" else given
    except UserError as error:
        exit_with([Failure("", error)], False)
    before = os.environ.get("HYDRA_FULL_ERROR")
    full = before not in (None, "", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or hydra would print errors itself, and exit

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)
    def main(cfg: DictConfig) -> None:
        config = HydraConfig.get()
        job = ""
        if config.mode == RunMode.MULTIRUN:
            job = " ".join(config.overrides.task)
            try:
                refuse_processes(to_plain_config(cfg).get("trainer"))
            except UserError as error:  # of the sweep as a whole: it ends here, and hydra has nothing to say
                exit_with([Failure("", error)])
        try:
            task(to_plain_config(cfg), list(config.overrides.task))
        except Exception as error:  # hydra would print all overrides; and one job must not end a sweep
            failures.append(Failure(job, error))

    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        failures.append(Failure("", error, suggestion(str(error), CONFIGS, name)))
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before or "0"
    exit_with(failures, full)
