"""An evaluation in several processes: all of them draw samples, and the first one studies them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from mdlm_cfg.app.build import build_trainer, check_trainer
from mdlm_cfg.app.report_cache import cache_of
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.support.cache import Cache
from mdlm_cfg.targets.data import Data
from mdlm_cfg.training.predicting import is_first_process, share_work


def is_alone(trainer: Trainer | None) -> bool:
    """Whether this is the only process."""
    return trainer is None or trainer.num_devices * trainer.num_nodes == 1


def share_draws(
    trainer: Trainer | None, study: Any, data: Data, denoiser: Denoiser | None, plan: Plan, folder: Path
) -> bool:
    """Let all processes of a trainer draw what a study needs, and keep it beside the report.

    Args:
        trainer: None for this process alone.
        study, data, denoiser, plan: of the evaluation.
        folder: of the report; the first process's counts.

    Returns:
        whether this is the process that runs the study.
    """
    if is_alone(trainer):  # nothing is drawn here, so no cache of these weights is needed
        return True
    pieces = [piece for piece in study.pieces(Case.of(data, denoiser, plan)) if piece.shared]
    return share_pieces(trainer, pieces, denoiser, cache_of(folder, data, denoiser))


def share_pieces(trainer: Trainer | None, pieces: Sequence[Any], denoiser: Denoiser | None, cache: Cache) -> bool:
    """Let all processes of a trainer draw, where there are several; whether this is the first one."""
    if trainer is None or is_alone(trainer):
        return True
    if pieces:
        if is_first_process():
            cache.folder.parent.mkdir(parents=True, exist_ok=True)
        share_work(trainer, pieces, denoiser.net if isinstance(denoiser, NetDenoiser) else None, cache)
    return is_first_process()


def sampling_trainer(settings: dict[str, Any] | None, net: nn.Module | None = None) -> Trainer | None:
    """The trainer of the processes that draw, if any were requested; moves the network to this process's device.

    Args:
        settings: of the trainer; None for this process alone.
    """
    check_trainer(settings)
    trainer = None if settings is None else build_trainer(settings, [], [])
    if net is not None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        net.to(device if trainer is None else trainer.strategy.root_device)
    return trainer
