"""Sequences of tokens with a class each: labelled text, or arrays of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data.arrays import assembled, load_arrays
from mdlm_cfg.training.data.base import Loading, content_hash
from mdlm_cfg.training.data.labels import check_enough
from mdlm_cfg.training.data.stored import Examples, StoredData

LOADING: dict[str, Any] = {"batch_size": 64, "eval_batch_size": 250, "num_val": 1000, "num_test": None}
BLANK = "<blank>"  # the token that fills up short lines


class TokenData(StoredData):
    """Tokens with a class each, from a .npz: tokens (n, ...) and labels (n,), integers from 0.

    The file may also hold test_tokens and test_labels (else a tenth of every class is kept for testing, by one fixed
    draw), class_names (K,) and value_names (N,), arrays of text. Tokens (n, H, W) are on a grid.

    Args:
        dataset: path of the file.
        loading: see `Loading`; default batches of 64 and 250, 1,000 examples to validate on, all that is kept to test.

    Raises:
        UserError: a count below 1, or a file that is missing, unreadable, or holds something else.
    """

    example_kind = "tokens"

    def __init__(self, dataset: str | Path, **loading: Any) -> None:
        super().__init__(Loading(**(LOADING | loading)))
        self.path, self.name = Path(dataset), Path(dataset).resolve().stem or "data"
        self._ready = False

    def _load(self) -> Examples:
        return load_tokens(self.path)

    def prepare_data(self) -> None:
        """Nothing to fetch."""

    def setup(self, stage: str | None = None) -> None:
        """Read the file; the first training examples, in random order, are validated on too."""
        if self._ready:
            return
        found = self._load()
        check_enough(str(self.path), found.train_labels, 2, found.class_names)
        self.class_names, self.value_names = found.class_names, found.value_names
        self.num_classes, self.num_tokens = int(found.train_labels.max()) + 1, count_tokens(found)
        self.grid_shape = tuple(found.train.shape[1:])
        parts = (found.train, found.train_labels, found.test, found.test_labels)
        self._fingerprint = content_hash(*parts, str(self.num_tokens))
        self.train_x, self.train_labels = found.train.flatten(1), found.train_labels
        self._val = self.train_x[: self.num_val], self.train_labels[: self.num_val]
        self._test = found.test.flatten(1)[: self.num_test], found.test_labels[: self.num_test]
        self.steps_per_epoch = self._steps(1)
        self._ready = True

    def fingerprint(self) -> str:
        """A short hash of tokens and labels."""
        return self._fingerprint

class TextData(TokenData):
    """Labelled text: a line for each sequence, LABEL, a tab, TEXT; every character is a token.

    D is the longest text; shorter ones are filled up at the end with a token of their own, `<blank>`. A tenth of every
    class is kept for testing, by one fixed draw. Arguments as `TokenData`.
    """

    def _load(self) -> Examples:
        return load_text(self.path)


def load_text(path: Path) -> Examples:
    """The lines of a text file (UTF-8) as tokens int64 (n, D), with characters and labels as names.

    Raises:
        UserError: a file that is missing or no UTF-8, a line without a tab or text, or a class of too few lines.
    """
    labels, texts = _lines(path)
    classes = sorted(set(labels), key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    characters = sorted({character for text in texts for character in text})
    lengths = {len(text) for text in texts}
    value_names = [*characters, *([BLANK] if len(lengths) > 1 else [])]
    place = {character: k for k, character in enumerate(characters)}
    tokens = torch.full((len(texts), max(lengths)), len(characters))
    for row, text in zip(tokens, texts):
        row[: len(text)] = torch.tensor([place[character] for character in text])
    number = {name: k for k, name in enumerate(classes)}
    if len(lengths) > 1:
        rank_zero_info(f"{path}: {min(lengths)} to {max(lengths)} characters; shorter lines end in {BLANK} tokens")
    train = tokens.numpy(), np.array([number[label] for label in labels])
    return with_values(path, assembled(str(path), "lines", train, None, tuple(classes), tuple(value_names)))


def _lines(path: Path) -> tuple[list[str], list[str]]:
    """The labels and texts of a file's lines; empty lines are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: give a text with lines LABEL, a tab, TEXT") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start}); convert it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    labels, texts = [], []
    for number, line in enumerate((line.removesuffix("\r") for line in lines), start=1):
        if not line.strip():
            continue
        label, tab, text = line.partition("\t")
        if not (tab and text and label.strip()):
            raise UserError(f"line {number} of {path} must be LABEL, a tab, TEXT, and is {line[:40]!r}")
        labels.append(label.strip())
        texts.append(text)
    if not labels:
        raise UserError(f"{path} is empty: it must hold lines LABEL, a tab, TEXT")
    if len(set(labels)) > len(labels) // 2 and len(labels) > 2:
        raise UserError(
            f"{path} has {len(set(labels))} different labels on {len(labels)} lines: the label comes first, then a tab"
        )
    return labels, texts


def load_tokens(path: Path) -> Examples:
    """The arrays of a .npz: see `TokenData`.

    Raises:
        UserError: a file that is missing or unreadable, arrays of other shapes or types, negative tokens, labels with
            gaps, or a class of too few examples.
    """
    return with_values(path, load_arrays(path, "tokens"))


def with_values(where: Path, found: Examples) -> Examples:
    """The same; raises UserError where there is one value, or where there are names and not one for each."""
    largest = max(int(found.train.max()), int(found.test.max()))
    if found.value_names is not None and largest >= len(found.value_names):
        raise UserError(f"{where}: there are {len(found.value_names)} value_names, and tokens up to {largest}")
    if max(largest + 1, len(found.value_names or ())) < 2:
        raise UserError(f"{where}: every token is 0, so that there is nothing to learn; give at least two values")
    return found


def count_tokens(found: Examples) -> int:
    """N: as many as have names, else one more than the largest token."""
    if found.value_names is not None:
        return len(found.value_names)
    return max(int(found.train.max()), int(found.test.max())) + 1
