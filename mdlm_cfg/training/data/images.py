"""Binary images: MNIST, Fashion-MNIST, or any folder in IDX format."""

from __future__ import annotations

from mdlm_cfg.support.errors import UserError

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.training.data.base import Batch, DiffusionData, check_positive, content_hash, short_name
from mdlm_cfg.training.data.fetch import load_fashion_mnist, load_larochelle, load_mnist
from mdlm_cfg.training.data.idx import BINARIZATIONS, DataError, binarize, load_idx_dataset

LOADERS = {"mnist": load_mnist, "fashion_mnist": load_fashion_mnist}
IMAGE_BINARIZATIONS = (*BINARIZATIONS, "larochelle")


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
        UserError: an unknown binarization, a count below 1, or images that cannot be had.
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
            raise UserError(
                f"binarization {binarization!r} is unknown; choose one of {', '.join(IMAGE_BINARIZATIONS)}"
            )
        if binarization == "larochelle" and dataset != "mnist":
            raise UserError(f"binarization=larochelle is of MNIST, not of {dataset}; choose static")
        self.name, self.dataset, self.root = short_name(dataset), dataset, root
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
        self._fingerprint = content_hash(images, labels, test_images, test_labels, self.binarization)
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
        UserError: an unknown name, or files that are missing or corrupt.
    """
    if dataset in LOADERS:
        arrays = LOADERS[dataset](root)
    elif Path(dataset).is_dir():
        arrays = load_idx_dataset(dataset)
    else:
        raise DataError(f"data set {dataset!r} is neither {' nor '.join(LOADERS)} nor a folder of IDX files")
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    return images, labels, test_images, test_labels
