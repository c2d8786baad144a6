"""Arrays of examples in a .npz, and checks of arrays from any source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.files import names_in, read_npz
from mdlm_cfg.training.data.examples import Examples, Part, assembled

MOST_TOKENS = 2**18  # N; a network has a row for each token
WHITE = 255


def load_arrays(path: Path, what: str, relabel: bool = False) -> Examples:
    """The arrays `what` (n, ...) and labels (n,) of a .npz, whole numbers from 0.

    It may also hold those of a test set under the same names with test_ before them (else a tenth of every class is
    kept for testing, by one fixed draw), class_names (K,) and value_names (N,), arrays of text.

    Raises:
        UserError: a file that is missing or unreadable, arrays of other shapes or types, negative values, labels with
            gaps, or a class of too few examples.
    """
    tests = (f"test_{what}", "test_labels")
    names = ("class_names", "value_names")
    arrays = read_npz(path, (what, "labels"), (*tests, *names))
    classes, values = (names_in(path, name, arrays) for name in names)
    most = WHITE if what == "images" else MOST_TOKENS - 1
    train = checked(str(path), (what, arrays[what]), ("labels", arrays["labels"]), most)
    if len(held := [name for name in tests if name in arrays]) == 1:
        raise UserError(f"{path} holds one of {tests[0]} and {tests[1]}; give both or neither")
    test = None
    if held:
        of_examples, of_labels = ((name, arrays[name]) for name in tests)
        test = checked(str(path), of_examples, of_labels, most)
    return assembled(str(path), train, test, (classes, values), relabel)


def load_tokens(path: Path, relabel: bool = False) -> Examples:
    """The arrays tokens (n, D) or (n, H, W) and labels of a .npz; raises UserError as `load_arrays`, `with_values`."""
    return with_values(path, load_arrays(path, "tokens", relabel))


def as_images(where: str, found: Examples) -> Examples:
    """The same examples in uint8; raises UserError unless each is (height, width) with values up to 255."""
    largest = max(int(found.train.max()), int(found.test.max()))
    if found.train.ndim != 3 or largest > WHITE:
        raise UserError(
            f"{where}: images must have shape (n, height, width) and grey values 0 to {WHITE}, and are "
            f"{tuple(found.train.shape)} with values up to {largest}"
        )
    parts = found.train.to(torch.uint8), found.train_labels, found.test.to(torch.uint8), found.test_labels
    return Examples(*parts, found.class_names)


def with_values(where: Path, found: Examples) -> Examples:
    """The same examples; raises UserError for a single value, or if there are value names but not one for each."""
    largest = max(int(found.train.max()), int(found.test.max()))
    if found.value_names is not None and largest >= len(found.value_names):
        raise UserError(f"{where}: there are {len(found.value_names)} value_names, and tokens up to {largest}")
    if count_tokens(found) < 2:
        raise UserError(f"{where}: every token is 0, so there is nothing to learn; give at least two values")
    return found


def count_tokens(found: Examples) -> int:
    """N: the number of value names, else one more than the largest token."""
    if found.value_names is not None:
        return len(found.value_names)
    return max(int(found.train.max()), int(found.test.max())) + 1


def checked(
    where: str, examples: tuple[str, np.ndarray], labels: tuple[str, np.ndarray], most: int = MOST_TOKENS - 1
) -> Part:
    """Both arrays, by name; raises UserError unless they hold whole numbers from 0 and their shapes agree.

    Args:
        most: the largest value of an example.

    Returns:
        examples in uint8 if they are images, else in int64; labels in int64.
    """
    for (name, array), last in ((examples, most), (labels, MOST_TOKENS - 1)):
        if array.size == 0:
            held = "values" if len(array) else "examples"
            raise UserError(f"{where} has no {held}: {name} has shape {array.shape}")
        if array.dtype.kind not in "iu":
            raise UserError(f"{where}: {name} must be whole numbers, and is {array.dtype} of shape {array.shape}")
        if int(array.min()) < 0 or int(array.max()) > last:
            raise UserError(f"{where}: {name} run from {array.min()} to {array.max()}, and must lie within 0 to {last}")
    (name, x) = examples
    (label_name, y) = labels
    if x.ndim < 2 or y.shape != x.shape[:1]:
        raise UserError(
            f"{where}: {name} must have shape (n, D) or (n, H, W) and {label_name} (n,); they are {x.shape} and "
            f"{y.shape}"
        )
    return x.astype(np.uint8 if most == WHITE else np.int64, copy=False), y.astype(np.int64)
