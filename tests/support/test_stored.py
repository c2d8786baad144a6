"""What is stored comes back bit for bit, and a file in which one bit has changed is never taken for it."""

from __future__ import annotations

import random
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mdlm_cfg.support.stored import Damaged, load, store

VALUE = {"weights": torch.arange(300.0), "step": 12, "name": "toy", "odd": [torch.ones(3, dtype=torch.bool), None, 0.1]}


def same(found: Any, expected: Any) -> bool:
    return str(found) == str(expected) and torch.equal(found["weights"], expected["weights"])


def test_it_comes_back(tmp_path: Path) -> None:
    store(VALUE, tmp_path / "x.pt")
    assert same(load(tmp_path / "x.pt"), VALUE)


def test_one_changed_bit_is_damage_or_changes_nothing(tmp_path: Path) -> None:
    path, numbers = tmp_path / "x.pt", random.Random(0)
    store(VALUE, path)
    whole, damaged = path.read_bytes(), 0
    for _ in range(500):
        content, place = bytearray(whole), numbers.randrange(len(whole))
        content[place] ^= 1 << numbers.randrange(8)
        path.write_bytes(content)
        try:
            assert same(load(path), VALUE), place  # in the padding between the parts
        except Damaged:
            damaged += 1
    assert damaged > 100


def test_every_bit_of_a_weight_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    store(VALUE, path)
    content = path.read_bytes()
    start = content.index(VALUE["weights"].numpy().tobytes())
    for bit in range(32):
        changed = bytearray(content)
        changed[start + bit // 8 + 40] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert not torch.equal(torch.load(path, weights_only=True)["weights"], VALUE["weights"])  # torch does not
        with pytest.raises(Damaged, match=str(path)):
            load(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_damaged(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.pt"
    store(VALUE, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(Damaged):
        load(path)


def test_other_files_and_other_peoples_code_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for content in (b"", b"text", b"PK\x03\x04 and so on"):
        path.write_bytes(content)
        with pytest.raises(Damaged):
            load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cposix\nsystem\n(S'true'\ntR.")
        archive.writestr("archive/version", b"3\n")
    with pytest.raises(Damaged):
        load(path)


def test_a_full_disk_is_the_file_systems_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    store(VALUE, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # files end there: as a disk that becomes full
    try:
        with pytest.raises(OSError) as error:
            store({"weights": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.filename == str(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_file_systems_errors_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "x.pt")
    with pytest.raises(OSError, match="no_folder") as error:
        store(VALUE, tmp_path / "no_folder" / "x.pt")
    assert error.value.filename
