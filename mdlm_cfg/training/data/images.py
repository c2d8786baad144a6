"""Images: MNIST, Fashion-MNIST, a folder in IDX format, a folder of images for each class, or arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.support.folders import found_at
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.training.data.arrays import as_images, load_arrays
from mdlm_cfg.training.data.base import short_name
from mdlm_cfg.training.data.example_data import ExampleData
from mdlm_cfg.training.data.examples import Examples, say
from mdlm_cfg.training.data.fetch import load_fashion_mnist, load_mnist
from mdlm_cfg.training.data.folders import LAYOUT, holds_class_folders, load_class_folders
from mdlm_cfg.training.data.idx import FILES, find_file, inventory, load_idx_dataset
from mdlm_cfg.training.data.larochelle import load_larochelle
from mdlm_cfg.training.data.levels import BINARIZATIONS, binarize, on_grey_scale, quantize

NAMED = {"mnist": load_mnist, "fashion_mnist": load_fashion_mnist}
IMAGE_BINARIZATIONS = (*BINARIZATIONS, "larochelle")


class ImageData(ExampleData):
    """Images with a class each, binary or of N grey levels.

    Args:
        dataset: "mnist", "fashion_mnist", a folder of IDX files, a folder with a folder of images for each class, or a
            .npz with images and labels (`mdlm_cfg.training.data.arrays`).
        root: folder of the named data sets.
        levels: N, 2..256 tokens; more than two are floor(value * N / 256). Images whose largest training value is
            N - 1 hold tokens already.
        binarization: for two levels: "dynamic" (fresh Bernoulli(value/255) draws every epoch), "static" (one draw),
            "threshold" (value > 127), or "larochelle" (his files in ROOT/binarized_mnist, checked to be in MNIST's
            order, so that its labels apply). The test images of "dynamic" and "static" are the same fixed draw. None
            means dynamic for two levels, and is the only choice for more.
        relabel: renumber labels that have gaps or do not begin at 0, and keep the old ones as class names.
        loading: see `Loading`.

    Attributes:
        train_x: grey values 0..255 ("dynamic"), 0/255, or tokens of more levels, uint8 (n, D).

    Raises:
        UserError: an unknown binarisation, levels or counts out of range, or images that cannot be loaded.
    """

    example_kind = "images"

    def __init__(
        self,
        dataset: str = "mnist",
        root: str = "data",
        binarization: str | None = None,
        levels: int = 2,
        relabel: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(self._load_images, short_name(dataset), **loading)
        whole_number("levels", levels, 2, 256)
        if levels > 2 and binarization is not None:
            raise UserError(f"binarization={binarization} makes two levels, but levels={levels}; leave one of them out")
        if binarization is None:
            binarization = "dynamic" if levels == 2 else None
        else:
            one_of("binarization", binarization, IMAGE_BINARIZATIONS)
        if binarization == "larochelle" and dataset != "mnist":
            raise UserError(f"binarization=larochelle exists only for MNIST, not for {dataset}; choose static")
        self.dataset = dataset
        self.root = root
        self.binarization = binarization
        self.num_tokens = levels
        self.relabel = relabel

    def _load_images(self) -> Examples:
        return load_images(self.dataset, self.root, self.num_tokens, self.relabel)

    def tokens(self, stored: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Tokens, uint8, from rows of `train_x`: a new binarisation for two levels, unchanged values for more."""
        return binarize(stored, "dynamic", generator) if self.num_tokens == 2 else stored

    def _encoded(self, found: Examples) -> tuple[Tensor, Tensor, str]:
        """Training images as stored for `tokens`, the tokens of the test images, and a description of the encoding."""
        how = self.binarization
        images = found.train
        test = found.test
        if how is None:
            return quantize(images, self.num_tokens), quantize(test, self.num_tokens), f"levels={self.num_tokens}"
        if how == "larochelle":
            train, test = load_larochelle(Path(self.root) / "binarized_mnist", images, test)
            return train * 255, test, how
        if how == "threshold":
            return binarize(images, how) * 255, binarize(test, how), how
        test = binarize(test, "dynamic", generator_for("test"))
        return (binarize(images, "static") * 255 if how == "static" else images), test, how

    def describe(self) -> dict[str, Any]:
        """The description of data in a checkpoint: plain ints, strings and lists."""
        return super().describe() | {"binarization": self.binarization}


def load_images(dataset: str, root: str | Path, levels: int = 2, relabel: bool = False) -> Examples:
    """Images with values 0..255 and labels: train and test uint8 (n, height, width).

    Args:
        dataset: see `ImageData`.
        root: folder of the named data sets.
        levels: N; images whose largest training value is N - 1 already hold tokens, and are rescaled to 0..255.
        relabel: see `ImageData`.

    Raises:
        UserError: an unknown name, or files that are missing, corrupt, or do not fit together.
    """
    return on_levels(dataset, _load(dataset, root, relabel), levels)


def on_levels(dataset: str, images: Examples, levels: int) -> Examples:
    """Images rescaled to 0..255 if they hold tokens; see `on_grey_scale`."""
    train, test, were_tokens = on_grey_scale(dataset, images.train, images.test, levels)
    if were_tokens and levels < 256:
        say(f"{dataset}: the largest training value is {levels - 1}: the images already hold {levels} levels")
    return replace(images, train=train, test=test)


def _load(dataset: str, root: str | Path, relabel: bool) -> Examples:
    if dataset in NAMED:
        return NAMED[dataset](root)
    path = Path(dataset)
    if path.suffix == ".npz" and not path.is_dir():
        return as_images(str(path), load_arrays(path, "images", relabel))
    if not path.is_dir():
        raise UserError(
            f"data set {dataset!r}: {found_at(path)}; give {', '.join(NAMED)}, a folder of IDX files or of images by "
            "class, or a .npz of images"
        )
    if any(find_file(path, name) for name in FILES):
        return load_idx_dataset(path, relabel)
    if holds_class_folders(path):
        return load_class_folders(path, relabel)
    raise UserError(f"{path} lacks {', '.join(FILES)}, and has no images by class: {LAYOUT}; {inventory(path)}")
