"""Tables from the user's own files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture

ARRAYS = ("class_pmfs", "class_weights")


def load_table(path: str | Path) -> TableMixture:
    """The mixture in a .npz file: arrays class_pmfs (K, N, ..., N) and class_weights (K,).

    Raises:
        UserError: a file that is missing, no .npz, lacks an array, or whose arrays are not probabilities.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}: give the path of a .npz with arrays {' and '.join(ARRAYS)}")
    arrays = _read(path)
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise UserError(f"{path} lacks {' and '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}")
    for name in ARRAYS:
        if arrays[name].dtype.kind not in "iuf":
            raise UserError(f"{path}: {name} must hold numbers, not {arrays[name].dtype}")
    try:
        return TableMixture(*(torch.from_numpy(arrays[name].astype(np.float64)) for name in ARRAYS))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise UserError("it holds a single array")
        with archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a readable .npz of arrays ({error}): write it with "
            "numpy.savez(FILE, class_pmfs=..., class_weights=...)"
        ) from error
