"""Labelled text and arrays of tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data import TextData, TokenData
from mdlm_cfg.training.data.text import BLANK

LINES = [("up", "abc"), ("up", "abd"), ("up", "ab"), ("up", "a c"), ("down", "cba"), ("down", "dbä"), ("down", "d")]


def ready(data: TokenData) -> TokenData:
    data.prepare_data()
    data.setup()
    return data


def decoded(data: TokenData, x: torch.Tensor, classes: torch.Tensor) -> list[tuple[str, str]]:
    """Labels and texts of tokens, blanks at the end left out."""
    texts = ["".join("" if data.value_names[v] == BLANK else data.value_names[v] for v in row) for row in x.tolist()]
    return [(data.class_names[k], text) for k, text in zip(classes.tolist(), texts)]


def test_every_line_comes_back_with_its_label(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff" + "\r\n".join(f"{label}\t{text}" for label, text in LINES) + "\n\n", encoding="utf-8")
    data = ready(TextData(path, batch_size=2))
    found = decoded(data, data.train_x, data.train_labels) + decoded(data, data.test_x, data.test_classes)
    assert sorted(found) == sorted(LINES)
    assert data.name == "words" and data.grid_shape == (3,) and data.num_classes == 2
    assert data.num_tokens == len(data.value_names) == len(set("abcd ä")) + 1 and data.value_names[-1] == BLANK
    assert sorted(data.test_classes.tolist()) == [0, 1]
    blanks = data.train_x == data.num_tokens - 1
    assert bool((blanks[:, 1:] >= blanks[:, :-1]).all()), "blanks are at the end alone"
    description = data.describe()
    assert json.loads(json.dumps(description)) == description
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for x, classes in loader:
            assert x.dtype == classes.dtype == torch.int64 and x.shape == (len(classes), 3)


def test_lines_of_one_length_need_no_blank(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("".join(f"{k}\t{text}\n" for k in (10, 9) for text in ("ab", "ba", "bb")))
    data = ready(TextData(path))
    assert data.value_names == ("a", "b") and data.class_names == ("9", "10")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"a\tx\nb x\n", "line 2 of .* must be LABEL, a tab, TEXT, and is 'b x'"),
        (b"a\t\n", "line 1"),
        (b"\tabc\n", "line 1"),
        (b"a\t\xff\n", "not text in UTF-8"),
        (b"a\tx\na\ty\nb\tz\nb\tz\n", "class 'a' has 2 training examples, and needs at least 3"),
        (b"abc\tup\nabd\tup\nab\tdown\n", "3 different labels on 3 lines: the label comes first"),
    ],
)
def test_bad_text_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        ready(TextData(tmp_path / "x.txt"))
    with pytest.raises(UserError, match="there is no file"):
        ready(TextData(tmp_path / "y.txt"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        ready(TextData(tmp_path))


def arrays(**changes: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    held = {"tokens": rng.integers(0, 5, (40, 2, 3)), "labels": np.arange(40, dtype=np.uint8) % 4} | changes
    return {name: np.asarray(array) for name, array in held.items() if array is not None}


def test_tokens_come_back(tmp_path: Path) -> None:
    held = arrays(class_names=list("abcd"), value_names=list("uvwxyz"))
    np.savez(tmp_path / "t.npz", **held)
    data = ready(TokenData(str(tmp_path / "t.npz")))
    assert data.num_tokens == 6 and data.class_names == tuple("abcd") and data.grid_shape == (2, 3)
    x = torch.cat([data.train_x, data.test_x]).tolist()
    classes = torch.cat([data.train_labels, data.test_classes]).tolist()
    expected = zip(held["tokens"].reshape(40, 6).tolist(), held["labels"].tolist())
    assert sorted(zip(x, classes)) == sorted(expected) and len(data.test_x) == 4
    np.savez(tmp_path / "u.npz", **arrays(test_tokens=held["tokens"][:3], test_labels=[0, 1, 2]))
    own = ready(TokenData(tmp_path / "u.npz"))
    assert own.num_tokens == 5 and len(own.train_x) == 40
    assert own.test_x.tolist() == held["tokens"][:3].reshape(3, 6).tolist() and own.fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labels": None}, "lacks labels; it holds tokens"),
        ({"labels": np.arange(40) % 4 + 1}, "labels are 1 to 4, and must count classes from 0 without gaps"),
        ({"labels": np.arange(39) % 4}, "must have shape"),
        ({"labels": np.full(40, -1)}, "run from -1"),
        ({"labels": np.arange(40)}, "class 0 has 1 training example"),
        ({"tokens": np.zeros((40, 3))}, "must be whole numbers, and is float64"),
        ({"tokens": np.full((40, 3), 2**40)}, "must lie within 0 to"),
        ({"tokens": np.zeros((40, 0), int)}, r"tokens has shape \(40, 0\)"),
        ({"tokens": np.zeros((40, 3), int)}, "nothing to learn"),
        ({"tokens": np.zeros(40, int)}, "must have shape"),
        ({"tokens": np.array([None] * 40)}, "holds Python objects"),
        ({"value_names": ["a", "b"]}, "2 value_names, and tokens up to 4"),
        ({"class_names": ["a", "b"]}, "must be 4 different names, got 2"),
        ({"class_names": ["a", "b", "c", "c"]}, "of which 3 differ"),
        ({"class_names": [1, 2, 3, 4]}, "must be a list of text"),
        ({"test_tokens": np.zeros((2, 2, 3), int)}, "one of test_tokens and test_labels"),
        ({"test_tokens": np.zeros((2, 2, 4), int), "test_labels": [0, 1]}, "must be alike"),
        ({"test_tokens": np.zeros((2, 2, 3), int), "test_labels": [0, 7]}, "test labels hold 7, of which there is no"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays(**changes))
    with pytest.raises(UserError, match=complaint) as error:
        ready(TokenData(tmp_path / "t.npz"))
    assert "\n" not in str(error.value)
