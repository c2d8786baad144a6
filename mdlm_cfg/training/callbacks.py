"""Callbacks of training: averaged weights and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, WeightAveraging
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.progress import LINES, share_shown, time_left
from mdlm_cfg.training.module import MaskedDiffusion

WARM_UP = 10  # the t-th average has a decay of at most (1 + t) / (WARM_UP + t)


def average_(averaged: list[Tensor], current: list[Tensor], decay: float, count: int) -> None:
    """Update averages of `count` values in place, with decay min(decay, (1 + t) / (10 + t)); the first is a copy.

    The averages keep their own dtype: in half precision a small step towards a weight would be rounded to nothing.
    """
    with torch.no_grad():  # as a decorator it takes longer
        if averaged and averaged[0].dtype != current[0].dtype:
            current = [weight.to(average.dtype) for average, weight in zip(averaged, current, strict=True)]
        if count == 0:
            torch._foreach_copy_(averaged, current)
        else:
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + count) / (WARM_UP + count)))


class AveragedWeights(WeightAveraging):
    """Lightning's exponential moving average of the weights, with a decay that warms up, on the model's device.

    Validation, the test, and the `state_dict` of a checkpoint hold the averaged weights; the raw ones are in its
    `current_model_state`. A run that has nothing left to train ends with the averaged weights too.

    Args:
        decay: of the average after the warm-up, in [0, 1).

    Raises:
        UserError: a decay outside [0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"ema_decay = {decay} must be at least 0 and below 1")
        super().__init__()
        self.decay = decay
        self._swapped = self._taken = False
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the average on the device that the model will move to."""
        if stage != "fit":
            return
        if trainer.precision == "64-true":
            pl_module.double()  # Lightning does so only after loading a checkpoint, then cut to float32
        self._average_model = AveragedModel(pl_module, device=trainer.strategy.root_device, use_buffers=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._taken = False
        self._pairs = list(self._average_model.module.parameters()), list(pl_module.parameters())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update once per optimiser step, counted on the host: the average's own count may be on a GPU."""
        step = trainer.global_step
        if step > self._latest_update_step:
            average_(*self._pairs, self.decay, step - 1)
            self._latest_update_step = step

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = self._average_model is not None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._taken = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where nothing was left to train, Lightning does not call `on_train_end`."""
        if not self._taken and self._average_model is not None:
            self._copy_average_to_current(pl_module)
        self._taken = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The average's own count is needed only in a checkpoint."""
        if self._average_model is not None:
            self._average_model.n_averaged.fill_(self._latest_update_step)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Fail here on an invalid count, which Lightning would notice only after the first step."""
        super().load_state_dict({"latest_update_step": int(state_dict["latest_update_step"])})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Undo the swap of an interrupted validation: the checkpoint is saved right after this."""
        if self._swapped:
            self.on_validation_epoch_end(trainer, pl_module)


class RunProgress(ProgressBar):
    """Progress bars for training (with NELBO and time left), the test and samples; plain lines without a terminal.

    The time left is estimated from the share of training done (`MaskedDiffusion.progress`): of its steps or of
    its time, whichever is further.

    Args:
        refresh: seconds between updates of the bar.
    """

    def __init__(self, refresh: float = 0.25) -> None:
        super().__init__()
        self.refresh = refresh
        self.console = LINES.console
        self.bar: Progress | None = None
        self._enabled = True
        self._start = 0.0
        self._from = 0.0
        self._shown = 0.0
        self._shares = ExitStack()
        self._show: Callable[[float], None] = _nowhere

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    @rank_zero_only
    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            LINES.say(" ".join(map(str, args)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()
        self._from = _progress(pl_module)
        if self._enabled and trainer.is_global_zero and self.console.is_terminal:
            self.bar = Progress(*_columns(), console=self.console, transient=True)
            self.bar.add_task("training", total=1.0, left="", numbers="")
            self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None:
            if self._enabled and trainer.is_global_zero and LINES.are_due:
                share = _progress(pl_module)
                self.print(f"step {trainer.global_step:>6}  {self._numbers(trainer)}  {share:.0%}  {self._left(share)}")
        elif time.monotonic() - self._shown > self.refresh:
            self._shown = time.monotonic()
            share = _progress(pl_module)
            numbers = f"step {trainer.global_step}  {self._numbers(trainer)}"
            self.bar.update(self.bar.task_ids[0], completed=share, left=self._left(share), numbers=numbers)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.print(f"step {trainer.global_step:>6}  {self._numbers(trainer)}  {self._left(_progress(pl_module))}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, "testing")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        batches = trainer.num_test_batches if trainer.testing else trainer.num_predict_batches
        self._show((batch_idx + 1) / batches[0])

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, f"drawing samples, in {trainer.world_size} processes")

    on_predict_batch_end = on_test_batch_end

    def _begin(self, trainer: Trainer, what: str) -> None:
        if self._enabled and trainer.is_global_zero:
            self._show = self._shares.enter_context(share_shown(what))

    def _stop(self, *_: Any, **__: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        self._shares.close()
        self._show = _nowhere

    on_train_end = on_test_end = on_predict_end = on_exception = _stop

    def _left(self, share: float) -> str:
        """The time that training has left, such as "1:05 left"."""
        done = (share - self._from) / (1 - self._from) if share < 1 else 1.0
        return time_left(time.monotonic() - self._start, done)

    def _numbers(self, trainer: Trainer) -> str:
        module = cast(MaskedDiffusion, trainer.lightning_module)
        shown = module.shown | self.get_metrics(trainer, module)
        return "  ".join(
            f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, float | int) and name != "v_num"
        )


def _columns() -> list[ProgressColumn]:
    """The columns of the bar: on a narrow terminal the numbers are cut, and the bar stays."""
    bar = BarColumn(bar_width=20, table_column=Column(no_wrap=True, min_width=20))
    numbers = Column(no_wrap=True, overflow="ellipsis")
    return [
        TextColumn("training"),
        *(bar, TaskProgressColumn(), TimeElapsedColumn()),
        TextColumn("{task.fields[left]}  {task.fields[numbers]}", table_column=numbers),
    ]


def _nowhere(share: float) -> None:
    """A progress function that shows nothing."""


def _progress(module: LightningModule) -> float:
    return cast(MaskedDiffusion, module).progress()
