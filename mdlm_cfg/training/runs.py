"""The network of a run, and everything recorded about it, rebuilt from a checkpoint alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.guidance_schedules import Strength
from mdlm_cfg.chain.schedules import Steps
from mdlm_cfg.nets import NetDenoiser, check_network
from mdlm_cfg.sampling.sampler import CHUNK, FIRST_HITTING, Sampler, as_sampler
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import TARGET, make, names_in
from mdlm_cfg.support.memory import is_lack_of_memory
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.training.checkpoints import checkpoint_in, read_checkpoint, run_folder_of
from mdlm_cfg.training.unfinished import BEGUN, begun_with

NETWORKS = ("mdlm_cfg.nets",)  # modules whose networks a checkpoint may name


@dataclass(frozen=True)
class LoadedRun:
    """A trained network and everything recorded about it.

    Attributes:
        path: the checkpoint.
        net: with the averaged weights, in evaluation mode.
        denoiser: the network as a `Denoiser`.
        data: the data module's description (name, num_tokens, num_classes, grid_shape, fingerprint, ...).
        config: the whole configuration of the run, plain containers.
        hyper_parameters: everything recorded, the two above included.
        step: optimiser steps taken.
        progress: the share of training done, in [0, 1]; None if the checkpoint does not record it.
        begun_with: settings of an earlier part of the training that differed; empty for none.
    """

    path: Path
    net: nn.Module
    denoiser: NetDenoiser
    data: dict[str, Any]
    config: dict[str, Any]
    hyper_parameters: dict[str, Any]
    step: int
    progress: float | None = None
    begun_with: str = ""

    @property
    def folder(self) -> Path:
        """The run folder: that of the checkpoint, or the parent of its folder `checkpoints`."""
        return run_folder_of(self.path.resolve())

    @checked
    def sample(
        self,
        target_class: int | None,
        w: Strength | Guidance = 0.0,
        n: int = 64,
        *,
        sampler: Sampler | str = FIRST_HITTING,
        steps: Steps | None = None,
        seed: int = 0,
        on_step: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Guided samples of one class, drawn on the network's device.

        Args:
            target_class: z in 0..K-1; None draws from the whole mixture, unguided.
            w: guidance strength (0 is the class itself; gamma = 1 + w in other codebases), or a `Guidance`.
            n: how many.
            sampler, steps: see `mdlm_cfg.sampling.samples.sample`; first_hitting calls the network D times.
            seed: the same seed gives the same samples, whatever else is drawn.
            on_step: see there.

        Returns:
            int64 (n, *grid_shape) on the CPU, values 0..N-1.

        Raises:
            UserError: fewer than one sample, or as there.
        """
        whole_number("n", n)
        guidance = w if isinstance(w, Guidance) else Guidance(w)
        made = as_sampler(sampler, steps)
        label = -1 if target_class is None else target_class
        key: tuple[str | int, ...] = ("samples", seed, *guidance.key(self.denoiser.num_dims), label)
        parts = []
        for chunk in range(math.ceil(n / CHUNK)):
            generator = generator_for(*key, *([chunk] if chunk else []), device=self.denoiser.device)
            arguments = (self.denoiser, guidance, target_class, min(CHUNK, n - chunk * CHUNK), generator)
            parts.append(made.draw(*arguments, on_step=on_step).cpu())
        return torch.cat(parts).unflatten(1, tuple(self.data["grid_shape"]))

    def begun_with_under(self, config: Mapping[str, Any]) -> str:
        """`begun_with` of a run with another configuration that has nothing left to train and uses this network."""
        saved = {"hyper_parameters": self.hyper_parameters, "global_step": self.step, BEGUN: self.begun_with}
        return begun_with(saved, config)

    def check_data(self, description: Mapping[str, Any]) -> None:
        """Raise UserError unless a data module's description is that of the data the network was trained on."""
        check_same_data(self.path, self.data, description)


