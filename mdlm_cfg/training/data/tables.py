"""Samples of exactly known tables, given or counted from shrunk images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.targets.tiny_mnist import tiny_mnist_pmfs
from mdlm_cfg.training.data.base import Batch, DiffusionData, Loading, Target, check_positive, short_name
from mdlm_cfg.training.data.images import load_images

LOADING: dict[str, Any] = {"batch_size": 4096, "eval_batch_size": 4096, "num_val": 4096, "num_test": 20_000}
MOST_PARTIAL_STATES = 2**30  # (N+1)^D whose exact law a table is there for: 8 GiB for one number each


class TargetData(DiffusionData):
    """Independent fresh samples of an exactly known distribution, which `_build` makes.

    Args:
        name: what to call it.
        steps_per_epoch: training steps that make an epoch.
        loading: see `Loading`; the number of test samples must be given.
    """

    def __init__(self, name: str, steps_per_epoch: int, loading: Loading) -> None:
        super().__init__(loading)
        check_positive(steps_per_epoch=steps_per_epoch, num_test=loading.num_test)
        self.name, self.steps_per_epoch = name, steps_per_epoch

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
        self.class_names, self.value_names = (getattr(target, f"{kind}_names", None) for kind in ("class", "value"))
        self._val = target.sample(self.num_val, generator_for("val"))
        self._test = target.sample(int(self.num_test or 0), generator_for("test"))
        self.target = target

    def _epoch(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        if self.target is None:
            raise RuntimeError("call setup() before drawing batches")
        generator = generator_for("train", self.seed, epoch, rank, device=self.device)
        for _ in range(self.steps_per_epoch):
            yield self._batch(self.target, generator)

    def _batch(self, target: Target, generator: torch.Generator) -> Batch:
        return target.sample(self.batch_size, generator)


class TableData(TargetData):
    """Samples of a table.

    Args:
        target: the table.
        name: what to call it.
        grid_shape: of the tokens, for the network; default (D,).
        steps_per_epoch: training steps that make an epoch.
        loading: see `Loading`; default 4,096 samples a batch and to validate on, 20,000 to test on.

    Raises:
        UserError: a count below 1, a grid that does not have D cells, or a table too large for exact laws.
    """

    def __init__(
        self,
        target: TableMixture,
        name: str,
        grid_shape: Sequence[int] | None = None,
        steps_per_epoch: int = 100,
        **loading: Any,
    ) -> None:
        super().__init__(name, steps_per_epoch, Loading(**(LOADING | loading)))
        self._table = target
        self._shape = (target.num_dims,) if grid_shape is None else tuple(grid_shape)
        if math.prod(self._shape) != target.num_dims:
            raise UserError(f"grid_shape {self._shape} must have {target.num_dims} cells, one for each dimension")
        check_size(target.num_tokens, target.num_dims)

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
        dataset: "mnist", "fashion_mnist", or a folder as `load_images` takes it.
        root: folder of the data sets.
        steps_per_epoch: training steps that make an epoch.
        loading: as `TableData`.
    """

    def __init__(
        self,
        height: int = 3,
        width: int = 3,
        threshold: float | None = None,
        dataset: str = "mnist",
        root: str = "data",
        steps_per_epoch: int = 100,
        **loading: Any,
    ) -> None:
        name = f"tiny_{short_name(dataset)}_{height}x{width}"
        super().__init__(name, steps_per_epoch, Loading(**(LOADING | loading)))
        check_positive(height=height, width=width)
        check_size(2, height * width)
        self.height, self.width, self.threshold = height, width, threshold
        self.dataset, self.root = dataset, root

    def prepare_data(self) -> None:
        """Fetch the images where they are not there."""
        load_images(self.dataset, self.root)

    def _build(self) -> TableMixture:
        images = load_images(self.dataset, self.root)
        pmfs, weights = tiny_mnist_pmfs(images.train, images.train_labels, self.height, self.width, self.threshold)
        return TableMixture(pmfs, weights, class_names=images.class_names)

    def _batch(self, target: Target, generator: torch.Generator) -> Batch:
        if not isinstance(target, TableMixture):
            raise TypeError(f"states are counted into a table, not into a {type(target).__name__}")
        return target.sample(self.batch_size, generator, stratified=True)

    def _grid(self, target: Target) -> tuple[int, ...]:
        return (self.height, self.width)


def check_size(num_tokens: int, num_dims: int) -> None:
    """Raise UserError where a table has too many partial states for the exact laws that it is there for."""
    if (num_tokens + 1) ** num_dims > MOST_PARTIAL_STATES:
        raise UserError(
            f"a table of N = {num_tokens} values in D = {num_dims} dimensions has ({num_tokens}+1)^{num_dims} = "
            f"{(num_tokens + 1) ** num_dims:.3g} partial states, too many for exact laws (at most "
            f"{MOST_PARTIAL_STATES:.3g}); use fewer values or dimensions"
        )
