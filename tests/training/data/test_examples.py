"""Labels count classes from 0 whatever they were, classes keep their names, and every class is tested."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from folders_of_images import write_classes
from harness import ready
from stored_examples import GAPS, GREY, Make, X, columns, idx, images, tokens

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.data import ImageData, saved_dataset, text_file, token_file
from mdlm_cfg.training.data.examples import assembled
from mdlm_cfg.training.data.target_data import TargetData


@pytest.mark.parametrize("make", [idx, images, tokens, columns])
def test_labels_with_gaps_are_counted_anew_by_one_option(tmp_path: Path, make: Callable[[Path], Make]) -> None:
    module = make(tmp_path)
    with pytest.raises(UserError, match=r"1, 6, 11, .* 0 to 2.*data\.relabel=true"):
        ready(module())
    data = ready(module(relabel=True))
    assert data.num_classes == 3 and data.class_names == ("1", "6", "11")
    x = torch.cat([data.train_x, data.test_x])
    labels = [int(data.class_names[k]) for k in torch.cat([data.train_labels, data.test_classes])]
    stored = (GREY if data.example_kind == "images" else X).reshape(len(X), -1)
    own = {tuple(row): int(k) for row, k in zip(stored.tolist(), GAPS)}
    assert [own[tuple(row)] for row in x.tolist()] == labels and len(labels) == len(GAPS)


def test_folders_and_text_count_their_classes_themselves(tmp_path: Path) -> None:
    write_classes(tmp_path / "f", {"3": 4, "10": 4})
    (tmp_path / "f" / "7").mkdir()
    with pytest.raises(UserError, match="/f/7 "):
        ready(ImageData(str(tmp_path / "f")))
    assert ready(ImageData(str(tmp_path / "f"), relabel=True)).class_names == ("3", "10")
    (tmp_path / "t.txt").write_text("".join(f"{k}\t{text}\n" for k in (10, 3) for text in ("ab", "ba", "bb")))
    for relabel in (False, True):
        assert ready(text_file(tmp_path / "t.txt", relabel=relabel)).class_names == ("3", "10")


def test_classes_that_have_a_name_alone_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["none", "cat", "unused", "dog"]
    features = Features({"input_ids": List(Value("int64")), "label": ClassLabel(names=names)})
    labels = [1 + 2 * (k % 2) for k in range(len(X))]
    Dataset.from_dict({"input_ids": X.reshape(len(X), -1).tolist(), "label": labels}, features).save_to_disk(
        str(tmp_path / "d")
    )
    np.savez(tmp_path / "t.npz", tokens=X, labels=labels, class_names=names)
    for data in (saved_dataset(str(tmp_path / "d")), token_file(tmp_path / "t.npz")):
        ready(data)
        assert data.class_names == ("cat", "dog") and data.num_classes == 2
        assert torch.bincount(torch.cat([data.train_labels, data.test_classes])).tolist() == [len(X) // 2] * 2
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "unused" in line)
        assert "none" in line


def test_messages_name_classes_by_their_names() -> None:
    x = np.zeros((8, 2), np.int64)
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    names = ("up", "rare", "other"), None
    with pytest.raises(UserError, match=r"'rare'.*\b2\b.*\b3\b"):
        assembled("x", (x, labels), None, names)
    with pytest.raises(UserError, match=r"'other'.*'up', 'rare'"):
        assembled("x", (x[:6], labels[:6]), (x, labels), names)


@pytest.mark.parametrize(("counts", "said"), [((41, 4), True), ((30, 20), False), ((39, 4), False)])
def test_imbalance_is_said(
    counts: tuple[int, int], said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.repeat([0, 1], counts)
    x = np.arange(len(labels))[:, None] % 7
    names = ("common", "rare")
    np.savez(tmp_path / "t.npz", tokens=x, labels=labels, test_tokens=x, test_labels=labels, class_names=names)
    ready(token_file(tmp_path / "t.npz"))
    line = capsys.readouterr().err
    assert ("'rare'" in line and "'common'" in line) == said
    weights = torch.tensor(counts).double() / sum(counts)
    pmfs = torch.full((2, 2, 2), 0.25, dtype=torch.float64)
    TargetData(TableMixture(pmfs, weights, class_names=names), "x").setup()
    line = capsys.readouterr().err
    assert ("'rare'" in line and "'common'" in line) == said


def test_the_examples_of_unequal_classes_are_counted_as_they_are_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.repeat([0, 1], [200, 9])
    x = np.arange(len(labels))[:, None] % 7
    np.savez(tmp_path / "t.npz", tokens=x, labels=labels, test_tokens=x, test_labels=labels)
    data = ready(token_file(tmp_path / "t.npz", hold_out=True, num_val=60))
    many, few = torch.bincount(data.train_labels).tolist()
    assert many + few == len(labels) - 60
    said = capsys.readouterr().err
    assert re.findall(r"\b(\d+) training", said) == [f"{few}", f"{many}"]
