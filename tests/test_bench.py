"""`python -m bench` replaces its own files alone, and refuses before it measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import __main__ as bench
from bench.ratio import Figure

FIGURE = Figure("work", "bound", 1.0, 2.0, "lower", 1.0)


def test_own_files_are_replaced_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "main", lambda folder, _: bench.write([FIGURE], {}, folder))
    for _ in range(2):
        bench.command(["ours"])
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == sorted(bench.FILES)
    monkeypatch.setattr(bench, "main", lambda *_: pytest.fail("it was measured"))
    for name in bench.FILES:
        for make in (lambda path: path.write_text("mine"), lambda path: path.symlink_to("nowhere")):
            mine = tmp_path / f"mine_{name}_{make.__name__}" / name
            mine.parent.mkdir(exist_ok=True)
            mine.unlink(missing_ok=True)
            make(mine)
            assert refused(str(mine.parent))
            assert mine.is_symlink() or mine.read_text() == "mine"
    (tmp_path / "file").touch()
    for arguments in (["file"], ["file/x"], [""], ["~/x"], ["x", "tpu"], ["x", "cpu", "y"]):
        assert refused(*arguments)
    assert {path.name.partition("_")[0] for path in tmp_path.iterdir()} == {"ours", "mine", "file"}


def refused(*arguments: str) -> bool:
    with pytest.raises(SystemExit) as ended:
        bench.command(arguments)
    return ended.value.code == 2
