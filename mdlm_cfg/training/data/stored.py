"""Examples that are given, each with its class: images, text, tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.training.data.base import Batch, DiffusionData


@dataclass(frozen=True)
class Examples:
    """A training set and a test set, each example with its class.

    Attributes:
        train: (n, ...), any integer type.
        train_labels: int64 (n,), values 0..K-1.
        test: (m, ...), of the same shape otherwise.
        test_labels: int64 (m,), values 0..K-1.
        class_names: K of them, or None.
        value_names: N of them, or None.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...] | None = None
    value_names: tuple[str, ...] | None = None


class StoredData(DiffusionData):
    """Examples that are given: in training each epoch is all of them in a new order, in full batches.

    A subclass sets `train_x` and `train_labels` in `setup`; where what is stored are not tokens yet (grey values that
    are binarized anew every epoch), it overrides `tokens`.

    Attributes:
        train_x: what is stored of the training examples, integer (n, D).
        train_labels: int64 (n,).
    """

    train_x: Tensor
    train_labels: Tensor

    def tokens(self, stored: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Tokens, integer (..., D), from rows of `train_x`; random ones by the generator."""
        return stored

    def train_examples(self, target_class: int, generator: torch.Generator) -> Tensor:
        """See `mdlm_cfg.targets.data.Data`."""
        return self.tokens(self.train_x[self.train_labels == target_class].cpu(), generator)

    def place_on(self, device: torch.device | str) -> None:
        """See `DiffusionData.place_on`."""
        super().place_on(device)
        self.train_x, self.train_labels = self.train_x.to(device), self.train_labels.to(device)

    def _epoch(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        # the order is drawn on the CPU: all ranks must share it, whatever their devices
        order = torch.randperm(len(self.train_x), generator=generator_for("order", self.seed, epoch))
        generator = generator_for("binarization", self.seed, epoch, rank, device=self.device)
        share = order[rank::world_size].to(self.device)
        for step in range(self._steps(world_size)):
            rows = share[step * self.batch_size : (step + 1) * self.batch_size]
            yield self.tokens(self.train_x[rows], generator).long(), self.train_labels[rows]

    def _steps(self, world_size: int) -> int:
        """Full batches in an epoch, the same number on every rank; at least one, maybe small."""
        return max(1, len(self.train_x) // world_size // self.batch_size)

    def train_dataloader(self) -> DataLoader:
        """Batches (x int64 (B, D), classes int64 (B,)): each epoch all examples in a new order, in full batches."""
        self.steps_per_epoch = self._steps(1 if self.trainer is None else self.trainer.world_size)
        return super().train_dataloader()
