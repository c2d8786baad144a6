"""The same 66 examples stored as data of each kind, with labels 1, 6 and 11; all examples differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from idx_files import write_dataset

from mdlm_cfg.training.data import ExampleData, ImageData, saved_dataset, token_file

Make = Callable[..., ExampleData]

NUM_TEST = 6  # where a kind stores examples for testing apart
X = np.random.default_rng(0).integers(0, 7, (60 + NUM_TEST, 4, 4))
GREY = (40 * X).astype(np.uint8)
GAPS = np.arange(len(X)) % 3 * 5 + 1


def idx(folder: Path) -> Make:
    write_dataset(folder, [GREY[:-NUM_TEST], GAPS[:-NUM_TEST], GREY[-NUM_TEST:], GAPS[-NUM_TEST:]])
    return lambda **more: ImageData(str(folder), levels=256, **more)


def images(folder: Path) -> Make:
    np.savez(folder / "i.npz", images=GREY, labels=GAPS)
    return lambda **more: ImageData(str(folder / "i.npz"), levels=256, **more)


def tokens(folder: Path) -> Make:
    parts: dict[str, Any] = {"tokens": X[:-NUM_TEST], "labels": GAPS[:-NUM_TEST]}
    np.savez(folder / "t.npz", **parts, test_tokens=X[-NUM_TEST:], test_labels=GAPS[-NUM_TEST:])
    return lambda **more: token_file(folder / "t.npz", **more)


def columns(folder: Path) -> Make:
    rows = {"input_ids": X.reshape(len(X), -1).tolist(), "label": GAPS.tolist()}
    Dataset.from_dict(rows).save_to_disk(str(folder / "d"))
    return lambda **more: saved_dataset(str(folder / "d"), **more)
