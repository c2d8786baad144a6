"""Images in IDX format (MNIST, Fashion-MNIST, any folder laid out like them), and how they become binary."""

from __future__ import annotations

from mdlm_cfg.support.errors import UserError

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
BINARIZATIONS = ("dynamic", "threshold", "static")
STATIC_SEED = 20250612  # of the one draw that "static" means; part of the protocol, not of a run

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class DataError(UserError):
    """Data that cannot be had: the message says which files to put where."""


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, compressed with gzip or not (told by its first bytes, not by its name).

    Format: two zero bytes, a type code, the number of axes, their lengths as big-endian uint32, the values.

    Returns:
        array of the file's shape and type, in native byte order.

    Raises:
        UserError: a file that cannot be read, or is not (or only part of) an IDX file.
    """
    content = read_bytes(Path(path))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in DTYPES:
        raise UserError(f"{path} is not an IDX file: it begins with {content[:4].hex() or 'nothing'}; get it again")
    dtype, ndim = np.dtype(DTYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise UserError(f"{path} is truncated within its header ({len(content)} bytes); get it again")
    shape = tuple(np.frombuffer(content, ">u4", count=ndim, offset=4).tolist())
    size = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(content) != size:
        raise UserError(
            f"{path} holds {len(content)} bytes, and its header (shape {shape}) promises {size}; get it again"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, gunzipped if they are gzipped."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is a corrupt gzip file ({error}); get it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def load_idx_dataset(folder: str | Path) -> Arrays:
    """Images and labels of any folder that holds the usual four IDX files, each with or without .gz.

    Returns:
        train_images: uint8 (n, height, width).
        train_labels: int64 (n,), from 0.
        test_images: uint8 (m, height, width).
        test_labels: int64 (m,).

    Raises:
        DataError: a file is missing.
        UserError: a file is corrupt, or the files do not fit together.
    """
    folder = Path(folder)
    missing = [name for name in FILES if find_file(folder, name) is None]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)} (with or without .gz): put the IDX files there")
    images, labels, test_images, test_labels = (read_idx(find_file(folder, name) or "") for name in FILES)
    _check_split(f"{folder}: train", images, labels)
    _check_split(f"{folder}: t10k", test_images, test_labels)
    if images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"{folder}: training images are {images.shape[1:]} and test images {test_images.shape[1:]}; "
            "they must be of one size"
        )
    return images, labels.astype(np.int64), test_images, test_labels.astype(np.int64)


def find_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _check_split(where: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Raise UserError unless images are uint8 (n, height, width) and labels n integers from 0."""
    if images.ndim != 3 or images.dtype != np.uint8 or images.size == 0:
        raise UserError(
            f"{where} images are {images.dtype} of shape {images.shape}; they must be uint8 "
            "(n, height, width) with n > 0"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise UserError(
            f"{where} labels are {labels.dtype} of shape {labels.shape}; they must be "
            f"{len(images)} integers, one for each image"
        )
    if labels.min() < 0:
        raise UserError(f"{where} labels begin at {labels.min()}; they must count classes from 0")


def binarize(images: Tensor, how: str, generator: torch.Generator | None = None) -> Tensor:
    """Grey images made binary.

    Args:
        images: uint8, any shape.
        how: "dynamic": a Bernoulli draw with probability value/255 from `generator`, fresh at every call
            (what "dynamically binarized MNIST" means); "static": the same with one fixed seed, so that the
            same images give the same draw always; "threshold": 1 where value > 127.
        generator: for "dynamic" only.

    Returns:
        uint8, same shape, values 0 and 1.

    Raises:
        UserError: another `how`, or images that are not uint8.
    """
    if how not in BINARIZATIONS:
        raise UserError(f"binarization {how!r} is unknown; choose one of {', '.join(BINARIZATIONS)}")
    if images.dtype != torch.uint8:
        raise UserError(f"images to binarize must be uint8 (0..255), got {images.dtype}")
    if how == "threshold":
        return (images > 127).to(torch.uint8)
    if how == "static":
        generator = torch.Generator().manual_seed(STATIC_SEED)
    # an integer uniform on 0..254 lies below the value with probability value/255: never below 0
    levels = torch.randint(255, images.shape, dtype=torch.uint8, generator=generator)
    return (levels < images).to(torch.uint8)
