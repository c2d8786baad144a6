"""Larochelle's static binarisation of MNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data.idx import inventory, read_bytes


def load_larochelle(folder: str | Path, train_images: Tensor, test_images: Tensor) -> tuple[Tensor, Tensor]:
    """Larochelle's static binarisation of MNIST, in the order of the grey images, so that their labels apply.

    The files binarized_mnist_{train,valid,test}.amat come without labels. It is checked, not assumed, that
    row i is a binarisation of grey image i: no pixel is on where the grey value is 0, or off where it is 255.

    Args:
        folder: holds the three files (50,000, 10,000 and 10,000 rows of 784 numbers 0 or 1).
        train_images: MNIST's grey images, uint8 (60000, 28, 28): train and valid together.
        test_images: uint8 (10000, 28, 28).

    Returns:
        train, test: uint8 of the same shapes, values 0 and 1.

    Raises:
        UserError: a file is missing.
        UserError: a corrupt file, or rows that are not binarisations of the grey images.
    """
    folder = Path(folder)
    names = [f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}: put Larochelle's files there, or use binarization=static; "
            f"{inventory(folder)}"
        )
    train, valid, test = (_read_amat(folder / name, train_images[0].numel()) for name in names)
    train = _in_order_of(torch.cat([train, valid]), train_images, folder)
    return train, _in_order_of(test, test_images, folder)


def _read_amat(path: Path, width: int) -> Tensor:
    """Rows of `width` digits 0 or 1 with white space between, uint8 (n, width)."""
    content = np.frombuffer(read_bytes(path), np.uint8)
    digits = content[content > ord(" ")] - ord("0")
    if digits.size == 0 or digits.size % width or digits.max() > 1:
        raise UserError(
            f"{path} is corrupt: it must hold rows of {width} numbers, each 0 or 1; download or copy it again"
        )
    return torch.from_numpy(digits.reshape(-1, width))


def _in_order_of(binary: Tensor, grey: Tensor, folder: str | Path) -> Tensor:
    """`binary` in the shape of `grey`; raises UserError unless row i can be a binarisation of image i."""
    flat = grey.flatten(1)
    if binary.shape == flat.shape:
        impossible = ((binary == 1) & (flat == 0)) | ((binary == 0) & (flat == 255))
        if not bool(impossible.any()):
            return binary.reshape(grey.shape)
    raise UserError(
        f"the images in {folder} are not binarisations of MNIST's in their order, so they have no labels; "
        "use binarization=static"
    )
