"""Training and testing a run, starting from a checkpoint if there is one."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mdlm_cfg.support.errors import UserError, on_one_line, text_of
from mdlm_cfg.support.instantiate import TARGET
from mdlm_cfg.support.memory import is_lack_of_memory
from mdlm_cfg.support.schema import alike
from mdlm_cfg.support.signals import interrupts_given_back
from mdlm_cfg.training.checkpoints import OUTLINE, outline_of, read_checkpoint
from mdlm_cfg.training.data.base import Batch, DiffusionData
from mdlm_cfg.training.module import MaskedDiffusion
from mdlm_cfg.training.predicting import end_at_sigterm
from mdlm_cfg.training.runs import check_same_data


class NotBegun(UserError):
    """Training could not begin, so there is no result."""


def check_resume(path: str | Path, record: Mapping[str, Any]) -> int:
    """The number of steps a checkpoint has taken, if training can resume from it.

    Network, objective, data and the type of optimiser must be the checkpoint's; everything else may change.

    Args:
        path: the checkpoint.
        record: what the module to train would record (`mdlm_cfg.training.checkpoints.RECORDED`).

    Raises:
        UserError: training cannot resume from it.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.get(OUTLINE, outline := outline_of(checkpoint)) != outline:
        raise _changed(path)
    saved = checkpoint["hyper_parameters"]
    check_same_data(path, saved["data"], record["data"])
    for part, name in (("net", "network"), ("objective", "objective"), ("optimizer", "optimizer")):
        there = saved[part]
        here = record[part]
        changes = [
            f"{key} = {there.get(key)} there and {here.get(key)} here"
            for key in ([TARGET] if part == "optimizer" else sorted({*there, *here}))
            if not alike(there.get(key), here.get(key))
        ]
        if changes:
            raise UserError(
                f"the checkpoint {path} has a different {name}: {', '.join(changes)}; it must stay the same within a "
                "run"
            )
    return int(checkpoint["global_step"])


def train(
    module: MaskedDiffusion, data: LightningDataModule, trainer: Trainer, ckpt_path: str | Path | None = None
) -> tuple[dict[str, float], bool]:
    """Train, from a checkpoint if one is given, then test with the averaged weights.

    Returns:
        the test's numbers, and whether there was anything to train.

    Raises:
        NotBegun: Lightning refuses the trainer's settings, there is no step to train, or the contents of the checkpoint
            are not those of a run.
    """
    if isinstance(data, DiffusionData):
        data.place_on(trainer.strategy.root_device)
    end_at_sigterm(trainer)
    with interrupts_given_back():
        with _not_begun(ckpt_path, trainer):
            if ckpt_path is None:
                trainer.fit(module, datamodule=data)
                trained = trainer.global_step > 0
                if not trained:
                    raise NotBegun(
                        "nothing was trained: give trainer.max_epochs, max_steps and max_time that leave some steps"
                    )
            else:
                trained = _go_on(module, data, trainer, ckpt_path)
        if module.val_nelbo is None:  # training ended within the first epoch, but a sweep needs a value
            trainer.validate(module, datamodule=data, verbose=False)
        tested = trainer.test(module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in tested[0].items()} if tested else {}, trained


def _go_on(module: MaskedDiffusion, data: LightningDataModule, trainer: Trainer, ckpt_path: str | Path) -> bool:
    """Resume training from a checkpoint; returns whether there was anything to train.

    If there was not, the checkpoint's own validation counts: it is already logged.
    """
    checkpoint = read_checkpoint(ckpt_path)
    skip_seen(data, batches_seen(checkpoint))
    trained = False
    if 0 <= (trainer.max_epochs or 0) < checkpoint["epoch"]:
        module.load_state_dict(checkpoint["state_dict"])  # the averaged weights; Lightning would refuse to go back
        trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])  # sets the step at which the test is logged
    else:
        _count_nothing_again(trainer.fit_loop)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        trained = trainer.global_step > int(checkpoint["global_step"])
        epochs = cast(_ProcessedTracker, trainer.fit_loop.epoch_progress.current)
        epochs.completed = epochs.processed  # if a callback ended training: sets the epoch at which the test is logged
    if module.val_nelbo is None and not trained:
        module.val_nelbo = checkpoint.get("val_nelbo")
    return trained


def _count_nothing_again(epochs: _FitLoop) -> None:
    """Make Lightning resume after the last batch, or epoch, that a checkpoint completed.

    With `max_steps`, Lightning takes every checkpoint for one within an epoch, and counts a finished epoch twice. After
    a validation within an epoch it counts the preceding batch twice, and may take the epoch for finished.
    """
    epochs._iteration_based_training = lambda: False  # type: ignore[method-assign]
    batches = epochs.epoch_loop
    advance = batches.advance

    def advance_by_a_batch(data_fetcher: _DataFetcher) -> None:
        batches._restarting = False  # its only remaining effect would be a check for a validation
        advance(data_fetcher)

    batches.advance = advance_by_a_batch  # type: ignore[method-assign]


class _Begun(Callback):
    """Records whether training has begun, and at which step: by then the whole checkpoint has been loaded."""

    def __init__(self) -> None:
        self.has_begun = False
        self.first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.has_begun = True
        self.first_step = trainer.global_step


@contextmanager
def _not_begun(path: str | Path | None, trainer: Trainer) -> Iterator[None]:
    """Turn what Lightning refuses before training begins into a `NotBegun`.

    So also any error of Lightning or torch from a complete file with wrong contents; the message names the file.
    """
    begun = _Begun()
    trainer.callbacks.append(begun)  # type: ignore[attr-defined]
    try:
        yield
    except MisconfigurationException as error:
        if trainer.global_step > begun.first_step:
            raise
        raise NotBegun(on_one_line(text_of(error))) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        if isinstance(error, ValueError) and not begun.has_begun and _is_refused_by_lightning(error):
            raise NotBegun(on_one_line(text_of(error))) from error
        if path is None or begun.has_begun or is_lack_of_memory(error) or isinstance(error, UserError):
            raise
        raise _changed(path) from error


def _changed(path: str | Path) -> NotBegun:
    """The error of a checkpoint whose contents are not those of a run."""
    return NotBegun(
        f"training cannot resume from the checkpoint {path}: its contents were changed, or another version of mdlm_cfg "
        "or Lightning wrote it"
    )


def _is_refused_by_lightning(error: Exception) -> bool:
    """Whether Lightning raised an error for settings that do not fit the data, such as a val_check_interval."""
    return traceback.extract_tb(error.__traceback__)[-1].name == _FitLoop.setup_data.__name__


def batches_seen(checkpoint: Mapping[str, Any]) -> int:
    """The number of batches of an unfinished epoch that a checkpoint has completed; 0 at an epoch's end."""
    fit = checkpoint["loops"]["fit_loop"]
    epochs = fit["epoch_progress"]["current"]
    return int(fit["epoch_loop.batch_progress"]["current"]["processed"]) if epochs["processed"] < epochs["ready"] else 0


def skip_seen(data: LightningDataModule, num_batches: int) -> None:
    """Skip the first batches of the next epoch, once: Lightning restarts an interrupted epoch from its beginning."""
    if num_batches == 0 or not isinstance(data, DiffusionData):
        return
    begin = data._next_epoch
    left = [num_batches]

    def rest() -> Iterator[Batch]:
        seen = left[0]
        left[0] = 0
        yield from islice(begin(), seen, None)

    data._next_epoch = rest  # type: ignore[method-assign]
