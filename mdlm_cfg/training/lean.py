"""Lightning's and torch's work around a step, without the parts that take time and have no effect here.

A step of a small network takes a few milliseconds, so this overhead matters. All results are bitwise the same.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor
from torch.optim import Optimizer

from mdlm_cfg.support.instantiate import calling
from mdlm_cfg.training.data.base import DiffusionData

PLAIN = frozenset((type(None), bool, int, float, str, dict))  # types that no module registers
SHORT = 0.99  # of the largest norm: gradients up to this are certain not to be clipped, whatever the rounding
NOTHING: AbstractContextManager[Any] = nullcontext()
WITHIN = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
HOOKS = ("on_train_batch_start", *WITHIN, "on_train_batch_end")  # of a step
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class LeanTrainer(Trainer):
    """Lightning's trainer; a step reads its strategy 67 times, and 13 times whether it is training."""

    @cached_property
    def strategy(self) -> Strategy:
        """The strategy it was built with."""
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
        """A context that does nothing."""
        return NOTHING


class LeanModule(LightningModule):
    """A module whose attributes are set, and whose gradients are reset and clipped, in less time."""

    def on_train_start(self) -> None:
        """Leave out the empty hooks of a step, its own and those of all callbacks; see `call_at_once`."""
        for one in (self, *self.trainer.callbacks):  # type: ignore[attr-defined]
            leave_empty_hooks_out(one)
        call_at_once(self.trainer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """See `LightningModule`."""
        with calling("optimizer"):
            super().optimizer_step(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        """Skip the check of any module whether a value is a parameter, a buffer or a module, for plain values.

        Lightning sets the name of the current hook before and after each of them: 50 times in a step.
        """
        if type(value) in PLAIN and name in self.__dict__:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """What torch's `zero_grad` does, without its profiling; an optimiser may have its own."""
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
        """As Lightning does, but on a CPU gradients of small norm are left alone instead of being multiplied by 1."""
        longest = SHORT * (gradient_clip_val or 0.0)
        is_by_norm = longest > 0 and (gradient_clip_algorithm or "norm") == "norm"
        if not (is_by_norm and type(self.trainer.precision_plugin) is Precision and _are_short(optimizer, longest)):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)


def leave_empty_hooks_out(one: Callback | LightningModule) -> None:
    """Set the hooks of a step that are Lightning's own, and so empty, to None, which makes Lightning skip them.

    It calls every other hook, with the overhead of a call: setting its name, starting and stopping a profiler.
    """
    kind = Callback if isinstance(one, Callback) else LightningModule
    for name in HOOKS:
        if _is_as_in(kind, one, name):
            setattr(one, name, None)


def _is_as_in(kind: type, one: Any, name: str) -> bool:
    """Whether an object's method is that of a class, not overridden."""
    return isinstance(one, kind) and name not in vars(one) and getattr(type(one), name) is getattr(kind, name)


def call_at_once(trainer: Trainer) -> None:
    """Let a single device in plain precision take a step, and in training use a batch that is already there, directly.

    Lightning calls six functions within a step by way of their names, and makes four closures; before it, it looks up
    three transfer hooks of a batch, each in the module and in the data.
    """
    strategy = trainer.strategy
    if type(strategy) is not SingleDeviceStrategy or type(strategy.precision_plugin) is not Precision:
        return
    place = strategy.root_device
    move = partial(SingleDeviceStrategy.batch_to_device, strategy)
    module = trainer.lightning_module
    loop = trainer.fit_loop.epoch_loop.automatic_optimization
    is_hooked = any(getattr(one, name) for one in (module, *trainer.callbacks) for name in WITHIN)  # type: ignore[attr-defined]
    is_own = type(module).optimizer_step is not LeanModule.optimizer_step
    is_timed = not isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
    is_direct = not (is_hooked or is_own or is_timed)

    def batch_to_device(batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        is_there = trainer.training and (device or place) == place and batch[0].device == place
        return batch if is_there else move(batch, device, dataloader_idx)

    owners = ((module, LightningModule), (trainer.datamodule, DiffusionData))  # type: ignore[attr-defined]
    has_no_own = all(_is_as_in(kind, one, name) for one, kind in owners for name in TRANSFERS)
    strategy.batch_to_device = batch_to_device if has_no_own else move  # type: ignore[method-assign]
    loop.run = partial(step_at_once if is_direct else _AutomaticOptimization.run, loop)  # type: ignore[method-assign]


def step_at_once(
    loop: _AutomaticOptimization, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]
) -> dict[str, Any]:
    """A step of Lightning's automatic optimisation without hooks; its progress is counted as there."""
    trainer = loop.trainer
    if trainer.accumulate_grad_batches != 1:  # a callback may change it
        return _AutomaticOptimization.run(loop, optimizer, batch_idx, kwargs)
    module = trainer.lightning_module
    counts = loop.optim_progress.optimizer
    losses: list[Tensor] = []

    def closure() -> Tensor:
        module._current_fx_name = "training_step"
        loss = cast(Tensor, module.training_step(*kwargs.values()))
        counts.zero_grad.increment_ready()
        counts.zero_grad.increment_started()
        module.optimizer_zero_grad(trainer.current_epoch, batch_idx, optimizer)
        counts.zero_grad.increment_completed()
        module.backward(loss)
        module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        losses[:] = (loss.detach(),)
        return losses[0]

    counts.step.increment_ready()
    with calling("optimizer"):
        optimizer.step(closure)  # type: ignore[arg-type]
    module._current_fx_name = None
    counts.step.increment_completed()
    return {"loss": losses[0]}


def _are_short(optimizer: Optimizer, longest: float) -> bool:
    """Whether the norm of all gradients together is below `longest`; on devices other than a CPU always False."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [gradient for weight in weights if (gradient := weight.grad) is not None]
    if not gradients or gradients[0].device.type != "cpu":
        return False
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).item() < longest
