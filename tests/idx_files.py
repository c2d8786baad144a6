"""Datasets of images for tests, as the four IDX files that MNIST has."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdlm_cfg.training.data.idx import FILES


def idx_bytes(shape: Sequence[int], values: bytes) -> bytes:
    """The content of an IDX file that says it holds uint8 of that shape, with those bytes."""
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write values as uint8 in an IDX file; gzipped if the name ends in .gz."""
    content = idx_bytes(array.shape, array.astype(np.uint8).tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_dataset(folder: Path, arrays: Sequence[np.ndarray], suffix: str = "") -> None:
    """Write training images and labels and test images and labels under the usual four names."""
    for name, array in zip(FILES, arrays, strict=True):
        write_idx(folder / f"{name}{suffix}", array)


def write_images(
    folder: Path, num: int = 40, num_test: int = 20, size: int = 8, classes: int = 2, suffix: str = ""
) -> list[np.ndarray]:
    """Write random images and labels, and return them."""
    random = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    for count in (num, num_test):
        arrays += [random.integers(0, 256, (count, size, size), dtype=np.uint8), np.arange(count) % classes]
    write_dataset(folder, arrays, suffix)
    return arrays


def write_striped(
    folder: Path, num: int = 90, num_test: int = 30, size: tuple[int, int] = (8, 8), noise: int = 120
) -> None:
    """Write images of three classes: class k has 2 k bright columns, and everything else is noise below `noise`."""
    random = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    for count in (num, num_test):
        labels = np.arange(count, dtype=np.uint8) % 3
        images = random.integers(0, noise, (count, *size), dtype=np.uint8)
        for image, k in zip(images, labels, strict=True):
            image[:, : 2 * k] = 255
        arrays += [images, labels]
    write_dataset(folder, arrays)
