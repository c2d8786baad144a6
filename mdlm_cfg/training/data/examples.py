"""Examples with a class each: how labels are numbered, and how examples are held out for testing."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.checks import checked_names

TEST_SHARE = 0.1  # of every class, where the data come without a test set
LEAST = 2  # training examples of a class
IMBALANCE = 10  # ratio of the examples of two classes from which a message is printed
MOST_LISTED = 10  # values that a message names
Part = tuple[np.ndarray, np.ndarray]  # examples (n, ...) and labels (n,), whole numbers from 0
Names = tuple[str, ...]


@rank_zero_only
def say(line: str) -> None:
    """Print one line on stderr, from the first process only, on how data are interpreted."""
    print(line, file=sys.stderr)


@dataclass(frozen=True)
class Examples:
    """A training set and a test set, each example with its class.

    Attributes:
        train: (n, ...), any integer type.
        train_labels: int64 (n,), values 0..K-1.
        test: (m, ...), of the same shape otherwise.
        test_labels: int64 (m,), values 0..K-1.
        class_names: K of them, or None.
        value_names: N of them, or None.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    class_names: Names | None = None
    value_names: Names | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.train_labels.max()) + 1


def assembled(
    where: str,
    train: Part,
    test: Part | None,
    names: tuple[Names | None, Names | None] = (None, None),
    relabel: bool = False,
    shuffled: Collection[str] = ("train",),
) -> Examples:
    """Training and test examples whose labels number the classes from 0.

    Without a test set, a tenth of every class is kept for testing, by one fixed draw. Classes that have a name but no
    example are left out, with a message.

    Args:
        where: names the data in messages.
        train, test: examples and labels.
        names: of classes, one for each label, and of values.
        relabel: renumber labels that have gaps or do not begin at 0; the old ones become the names.
        shuffled: which of "train" and "test" to put into one fixed random order.

    Raises:
        UserError: labels with gaps without `relabel`, labels that only the test set has, too few or equal names, shapes
            that differ, or a class of too few examples.
    """
    train_labels, test_labels, class_names = _counted(
        where, train[1], None if test is None else test[1], names[0], relabel
    )
    x = torch.from_numpy(train[0])
    labels = torch.from_numpy(train_labels)
    if test is None:
        rows, test_rows = split(where, labels, class_names)
        say(f"{where}: {len(test_rows)} examples, {TEST_SHARE:.0%} of every class, are kept for testing")
        found = Examples(x[rows], labels[rows], x[test_rows], labels[test_rows], class_names, names[1])
    else:
        test_x = torch.from_numpy(test[0])
        test_y = torch.from_numpy(test_labels)
        if x.shape[1:] != test_x.shape[1:]:
            raise UserError(
                f"{where}: training examples have shape {tuple(x.shape[1:])} and test examples "
                f"{tuple(test_x.shape[1:])}; they must have the same shape"
            )
        order, test_order = (
            torch.randperm(len(y), generator=generator_for("split")) if part in shuffled else slice(None)
            for part, y in (("train", labels), ("test", test_y))
        )
        found = Examples(x[order], labels[order], test_x[test_order], test_y[test_order], class_names, names[1])
    return found


def _counted(
    where: str, train: np.ndarray, test: np.ndarray | None, names: Names | None, relabel: bool
) -> tuple[np.ndarray, np.ndarray, Names | None]:
    """Labels 0..K-1, int64, of both sets (none for a missing test set), and the names of the classes."""
    test = np.empty(0, np.int64) if test is None else test
    found = np.unique(train)
    last = int(found[-1])
    only_test = np.setdiff1d(test, found)
    if len(only_test):
        raise UserError(
            f"{where}: the test labels hold {listed(only_test, names)}, of which there is no training example; "
            f"the training labels are {listed(found, names)}: add training examples, or leave those out"
        )
    if names is not None:
        checked_names(f"{where}: class_names", names, max(last + 1, len(names)))
    if last == len(found) - 1 and found[0] == 0 and (names is None or len(names) == len(found)):
        return train.astype(np.int64), test.astype(np.int64), names
    if names is not None:
        unused = [name for k, name in enumerate(names) if k not in found]
        say(f"{where}: there is no example of class {listed(unused)}: the other {len(found)} classes are used")
    elif not relabel:
        raise UserError(
            f"{where}: the labels are {listed(found)}, and must number the classes from 0 without gaps, here 0 to "
            f"{len(found) - 1}: renumber them, or set data.relabel=true"
        )
    kept = tuple(str(k) if names is None else names[k] for k in found.tolist())
    return np.searchsorted(found, train).astype(np.int64), np.searchsorted(found, test).astype(np.int64), kept


