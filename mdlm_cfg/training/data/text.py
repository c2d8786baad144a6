"""Labelled text: a line for each sequence, LABEL, a tab, TEXT; every character is a token."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import check_is_file
from mdlm_cfg.training.data.arrays import with_values
from mdlm_cfg.training.data.examples import Examples, assembled, say

BLANK = "<blank>"  # the token that pads short lines


def load_text(path: Path, relabel: bool = False) -> Examples:
    """The lines of a text file (UTF-8) as tokens int64 (n, D), with characters and labels as names.

    D is the length of the longest text; shorter ones are padded at the end with a special token, `<blank>`. A tenth of
    every class is kept for testing, by one fixed draw.

    Args:
        relabel: has no effect: labels are text, numbered in sorted order.

    Raises:
        UserError: a file that is missing or not UTF-8, a line without a tab or text, or a class of too few lines.
    """
    numbers, labels, texts = _lines(path)
    classes = sorted(set(labels), key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    characters = sorted({character for text in texts for character in text})
    lengths = [len(text) for text in texts]
    is_even = min(lengths) == max(lengths)
    value_names = (*characters, *(() if is_even else (BLANK,)))
    place = {character: k for k, character in enumerate(characters)}
    tokens = np.full((len(texts), max(lengths)), len(characters))
    for row, text in zip(tokens, texts):
        row[: len(text)] = [place[character] for character in text]
    if not is_even:
        longest = numbers[lengths.index(max(lengths))]
        say(
            f"{path}: {min(lengths):,} to {max(lengths):,} characters (line {longest} is the longest); shorter lines "
            f"end in {BLANK} tokens"
        )
    controls = [character for character in characters if unicodedata.category(character) == "Cc"]
    if controls:  # such as a third column
        first = next(k for k, text in zip(numbers, texts) if not set(controls).isdisjoint(text))
        say(f"{path}: {', '.join(map(repr, controls))} are tokens too (line {first}): all after the first tab is text")
    number = {name: k for k, name in enumerate(classes)}
    train = tokens, np.array([number[label] for label in labels])
    return with_values(path, assembled(str(path), train, None, (tuple(classes), value_names), relabel))


def _lines(path: Path) -> tuple[list[int], list[str], list[str]]:
    """The numbers, labels and texts of a file's lines; empty lines are left out."""
    check_is_file(path, "give a text with lines LABEL, a tab, TEXT")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start}); convert it") from error
    numbers = []
    labels = []
    texts = []
    for number, line in enumerate((line.removesuffix("\r") for line in lines), start=1):
        if not line.strip():
            continue
        label, tab, text = line.partition("\t")
        if not (tab and text and label.strip()):
            raise UserError(f"line {number} of {path} must be LABEL, a tab, TEXT, and is {line[:40]!r}")
        numbers.append(number)
        labels.append(label.strip())
        texts.append(text)
    if not labels:
        raise UserError(f"{path} is empty: it must hold lines LABEL, a tab, TEXT")
    if len(set(labels)) > len(labels) // 2 and len(labels) > 2:
        raise UserError(
            f"{path} has {len(set(labels))} different labels on {len(labels)} lines: the label comes first, then a tab"
        )
    return numbers, labels, texts
