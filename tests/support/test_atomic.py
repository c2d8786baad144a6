"""Files and folders that are written by several at once."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from mdlm_cfg.support.atomic import atomic_write, part_folder, part_name, remove_parts

WRITERS = 8


def test_threads_that_write_in_one_folder_leave_one_anothers_parts_alone(tmp_path: Path) -> None:
    together = Barrier(WRITERS)

    def write(number: int) -> bool:
        with atomic_write(tmp_path / "file") as file, part_folder(tmp_path, "report") as part:
            file.write(str(number).encode() * 1000)
            (part / "page").write_text(str(number))
            together.wait(10)
            remove_parts(tmp_path)
            together.wait(10)
            return (part / "page").read_text() == str(number)

    with ThreadPoolExecutor(WRITERS) as threads:
        assert all(threads.map(write, range(WRITERS)))
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() in {str(number) * 1000 for number in range(WRITERS)}


def test_the_error_within_a_folder_is_not_hidden_by_that_of_its_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where too many files are open to look into it."""

    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(OSError, match="the first"), part_folder(tmp_path, "report"):
        raise OSError(errno.ENOSPC, "the first")


def test_a_part_of_an_earlier_process_of_the_same_number_is_removed(tmp_path: Path) -> None:
    """The processes of containers often have the number 1."""
    (tmp_path / part_name("file", os.getpid())).touch()
    remove_parts(tmp_path)
    assert not os.listdir(tmp_path)
