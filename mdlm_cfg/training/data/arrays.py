"""Arrays of examples with a class each, and what must hold of them wherever they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.files import names_in, read_npz
from mdlm_cfg.targets.table import checked_names
from mdlm_cfg.training.data.labels import TEST_SHARE, check_no_gaps, check_test_labels, split
from mdlm_cfg.training.data.stored import Examples

MOST_TOKENS = 2**18  # N; a network has a row for each
WHITE = 255
Labelled = tuple[np.ndarray, np.ndarray]  # int64 (n, ...) and int64 (n,)


def load_arrays(path: Path, what: str) -> Examples:
    """The arrays `what` (n, ...) and labels (n,) of a .npz, whole numbers from 0.

    It may also hold those of a test set under the same names with test_ before them (else a tenth of every class is
    kept for testing, by one fixed draw), class_names (K,) and value_names (N,), arrays of text.

    Raises:
        UserError: a file that is missing or unreadable, arrays of other shapes or types, negative values, labels with
            gaps, or a class of too few examples.
    """
    names = ("class_names", "value_names")
    tests = (f"test_{what}", "test_labels")
    arrays = read_npz(path, (what, "labels"), (*tests, *names))
    classes, values = (names_in(path, name, arrays) for name in names)
    train = checked(str(path), (what, arrays[what]), ("labels", arrays["labels"]))
    if len(held := [name for name in tests if name in arrays]) == 1:
        raise UserError(f"{path} holds one of {tests[0]} and {tests[1]}; give both or neither")
    test = checked(str(path), *((name, arrays[name]) for name in tests)) if held else None
    return assembled(str(path), what, train, test, classes, values)


def load_image_arrays(path: Path) -> Examples:
    """The arrays images (n, height, width) with grey values 0..255, or with tokens, and labels of a .npz; train uint8.

    Raises:
        UserError: as `load_arrays`, and for arrays that are no images.
    """
    return as_images(str(path), load_arrays(path, "images"))


def as_images(where: str, found: Examples) -> Examples:
    """The same in uint8; raises UserError unless each is (height, width) with values up to 255."""
    largest = max(int(found.train.max()), int(found.test.max()))
    if found.train.ndim != 3 or largest > WHITE:
        raise UserError(
            f"{where}: images must have shape (n, height, width) and grey values 0 to {WHITE}, and are "
            f"{tuple(found.train.shape)} with values up to {largest}"
        )
    parts = found.train.to(torch.uint8), found.train_labels, found.test.to(torch.uint8), found.test_labels
    return Examples(*parts, found.class_names)


def checked(where: str, examples: tuple[str, np.ndarray], labels: tuple[str, np.ndarray]) -> Labelled:
    """Both, by their names, in int64; raises UserError for other than whole numbers from 0, or shapes that disagree."""
    for name, array in (examples, labels):
        if array.dtype.kind not in "iu" or array.size == 0:
            raise UserError(f"{where}: {name} must be whole numbers, and is {array.dtype} of shape {array.shape}")
        if int(array.min()) < 0 or int(array.max()) >= MOST_TOKENS:
            raise UserError(
                f"{where}: {name} run from {array.min()} to {array.max()}, and must lie within 0 to {MOST_TOKENS - 1}"
            )
    (name, x), (label_name, y) = examples, labels
    if x.ndim < 2 or y.shape != x.shape[:1]:
        raise UserError(
            f"{where}: {name} must have shape (n, D) or (n, H, W) and {label_name} (n,), and are {x.shape} and {y.shape}"
        )
    return x.astype(np.int64), y.astype(np.int64)


def assembled(
    where: str,
    what: str,
    train: Labelled,
    test: Labelled | None,
    class_names: tuple[str, ...] | None,
    value_names: tuple[str, ...] | None = None,
) -> Examples:
    """Training and test set in random order; without a test set, a tenth of every class apart for testing.

    Args:
        where: to name in messages. what: the examples are, likewise.
        train, test: whole numbers and labels, as `checked` gives them.

    Raises:
        UserError: labels with gaps, or that only the test set has, too few or as many names, shapes that differ.
    """
    x, labels = (torch.from_numpy(array) for array in train)
    check_no_gaps(where, train[1])
    checked_names(f"{where}: class_names", class_names, int(labels.max()) + 1)
    if test is None:
        rows, test_rows = split(where, labels, class_names)
        rank_zero_info(f"{where}: {len(test_rows)} examples, {TEST_SHARE:.0%} of every class, are kept for testing")
        return Examples(x[rows], labels[rows], x[test_rows], labels[test_rows], class_names, value_names)
    check_test_labels(where, train[1], test[1])
    if train[0].shape[1:] != test[0].shape[1:]:
        raise UserError(
            f"{where}: {what} are {train[0].shape[1:]} and test_{what} {test[0].shape[1:]}; make them alike"
        )
    order = torch.randperm(len(labels), generator=generator_for("split"))
    test_x, test_labels = (torch.from_numpy(array) for array in test)
    return Examples(x[order], labels[order], test_x, test_labels, class_names, value_names)
