"""Small data, networks and trainers for the tests of the training harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.callbacks import AveragedWeights, SaveLast
from mdlm_cfg.training.data import TableData
from mdlm_cfg.training.module import MaskedDiffusion

NET = {"width": 16, "depth": 1, "num_heads": 2}
OPTIMIZER = {
    "lr": 3e-3,
    "betas": [0.9, 0.99],
    "weight_decay": 0.0,
    "warmup_steps": 2,
    "final_lr": 0.01,
    "ema_decay": 0.9,
}


def small_target() -> TableMixture:
    generator = torch.Generator().manual_seed(0)
    pmfs = torch.rand(2, 3, 3, generator=generator, dtype=torch.float64)
    return TableMixture(pmfs / pmfs.sum(dim=(1, 2), keepdim=True), torch.tensor([0.4, 0.6]))


def small_data(**changes: Any) -> TableData:
    settings = {"batch_size": 64, "steps_per_epoch": 4, "num_val": 32, "num_test": 64, "eval_batch_size": 32}
    data = TableData(small_target(), "small", **(settings | changes))
    data.setup("fit")
    return data


def small_module(data: Any, kind: str = "averaged", **changes: Any) -> MaskedDiffusion:
    objective = {"kind": kind, "label_dropout": 0.3, "paired": False, "label_smoothing": 0.0, "rows": None}
    objective |= {key: changes.pop(key) for key in list(changes) if key in objective}
    torch.manual_seed(0)
    shape = {
        "num_tokens": data.num_tokens,
        "grid_shape": list(data.grid_shape),
        "num_classes": data.num_classes,
    }
    optimizer = OPTIMIZER | {key: changes.pop(key) for key in list(changes) if key in OPTIMIZER}
    settings = {"net": shape | NET, "objective": objective, "optimizer": optimizer, "data": data.describe()}
    return MaskedDiffusion(**(settings | {"config": {"note": "small"}} | changes))


def small_trainer(folder: Path, epochs: int = 2, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": epochs,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "callbacks": [AveragedWeights(0.9), SaveLast(folder / "checkpoints" / "last.ckpt")],
    }
    return Trainer(**(settings | changes))
