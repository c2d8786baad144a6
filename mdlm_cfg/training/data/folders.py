"""Images in a folder for each class: DIR/CLASS/*.png, or DIR/train/CLASS/*.png and DIR/test/CLASS/*.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.training.data.idx import DataError, inventory
from mdlm_cfg.training.data.labels import TEST_SHARE, split
from mdlm_cfg.training.data.stored import Examples

LAYOUT = "put images into FOLDER/CLASS/*.png, or into FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png"


def holds_class_folders(folder: Path) -> bool:
    """Whether there is a folder in this one with a PNG, or a folder of such."""
    return any(next(folder.glob(pattern), None) for pattern in ("*/*.[pP][nN][gG]", "*/*/*.[pP][nN][gG]"))


def load_class_folders(folder: str | Path) -> Examples:
    """The PNGs of a folder, as grey values, with the names of their folders for classes.

    Classes are in the order of their names, by number where all are numbers. Where there is no test folder, a tenth of
    every class is the test set, by one fixed draw (`labels.split`). Both sets are in one fixed random order.

    Returns:
        train: uint8 (n, height, width); the rest as `Examples`.

    Raises:
        DataError: no images there.
        UserError: an image that cannot be read, is of another size, transparent or of 16 bits; a class without images,
            of too few, or that only the test set has.
    """
    folder = Path(folder)
    parts = [folder / "train", folder / "test"]
    apart = all(_subfolders(part) for part in parts)
    names = _class_names(parts[0] if apart else folder)
    if apart:
        unknown = [name for name in _class_names(parts[1]) if name not in names]
        if unknown:
            raise UserError(f"{parts[1]} holds class {unknown[0]!r}, of which {parts[0]} has no images; add some")
        train, train_labels = _shuffled(*_load(parts[0], names))
        test, test_labels = _shuffled(*_load(parts[1], [name for name in names if (parts[1] / name).is_dir()], names))
        if train.shape[1:] != test.shape[1:]:
            raise UserError(
                f"{folder}: training images are {tuple(train.shape[1:])} and test images {tuple(test.shape[1:])}; "
                "they must be of one size"
            )
        return Examples(train, train_labels, test, test_labels, tuple(names))
    images, labels = _load(folder, names)
    rows, test_rows = split(str(folder), labels, names)
    rank_zero_info(f"{folder}: {len(test_rows)} images, {TEST_SHARE:.0%} of every class, are kept for testing")
    return Examples(images[rows], labels[rows], images[test_rows], labels[test_rows], tuple(names))


def _shuffled(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(labels), generator=generator_for("split"))
    return images[order], labels[order]


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _class_names(folder: Path) -> list[str]:
    names = [path.name for path in _subfolders(folder)]
    if not names:
        raise DataError(f"{folder} has no folder for a class: {LAYOUT}; {inventory(folder)}")
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _load(folder: Path, names: Sequence[str], among: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Grey images uint8 (n, height, width) of these classes, and labels int64 (n,): places in `among`, else `names`."""
    places = {name: k for k, name in enumerate(names if among is None else among)}
    images: list[np.ndarray] = []
    labels: list[int] = []
    first: Path | None = None
    for name in names:
        paths = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() == ".png")
        if not paths:
            raise DataError(f"{folder / name} holds no PNG: {LAYOUT}; {inventory(folder / name)}")
        for path in paths:
            images.append(_read_grey(path))
            first = first or path
            if images[-1].shape != images[0].shape:
                raise UserError(
                    f"{path} is {_size(images[-1])} pixels and {first} {_size(images[0])}; they must be of one size"
                )
        labels += [places[name]] * len(paths)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def _size(image: np.ndarray) -> str:
    return " x ".join(str(side) for side in image.shape)


def _read_grey(path: Path) -> np.ndarray:
    """The grey values 0..255 of an image, uint8 (height, width); colours by their luma."""
    from PIL import Image  # comes with torchvision

    try:
        with Image.open(path) as image:
            return grey_values(image, str(path))
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable PNG ({' '.join(str(error).split())}); write it again") from error


def grey_values(image: Any, where: str) -> np.ndarray:
    """The grey values 0..255 of a PIL image, uint8 (height, width); colours by their luma.

    Raises:
        UserError: an image, `where` it is, of more than 8 bits a pixel or transparent in places.
    """
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{where} has more than 8 bits a pixel; write it with 8")
    has_alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    if has_alpha and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise UserError(f"{where} is transparent in places; write it without, so that its grey values are sure")
    return np.array(image.convert("L"), dtype=np.uint8)
