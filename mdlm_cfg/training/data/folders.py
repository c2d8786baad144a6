"""Images in a folder for each class: FOLDER/CLASS/*.png, or FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data.examples import Examples, Part, assembled, listed, say, stacked
from mdlm_cfg.training.data.idx import inventory

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif")
KINDS = "PNG, JPEG, GIF"
LAYOUT = f"put images ({KINDS}) into FOLDER/CLASS, or into FOLDER/train/CLASS and FOLDER/test/CLASS"
NOT_OF_THE_DATA = (
    "__MACOSX",
    "Thumbs.db",
    "desktop.ini",
)  # files that operating systems add, as are names that begin with a dot
# where a PNG's header gives the bits per channel
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH = 24


def holds_class_folders(folder: Path) -> bool:
    """Whether this folder holds a folder with an image, or a folder of such folders."""
    inner = [path for path in _entries(folder) if path.is_dir()]
    return any(_is_image(path) for part in inner for path in _entries(part)) or any(
        _is_image(path) for part in inner for deeper in _entries(part) if deeper.is_dir() for path in _entries(deeper)
    )


def load_class_folders(folder: str | Path, relabel: bool = False) -> Examples:
    """The images of a folder, as grey values, with their folders' names as classes.

    Classes are in the order of their names, by number where all are numbers. Where there is no test folder, a tenth of
    every class is the test set, by one fixed draw. Both sets are in one fixed random order. Files that are not images
    and folders within a class are left out, with a message.

    Args:
        relabel: leave out classes without images instead of refusing them.

    Returns:
        train: uint8 (n, height, width); the rest as `Examples`.

    Raises:
        UserError: no images; an image that cannot be read, is animated, of another size, transparent or of more than 8
            bits; a class without images, of too few, or that only the test set has.
    """
    folder = Path(folder)
    parts = [folder / "train", folder / "test"]
    if not all(_class_names(part) for part in parts):
        names = _class_names(folder)
        return assembled(str(folder), _load(folder, names, relabel), None, (names, None), relabel)
    names, held = (_class_names(part) for part in parts)
    unknown = [name for name in held if name not in names]
    if unknown:
        raise UserError(f"{parts[1]} holds class {unknown[0]!r}, of which {parts[0]} has no images; add some")
    train, test = (_load(part, names, relabel, among) for part, among in zip(parts, (names, held)))
    return assembled(str(folder), train, test, (names, None), relabel, ("train", "test"))


def _entries(folder: Path) -> list[Path]:
    """The user's own entries in a folder, sorted by name; empty if it is not a folder."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in NOT_OF_THE_DATA)
    return sorted(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _class_names(folder: Path) -> tuple[str, ...]:
    names = [path.name for path in _entries(folder) if path.is_dir()]
    if all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=lambda name: (int(name), name))
    return tuple(names)


def _load(folder: Path, names: tuple[str, ...], relabel: bool, among: tuple[str, ...] | None = None) -> Part:
    """Grey images uint8 (n, height, width) of the classes `among`, and labels int64 (n,): indices into `names`."""
    images: list[tuple[str, np.ndarray]] = []
    labels: list[int] = []
    left_out: list[str] = []
    for name in among or names:
        entries = _entries(folder / name)
        paths = [path for path in entries if _is_image(path)]
        left_out += [str(path.relative_to(folder)) + "/" * path.is_dir() for path in entries if path not in paths]
        if not paths and not relabel:
            raise UserError(f"{folder / name} holds no images: {LAYOUT}; {inventory(folder / name)}")
        images += [(str(path), grey_values(path.read_bytes(), str(path))) for path in paths]
        labels += [names.index(name)] * len(paths)
    if not images:
        raise UserError(f"{folder} has no images by class: {LAYOUT}; {inventory(folder)}")
    if left_out:
        say(f"{folder}: only images ({KINDS}) directly in the folder of a class are read; left out: {listed(left_out)}")
    return stacked(images), np.array(labels)


def grey_values(content: bytes, where: str) -> np.ndarray:
    """The grey values 0..255 of an image file, uint8 (height, width); colours by their luma, turned as its EXIF says.

    Args:
        content: of the file. where: it is, for messages.

    Raises:
        UserError: a file that is damaged, animated, of more than 8 bits per channel, or with transparent pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if content[:8] == PNG_MAGIC and content[PNG_DEPTH : PNG_DEPTH + 1] == b"\x10":  # colours would be cut to 8 bits
        raise UserError(f"{where} has more than 8 bits per channel; save it with 8")
    try:
        with Image.open(BytesIO(content)) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise UserError(f"{where} is animated ({frames} images); write each into a file of its own")
            image.load()
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{where} has more than 8 bits per channel; save it with 8")
            has_alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
            if has_alpha and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                raise UserError(f"{where} has transparent pixels, which have no grey value: save it without them")
            return np.array(ImageOps.exif_transpose(image).convert("L"), dtype=np.uint8)
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)  # its message contains a memory address
        reason = f"it is not one of {KINDS}" if unknown else " ".join(str(error).split())
        raise UserError(f"{where} is not a readable image ({reason}); write it again") from error
