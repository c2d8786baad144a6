"""Checkpoints during training: the last and the best, always complete, also after an interrupt."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mdlm_cfg.support.atomic import remove_parts
from mdlm_cfg.support.checked_io import Unreadable, store
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import number, whole_number
from mdlm_cfg.support.signals import interrupts_to, is_heard
from mdlm_cfg.training.checkpoints import BEST, LAST, OUTLINE, outline_of
from mdlm_cfg.training.module import Diverged, MaskedDiffusion
from mdlm_cfg.training.unfinished import BEGUN

MINUTES = 10.0  # of training between two checkpoints within an epoch
ASKED_EVERY = 32  # steps after which several processes agree on whether a checkpoint is due
STOPPED = "stopped"  # an entry of a checkpoint: a callback has ended training, as early stopping does
WAITING = (
    b"\nInterrupted: finishing this step or validation, then saving. Interrupt again to stop now without saving.\n"
)


def check_saving(minutes: float | None, keep_steps: Sequence[int]) -> None:
    """Raise UserError for minutes that are not above 0, and for steps that are not whole numbers of at least 1."""
    if minutes is not None:
        number("save_minutes", minutes, 0, inf, above=True)
    for step in keep_steps:
        whole_number("a step of keep_steps", step)


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name beside its place, and renames it when it is complete.

    Lightning first writes to the system's temporary folder: moving the file to another disk is a copy, and a kill
    during it leaves half a file in place of the previous checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save, in a folder that must still exist: making a new one would hide that the run's own is gone.

        Raises:
            UserError: the user's own code has put something into the checkpoint that could not be read back.
        """
        try:
            store(checkpoint | {OUTLINE: outline_of(checkpoint)}, path)
        except Unreadable as error:
            raise UserError(
                f"{error}: the state of your own callbacks, network and optimiser may hold only tensors, numbers, "
                "text, lists and dictionaries"
            ) from error


class Interrupts:
    """Delays `INTERRUPTS` until the training state is consistent; a second interrupt acts at once.

    Attributes:
        pending: an interrupt has come, and waits.
        abandoned: a second one has come: the state may be that of half a step.
    """

    def __init__(self) -> None:
        self.pending = self.abandoned = False
        self._watching = ExitStack()

    def watch(self) -> None:
        """Install handlers for the signals that are not ignored."""
        self._watching.enter_context(interrupts_to(self._come, is_heard))

    def release(self) -> None:
        """Restore the previous handlers."""
        self._watching.close()

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            self.abandoned = True
            raise KeyboardInterrupt
        self.pending = True
        if sys.__stderr__ is not None:  # else descriptor 2 may be any file
            with suppress(OSError):  # the reader is gone
                os.write(2, WAITING)  # a handler cannot print: it may have come in the middle of a print


