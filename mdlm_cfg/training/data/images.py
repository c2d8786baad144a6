"""Images: MNIST, Fashion-MNIST, a folder in IDX format, a folder of PNGs for each class, or arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.training.data.arrays import load_image_arrays
from mdlm_cfg.training.data.base import Loading, content_hash, short_name
from mdlm_cfg.training.data.fetch import load_fashion_mnist, load_larochelle, load_mnist
from mdlm_cfg.training.data.folders import LAYOUT, holds_class_folders, load_class_folders
from mdlm_cfg.training.data.idx import (
    FILES,
    Arrays,
    DataError,
    find_file,
    inventory,
    load_idx_dataset,
    load_relabelled,
)
from mdlm_cfg.training.data.labels import check_enough
from mdlm_cfg.training.data.levels import BINARIZATIONS, binarize, check_levels, on_grey_scale, quantize
from mdlm_cfg.training.data.stored import Examples, StoredData

LOADERS = {"mnist": load_mnist, "fashion_mnist": load_fashion_mnist}
LOADING: dict[str, Any] = {"batch_size": 64, "eval_batch_size": 250, "num_val": 1000, "num_test": None}
IMAGE_BINARIZATIONS = (*BINARIZATIONS, "larochelle")


class ImageData(StoredData):
    """Images with a class each, binary or of N grey levels.

    Training uses every training image; the test images are for testing alone. Validation watches training on the first
    `num_val` training images, with a binarization of their own: it shows divergence, not overfitting.

    Args:
        dataset: "mnist", "fashion_mnist", a folder of IDX files, a folder with a folder of PNGs for each class, or a
            .npz with images and labels (`mdlm_cfg.training.data.arrays`).
        root: folder of the named data sets.
        levels: N, 2..256 tokens; more than two are floor(value * N / 256). Images whose largest training value is
            N - 1 hold tokens already.
        binarization: for two levels: "dynamic" (fresh Bernoulli(value/255) draws every epoch), "static" (one draw),
            "threshold" (value > 127), or "larochelle" (his files in ROOT/binarized_mnist, checked to be in MNIST's
            order, so that its labels apply). The test images of "dynamic" and "static" are the same fixed draw. None is
            dynamic for two levels, and the only choice for more.
        relabel: count IDX labels that have gaps or do not begin at 0 anew, and keep the old ones as class names.
        loading: see `Loading`; default batches of 64 and 250, 1,000 images to validate on, all test images.

    Attributes:
        train_x: grey values 0..255 ("dynamic"), 0/255, or tokens of more levels, uint8 (n, D).
        train_labels: int64 (n,).

    Raises:
        UserError: an unknown binarization, levels or counts out of range, or images that cannot be had.
    """

    def __init__(
        self,
        dataset: str = "mnist",
        root: str = "data",
        binarization: str | None = None,
        levels: int = 2,
        relabel: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(Loading(**(LOADING | loading)))
        check_levels(levels)
        if levels > 2 and binarization is not None:
            raise UserError(f"binarization={binarization} makes two levels, and levels={levels}; leave one of them out")
        if binarization is None:
            binarization = "dynamic" if levels == 2 else None
        elif binarization not in IMAGE_BINARIZATIONS:
            raise UserError(f"binarization {binarization!r} is unknown; choose one of {', '.join(IMAGE_BINARIZATIONS)}")
        if binarization == "larochelle" and dataset != "mnist":
            raise UserError(f"binarization=larochelle is of MNIST, not of {dataset}; choose static")
        self.name, self.dataset, self.root = short_name(dataset), dataset, root
        self.binarization, self.num_tokens, self.relabel = binarization, levels, relabel
        self._ready = False

    example_kind = "images"

    @property
    def train_images(self) -> Tensor:
        """`train_x`."""
        return self.train_x

    @train_images.setter
    def train_images(self, images: Tensor) -> None:
        self.train_x = images

    def prepare_data(self) -> None:
        """Fetch the images where they are not there."""
        self._load()

    def _load(self) -> Examples:
        return load_images(self.dataset, self.root, self.num_tokens, self.relabel)

    def setup(self, stage: str | None = None) -> None:
        """Load the images, and binarize what stays as it is."""
        if self._ready:
            return
        images = self._load()
        check_enough(self.dataset, images.train_labels, 2, images.class_names)
        labels, test_labels = images.train_labels, images.test_labels
        self.grid_shape = tuple(images.train.shape[1:])
        self.num_classes, self.class_names = int(labels.max()) + 1, images.class_names
        how = self.binarization or f"levels={self.num_tokens}"
        self._fingerprint = content_hash(images.train, labels, images.test, test_labels, how)
        train, test = self._stored(images.train, images.test)
        self.train_x, self.train_labels = train.flatten(1), labels
        self.steps_per_epoch = self._steps(1)
        val = self.tokens(self.train_x[: self.num_val], generator_for("val"))
        self._val = val, labels[: self.num_val]
        self._test = test.flatten(1)[: self.num_test], test_labels[: self.num_test]
        self._ready = True

    def tokens(self, stored: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Tokens, uint8, from rows of `train_x`: a new binarization of two levels, more levels as they are."""
        return binarize(stored, "dynamic", generator) if self.num_tokens == 2 else stored

    def _stored(self, images: Tensor, test_images: Tensor) -> tuple[Tensor, Tensor]:
        """Training images as values whose `tokens` are what is asked for, and the tokens of the test images."""
        if self.binarization is None:
            return quantize(images, self.num_tokens), quantize(test_images, self.num_tokens)
        if self.binarization == "larochelle":
            train, test = load_larochelle(Path(self.root) / "binarized_mnist", images, test_images)
            return train * 255, test
        if self.binarization == "threshold":
            return binarize(images, "threshold") * 255, binarize(test_images, "threshold")
        test = binarize(test_images, "dynamic", generator_for("test"))
        return (binarize(images, "static") * 255 if self.binarization == "static" else images), test

    def fingerprint(self) -> str:
        """A short hash of images, labels, and how they become tokens."""
        return self._fingerprint

    def describe(self) -> dict[str, Any]:
        """What a checkpoint records of its data: plain ints, strings and lists."""
        return super().describe() | {"binarization": self.binarization}


