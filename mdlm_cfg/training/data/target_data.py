"""Samples of distributions that are known exactly: given ones, and tables counted from shrunk images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.targets.tiny_mnist import tiny_mnist_pmfs
from mdlm_cfg.training.data.base import Batch, DiffusionData, Target, check_positive, loading_of, short_name
from mdlm_cfg.training.data.examples import say_imbalance
from mdlm_cfg.training.data.images import load_images

FROM_TABLE: dict[str, Any] = {"batch_size": 4096, "eval_batch_size": 4096, "num_val": 4096, "num_test": 20_000}
FROM_MODEL: dict[str, Any] = {"num_val": 500, "num_test": 1000}
MOST_PARTIAL_STATES = 2**30  # (N+1)^D of a table, up to which its exact laws are computed: 8 GiB at one number each


class TargetData(DiffusionData):
    """Fresh samples of a distribution that is known exactly.

    Args:
        target: the distribution; None: a subclass makes it in `_build`.
        name: of the data; for a path, the name of its file.
        grid_shape: of the coordinates, for the network; default (D,).
        steps_per_epoch: training steps that make an epoch.
        stratified: whether each state occurs in a training batch in proportion to its probability, up to rounding: a
            conditional estimated from a batch then has hardly any sampling error. Tables only.
        loading: see `Loading`; the defaults are larger for a table, which is cheap to sample.

    Raises:
        UserError: a count below 1, a grid that does not have D cells, a table too large for exact laws, or stratified
        batches of a target that is not a table.
    """

    def __init__(
        self,
        target: Target | None,
        name: str,
        grid_shape: Sequence[int] | None = None,
        steps_per_epoch: int = 100,
        stratified: bool = False,
        **loading: Any,
    ) -> None:
        if target is not None and not isinstance(target, Target):
            raise UserError(f"data.target makes {shown(target)}, and must make a target, such as a TableMixture")
        if stratified and target is not None and not isinstance(target, TableMixture):
            raise UserError(
                f"data.stratified=true needs a table, and the target is a {type(target).__name__}: leave it out"
            )
        defaults = FROM_TABLE if target is None or isinstance(target, TableMixture) else FROM_MODEL
        super().__init__(loading_of(defaults | loading))
        check_positive(steps_per_epoch=steps_per_epoch, num_test=self.num_test)
        self.name = short_name(name) if "/" in name or name.endswith(".npz") else name
        self.steps_per_epoch = steps_per_epoch
        self.stratified = stratified
        self._given = target
        self._shape = None if grid_shape is None else tuple(grid_shape)
        if target is not None:
            if math.prod(self._shape or (target.num_dims,)) != target.num_dims:
                raise UserError(f"grid_shape {self._shape} must have {target.num_dims} cells, one for each dimension")
            if isinstance(target, TableMixture):
                check_size(target.num_tokens, target.num_dims)

    def _build(self) -> Target:
        if self._given is None:
            raise UserError("data.target makes nothing: it must make a target, such as a TableMixture")
        return self._given

    def setup(self, stage: str | None = None) -> None:
        """Build the target, and draw the validation and test data."""
        if self.target is not None:
            return
        target = self._build()
        self.num_tokens = target.num_tokens
        self.num_classes = target.num_classes
        self.grid_shape = self._shape or (target.num_dims,)
        self.class_names = self.class_names or target.class_names
        self.value_names = target.value_names
        say_imbalance(self.name, target.class_weights, self.class_names, "weight {:.3g}")
        self._val = target.sample(self.num_val, generator_for("val"))
        self._test = target.sample(int(self.num_test or 0), generator_for("test"))
        self.target = target

    @property
    def draws_valid_batches(self) -> bool:
        """True for a table, unless a subclass changes how batches are drawn."""
        return type(self).__module__ == __name__ and type(self.target) is TableMixture

    def _epoch(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        if self.target is None:
            raise RuntimeError("call setup() before drawing batches")
        generator = generator_for("train", self.seed, epoch, rank, device=self.device)
        for _ in range(self.steps_per_epoch):
            yield self._batch(self.target, generator)

    def _batch(self, target: Target, generator: torch.Generator) -> Batch:
        if self.stratified and isinstance(target, TableMixture):
            return target.sample(self.batch_size, generator, stratified=True)
        return target.sample(self.batch_size, generator)


class TinyMnistData(TargetData):
    """Samples of the table counted from shrunk, binary images (`mdlm_cfg.targets.tiny_mnist`).

    Training batches are stratified: a few states carry most of guidance's effect, and no batch should miss them.

    Args:
        height: cells per column; width: cells per row.
        threshold: mean intensity (0..255) above which a cell is 1; None takes the most informative one.
        dataset: "mnist", "fashion_mnist", or a folder as `load_images` takes it.
        root: folder of the data sets.
        steps_per_epoch: training steps that make an epoch.
        loading: as `TargetData`.
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
        check_positive(height=height, width=width)
        name = f"tiny_{short_name(dataset)}_{height}x{width}"
        super().__init__(None, name, (height, width), steps_per_epoch, stratified=True, **loading)
        check_size(2, height * width)
        self.height = height
        self.width = width
        self.threshold = threshold
        self.dataset = dataset
        self.root = root

    def prepare_data(self) -> None:
        """Fetch the images if they are missing."""
        load_images(self.dataset, self.root)

    def _build(self) -> TableMixture:
        images = load_images(self.dataset, self.root)
        pmfs, weights = tiny_mnist_pmfs(images.train, images.train_labels, self.height, self.width, self.threshold)
        return TableMixture(pmfs, weights, class_names=images.class_names)


def check_size(num_tokens: int, num_dims: int) -> None:
    """Raise UserError where a table has too many partial states for exact laws."""
    if (num_tokens + 1) ** num_dims > MOST_PARTIAL_STATES:
        raise UserError(
            f"a table of N = {num_tokens} values in D = {num_dims} dimensions has ({num_tokens}+1)^{num_dims} = "
            f"{(num_tokens + 1) ** num_dims:.3g} partial states, too many for exact laws (at most "
            f"{MOST_PARTIAL_STATES:.3g}); use fewer values or dimensions"
        )
