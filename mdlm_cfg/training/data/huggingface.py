"""Data sets saved to disk by Hugging Face's `datasets`: images, or token ids, with a class each."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from os import SEEK_END
from pathlib import Path
from typing import Any

import numpy as np

from mdlm_cfg.support.atomic import read_mapping
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import found_at
from mdlm_cfg.training.data.arrays import as_images, checked, with_values
from mdlm_cfg.training.data.base import short_name
from mdlm_cfg.training.data.example_data import ExampleData
from mdlm_cfg.training.data.examples import Examples, Part, assembled, stacked
from mdlm_cfg.training.data.folders import grey_values
from mdlm_cfg.training.data.images import ImageData, on_levels

# the usual names of columns
IMAGE = "image"
TOKENS = "input_ids"
HOW = "save it with dataset.save_to_disk(FOLDER)"
END = b"\xff\xff\xff\xff\0\0\0\0"  # of every stream of Arrow


def saved_dataset(
    dataset: str,
    column: str | None = None,
    label: str = "label",
    levels: int | None = None,
    binarization: str | None = None,
    relabel: bool = False,
    **loading: Any,
) -> ExampleData:
    """The data module of a folder that `datasets` saved: of images or of token ids, according to its column.

    Args:
        dataset: the folder.
        column: of the examples: images (or arrays (height, width) of grey values), or lists of token ids, all of one
            length; None is "image", or else "input_ids".
        label: the column of the classes: names, or whole numbers.
        levels, binarization: of images, see `ImageData`.
        relabel: renumber labels that have gaps or do not begin at 0.
        loading: see `Loading`.

    Raises:
        UserError: a folder that does not hold a data set, or has no such column.
    """
    features = features_of(Path(dataset))
    if column is None:
        column = next((name for name in (IMAGE, TOKENS) if name in features), None)
    for name, key in ((column, "column"), (label, "label")):
        if name not in features:
            raise UserError(
                f"{dataset} has no column {f'{IMAGE} or {TOKENS}' if name is None else name}: it has "
                f"{', '.join(features) or 'none'}; say which with data.{key}=NAME"
            )
    assert column is not None
    load = partial(load_saved, Path(dataset), column, label, relabel)
    if is_image(features[column]):
        return SavedImages(load, dataset, 2 if levels is None else levels, binarization, **loading)
    if levels is not None or binarization is not None:
        raise UserError(f"{dataset}: column {column} holds no images: leave levels and binarization out")
    return ExampleData(lambda: with_values(Path(dataset), load()), short_name(dataset), **loading)


class SavedImages(ImageData):
    """Images that `load` returns; other arguments as `ImageData`."""

    def __init__(
        self, load: Callable[[], Examples], dataset: str, levels: int, binarization: str | None, **loading: Any
    ) -> None:
        super().__init__(dataset, binarization=binarization, levels=levels, **loading)
        self._load_columns = load

    def _load_images(self) -> Examples:
        return on_levels(self.dataset, as_images(self.dataset, self._load_columns()), self.num_tokens)


def holds_sequences(folder: str | Path) -> bool:
    """Whether the folder holds a saved data set with token ids and no images; False if none can be read."""
    try:
        features = features_of(Path(folder))
    except UserError:
        return False
    return IMAGE not in features and TOKENS in features


def is_image(feature: Any) -> bool:
    """Whether a column's type, as stored in its file, is an image or an array of two axes."""
    depth = 0
    while isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
        depth = depth + 1
    if isinstance(feature, list):  # how older versions write a sequence
        feature = feature[0]
        depth = depth + 1
    kind = feature.get("_type") if isinstance(feature, dict) else None
    return kind in ("Image", "Array2D") or depth == 2


def features_of(folder: Path) -> dict[str, Any]:
    """The columns of a saved data set (of its training part) and their types, by name; nothing else is read.

    Raises:
        UserError: no saved data set, or one without a training part.
    """
    if not folder.is_dir():
        raise UserError(f"{found_at(folder)}: {HOW}")
    part = folder
    if (folder / "dataset_dict.json").is_file():
        part = folder / "train"
        if not part.is_dir():
            held = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "none"
            raise UserError(f"{folder} has no part train: it has {held}; save a DatasetDict with train (and test)")
    found = read_mapping(part / "dataset_info.json")
    if "features" not in found:
        raise UserError(f"{folder} is not a data set that `datasets` saved (dataset_info.json): {HOW}")
    return found["features"] if isinstance(found["features"], dict) else {}


