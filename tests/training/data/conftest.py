"""A small data set of images for the tests of data modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from idx_files import write_dataset


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A folder of synthetic digits, 8 x 8: class k has k bright columns, and everything else is noise."""
    rng = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    for num in (90, 30):
        labels = np.arange(num, dtype=np.uint8) % 3
        images = rng.integers(0, 120, (num, 8, 8), dtype=np.uint8)
        for image, k in zip(images, labels, strict=True):
            image[:, : 2 * k] = 255
        arrays += [images, labels]
    write_dataset(tmp_path / "MNIST" / "raw", arrays)
    return str(tmp_path)
