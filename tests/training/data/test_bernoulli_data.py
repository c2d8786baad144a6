"""Fitted Bernoulli mixtures are kept."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from harness import ready

from mdlm_cfg.training.data import (
    BernoulliData,
)


def test_fit_is_kept_and_a_damaged_one_is_named(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(BernoulliData(2, 5, root=root))
    (path,) = (Path(root) / "bernoulli").iterdir()
    monkeypatch.setattr("mdlm_cfg.training.data.bernoulli_data.fit_em", None)
    assert ready(BernoulliData(2, 5, root=root, seed=7)).describe() == first.describe()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path.name} is damaged: delete it"):
        ready(BernoulliData(2, 5, root=root))


def test_a_fit_that_cannot_be_kept_is_used_and_said(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    data = BernoulliData(2, 3, root=root)
    data.prepare_data()
    data.setup("fit")
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path for path in (Path(root) / "bernoulli").rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    kept = BernoulliData(2, 3, root=root)
    kept.prepare_data()
    kept.setup("fit")
    assert torch.equal(data.target.probabilities, kept.target.probabilities)
