"""Training that resumes from a checkpoint must match uninterrupted training bit for bit."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from mdlm_cfg.support.schema import TrainSchema
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.callbacks import AveragedWeights
from mdlm_cfg.training.data import TargetData
from mdlm_cfg.training.fit import train
from mdlm_cfg.training.module import MaskedDiffusion
from mdlm_cfg.training.saving import LAST, Checkpoints, WholeFiles
from mdlm_cfg.verify.checks import DIFFERENCE, Check
from mdlm_cfg.verify.oracle.tables import random_table
from mdlm_cfg.verify.worlds import numpy_generator

GROUP = "resume"
EPOCHS = 2
STEPS = 3  # of a run, and of an epoch
EVERY_STEP = 1e-9  # minutes between checkpoints
OPTIMIZERS = {
    "adamw": {"_target_": "mdlm_cfg.nets.optimizer.adamw", "lr": 0.01},
    "muon": {"_target_": "mdlm_cfg.nets.optimizer.MuonAdamW", "lr": 0.01, "muon_lr": 0.02},
}


class CopyCheckpoints(Callback):
    """Copies, at the end of each step, the checkpoint that was written before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """See `lightning.pytorch.Callback`."""
        path = self.folder / "checkpoints" / LAST
        if path.is_file():
            shutil.copy(path, self.folder / f"from_{trainer.global_step - 1}.ckpt")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Lightning's notes and warnings."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def small_run(seed: int, optimizer: str) -> tuple[MaskedDiffusion, TargetData]:
    """A network of a few hundred weights on a random table, and its data."""
    pmfs, weights = random_table(numpy_generator("resume", seed), 3, 2, 2, 0.0)
    target = TableMixture(torch.from_numpy(pmfs), torch.from_numpy(weights))
    data = TargetData(
        target, "verify", batch_size=32, steps_per_epoch=STEPS, num_val=16, num_test=16, eval_batch_size=16
    )
    data.setup("fit")
    torch.manual_seed(seed)
    config = TrainSchema(
        net={"_target_": "mdlm_cfg.nets.GridTransformer", "width": 16, "depth": 1, "num_heads": 2},
        objective={"_target_": "mdlm_cfg.training.objectives.Sampled", "label_dropout": 0.3},
        optimizer=OPTIMIZERS[optimizer],
        warmup_steps=2,
        final_lr=0.1,
        num_draws=2,
        seed=seed,
    )
    return build_module(config, data.describe()), data


def run(folder: Path, seed: int, optimizer: str, minutes: float | None, resume: Path | None = None) -> dict[str, Any]:
    """Train, from a checkpoint if one is given; returns the last checkpoint's content."""
    module, data = small_run(seed, optimizer)
    callbacks = [AveragedWeights(0.9), Checkpoints(folder / "checkpoints", minutes), CopyCheckpoints(folder)]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[WholeFiles()],
    )
    train(module, data, trainer, resume)
    return torch.load(folder / "checkpoints" / LAST, weights_only=True)


def resume_checks(seed: int) -> list[Check]:
    """Training resumed from every step's checkpoint, for every optimiser: the largest difference at the end."""
    found = []
    with quiet(), tempfile.TemporaryDirectory() as name:
        for optimizer in OPTIMIZERS:
            folder = Path(name) / optimizer
            whole = run(folder / "whole", seed, optimizer, None)
            run(folder / "often", seed, optimizer, EVERY_STEP)
            for saved in sorted((folder / "often").glob("from_*.ckpt")):
                rest = run(folder / saved.stem, seed, optimizer, None, saved)
                case = f"{optimizer}, from step {saved.stem.removeprefix('from_')} of {EPOCHS * STEPS}"
                apart = largest_difference(whole, rest)
                found.append(Check(GROUP, "weights, averages and moments", case, DIFFERENCE, apart, 0.0, 0.0))
    if len(found) < len(OPTIMIZERS) * (EPOCHS * STEPS - 1):
        found.append(Check(GROUP, "checkpoints", "one before every step", DIFFERENCE, math.inf, 0.0, 0.0))
    return found


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Of the weights, the averaged weights and the optimiser's moments; inf if one lacks a tensor of the other."""
    gaps = [0.0]
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        ours = tensors_of(one[key])
        theirs = tensors_of(other[key])
        if ours.keys() != theirs.keys() or not ours:
            return math.inf
        gaps += [float((value - theirs[name]).abs().max()) for name, value in ours.items() if value.numel()]
    return max(gaps)


def tensors_of(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """The tensors of nested containers by their path, as float64."""
    if isinstance(value, torch.Tensor):
        return {name: value.double()}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {place: tensor for key, part in items for place, tensor in tensors_of(part, f"{name}/{key}").items()}
