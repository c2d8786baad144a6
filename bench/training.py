"""A training step against arithmetic, against a bare loop of the same model, and the optimiser against torch's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from bench.ratio import Figure, in_turns, seconds
from mdlm_cfg.nets import GridTransformer
from mdlm_cfg.nets.muon import Muon
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.callbacks import AveragedWeights
from mdlm_cfg.training.data import TableData
from mdlm_cfg.training.elbo import nelbo

STEPS = 200  # of a timed piece of training
TOY: dict[str, Any] = {
    "net": {"_target_": "mdlm_cfg.nets.GridTransformer", "width": 64, "depth": 2, "num_heads": 4},
    "objective": {"_target_": "mdlm_cfg.training.objectives.Averaged", "label_dropout": 0.33, "label_smoothing": 3e-4},
    "optimizer": {"_target_": "mdlm_cfg.nets.optimizer.adamw", "lr": 3e-3, "betas": [0.9, 0.99], "weight_decay": 0.0},
    "warmup_steps": 50, "final_lr": 1e-3, "num_draws": 1, "seed": 0,
}  # fmt: skip


def training_figures(flops: float) -> Iterator[Figure]:
    """The image network's step, Muon's, and the toy's through Lightning."""
    net = image_net()
    x, classes = torch.randint(0, 2, (64, 784)), torch.randint(0, 10, (64,))
    took = seconds(lambda: nelbo(net, x, classes, 2).mean().backward())
    yield Figure(
        "experiment=mnist, forward and backward of 64", "its float32 products", took, image_flops(net) / flops, "lower"
    )
    matrices = [p for name, p in net.named_parameters() if ".blocks." in f".{name}" and p.ndim == 2]
    for p in matrices:
        p.grad = torch.randn_like(p)
    ours, theirs = Muon(matrices, lr=1e-3), torch.optim.Muon(matrices, lr=1e-3)
    yield Figure("Muon's step of its matrices", "torch.optim.Muon", *in_turns(ours.step, theirs.step, 3), "higher")
    yield Figure(
        f"toy_2d_overlap, {STEPS} steps through Lightning", "a bare loop of the same module and data",
        *in_turns(_through_lightning, _bare, 3), "lower", 1.05,
    )  # fmt: skip


def image_net() -> GridTransformer:
    """The network of experiment=mnist."""
    shape = {"patch_size": 7, "width": 128, "depth": 4, "num_heads": 4, "stem_channels": 16, "stem_depth": 2}
    return GridTransformer(2, (28, 28), 10, **shape)


def image_flops(net: GridTransformer, batch: int = 64) -> float:
    """Operations of one step: 6 per weight and position (forward 2, backward 4)."""
    transformer = sum(p.numel() for p in net.parameters() if p.ndim == 2)
    convolution = sum(p.numel() for p in net.parameters() if p.ndim == 4)
    return 6.0 * batch * (transformer * 16 + convolution * 784)


def _toy() -> tuple[Any, TableData]:
    torch.manual_seed(0)
    data = TableData(toy_2d_overlap(), "toy_2d_overlap", steps_per_epoch=STEPS, batch_size=16384)
    data.setup("fit")
    return build_module(TOY, data.describe()), data


class _Silent(Callback):
    """Nothing: a trainer must have a list."""


def _through_lightning() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module, data = _toy()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, limit_val_batches=0, num_sanity_val_steps=0, gradient_clip_val=1.0,
        log_every_n_steps=25, callbacks=[AveragedWeights(0.995), _Silent()],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)


def _bare() -> None:
    module, data = _toy()
    optimizer = module.optimizer(module.net)
    parameters = list(module.net.parameters())
    averaged = [p.detach().clone() for p in parameters]
    for step, (x, classes) in enumerate(data.train_dataloader()):
        generator = torch.Generator().manual_seed(step)
        loss = module.objective.loss(module.net, x, classes, generator)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 0.005)