def check_same_data(path: str | Path, saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise UserError unless two descriptions are of the same data, with the same examples held out for validation.

    Args:
        path: the checkpoint. saved: the description in it, which lacks some parts in earlier versions. here: that of a
            data module.
    """
    is_alike = saved["fingerprint"] == here["fingerprint"]
    parts = ("grid_shape", "value_names") if is_alike else ("name", "fingerprint", "num_held_out")
    before, now = ({"num_held_out": 0, **one} for one in (saved, here))
    changed = [
        f"{part} = {before[part]} there and {now.get(part)} here"
        for part in parts
        if part in before and before[part] != now.get(part)
    ]
    if changed:
        num = before["num_held_out"]
        held_out = f"data.hold_out=true data.num_val={num}" if num else "data.hold_out=false"
        is_split = before["name"] == now["name"] and num != now["num_held_out"]
        way = f"set {held_out}" if is_split and not is_alike else "give the data it was trained on, or train again"
        raise UserError(f"the checkpoint {path} was trained on other data ({', '.join(changed)}): {way}")


@checked
def load_run(path: str | Path, batch_size: int = 1024, trusted: Collection[str] = ()) -> LoadedRun:
    """Rebuild the network, with its averaged weights, from a checkpoint alone.

    Args:
        path: a checkpoint that training saved, or the folder of a run, which stands for its last one.
        batch_size: of the denoiser.
        trusted: names of networks of your own, such as "my_package.MyNet": a checkpoint whose network is neither among
            these nor in `mdlm_cfg.nets` is refused, and nothing is imported.

    Raises:
        UserError: the checkpoint is missing, damaged, not one of ours, names a network that is not trusted, or its
            weights do not fit its network.
    """
    path = checkpoint_in(path)
    checkpoint = read_checkpoint(path)
    saved = checkpoint["hyper_parameters"]
    weights = {
        name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items() if name.startswith("net.")
    }
    for name in names_in(saved["net"]) - set(trusted):
        if name.rpartition(".")[0] not in NETWORKS:
            raise UserError(
                f"the checkpoint {path} names the network {name}, which is not part of mdlm_cfg: name it yourself "
                f"if you trust it, net._target_={name}"
            )
    try:
        net = build_net(saved["net"], trusted)
        net.load_state_dict(weights)
    except UserError as error:
        raise UserError(f"the network of the checkpoint {path} cannot be made: {error}") from error
    except RuntimeError as error:
        if is_lack_of_memory(error):
            raise
        raise UserError(
            f"the weights in {path} do not fit the network recorded there: another version of it wrote them"
        ) from error
    _check_shape(path, saved["data"], net)
    return LoadedRun(
        path=path,
        net=net.eval(),
        denoiser=NetDenoiser(net, batch_size),
        data=saved["data"],
        config=saved["config"],
        hyper_parameters=dict(saved),
        step=int(checkpoint["global_step"]),
        progress=done if isinstance(done := checkpoint.get("progress"), float) else None,
        begun_with=str(checkpoint.get(BEGUN) or ""),
    )


def _check_shape(path: Path, data: Mapping[str, Any], net: nn.Module) -> None:
    """Raise UserError unless a checkpoint's description of the data fits its network's shape."""
    grid = data.get("grid_shape")
    has_grid = isinstance(grid, list | tuple) and all(type(side) is int and side > 0 for side in grid)
    there = (data.get("num_tokens"), data.get("num_classes"), math.prod(grid) if has_grid and grid else None)
    if there != (net.num_tokens, net.num_classes, net.num_dims):
        shown = ", ".join(f"{name} = {data.get(name)}" for name in ("num_tokens", "num_classes", "grid_shape"))
        raise UserError(
            f"the checkpoint {path} was changed: its data ({shown}) do not fit its network (num_tokens = "
            f"{net.num_tokens}, num_classes = {net.num_classes}, num_dims = {net.num_dims})"
        )


def build_net(settings: Mapping[str, Any], trusted: Collection[str] = ()) -> nn.Module:
    """The network that plain settings name, its shape included.

    Raises:
        UserError: a name that is neither in `mdlm_cfg.nets` nor trusted, or something that is not a denoising network.
    """
    net = make(settings, "net", NETWORKS, trusted)
    check_network(net, str(settings[TARGET]))
    return net