class Checkpoints(Checkpoint):
    """Saves last.ckpt after every epoch, at a steady interval within one, and at an interrupt; best.ckpt beside it.

    Both hold everything that training resumes from, and the averaged weights as their `state_dict`; never weights that
    are not finite. The best is that of the lowest validation NELBO with the class so far.

    Args:
        folder: of the two.
        minutes: of training between two checkpoints within an epoch; None saves only at the ends of epochs.
        keep_steps: optimiser steps after which a checkpoint is kept beside these two, as step_STEPS.ckpt.

    Attributes:
        saved: the saved checkpoints, the latest at the end.

    Raises:
        UserError: minutes that are not above 0, or steps that are not whole numbers of at least 1.
    """

    def __init__(self, folder: str | Path, minutes: float | None = MINUTES, keep_steps: Sequence[int] = ()) -> None:
        check_saving(minutes, keep_steps)
        self.last = Path(folder, LAST)
        self.best = Path(folder, BEST)
        self.minutes = minutes
        self._keep_steps = set(keep_steps)
        self.saved: list[Path] = []
        self._lowest = math.inf
        self._nelbo = math.inf  # of the last validation of this epoch
        self._saved = 0.0
        self._interrupts = Interrupts()
        self._is_training = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the folder, once: see `WholeFiles`."""
        if stage == "fit" and trainer.is_global_zero:
            self.last.parent.mkdir(parents=True, exist_ok=True)
            remove_parts(self.last.parent)

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self._lowest, "nelbo": self._nelbo}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The lowest NELBO so far counts only beside its checkpoint: in another folder the best starts afresh."""
        self._lowest = state_dict["lowest"] if self.best.is_file() else math.inf
        self._nelbo = state_dict.get("nelbo", math.inf)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch for interrupts; of several processes, which must agree on the moment, Lightning takes care."""
        self._saved = time.monotonic()
        self._is_training = True
        for one in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(one, GradientAccumulationScheduler):  # Lightning consults it only when an epoch begins
                one.on_train_epoch_start(trainer)
            if isinstance(one, ModelCheckpoint) and one.dirpath and trainer.is_global_zero:
                Path(one.dirpath).mkdir(parents=True, exist_ok=True)  # see `WholeFiles`
        if trainer.world_size == 1:
            self._interrupts.watch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save within an epoch: the previous batch is done and logged. Gradients of half a step are never saved."""
        if batch_idx == 0 or batch_idx % trainer.accumulate_grad_batches:
            return
        if self._interrupts.pending:
            raise KeyboardInterrupt
        if self._is_due(trainer):
            self._save(trainer, pl_module)
        self._keep_step(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The current batch has not begun: Lightning would count it among the logged steps."""
        checkpoint[STOPPED] = trainer.should_stop
        for count in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(count, dict):
                count.update(dict.fromkeys(("ready", "started", "completed"), count["processed"]))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Training that a callback ended stays ended under the same settings; Lightning would continue it."""
        is_unchanged = cast(MaskedDiffusion, pl_module).begun_with == (checkpoint.get(BEGUN) or "")
        trainer.should_stop = bool(checkpoint.get(STOPPED)) and is_unchanged

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._nelbo = float(trainer.callback_metrics.get("val/nelbo", math.inf))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best first: after a kill between the two, the epoch is repeated and the best saved again."""
        nelbo = self._nelbo
        self._nelbo = math.inf
        if trainer.strategy.broadcast(nelbo < self._lowest):  # the first process knows which files are there
            self._lowest = nelbo
            self._save(trainer, pl_module, self.best)
        self._save(trainer, pl_module)
        self._keep_step(trainer, pl_module)
        if self._interrupts.pending:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_training = False
        self._interrupts.release()
        if self._interrupts.pending:
            raise KeyboardInterrupt

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save only after an interrupt: the state after any other error must not replace an existing checkpoint.

        A single process can still save; of several, the others may be gone, and saving would wait for them. Before
        training, a checkpoint is only partly loaded; after it, all is saved, and the weights are the averaged ones.
        """
        was_training = self._is_training
        self._is_training = False
        is_interrupt = isinstance(exception, KeyboardInterrupt | SIGTERMException) and not self._interrupts.abandoned
        may_save = is_interrupt and was_training and trainer.global_step > 0 and trainer.world_size == 1
        try:
            if may_save and cast(MaskedDiffusion, pl_module).has_finite_weights():
                trainer.save_checkpoint(self.last, weights_only=False)
        finally:
            self._interrupts.release()  # not earlier: the signal may come twice

    def _is_due(self, trainer: Trainer) -> bool:
        if self.minutes is None:
            return False
        is_due = time.monotonic() - self._saved >= 60 * self.minutes
        if trainer.world_size == 1:
            return is_due
        return trainer.global_step % ASKED_EVERY == 0 and bool(trainer.strategy.broadcast(is_due))

    def _keep_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a checkpoint after a step that `keep_steps` names."""
        if trainer.global_step in self._keep_steps:
            self._keep_steps.discard(trainer.global_step)
            self._save(trainer, pl_module, self.last.with_name(f"step_{trainer.global_step}.ckpt"))

    def _save(self, trainer: Trainer, pl_module: LightningModule, path: Path | None = None) -> None:
        """Save last.ckpt, or another, and what was logged until then."""
        module = cast(MaskedDiffusion, pl_module)
        module.refuse_divergence()
        if not module.has_finite_weights():
            raise Diverged(f"the weights are not finite at step {trainer.global_step}: lower optimizer.lr")
        for logger in trainer.loggers:
            logger.save()
        path = path or self.last
        trainer.save_checkpoint(path, weights_only=False)
        self._saved = time.monotonic()
        self.saved = [*(one for one in self.saved if one != path), path]
