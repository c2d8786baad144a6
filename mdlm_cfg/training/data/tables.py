"""Samples of exactly known tables, given or counted from shrunk images."""

from __future__ import annotations

from mdlm_cfg.support.errors import UserError

import math
from collections.abc import Iterator

import torch

from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.targets.tiny_mnist import tiny_mnist_pmfs
from mdlm_cfg.training.data.base import Batch, DiffusionData, Target, check_positive, short_name
from mdlm_cfg.training.data.images import load_images


class TargetData(DiffusionData):
    """Independent fresh samples of an exactly known distribution, which `_build` makes."""

    def __init__(
        self,
        name: str,
        batch_size: int,
        steps_per_epoch: int,
        num_val: int,
        num_test: int,
        eval_batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        check_positive(steps_per_epoch=steps_per_epoch, num_val=num_val, num_test=num_test)
        self.name, self.steps_per_epoch = name, steps_per_epoch
        self.num_val, self.num_test = num_val, num_test

    def _build(self) -> Target:
        raise NotImplementedError

    def _grid(self, target: Target) -> tuple[int, ...]:
        return (target.num_dims,)

    def setup(self, stage: str | None = None) -> None:
        """Build the target, and draw the validation and test data."""
        if self.target is not None:
            return
        target = self._build()
        self.num_tokens, self.num_classes = target.num_tokens, target.num_classes
        self.grid_shape = self._grid(target)
        self._val = target.sample(self.num_val, generator_for("val"))
        self._test = target.sample(self.num_test, generator_for("test"))
        self.target = target

    def _epoch(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        if self.target is None:
            raise RuntimeError("call setup() before drawing batches")
        generator = generator_for("train", self.seed, epoch, rank)
        for _ in range(self.steps_per_epoch):
            yield self._batch(self.target, generator)

    def _batch(self, target: Target, generator: torch.Generator) -> Batch:
        return target.sample(self.batch_size, generator)


class TableData(TargetData):
    """Samples of a table.

    Args:
        target: the table.
        name: what to call it.
        batch_size: samples per training step (and rank).
        steps_per_epoch: training steps that make an epoch.
        num_val: samples to validate on; num_test: samples to test on.
        eval_batch_size: samples per validation and test step.
        seed: of the training samples.
        grid_shape: of the tokens, for the network; default (D,).

    Raises:
        UserError: a count below 1, or a grid that does not have D cells.
    """

    def __init__(
        self,
        target: TableMixture,
        name: str,
        batch_size: int = 4096,
        steps_per_epoch: int = 100,
        num_val: int = 4096,
        num_test: int = 20_000,
        eval_batch_size: int = 4096,
        seed: int = 0,
        grid_shape: tuple[int, ...] | list[int] | None = None,
    ) -> None:
        super().__init__(name, batch_size, steps_per_epoch, num_val, num_test, eval_batch_size, seed)
        self._table = target
        self._shape = (target.num_dims,) if grid_shape is None else tuple(grid_shape)
        if math.prod(self._shape) != target.num_dims:
            raise UserError(f"grid_shape {self._shape} must have {target.num_dims} cells, one for each dimension")

    def _build(self) -> TableMixture:
        return self._table

    def _grid(self, target: Target) -> tuple[int, ...]:
        return self._shape


class TinyMnistData(TargetData):
    """Samples of the table counted from shrunk, binary images (`mdlm_cfg.targets.tiny_mnist`).

    A batch of training is stratified: few states carry most of guidance's effect, and a batch should not miss them.

    Args:
        height: cells per column; width: cells per row.
        threshold: mean intensity (0..255) above which a cell is 1; None takes the most informative one.
        dataset: "mnist", "fashion_mnist" or a folder of IDX files.
        root: folder of the data sets.
        batch_size: samples per training step (and rank); the rest as `TableData`.
    """

    def __init__(
        self,
        height: int = 3,
        width: int = 3,
        threshold: float | None = None,
        dataset: str = "mnist",
        root: str = "data",
        batch_size: int = 4096,
        steps_per_epoch: int = 100,
        num_val: int = 4096,
        num_test: int = 20_000,
        eval_batch_size: int = 4096,
        seed: int = 0,
    ) -> None:
        name = f"tiny_{short_name(dataset)}_{height}x{width}"
        super().__init__(name, batch_size, steps_per_epoch, num_val, num_test, eval_batch_size, seed)
        self.height, self.width, self.threshold = height, width, threshold
        self.dataset, self.root = dataset, root

    def prepare_data(self) -> None:
        """Fetch the images where they are not there."""
        load_images(self.dataset, self.root)

    def _build(self) -> TableMixture:
        images, labels, _, _ = load_images(self.dataset, self.root)
        return TableMixture(*tiny_mnist_pmfs(images, labels, self.height, self.width, self.threshold))

    def _batch(self, target: Target, generator: torch.Generator) -> Batch:
        assert isinstance(target, TableMixture)
        return target.sample(self.batch_size, generator, stratified=True)

    def _grid(self, target: Target) -> tuple[int, ...]:
        return (self.height, self.width)
