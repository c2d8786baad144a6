"""What Lightning and torch add to a step, without the part that takes time and does nothing here.

A step of a small network takes a few milliseconds, and what surrounds it counts. All results are the same bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import RunningStage
from torch.optim import Optimizer

PLAIN = frozenset((type(None), bool, int, float, str, dict))  # types of what no module registers
SHORT = 0.99  # of the largest norm: gradients up to it are certain to stay as they are, whatever is rounded
NOTHING: AbstractContextManager[Any] = nullcontext()


class LeanTrainer(Trainer):
    """Lightning's trainer; in a step it is asked 67 times for its strategy and 13 times whether it is training."""

    @cached_property
    def strategy(self) -> Strategy:
        """The one that it was made with."""
        return super().strategy

    @property
    def training(self) -> bool:
        """See `Trainer`, which compares the names of the stages in lower case."""
        return self.state.stage is RunningStage.TRAINING

    @training.setter
    def training(self, value: bool) -> None:
        Trainer.training.fset(self, value)  # type: ignore[attr-defined]


class Unprofiled(PassThroughProfiler):
    """Lightning's profiler that measures nothing, without the generator that it runs around every hook."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Nothing to begin or to end."""
        return NOTHING


class LeanModule(LightningModule):
    """A module whose attributes are set, and whose gradients are reset and clipped, in less time."""

    def __setattr__(self, name: str, value: Any) -> None:
        """As any module, which looks whether a value is a parameter, a buffer or a module: a plain one is none.

        Lightning notes the name of the hook that it is in, before and after each of them: 50 times in a step.
        """
        if type(value) in PLAIN and name in self.__dict__:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """What torch's `zero_grad` does, without what measures it; an optimiser may have one of its own."""
        if type(optimizer).zero_grad is not Optimizer.zero_grad:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does; on a CPU, gradients that are short are left alone in place of being multiplied by 1."""
        longest = SHORT * (gradient_clip_val or 0.0)
        is_by_norm = longest > 0 and (gradient_clip_algorithm or "norm") == "norm"
        if not (is_by_norm and type(self.trainer.precision_plugin) is Precision and _are_short(optimizer, longest)):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)


def _are_short(optimizer: Optimizer, longest: float) -> bool:
    """Whether the norm of all gradients together is below `longest`; elsewhere than on a CPU that is not looked at."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [gradient for weight in weights if (gradient := weight.grad) is not None]
    if not gradients or gradients[0].device.type != "cpu":
        return False
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).item() < longest
