"""Labelled text."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from harness import ready

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data import ExampleData, text_file
from mdlm_cfg.training.data.text import BLANK

LINES = [("up", "abc"), ("up", "abd"), ("up", "ab"), ("up", "a c"), ("down", "cba"), ("down", "dbä"), ("down", "d")]


def decoded(data: ExampleData, x: torch.Tensor, classes: torch.Tensor) -> list[tuple[str, str]]:
    """Labels and texts of tokens, blanks at the end left out."""
    texts = ["".join("" if data.value_names[v] == BLANK else data.value_names[v] for v in row) for row in x.tolist()]
    return [(data.class_names[k], text) for k, text in zip(classes.tolist(), texts)]


@pytest.mark.parametrize("odd", ["\t", "\0", "\x0b"])
def test_a_column_more_and_control_characters_are_said(
    odd: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "words.txt"
    lines = [f"{label}\t{text}" for label, text in LINES]
    for changed, is_said in ((lines, False), ([*lines[:4], f"up\tx{odd}x", *lines[4:]], True)):
        path.write_text("\n".join(changed), encoding="utf-8")
        ready(text_file(path))
        assert (repr(odd) in capsys.readouterr().err) == is_said


def test_every_line_comes_back_with_its_label(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff" + "\r\n".join(f"{label}\t{text}" for label, text in LINES) + "\n\n", encoding="utf-8")
    data = ready(text_file(path, batch_size=2))
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
    data = ready(text_file(path))
    assert data.value_names == ("a", "b") and data.class_names == ("9", "10")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"x\.txt [^0-9]*$"),
        (b"a\tx\nb x\n", r"\b2\b.*x\.txt.*'b x'"),
        (b"a\t\n", r"\b1\b.*x\.txt.*'a\\t'"),
        (b"\tabc\n", r"\b1\b.*x\.txt.*'\\tabc'"),
        (b"a\t\xff\n", r"x\.txt.*UTF-8.*\b2\b"),
        (b"a\tx\na\ty\nb\tz\nb\tz\n", r"x\.txt.*'a'.*\b2\b.*\b3\b"),
        (b"abc\tup\nabd\tup\nab\tdown\n", r"x\.txt.*\b3\b.*\b3\b"),
    ],
)
def test_bad_text_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        ready(text_file(tmp_path / "x.txt"))
    for path in (tmp_path / "y.txt", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            ready(text_file(path))


def test_what_cannot_be_read_again_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(UserError, match=str(path)):
            ready(text_file(path))
