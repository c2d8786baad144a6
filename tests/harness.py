"""Small data, networks and trainers for the tests of the training harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdlm_cfg.support.schema import TrainSchema
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.callbacks import AveragedWeights
from mdlm_cfg.training.data import DiffusionData, TableData, TargetData
from mdlm_cfg.training.lean import LeanTrainer
from mdlm_cfg.training.module import MaskedDiffusion
from mdlm_cfg.training.saving import Checkpoints, WholeFiles

NET = {"_target_": "mdlm_cfg.nets.GridTransformer", "width": 16, "depth": 1, "num_heads": 2}
OPTIMIZER = {"_target_": "mdlm_cfg.nets.optimizer.adamw", "lr": 3e-3, "betas": [0.9, 0.99], "weight_decay": 0.0}
SETTINGS: dict[str, Any] = {"warmup_steps": 2, "final_lr": 0.01, "num_draws": 4, "seed": 0}


def small_target() -> TableMixture:
    generator = torch.Generator().manual_seed(0)
    pmfs = torch.rand(2, 3, 3, generator=generator, dtype=torch.float64)
    return TableMixture(pmfs / pmfs.sum(dim=(1, 2), keepdim=True), torch.tensor([0.4, 0.6]))


def small_data(**changes: Any) -> TableData:
    settings = {"batch_size": 64, "steps_per_epoch": 4, "num_val": 32, "num_test": 64, "eval_batch_size": 32}
    data = TableData(small_target(), "small", **(settings | changes))
    data.setup("fit")
    return data


def ready(data: Any) -> Any:
    """A data module that is set up."""
    data.prepare_data()
    data.setup()
    return data


def toy_data(**settings: Any) -> TargetData:
    """The toy in two dimensions as data, not set up."""
    return TargetData(toy_2d_overlap(), "toy", **({"batch_size": 64, "steps_per_epoch": 5} | settings))


def pairs(x: Any, classes: Any) -> list[tuple[list[int], int]]:
    """Examples with their classes, in an order of their own."""
    return sorted(zip(np.asarray(x).reshape(len(x), -1).tolist(), np.asarray(classes).tolist()))


def everything(data: Any) -> list[tuple[list[int], int]]:
    """All examples of training and of testing, with their classes."""
    return pairs(torch.cat([data.train_x, data.test_x]), torch.cat([data.train_labels, data.test_classes]))


def batches(data: DiffusionData, epoch: int, rank: int = 0, world_size: int = 1) -> list[torch.Tensor]:
    """The tokens of an epoch, batch by batch."""
    return [x for x, _ in data._epoch(epoch, rank, world_size)]


def small_module(data: Any, kind: str = "averaged", **changes: Any) -> MaskedDiffusion:
    """A module of these data: changes are the optimiser's, the net's or the settings' by name, else the objective's."""
    torch.manual_seed(0)
    optimizer = OPTIMIZER | {key: changes.pop(key) for key in list(changes) if key in OPTIMIZER or key == "optimizer"}
    if "optimizer" in optimizer:
        optimizer |= {"_target_": f"mdlm_cfg.nets.optimizer.{optimizer.pop('optimizer')}"}
    net = NET | {key: changes.pop(key) for key in list(changes) if key in NET}
    settings = SETTINGS | {key: changes.pop(key) for key in list(changes) if key in SETTINGS}
    objective = {"_target_": f"mdlm_cfg.training.objectives.{kind.title()}", "label_dropout": 0.3} | changes
    if kind == "sampled":
        objective = {"paired": False} | objective
    config = TrainSchema(net=net, objective=objective, optimizer=optimizer, **settings)
    return build_module(config, data.describe())


def small_trainer(folder: Path, epochs: int = 2, **changes: Any) -> LeanTrainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": epochs,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "callbacks": [AveragedWeights(0.9), Checkpoints(folder / "checkpoints")],
        "plugins": [WholeFiles()],
    }
    return LeanTrainer(**(settings | changes))
