"""Lightning data modules: batches (x, class) from exactly known targets and from binary images.

Every module has, after `setup()`: `name`, `num_tokens`, `num_classes`, `grid_shape` (the product is D), `target` (the
exactly known distribution, or None) and `describe()`. Training batches depend on (seed, epoch, rank) alone, so a run
that resumes at an epoch's start repeats what an uninterrupted one would have seen, bit by bit. Validation and test
data do not depend on the seed: different runs are judged on the same.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mdlm_cfg.atomic import atomic_write
from mdlm_cfg.idx import (
    BINARIZATIONS,
    DataError,
    binarize,
    load_fashion_mnist,
    load_idx_dataset,
    load_larochelle,
    load_mnist,
)
from mdlm_cfg.progress import share_shown
from mdlm_cfg.targets.bernoulli import BernoulliMixture, fit_em
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.targets.tiny_mnist import tiny_mnist_pmfs

# `_Stream` runs in the main process alone, where its length is exact; Lightning warns of any stream with a length
warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")

Batch = tuple[Tensor, Tensor]
Target = TableMixture | BernoulliMixture
LOADERS = {"mnist": load_mnist, "fashion_mnist": load_fashion_mnist}
IMAGE_BINARIZATIONS = (*BINARIZATIONS, "larochelle")


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on the key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


class _Stream(IterableDataset):
    """Ready batches, made anew whenever an epoch begins."""

    def __init__(self, batches: Callable[[], Iterator[Batch]], num_batches: int) -> None:
        self.batches, self.num_batches = batches, num_batches

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def __len__(self) -> int:
        return self.num_batches


class _Fixed(Dataset):
    """Samples that stay, fetched a batch at a time."""

    def __init__(self, x: Tensor, classes: Tensor) -> None:
        self.x, self.classes = x, classes

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Batch:
        return self.x[index].long(), self.classes[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.x[indices].long(), self.classes[indices]


def _as_it_is(batch: Any) -> Any:
    return batch


class DiffusionData(LightningDataModule):
    """What all data modules share: loaders, where an epoch's randomness comes from, and a description.

    A subclass sets the attributes below in `setup`, and says in `_epoch` what one epoch's batches are.
    """

    name: str
    num_tokens: int
    num_classes: int
    grid_shape: tuple[int, ...]
    target: Target | None = None
    steps_per_epoch: int
    _val: Batch  # x integer (n, D), classes int64 (n,)
    _test: Batch

    def __init__(self, batch_size: int, eval_batch_size: int, seed: int) -> None:
        super().__init__()
        check_positive(batch_size=batch_size, eval_batch_size=eval_batch_size)
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self._epochs_begun = 0  # counts where no trainer does

    def _epoch(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        raise NotImplementedError

    def _next_epoch(self) -> Iterator[Batch]:
        """The batches of the epoch that is current when the first is asked for.

        A generator on purpose: a trainer that resumes makes its iterator before it has moved on to the next epoch.
        """
        trainer = self.trainer
        if trainer is None:
            self._epochs_begun += 1
            yield from self._epoch(self._epochs_begun - 1, 0, 1)
        else:
            yield from self._epoch(trainer.current_epoch, trainer.global_rank, trainer.world_size)

    def train_dataloader(self) -> DataLoader:
        """`steps_per_epoch` batches (x int64 (B, D), classes int64 (B,)), new ones every epoch."""
        stream = _Stream(self._next_epoch, self.steps_per_epoch)
        return DataLoader(stream, batch_size=None, pin_memory=torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader:
        """Few fixed samples, to watch training by."""
        return self._fixed_loader(*self._val)

    def test_dataloader(self) -> DataLoader:
        """The samples to report numbers on."""
        return self._fixed_loader(*self._test)

    def _fixed_loader(self, x: Tensor, classes: Tensor) -> DataLoader:
        return DataLoader(_Fixed(x, classes), batch_size=self.eval_batch_size, collate_fn=_as_it_is)

    def fingerprint(self) -> str:
        """A short hash of the distribution or the images: a checkpoint of other data has another."""
        if self.target is None:
            raise NotImplementedError
        return self.target.fingerprint()

    def describe(self) -> dict[str, Any]:
        """What a checkpoint records of its data: plain ints, strings and lists."""
        return {
            "name": self.name,
            "num_tokens": self.num_tokens,
            "num_classes": self.num_classes,
            "grid_shape": list(self.grid_shape),
            "fingerprint": self.fingerprint(),
        }


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
        ValueError: a count below 1, or a grid that does not have D cells.
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
            raise ValueError(f"grid_shape {self._shape} must have {target.num_dims} cells, one for each dimension")

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
        name = f"tiny_{_short_name(dataset)}_{height}x{width}"
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


class BernoulliData(TargetData):
    """Samples of a Bernoulli mixture fitted to binary images: high dimension, exact conditionals.

    The fit is kept under `root/bernoulli`, under a hash of the images and of all that it depends on.

    Args:
        num_components: per class.
        iterations: of expectation maximisation; smoothing: see `fit_em`.
        binarization: "static" or "threshold": the mixture is fitted to one set of binary images.
        dataset: "mnist", "fashion_mnist" or a folder of IDX files.
        root: folder of the data sets.
        fit_seed: of the fit's start; not `seed`, so that runs with other seeds have the same target.
        batch_size: samples per training step (and rank); the rest as `TableData`.
    """

    def __init__(
        self,
        num_components: int = 20,
        iterations: int = 100,
        smoothing: float = 0.1,
        binarization: str = "static",
        dataset: str = "mnist",
        root: str = "data",
        fit_seed: int = 0,
        batch_size: int = 64,
        steps_per_epoch: int = 500,
        num_val: int = 1000,
        num_test: int = 10_000,
        eval_batch_size: int = 250,
        seed: int = 0,
    ) -> None:
        name = f"bernoulli_{_short_name(dataset)}_{num_components}"
        super().__init__(name, batch_size, steps_per_epoch, num_val, num_test, eval_batch_size, seed)
        check_positive(num_components=num_components, iterations=iterations)
        if binarization not in ("static", "threshold"):
            raise ValueError(
                f"binarization {binarization!r} is not allowed here: a mixture is fitted to one set of binary images; "
                "choose static or threshold"
            )
        self.settings = (num_components, iterations, float(smoothing))
        self.binarization, self.fit_seed = binarization, fit_seed
        self.dataset, self.root = dataset, root

    def prepare_data(self) -> None:
        """Fetch the images where they are not there, and fit the mixture where it is not kept."""
        images, labels = self._images()
        path = self._path(images, labels)
        if path.is_file():
            return
        components, iterations, smoothing = self.settings
        generator = generator_for("fit", self.fit_seed)
        total = iterations * (int(labels.max()) + 1)
        with share_shown(f"fitting {components} components per class") as show:
            fit = fit_em(
                images, labels, components, iterations, smoothing, generator,
                lambda k, iteration, _: show((k * iterations + iteration + 1) / total),
            )  # fmt: skip
        with atomic_write(path) as file:
            torch.save([fit.probabilities, fit.component_weights, fit.class_weights], file)

    def _images(self) -> Batch:
        images, labels, _, _ = load_images(self.dataset, self.root)
        self._image_shape = tuple(images.shape[1:])
        return binarize(images, self.binarization), labels

    def _path(self, images: Tensor, labels: Tensor) -> Path:
        return Path(self.root) / "bernoulli" / f"{_hash(images, labels, repr((self.settings, self.fit_seed)))}.pt"

    def _build(self) -> BernoulliMixture:
        path = self._path(*self._images())
        self._fingerprint = path.stem
        if not path.is_file():
            self.prepare_data()
        try:
            return BernoulliMixture(*torch.load(path, weights_only=True))
        except (RuntimeError, EOFError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise ValueError(f"the fitted mixture {path} is damaged: delete it, and it is fitted again") from error

    def _grid(self, target: Target) -> tuple[int, ...]:
        return self._image_shape

    def fingerprint(self) -> str:
        """A short hash of the images and the fit's settings.

        Not of the fitted numbers, whose last digits (1e-14) depend on the number of threads: a checkpoint must be
        usable on another machine.
        """
        return self._fingerprint


class BinaryImageData(DiffusionData):
    """Binary images: MNIST, Fashion-MNIST, or any folder in IDX format.

    Training uses every training image; the test images are for testing alone. Validation watches training on the first
    `num_val` training images, with a binarization of their own: it shows divergence, not overfitting.

    Args:
        dataset: "mnist", "fashion_mnist" or a folder of IDX files.
        root: folder of the data sets.
        binarization: "dynamic" (fresh Bernoulli(value/255) draws every epoch), "static" (one draw), "threshold"
            (value > 127), or "larochelle" (his files in ROOT/binarized_mnist, checked to be in MNIST's order, so that
            its labels apply). The test images of "dynamic" and "static" are the same fixed draw.
        batch_size: images per training step (and rank).
        eval_batch_size: images per validation and test step.
        num_val: images to validate on.
        num_test: the first so many test images only; None is all.
        seed: of order and binarization in training.

    Attributes:
        train_images: grey values ("dynamic") or 0/255, uint8 (n, D).
        train_labels: int64 (n,).
        test_x: uint8 (m, D), 0 and 1.
        test_classes: int64 (m,).

    Raises:
        ValueError: an unknown binarization, a count below 1, or images that cannot be had.
    """

    num_tokens = 2

    def __init__(
        self,
        dataset: str = "mnist",
        root: str = "data",
        binarization: str = "dynamic",
        batch_size: int = 64,
        eval_batch_size: int = 250,
        num_val: int = 1000,
        num_test: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        check_positive(num_val=num_val, num_test=1 if num_test is None else num_test)
        if binarization not in IMAGE_BINARIZATIONS:
            raise ValueError(
                f"binarization {binarization!r} is unknown; choose one of {', '.join(IMAGE_BINARIZATIONS)}"
            )
        if binarization == "larochelle" and dataset != "mnist":
            raise ValueError(f"binarization=larochelle is of MNIST, not of {dataset}; choose static")
        self.name, self.dataset, self.root = _short_name(dataset), dataset, root
        self.binarization, self.num_val, self.num_test = binarization, num_val, num_test
        self._ready = False

    def prepare_data(self) -> None:
        """Fetch the images where they are not there."""
        load_images(self.dataset, self.root)

    def setup(self, stage: str | None = None) -> None:
        """Load the images, and binarize what stays as it is."""
        if self._ready:
            return
        images, labels, test_images, test_labels = load_images(self.dataset, self.root)
        self.grid_shape = tuple(images.shape[1:])
        self.num_classes = int(max(labels.max(), test_labels.max())) + 1
        self._fingerprint = _hash(images, labels, test_images, test_labels, self.binarization)
        train, test = self._binarized(images, test_images)
        self.train_images, self.train_labels = train.flatten(1), labels
        self.test_x, self.test_classes = test.flatten(1)[: self.num_test], test_labels[: self.num_test]
        self.steps_per_epoch = max(1, len(train) // self.batch_size)
        val = binarize(self.train_images[: self.num_val], "dynamic", generator_for("val"))
        self._val, self._test = (val, labels[: self.num_val]), (self.test_x, self.test_classes)
        self._ready = True

    def _binarized(self, images: Tensor, test_images: Tensor) -> Batch:
        """Training images as values whose dynamic binarization is the one asked for, and binary test images."""
        if self.binarization == "larochelle":
            train, test = load_larochelle(Path(self.root) / "binarized_mnist", images, test_images)
            return train * 255, test
        if self.binarization == "threshold":
            return binarize(images, "threshold") * 255, binarize(test_images, "threshold")
        test = binarize(test_images, "dynamic", generator_for("test"))
        return (binarize(images, "static") * 255 if self.binarization == "static" else images), test

    def _epoch(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        order = torch.randperm(len(self.train_images), generator=generator_for("order", self.seed, epoch))
        generator = generator_for("binarization", self.seed, epoch, rank)
        share = order[rank::world_size]
        for step in range(self._steps(world_size)):
            rows = share[step * self.batch_size : (step + 1) * self.batch_size]
            x = binarize(self.train_images[rows], "dynamic", generator)
            yield x.long(), self.train_labels[rows]

    def _steps(self, world_size: int) -> int:
        """Full batches in an epoch, the same number on every rank; at least one, maybe small."""
        return max(1, len(self.train_images) // world_size // self.batch_size)

    def train_dataloader(self) -> DataLoader:
        """Batches (x int64 (B, D), classes int64 (B,)): each epoch all images in a new order, in full batches."""
        self.steps_per_epoch = self._steps(1 if self.trainer is None else self.trainer.world_size)
        return super().train_dataloader()

    def fingerprint(self) -> str:
        """A short hash of images, labels and binarization."""
        return self._fingerprint

    def describe(self) -> dict[str, Any]:
        """What a checkpoint records of its data: plain ints, strings and lists."""
        return super().describe() | {"binarization": self.binarization}


def load_images(dataset: str, root: str | Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Grey images and labels: train_images uint8 (n, H, W), train_labels int64 (n,), and the same for testing.

    Args:
        dataset: "mnist", "fashion_mnist" or a folder of IDX files.
        root: folder of the named data sets.

    Raises:
        ValueError: an unknown name, or files that are missing or corrupt.
    """
    if dataset in LOADERS:
        arrays = LOADERS[dataset](root)
    elif Path(dataset).is_dir():
        arrays = load_idx_dataset(dataset)
    else:
        raise DataError(f"data set {dataset!r} is neither {' nor '.join(LOADERS)} nor a folder of IDX files")
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    return images, labels, test_images, test_labels


def _short_name(dataset: str) -> str:
    """A data set's name, or the last part of a folder's path."""
    return Path(dataset).name or dataset


def _hash(*parts: Tensor | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part if isinstance(part, str) else (tuple(part.shape), part.dtype)).encode())
        if isinstance(part, Tensor):
            digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_positive(**counts: int) -> None:
    """Raise ValueError unless every count is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