BinaryImageData = ImageData  # the name that other rooms know


def load_images(dataset: str, root: str | Path, levels: int = 2, relabel: bool = False) -> Examples:
    """Images with values 0..255 and labels: train and test uint8 (n, height, width).

    Args:
        dataset: see `ImageData`.
        root: folder of the named data sets.
        levels: N; images whose largest training value is N - 1 are tokens already, and brought to 0..255.
        relabel: see `ImageData`.

    Raises:
        UserError: an unknown name, or files that are missing, corrupt, or do not fit together.
    """
    return on_levels(dataset, _load(dataset, root, relabel), levels)


def on_levels(dataset: str, images: Examples, levels: int) -> Examples:
    """Images on the scale 0..255; see `on_grey_scale`."""
    train, test, were_tokens = on_grey_scale(dataset, images.train, images.test, levels)
    if were_tokens and levels < 256:
        rank_zero_info(
            f"{dataset}: the largest training value is {levels - 1}: the images hold {levels} levels already"
        )
    return Examples(train, images.train_labels, test, images.test_labels, images.class_names)


def _load(dataset: str, root: str | Path, relabel: bool) -> Examples:
    if dataset in LOADERS:
        return _examples(LOADERS[dataset](root))
    folder = Path(dataset)
    if folder.suffix == ".npz":
        return load_image_arrays(folder)
    if not folder.is_dir():
        raise DataError(
            f"data set {dataset!r} is neither {' nor '.join(LOADERS)} nor a folder of IDX files or of PNGs by class, "
            "nor a .npz of images"
        )
    if not any(find_file(folder, name) for name in FILES):
        if holds_class_folders(folder):
            return load_class_folders(folder)
        raise DataError(f"{folder} lacks {', '.join(FILES)}, and has no PNGs by class: {LAYOUT}; {inventory(folder)}")
    return _examples(*load_relabelled(folder)) if relabel else _examples(load_idx_dataset(folder))


def _examples(arrays: Arrays, class_names: tuple[str, ...] | None = None) -> Examples:
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    return Examples(images, labels, test_images, test_labels, class_names)
