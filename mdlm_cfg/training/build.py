"""A run's module from its settings, which name the network, the objective and the optimiser."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.nets.wrapper import has_class_head
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import make
from mdlm_cfg.support.schema import TrainSchema, plain
from mdlm_cfg.training.annealing import Annealing
from mdlm_cfg.training.module import MaskedDiffusion
from mdlm_cfg.training.objectives import Objective
from mdlm_cfg.training.runs import build_net

OBJECTIVES = ("mdlm_cfg.training.objectives",)
OPTIMIZERS = ("mdlm_cfg.nets.optimizer",)


def build_module(config: TrainSchema, description: Mapping[str, Any], trusted: Collection[str] = ()) -> MaskedDiffusion:
    """The module to train.

    Args:
        config: of the run; recorded as a whole in the checkpoints.
        description: of a data module (`describe()`), from which the network's shape follows.
        trusted: names of the user's own that may be built, besides those of this package.

    Raises:
        UserError: any setting that is not allowed, with its name in the configuration.
    """
    shape = {name: description[name] for name in ("num_tokens", "grid_shape", "num_classes")}
    net_settings = shape | dict(config.net)
    net = build_net(net_settings, trusted)
    if (net.num_tokens, net.num_classes) != (shape["num_tokens"], shape["num_classes"]):
        raise UserError(
            f"the network has {net.num_tokens} values and {net.num_classes} classes, and the data have "
            f"{shape['num_tokens']} and {shape['num_classes']}"
        )
    objective = make(config.objective, "objective", OBJECTIVES, trusted)
    if not isinstance(objective, Objective):
        raise UserError(f"{config.objective['_target_']} makes a {type(objective).__name__}, not an Objective")
    if has_class_head(net) and not objective.trains_class_head:
        raise UserError(
            "the network has a class head that its objective does not train, and guidance=classifier would use it "
            "untrained: give objective=classifier, or net.class_head=false"
        )
    build_optimizer(net, config.optimizer, trusted)  # fails now rather than after the data are read
    record = {
        "net": net_settings,
        "objective": config.objective,
        "optimizer": config.optimizer,
        "data": dict(description),
        "config": plain(config),
        "seed": config.seed,
    }
    return MaskedDiffusion(
        net,
        objective,
        partial(build_optimizer, settings=config.optimizer, trusted=trusted),
        annealing=Annealing(config.warmup_steps, config.final_lr),
        num_draws=config.num_draws,
        kind=config.guidance if isinstance(config.guidance, str) and config.guidance in KINDS else "rate",
        seed=config.seed,
        is_compiled=config.compile,
        record=record,
    )


def build_optimizer(
    net: nn.Module, settings: Mapping[str, Any], trusted: Collection[str] = ()
) -> torch.optim.Optimizer:
    """The optimiser that plain settings name, for a network.

    Raises:
        UserError: a name that is neither in `mdlm_cfg.nets.optimizer` nor trusted, or is not an optimiser.
    """
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise UserError("the network has no parameters to train")
    optimizer = make(settings, "optimizer", OPTIMIZERS, trusted, net=net)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"{settings['_target_']} makes a {type(optimizer).__name__}, not a torch.optim.Optimizer")
    return optimizer
