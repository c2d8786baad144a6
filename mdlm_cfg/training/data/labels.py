"""Class labels: what is refused, how they are counted from 0, and how examples are split for testing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for

TEST_SHARE = 0.1  # of every class, where the data come without a test set


def check_test_labels(where: str, train: np.ndarray, test: np.ndarray) -> None:
    """Raise UserError if a class has test examples and no training examples.

    Args:
        where: to name in the message.
        train: integers (n,), n > 0.
        test: integers (m,), m > 0.
    """
    only_test = np.setdiff1d(test, train).tolist()
    if only_test:
        raise UserError(
            f"{where}: the test labels hold {listed(only_test)}, of which there is no training example; "
            f"the training labels are {listed(np.unique(train).tolist())}: add training examples, or leave those out"
        )


def check_no_gaps(where: str, labels: np.ndarray) -> None:
    """Raise UserError unless the labels, integers (n,), are 0..K-1 without gaps."""
    found = np.unique(labels)
    if found[0] != 0 or found[-1] != len(found) - 1:
        raise UserError(
            f"{where}: the labels are {listed(found.tolist())}, and must count classes from 0 without gaps, "
            f"here 0 to {len(found) - 1}: relabel them, or let data=idx data.relabel=true do so"
        )


def check_enough(where: str, labels: Tensor, least: int, names: Sequence[str] | None = None) -> None:
    """Raise UserError unless every class has so many examples: a class of one can be neither learned nor judged.

    Args:
        labels: int64 (n,), classes 0..K-1 without gaps.
        least: examples that each class needs. names: of the classes, if they have any.
    """
    counts = torch.bincount(labels)
    few = (counts < least).nonzero().flatten().tolist()
    if few:
        raise UserError(
            f"{where}: class {few[0] if names is None else names[few[0]]} has {int(counts[few[0]])} training example{'' if counts[few[0]] == 1 else 's'}, "
            f"and needs at least {least}: add some, or leave the class out"
        )


def relabelled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Labels counted from 0 in the order of the old ones, int64, and the old ones as the classes' names.

    Args:
        train: integers (n,); test: integers (m,), none that the training labels lack.
    """
    found, new = np.unique(train, return_inverse=True)
    names = tuple(str(label) for label in found.tolist())
    return new.astype(np.int64), np.searchsorted(found, test).astype(np.int64), names


def split(where: str, labels: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to test on: a tenth of every class (at least one), by one fixed draw.

    Both come in random order, so that the first so many are of all classes.

    Args:
        labels: int64 (n,), classes 0..K-1 without gaps. names: of the classes, if they have any.

    Raises:
        UserError: a class of fewer than three examples, two to train on and one to test on.
    """
    check_enough(where, labels, 3, names)
    order = torch.randperm(len(labels), generator=generator_for("split"))
    shuffled = labels[order]
    test = torch.zeros(len(labels), dtype=torch.bool)
    for k, count in enumerate(torch.bincount(labels).tolist()):
        test[(shuffled == k).nonzero()[: max(1, round(TEST_SHARE * count)), 0]] = True
    return order[~test], order[test]


def listed(values: list[int]) -> str:
    """Whole numbers in a few words: "1 to 26", or "0, 2, 5"; the first ten of many."""
    if len(values) > 2 and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]} to {values[-1]}"
    more = f", ... ({len(values)} of them)" if len(values) > 10 else ""
    return ", ".join(str(value) for value in values[:10]) + more
