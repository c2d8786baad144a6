"""Run folders, and what is rebuilt from a checkpoint alone."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.support.errors import UserError

CHECKPOINT = Path("checkpoints", "last.ckpt")
CONFIG = "resolved_config.yaml"
SAVED = ("net", "objective", "optimizer", "data", "config", "seed")  # what `MaskedDiffusion` records


@dataclass(frozen=True)
class LoadedRun:
    """A trained network and all that was recorded about it.

    Attributes:
        path: the checkpoint.
        net: with the averaged weights, in evaluation mode.
        denoiser: the network as a `Denoiser`.
        data: what the data module said of itself (name, num_tokens, num_classes, grid_shape, fingerprint, ...).
        config: the whole configuration of the run, plain containers.
        hyper_parameters: everything recorded, the two above included.
        step: optimiser steps taken.
    """

    path: Path
    net: GridTransformer
    denoiser: NetDenoiser
    data: dict[str, Any]
    config: dict[str, Any]
    hyper_parameters: dict[str, Any]
    step: int

    @property
    def folder(self) -> Path:
        """The run folder: where the checkpoint is, or above its folder `checkpoints`."""
        parent = self.path.resolve().parent
        return parent.parent if parent.name == CHECKPOINT.parent.name else parent

    def check_data(self, description: Mapping[str, Any]) -> None:
        """Raise UserError unless a data module's description is that of the data the network was trained on."""
        theirs, ours = description["fingerprint"], self.data["fingerprint"]
        if theirs != ours:
            raise UserError(
                f"the checkpoint {self.path} was trained on other data: {self.data['name']} (fingerprint {ours}), "
                f"not {description['name']} (fingerprint {theirs})"
            )


def new_run_folder(root: str | Path, name: str) -> Path:
    """Make and return `root/name/DATE_TIME`, with a number appended where that exists."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for suffix in ["", *(f"-{k}" for k in range(2, 1000))]:
        folder = Path(root, name, stamp + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UserError(f"there are too many runs in {Path(root, name)} with the time {stamp}")


def newest_run(root: str | Path) -> Path:
    """The checkpoint saved last under `root`.

    Raises:
        UserError: there is none.
    """
    found = list(Path(root).glob(f"**/{CHECKPOINT}"))
    if not found:
        raise UserError(f"there is no run in {root} yet: train one (python train.py), or give ckpt_path=FILE")
    return max(found, key=lambda path: path.stat().st_mtime)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of `MaskedDiffusion` as plain containers and tensors (torch's weights_only=True).

    Raises:
        UserError: it is missing, cannot be read, or is not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"the checkpoint {path} cannot be read: it is damaged, or not a checkpoint") from error
    saved = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if not all(name in saved for name in SAVED) or "state_dict" not in checkpoint:
        raise UserError(f"the checkpoint {path} was not written by mdlm_cfg")
    return checkpoint


def load_run(path: str | Path, batch_size: int = 1024) -> LoadedRun:
    """Rebuild the network, with its averaged weights, from a checkpoint alone.

    Args:
        path: a checkpoint that training saved.
        batch_size: of the denoiser.

    Raises:
        UserError: the checkpoint is missing, damaged, not one of ours, or its weights do not fit its network.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint["hyper_parameters"]
    weights = {
        name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items() if name.startswith("net.")
    }
    try:
        net = GridTransformer(**saved["net"])
        net.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"the weights in {path} do not fit the network recorded there: another version wrote it"
        ) from error
    return LoadedRun(
        path=Path(path),
        net=net.eval(),
        denoiser=NetDenoiser(net, batch_size),
        data=saved["data"],
        config=saved["config"],
        hyper_parameters=dict(saved),
        step=int(checkpoint["global_step"]),
    )