def stacked(named: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Named examples stacked into one array; raises UserError unless all have the same shape."""
    first, one = named[0]
    for name, other in named:
        if other.shape != one.shape:
            raise UserError(
                f"{name} has shape {other.shape}, and {first} {one.shape}: all must have the same, so crop or pad them"
            )
    return np.stack([one for _, one in named])


def split(where: str, labels: Tensor, class_names: Names | None = None) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to test on: a tenth of every class (at least one), by one fixed draw.

    Both are in random order, so that any first part has examples of all classes.

    Args:
        where, class_names: for messages.
        labels: int64 (n,), classes 0..K-1 without gaps.

    Raises:
        UserError: a class of fewer than three examples (two to train on and one to test on).
    """
    check_enough(where, labels, 3, class_names)
    order = torch.randperm(len(labels), generator=generator_for("split"))
    shuffled = labels[order]
    test = torch.zeros(len(labels), dtype=torch.bool)
    for k, count in enumerate(torch.bincount(labels).tolist()):
        test[(shuffled == k).nonzero()[: max(1, round(TEST_SHARE * count)), 0]] = True
    return order[~test], order[test]


def held_out(where: str, labels: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Rows to train on, in their order, and rows to validate on, in random order, by one fixed draw.

    Every row is as likely as any other to be held out, whatever its class, but two of each class stay for training.

    Args:
        where: for messages.
        labels: int64 (n,), classes 0..K-1, each at least twice.
        num: how many rows to hold out.

    Raises:
        UserError: fewer than `num` rows remain besides two of each class.
    """
    order = torch.randperm(len(labels), generator=generator_for("held out for validation"))
    shuffled = labels[order]
    stays = torch.zeros(len(labels), dtype=torch.bool)
    for k in range(int(labels.max()) + 1):
        stays[(shuffled == k).nonzero()[:LEAST, 0]] = True
    free = order[~stays]
    if num > len(free):
        fewer = f"data.num_val to at most {len(free)}, or " if len(free) else ""
        raise UserError(
            f"{where}: num_val = {num} of {len(labels)} training examples cannot be held out for validation, because "
            f"{LEAST} of each class must stay for training: set {fewer}data.hold_out=false"
        )
    trained_on = torch.cat([order[stays], free[num:]])
    return trained_on.sort().values, free[:num]


def check_enough(where: str, labels: Tensor, least: int, class_names: Names | None = None) -> None:
    """Raise UserError if a class has fewer examples than `least`: a class of one can be neither learned nor evaluated.

    Args:
        where, class_names: for the message.
        labels: int64 (n,), classes 0..K-1 without gaps.
        least: examples that each class needs.
    """
    counts = torch.bincount(labels)
    few = (counts < least).nonzero().flatten().tolist()
    if few:
        count = int(counts[few[0]])
        raise UserError(
            f"{where}: class {listed(few[:1], class_names)} has {count} training example{'' if count == 1 else 's'}, "
            f"and needs at least {least}: add some, or leave the class out"
        )


def say_imbalance(where: str, shares: Tensor, names: Names | None, of_class: str) -> None:
    """Print one line if some class has many times the training examples, or the weight, of another.

    Args:
        where: the data. shares: (K,). of_class: a format string that names a share.
    """
    rare = int(shares.argmin())
    common = int(shares.argmax())
    if shares[common] >= IMBALANCE * shares[rare]:
        few, many = (f"class {listed([k], names)} has {of_class.format(shares[k].item())}" for k in (rare, common))
        say(
            f"{where}: {few}, and {many}; classes are drawn as often as they occur, so a network trained on them "
            "learns little about the rare ones"
        )


def listed(values: np.ndarray | Sequence[int | str], names: Names | None = None) -> str:
    """Labels or names as short text: "1 to 26", "0, 2, 5" or "cat, dog"; only the first ten of many."""
    plain = list(values.tolist() if isinstance(values, np.ndarray) else values)
    if names is not None:
        plain = [names[k] if k < len(names) else k for k in plain]
    first = plain[0]
    last = plain[-1]
    if len(plain) > 2 and isinstance(first, int) and isinstance(last, int) and last - first == len(plain) - 1:
        return f"{first} to {last}"
    more = f", ... ({len(plain)} of them)" if len(plain) > MOST_LISTED else ""
    return ", ".join(repr(value) if isinstance(value, str) else str(value) for value in plain[:MOST_LISTED]) + more
