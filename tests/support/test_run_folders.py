"""Run folders: one for each run, with names that say what it was and need no quotes anywhere."""

from __future__ import annotations

import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, strategies as st

from mdlm_cfg.support.atomic import PART
from mdlm_cfg.support.folders import MOST, files_below, label_of, new_run_folder


def test_run_folders_never_collide(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:  # in one second, and at one time
        folders = set(threads.map(lambda _: new_run_folder(tmp_path, "name", ["seed=1"]), range(32)))
    assert len(folders) == 32 and all(folder.is_dir() and folder.name.endswith("_seed-1") for folder in folders)


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["net.width=64", "seed=1"], "net.width-64+seed-1"),
        (["w=[0,1,2]", "optimizer.lr=1e+3"], "w-0-1-2+optimizer.lr-1e3"),
        (["+net.odd=-1", "w=['ramp(0,4)',2]"], "net.odd--1+w-ramp-0-4-2"),
        (["data=toy", "experiment=toy", "logger=csv", "runs=x", "trainer.devices=2"], "trainer.devices-2"),
        (["experiment=paper/2d_overlap", "data.path=/my/files/mix.npz"], "experiment-2d_overlap+data.path-mix.npz"),
        ([], ""),
    ],
)
def test_labels_say_what_was_asked_for(overrides: list[str], label: str) -> None:
    assert label_of(overrides, "toy") == label


@given(st.lists(st.tuples(st.from_regex(r"[a-z.]{1,9}", fullmatch=True), st.text(max_size=40)), max_size=9))
def test_labels_are_short_and_need_no_quotes_in_a_shell_or_for_hydra(pairs: list[tuple[str, str]]) -> None:
    label = label_of([f"{key}={value}" for key, value in pairs])
    assert len(label) <= MOST
    if label:
        assert shlex.quote(label.replace("+", "")) == label.replace("+", "")  # a plus needs none either
        folder = f"runs/x/2026-11-26_13-05-12_{label}/last.ckpt"
        (parsed,) = OverridesParser.create().parse_overrides([f"ckpt_path={folder}"])
        assert parsed.value() == folder and not parsed.is_sweep_override()


def test_long_labels_that_differ_stay_different() -> None:
    long = [[f"net.width_of_everything={k}" for k in (1, 2, 3, last)] for last in (4, 5)]
    first, second = map(label_of, long)
    assert first != second and first[: MOST - 7] == second[: MOST - 7] and len(first) <= MOST


def test_files_below_are_found_behind_links_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere" / "a" / "x").touch()
    root = tmp_path / "root"
    (root / f".x.1{PART}").mkdir(parents=True)
    (root / f".x.1{PART}" / "x").touch()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "x").symlink_to("nowhere")
    assert list(files_below(root, "x")) == [root / "link" / "a" / "x"]


@pytest.mark.parametrize(
    ("shut", "everywhere", "is_refused"), [("", False, True), ("a", False, False), ("a", True, True)]
)
def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(
    shut: str, everywhere: bool, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    right = os.scandir

    def denied(path: str) -> Any:
        if str(path) == str(tmp_path / shut):
            raise PermissionError(13, "Permission denied", str(path))
        return right(path)

    monkeypatch.setattr(os, "scandir", denied)  # who runs the tests may be allowed everywhere
    with pytest.raises(PermissionError) if is_refused else nullcontext():
        assert list(files_below(tmp_path, "x", everywhere)) == [tmp_path / "b" / "x"]
