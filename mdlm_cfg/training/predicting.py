"""Work shared by several processes through Lightning's `predict`: samples, drawn piece by piece."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mdlm_cfg.support.cache import Cache
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.signals import interrupts_given_back


def is_first_process() -> bool:
    """Whether this is the process that makes folders, prints and studies; always true in a single process."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def end_at_sigterm(trainer: Trainer) -> None:
    """Let SIGTERM end a process of a trainer as other interrupts do.

    Lightning's handler sends the other processes a message, which meets whatever they are sending each other: they all
    wait for ever. It is left out; the handler that was there before, which Lightning calls after its own, stays.
    """
    before = signal.getsignal(signal.SIGTERM)

    def come(*_: object) -> None:
        if before in (signal.SIG_DFL, None):
            raise KeyboardInterrupt

    trainer._signal_connector._sigterm_notifier_fn = come  # type: ignore[method-assign, assignment]


class Piece(Protocol):
    """A piece of work that depends on no other one."""

    @property
    def key(self) -> object:
        """Plain values that determine its tensor."""
        ...

    def make(self) -> Tensor:
        """The tensor, on the CPU."""
        ...


def share_work(trainer: Trainer, pieces: Sequence[Piece], net: nn.Module | None, cache: Cache) -> None:
    """Make all pieces, each in one of the trainer's processes, and store them in the cache.

    Every process calls this with the same pieces; afterwards the cache holds them all. Pieces that it
    already holds are not made again.

    Args:
        trainer: of one process or several, on one machine or more that share the folder of `cache`.
        net: the network that the pieces call, on this process's device; None where there is none.
        cache: that of the first process is used.

    Raises:
        UserError: the processes do not have the same weights, data and version.
        KeyboardInterrupt: an interrupt, which Lightning would turn into an exit with another code.
    """
    # the processes get the pieces' numbers: Lightning would take the pieces themselves apart
    numbers: DataLoader[int] = DataLoader(range(len(pieces)), batch_size=None)  # type: ignore[arg-type]
    device = None if net is None else next(net.parameters()).device
    end_at_sigterm(trainer)
    with interrupts_given_back():
        try:
            trainer.predict(_Worker(pieces, net, cache), numbers, return_predictions=False)
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
    trainer.strategy.barrier()
    if net is not None:
        net.to(device)  # Lightning leaves everything on the CPU afterwards


class _Worker(LightningModule):
    """Makes the pieces assigned to it: Lightning gives each piece to exactly one process."""

    def __init__(self, pieces: Sequence[Piece], net: nn.Module | None, cache: Cache) -> None:
        super().__init__()
        self.pieces = pieces
        self.net = net
        self.cache = cache

    def configure_model(self) -> None:
        """Every process draws with the whole network, even if training sharded its weights."""

    def on_predict_start(self) -> None:
        """Use the first process's folder; the cache's contents must be the same for all."""
        about = self.cache.about
        self.cache = self.trainer.strategy.broadcast(self.cache)
        if self.cache.about != about:
            raise UserError("the processes of this evaluation found different checkpoints: give ckpt_path=FILE")

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        piece = self.pieces[int(batch)]
        with torch.autocast(self.device.type, enabled=False):  # training's autocast: a piece sets what it needs itself
            self.cache(piece.key, piece.make)
