"""Folders of random images by class, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def write_png(path: Path, pixels: np.ndarray, mode: str = "L") -> None:
    """Write an image, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def write_classes(
    folder: Path, counts: dict[str, int], size: tuple[int, int] = (4, 6), suffix: str = ".png"
) -> dict[str, np.ndarray]:
    """Random images by class, with their pixels."""
    made = {}
    for name, count in counts.items():
        made[name] = RNG.integers(0, 256, (count, *size), dtype=np.uint8)
        for number, pixels in enumerate(made[name]):
            write_png(folder / name / f"{number:03d}{suffix}", pixels)
    return made