def load_saved(folder: Path, column: str, label: str, relabel: bool = False) -> Examples:
    """The examples of one column with the classes of another: int64 (n, ...), and names if there are any.

    A DatasetDict's part "test" is the test set; otherwise a tenth of every class is kept for testing.

    Raises:
        UserError: `datasets` is not installed, a folder it cannot read, or columns that hold something else.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("data=datasets needs the package datasets: pip install 'mdlm-cfg[datasets]'") from error
    try:
        parts = {part: _rows(place, f"{folder} ({part})", datasets) for part, place in _parts(folder).items()}
        names = _class_names(parts["train"], label)
        labelled = {
            part: _labelled(f"{folder} ({part})", _undecoded(rows, column, datasets), column, label, names)
            for part, rows in parts.items()
        }
    except (UserError, MemoryError):
        raise
    except Exception as error:  # pyarrow and PIL raise errors of any type
        raise UserError(f"{folder} cannot be read ({' '.join(str(error).split())[:200]}): {HOW}") from error
    return assembled(str(folder), labelled["train"], labelled.get("test"), (names, None), relabel)


def _parts(folder: Path) -> dict[str, Path]:
    """The folders of the parts "train" and, if there is one, "test" of a saved data set."""
    index = folder / "dataset_dict.json"
    if not index.is_file():
        return {"train": folder}
    held = json.loads(index.read_text(encoding="utf-8"))["splits"]
    return {part: folder / part for part in ("train", "test") if part in held}


def _rows(folder: Path, where: str, datasets: Any) -> Any:
    """The rows of a part of a saved data set; raises UserError if it has none, or a file is truncated."""
    has_files = json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]
    rows = datasets.load_from_disk(str(folder)) if has_files else ()  # it cannot load a data set without files
    if len(rows) == 0:
        raise UserError(f"{where} has no examples: save a data set that has some")
    _check_whole(rows)
    return rows


def _check_whole(rows: Any) -> None:
    """Raise UserError for a file that is cut off between two batches, which pyarrow takes for the end of the file."""
    for entry in rows.cache_files:
        path = Path(entry["filename"])
        with path.open("rb") as file:
            file.seek(-min(len(END), path.stat().st_size), SEEK_END)
            if file.read() != END:
                raise UserError(f"{path} is truncated: copy it again, or {HOW}")


def _undecoded(rows: Any, column: str, datasets: Any) -> Any:
    """Images as the bytes of their files: once decoded, their original bit depth is lost."""
    if column in rows.features and isinstance(rows.features[column], datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _class_names(rows: Any, label: str) -> tuple[str, ...] | None:
    """The column's own class names, or the labels if they are text; None for whole numbers."""
    feature = rows.features[label]
    if getattr(feature, "names", None):
        return tuple(feature.names)
    if getattr(feature, "dtype", None) in ("string", "large_string"):
        return tuple(sorted({str(name) for name in rows[label]}))
    return None


def _labelled(where: str, rows: Any, column: str, label: str, names: tuple[str, ...] | None) -> Part:
    """One part of a data set, its classes numbered as in `names`, which are those of the training part."""
    if column not in rows.features or label not in rows.features:
        raise UserError(f"{where} lacks column {column} or {label}: it has {', '.join(rows.features)}")
    labels = list(rows[label])
    numbered = tuple(getattr(rows.features[label], "names", None) or ())
    if names is not None and numbered not in ((), names):  # a part may number the same classes in another order
        labels = [numbered[k] if k in range(len(numbered)) else k for k in labels]
    if isinstance(labels[0], str) and names is not None:
        unknown = [name for name in labels if name not in names]
        if unknown:
            raise UserError(f"{where} holds class {unknown[0]!r}, of which there is no training example; add some")
        place = {name: k for k, name in enumerate(names)}
        labels = [place[name] for name in labels]
    named = ((f"{where}: {column} {number}", value) for number, value in enumerate(rows[column]))
    values = stacked([(name, _array(name, value)) for name, value in named])
    return checked(where, (column, values), (label, np.array(labels)))


def _array(where: str, value: Any) -> np.ndarray:
    """One example as an array; an image file, {"bytes": ..., "path": ...}, becomes grey values."""
    if isinstance(value, dict) and {"bytes", "path"} <= value.keys():
        content = value["bytes"]
        if content is None and value["path"] is None:
            raise UserError(f"{where} is empty: give every row an image")
        return grey_values(Path(value["path"]).read_bytes() if content is None else content, where)
    if value is None:
        raise UserError(f"{where} is empty: give every row an example")
    return np.asarray(value)
