"""The memory that a process may take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mdlm_cfg.support.memory import group_limits, memory_allowed


def test_it_is_no_more_than_the_machine_has() -> None:
    assert 0 < memory_allowed() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("line", "folder", "file"),
    [("0::/job/step", "", "memory.max"), ("5:cpu,memory:/job/step", "memory", "memory.limit_in_bytes")],
)
@pytest.mark.parametrize("limited", ["", "job", "job/step"])
def test_a_group_and_those_around_it_are_heeded(
    tmp_path: Path, line: str, folder: str, file: str, limited: str
) -> None:
    groups = tmp_path / "cgroup"
    mount = tmp_path / "mount"
    groups.write_text(f"3:cpuset:/elsewhere\n{line}\n")
    for place in ("", "job", "job/step", "job/step/below"):
        (mount / folder / place).mkdir(parents=True, exist_ok=True)
        (mount / folder / place / file).write_text("12345\n" if place == limited else "max\n")
    (mount / folder / "job/step/below" / file).write_text("1\n")  # of another
    assert list(group_limits(groups, mount)) == [12345]


def test_a_group_that_a_container_does_not_show_counts_as_the_topmost(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/../host/only\n")
    (tmp_path / "memory.max").write_text("777\n")
    assert list(group_limits(tmp_path / "cgroup", tmp_path)) == [777]
    assert list(group_limits(tmp_path / "none", tmp_path)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is Linux's")
def test_the_address_space_is_heeded() -> None:
    code = "from mdlm_cfg.support.memory import memory_allowed; print(memory_allowed())"
    command = f"ulimit -v 1000000; exec {sys.executable} -c '{code}'"
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert int(told) <= 1000000 * 1024
