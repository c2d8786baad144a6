"""How grey values 0..255 become tokens: two by a random draw or a threshold, or N levels."""

from __future__ import annotations

import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError, one_of

BINARIZATIONS = ("dynamic", "threshold", "static")
STATIC_SEED = 20250612  # of the one draw that "static" means; part of the protocol, not of a run
DARKEST = 32  # images with no value this large are not on the scale 0..255


def binarize(images: Tensor, how: str, generator: torch.Generator | None = None) -> Tensor:
    """Binarised grey images, on the same device.

    Args:
        images: uint8, any shape.
        how: "dynamic": a Bernoulli draw with probability value/255 from `generator`, fresh at every call
            (what "dynamically binarized MNIST" means); "static": the same with one fixed seed, so that the
            same images give the same draw always; "threshold": 1 where value > 127.
        generator: for "dynamic" only; draws are made on its device.

    Returns:
        uint8, same shape, values 0 and 1.

    Raises:
        UserError: another `how`, or images that are not uint8.
    """
    one_of("binarization", how, BINARIZATIONS)
    if images.dtype != torch.uint8:
        raise UserError(f"images to binarise must be uint8 (0..255), got {images.dtype}")
    if how == "threshold":
        return (images > 127).to(torch.uint8)
    if how == "static":
        generator = torch.Generator().manual_seed(STATIC_SEED)
    # an integer uniform on 0..254 is below the value with probability value/255, exactly 0 for the value 0
    device = images.device if generator is None else generator.device
    levels = torch.randint(255, images.shape, dtype=torch.uint8, generator=generator, device=device)
    return (levels.to(images.device) < images).to(torch.uint8)


def quantize(images: Tensor, levels: int) -> Tensor:
    """Tokens floor(value * N / 256) of grey values: N equal bins of 0..255, for N = 2 the threshold above 127.

    Args:
        images: uint8, any shape.
        levels: N, 2..256.

    Returns:
        uint8, same shape, values 0..N-1.
    """
    return (images.to(torch.int32) * levels // 256).to(torch.uint8)


def on_grey_scale(where: str, train: Tensor, test: Tensor, levels: int) -> tuple[Tensor, Tensor, bool]:
    """Images on the scale 0..255; those whose largest training value is N - 1 already hold tokens, and are rescaled.

    A token k becomes ceil(255 k / (N - 1)), whose `quantize` is k; for N = 2, values 0 and 1 become 0 and 255.

    Args:
        where: to name in messages.
        train: uint8 (n, height, width); test: uint8 (m, height, width).
        levels: N.

    Returns:
        train, test, and whether they were tokens.

    Raises:
        UserError: test images with values outside the training images' scale, or images that are almost black.
    """
    largest = int(train.max())
    if largest == levels - 1:
        if int(test.max()) > largest:
            raise UserError(
                f"{where}: the training images hold values 0 to {largest} and the test images up to "
                f"{int(test.max())}; write both on the same scale"
            )
        return _spread(train, levels), _spread(test, levels), True
    if largest < DARKEST:
        raise UserError(
            f"{where}: the largest value of the training images is {largest}, almost black on the scale 0..255: scale "
            "them to 0..255" + (f", or give levels={largest + 1} if they hold that many levels" if largest else "")
        )
    return train, test, False


def _spread(tokens: Tensor, levels: int) -> Tensor:
    """ceil(255 k / (N - 1)) of tokens k, uint8."""
    return ((tokens.to(torch.int32) * 255 + levels - 2) // (levels - 1)).to(torch.uint8)
