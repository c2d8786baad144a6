"""What is stored comes back bit for bit, and a file in which one bit has changed is never taken for it."""

from __future__ import annotations

import random
import resource
import zipfile
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from mdlm_cfg.support.cache import Cache
from mdlm_cfg.support.checked_io import Damaged, Unreadable, load, store
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.saving import WholeFiles

VALUE = {"weights": torch.arange(300.0), "step": 12, "name": "toy", "odd": [torch.ones(3, dtype=torch.bool), None, 0.1]}


def same(found: Any, expected: Any) -> bool:
    return str(found) == str(expected) and torch.equal(found["weights"], expected["weights"])


def test_it_comes_back(tmp_path: Path) -> None:
    store(VALUE, tmp_path / "x.pt")
    assert same(load(tmp_path / "x.pt"), VALUE)


@pytest.mark.parametrize(
    "value",
    [Path("x"), np.float64(1), np.arange(3), datetime(2020, 1, 1), Mock, deque([1]), range(3), lambda: 1, -(2**3000)],
    ids=lambda value: type(value).__name__,
)
def test_what_could_not_be_read_is_not_written(value: Any, tmp_path: Path) -> None:
    """As the state of a callback of one's own: the checkpoint would be lost with it."""
    store(VALUE, tmp_path / "x.pt")
    with pytest.raises(Unreadable):
        store({**VALUE, "state": {"a": [value]}}, tmp_path / "x.pt")
    assert same(load(tmp_path / "x.pt"), VALUE)
    with pytest.raises(UserError):
        WholeFiles().save_checkpoint({"state": value}, tmp_path / "last.ckpt")
    assert Cache(tmp_path / "kept", "about")("key", lambda: value) is value
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def check_bits(path: Path, bits: Iterable[int]) -> None:
    store(VALUE, path)
    whole = path.read_bytes()
    damaged = 0
    tried = 0
    for bit in bits:
        content = bytearray(whole)
        content[bit // 8 % len(whole)] ^= 1 << bit % 8
        path.write_bytes(content)
        tried += 1
        try:
            assert same(load(path), VALUE), bit  # in the padding between the parts
        except Damaged:
            damaged += 1
    assert damaged > 0.3 * tried


def test_one_changed_bit_is_damage_or_changes_nothing(tmp_path: Path) -> None:
    numbers = random.Random(0)
    check_bits(tmp_path / "x.pt", (numbers.randrange(2**30) for _ in range(500)))


@pytest.mark.slow
def test_any_changed_bit_is_damage_or_changes_nothing(tmp_path: Path) -> None:
    store(VALUE, tmp_path / "x.pt")
    check_bits(tmp_path / "x.pt", range(8 * (tmp_path / "x.pt").stat().st_size))


@pytest.mark.parametrize("change", ["a folder", "in front of the file"])
def test_a_directory_that_says_something_else_is_damage(tmp_path: Path, change: str) -> None:
    """torch leaves memory as it was for a part that is a folder; what lies in front of a file is the system's error."""
    path = tmp_path / "x.pt"
    store(VALUE, path)
    content = bytearray(path.read_bytes())
    if change == "a folder":
        entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/0"))
        content[entry + 38] |= 0x10
    else:
        content[content.rindex(b"PK\x06\x06") + 50] |= 1  # the directory's own place, 2**16 bytes further on
    path.write_bytes(content)
    with pytest.raises(Damaged, match=str(path)):
        load(path)


def test_a_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(VALUE, tmp_path / "x.pt")
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")):
        monkeypatch.setattr(torch, "load", Mock(side_effect=error))
        with pytest.raises(MemoryError):
            load(tmp_path / "x.pt")


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
