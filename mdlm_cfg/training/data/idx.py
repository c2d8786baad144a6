"""Images and labels in IDX format: MNIST, Fashion-MNIST, EMNIST, any folder laid out like them."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import found_at
from mdlm_cfg.training.data.arrays import WHITE, as_images, checked
from mdlm_cfg.training.data.examples import Examples, assembled

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP = b"\x1f\x8b"
LISTED = 12  # files of a folder that a message names


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, compressed with gzip or not (recognised by its first bytes, not by its name).

    Format: two zero bytes, a type code, the number of axes, their lengths as big-endian uint32, the values.

    Returns:
        array of the file's shape and type, in native byte order.

    Raises:
        UserError: a file that cannot be read, is not an IDX file, or is only part of one.
    """
    content = read_bytes(Path(path))
    head = content[:4]
    if not content:
        raise UserError(f"{path} is empty; download or copy it again")
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in DTYPES:
        raise UserError(f"{path} is not an IDX file: it begins with {head.hex()}; download or copy it again")
    dtype = np.dtype(DTYPES[head[2]])
    start = 4 + 4 * head[3]
    shape = np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4").tolist()
    promised = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(content) != promised:
        raise UserError(
            f"{path} holds {len(content)} bytes, and its header (shape {tuple(shape)}) promises {promised}; download "
            "or copy it again"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, gunzipped if they are gzipped.

    Raises:
        UserError: a file that cannot be read, or is corrupt.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP) else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is a corrupt gzip file ({error}); download or copy it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def load_idx_dataset(folder: str | Path, relabel: bool = False) -> Examples:
    """Images and labels of a folder with the usual four IDX files; see `find_file` for their names.

    Args:
        relabel: renumber labels that have gaps or do not begin at 0.

    Returns:
        train and test: uint8 (n, height, width), in the order of the files.

    Raises:
        UserError: a file is missing or corrupt, the files do not fit together, or the labels have gaps.
    """
    folder = Path(folder)
    paths = [find_file(folder, name) for name in FILES]
    missing = [name for name, path in zip(FILES, paths) if path is None]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)} (with or without .gz): put the IDX files there; {inventory(folder)}"
        )
    images, labels, test_images, test_labels = (read_idx(path) for path in paths if path is not None)
    train = checked(f"{folder}: train", ("images", images), ("labels", labels), WHITE)
    test = checked(f"{folder}: t10k", ("images", test_images), ("labels", test_labels), WHITE)
    return as_images(str(folder), assembled(str(folder), train, test, relabel=relabel, shuffled=()))


def find_file(folder: Path, name: str) -> Path | None:
    """The file in a folder that stands for a usual name, or None.

    Also found: the name with .gz, with a dot for the last hyphen but one (as 7-zip writes it), in upper case, after a
    prefix and with "test" for "t10k" (emnist-letters-test-images-idx3-ubyte.gz). The usual name has priority; of two
    that differ only by .gz, the one without.

    Raises:
        UserError: several other names that fit.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    split, kind, idx, _ = re.split("-", name)
    which = "(t10k|test)" if split == "t10k" else split
    pattern = re.compile(rf"(.*[-_.])?{which}[-_.]{kind}[-_.]{idx}[-_.]ubyte(\.gz)?", re.IGNORECASE)
    files = folder.iterdir() if folder.is_dir() else ()
    found = sorted(path for path in files if path.is_file() and pattern.fullmatch(path.name))
    distinct = {re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE) for path in found}
    if len(distinct) > 1:
        raise UserError(
            f"{folder} holds {', '.join(path.name for path in found)}, and any of them may be {name}: put only one "
            "data set into a folder"
        )
    return found[0] if found else None


def inventory(folder: Path) -> str:
    """The contents of a folder in a few words, for a message."""
    if not folder.is_dir():
        return found_at(folder)
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"it holds {', '.join(names[:LISTED])}{more}" if names else "it is empty"
