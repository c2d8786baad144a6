"""Tables from the user's own files, and how a .npz is read without trusting it."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import check_is_file
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import TableMixture

ARRAYS = ("class_pmfs", "class_weights")
MARKOV_ARRAYS = ("initial", "transition", "emission", "class_weights", "num_dims")
NAMES = ("class_names", "value_names")
MOST_BYTES = 2**32  # of one array


def load_table(path: str | Path) -> TableMixture:
    """The mixture in a .npz file: arrays class_pmfs (K, N, ..., N) and class_weights (K,).

    It may also hold class_names (K,) and value_names (N,), arrays of text.

    Raises:
        UserError: a file that is missing, no .npz, lacks an array, or whose arrays are not probabilities or names.
    """
    path = Path(path)
    arrays = read_npz(path, ARRAYS, NAMES)
    _check_has_classes(path, arrays)
    pmfs, weights = (_numbers_in(path, name, arrays) for name in ARRAYS)
    if pmfs.ndim > 1 and pmfs.shape[1] == 1:
        raise UserError(
            f"{path}: class_pmfs of shape {tuple(pmfs.shape)} give every coordinate only one value; give N >= 2"
        )
    names = {name: names_in(path, name, arrays) for name in NAMES}
    try:
        return TableMixture(pmfs, weights, **names)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def load_hidden_markov(path: str | Path, num_dims: int | None = None) -> HiddenMarkovMixture:
    """The hidden Markov mixture in a .npz file: see `HiddenMarkovMixture` for its arrays.

    They are initial (K, S), transition (K, S, S), emission (K, S, N), class_weights (K,) and num_dims, a whole number;
    it may also hold class_names (K,) and value_names (N,), arrays of text.

    Args:
        num_dims: D, in place of the file's.

    Raises:
        UserError: a file that is missing, no .npz, lacks an array, or whose arrays are not probabilities or names.
    """
    path = Path(path)
    required = MARKOV_ARRAYS if num_dims is None else MARKOV_ARRAYS[:-1]
    arrays = read_npz(path, required, NAMES)
    _check_has_classes(path, arrays)
    initial, transition, emission, weights = (_numbers_in(path, name, arrays) for name in MARKOV_ARRAYS[:-1])
    if num_dims is None:
        length = arrays["num_dims"]
        if length.dtype.kind not in "iu" or length.size != 1:
            raise UserError(f"{path}: num_dims must be one whole number, not {length.dtype} of shape {length.shape}")
        num_dims = int(length.item())
    if emission.ndim == 3 and emission.shape[2] == 1:
        raise UserError(f"{path}: emission of shape {tuple(emission.shape)} allows only one value; give N >= 2")
    names = {name: names_in(path, name, arrays) for name in NAMES}
    try:
        return HiddenMarkovMixture(initial, transition, emission, weights, num_dims=num_dims, **names)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_has_classes(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if arrays["class_weights"].size == 0:
        raise UserError(f"{path} has no classes: class_weights has shape {arrays['class_weights'].shape}")


def _numbers_in(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Tensor:
    """An array as float64; raises UserError where it holds no numbers."""
    if arrays[name].dtype.kind not in "iuf":
        raise UserError(f"{path}: {name} must hold numbers, not {arrays[name].dtype}")
    return torch.from_numpy(np.ascontiguousarray(arrays[name], dtype=np.float64))


def names_in(path: Path, name: str, arrays: dict[str, np.ndarray]) -> tuple[str, ...] | None:
    """The names in an array of text, None if it is absent; raises UserError unless it is a list of text."""
    if name not in arrays:
        return None
    if arrays[name].dtype.kind != "U" or arrays[name].ndim != 1:
        raise UserError(f"{path}: {name} must be a list of text, not {arrays[name].dtype} of {arrays[name].shape}")
    return tuple(arrays[name].tolist())


def read_npz(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The named arrays of a .npz; others in it are not read, and pickles never are.

    Each array's header is read first: one that promises another size than the archive's entry, or more than 4 GiB, is
    refused before anything is allocated.

    Raises:
        UserError: a file that is missing, no .npz, or lacks an array.
    """
    check_is_file(path, f"give the path of a .npz with arrays {' and '.join(required)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: give a .npz with arrays {' and '.join(required)}")
    try:
        with zipfile.ZipFile(path) as archive:
            held = {name.removesuffix(".npy"): name for name in archive.namelist()}
            missing = [name for name in required if name not in held]
            if missing:
                found = ", ".join(held) or "nothing"
                raise UserError(f"{path} lacks {' and '.join(missing)}; it holds {found}")
            return {name: _read_array(archive, held[name]) for name in (*required, *optional) if name in held}
    except (UserError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib and numpy's parser of headers raise errors of many types
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a position before the beginning
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        how = ", ".join(f"{name}=..." for name in required)
        raise UserError(
            f"{path} is not a readable .npz of arrays ({' '.join(str(error).split())}): write it with "
            f"numpy.savez(FILE, {how})"
        ) from error


def _read_array(archive: zipfile.ZipFile, entry: str) -> np.ndarray:
    """One array of an archive; raises ValueError where its header and its size disagree, or it holds objects."""
    size = archive.getinfo(entry).file_size
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{entry} holds Python objects, not numbers")
        promised = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if promised != size - file.tell() or promised > MOST_BYTES:
            raise ValueError(
                f"{entry} of shape {shape} takes {promised} bytes, and the file holds {size - file.tell()}; "
                f"at most {MOST_BYTES}"
            )
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
