"""An evaluation in several processes: all of them draw, and the first one studies what was drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from mdlm_cfg.app.earlier import kept_in
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import Sampling
from mdlm_cfg.studies.study import Study
from mdlm_cfg.training.predicting import share_work


def is_first_process() -> bool:
    """Whether this is the process that makes folders, prints and studies: of a run in one process, always."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def share_draws(
    trainer: Trainer | None, study: Study, data: Any, denoiser: Denoiser | None, plan: Plan, folder: Path
) -> bool:
    """Let all processes of a trainer draw what a study needs, and keep it beside the report.

    Args:
        trainer: None for this process alone.
        study, data, denoiser, plan: as they will be studied.
        folder: of the report; the first process's counts.

    Returns:
        whether this is the process that is to study.
    """
    if trainer is None or trainer.num_devices * trainer.num_nodes == 1:
        return True
    pieces = study.draws(data, denoiser, plan) if isinstance(study, Sampling) else []
    if pieces:
        if is_first_process():
            folder.mkdir(parents=True, exist_ok=True)
        net = denoiser.net if isinstance(denoiser, NetDenoiser) else None
        share_work(trainer, pieces, net, kept_in(folder, data.describe(), denoiser))
    return is_first_process()
