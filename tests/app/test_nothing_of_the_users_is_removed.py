"""What a user has in a folder is there, unchanged, after any command that was refused or interrupted in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import EXACT, TOY, run
from helpers import every_pair
from hypothesis import given, strategies as st

from mdlm_cfg import report
from mdlm_cfg.app import build, eval_command, evaluation, train_command
from mdlm_cfg.app.jobs import RECORD
from mdlm_cfg.app.report_cache import CACHE, files_of, written_together
from mdlm_cfg.app.sweeps import HYDRAS
from mdlm_cfg.support.atomic import PART, part_name, read_mapping
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import Made, new_run_folder
from mdlm_cfg.targets.toys import toy_1d_overlap
from mdlm_cfg.training.checkpoints import CONFIG, newest_run
from mdlm_cfg.training.fit import NotBegun
from mdlm_cfg.training.unfinished import LOCK, MARK, is_same

OURS = ("checkpoints/last.ckpt", "checkpoints/best.ckpt", CONFIG, MARK, LOCK, "metrics.csv", "report.json", "wandb/x")
THEIRS = ("notes.txt", ".hidden", f".notes.txt.{2**30}{PART}x", "cache/mine.txt", "multirun.yaml")
CONTENTS = [(), ("checkpoints/",), ("empty/inside/",), OURS[:1], OURS[2:5], (*OURS, *THEIRS)]


def fill(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(f"the user's own {name}")


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is below a folder, and the folder itself."""
    found = [folder, *folder.rglob("*")] if folder.exists() else []
    return {str(path): path.read_bytes() if path.is_file() else None for path in found}


def fails(error: type[BaseException]) -> Callable[..., Any]:
    def failing(*_: Any, **__: Any) -> Any:
        raise error("no")

    return failing


WAYS = {  # in which an evaluation ends before it has begun
    "bogus": (("logger=wandb", "logger.mode=bogus"), None),
    "online": (("logger=wandb", "logger.mode=online"), None),
    "interrupt": (("logger=csv",), (eval_command, "build_loggers", KeyboardInterrupt)),
    "interrupted login": (("logger=wandb", "logger.mode=online"), (build, "check_wandb", KeyboardInterrupt)),
    "fault": (("logger=csv",), (build, "MetricsLog", ZeroDivisionError)),
    "trainer": (("trainer=cpu", "trainer.devices=-7"), None),
}


@pytest.mark.parametrize(("way", "names"), every_pair(WAYS, CONTENTS))
def test_out_is_as_it_was(tmp_path: Path, way: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, planted = WAYS[way]
    if planted is not None:
        monkeypatch.setattr(planted[0], planted[1], fails(planted[2]))
    judge = ("eval", "denoiser=exact", "data=toy_1d_overlap", "num_samples=20", "w=[1]", *arguments)
    fill(tmp_path / "above" / "out", names)
    before = tree(tmp_path)
    for out in ("above/out", "above/new", "new/below/it"):
        assert run(*judge, f"out={tmp_path / out}") != 0
        assert tree(tmp_path) == before, out
    assert run(*judge, f"runs={tmp_path / 'above'}") != 0
    assert run(*judge, f"runs={tmp_path / 'new'}") != 0
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("error", "names"), every_pair([UserError, KeyboardInterrupt, NotBegun], CONTENTS[::-1]))
def test_runs_are_as_they_were(
    tmp_path: Path, error: type[BaseException], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "train_and_test" if error is NotBegun else "build_trainer"
    monkeypatch.setattr(train_command, where, fails(error))
    fill(tmp_path / "runs" / "name", names)
    before = tree(tmp_path)
    for place in ("runs/name", "runs", "new/below"):
        assert run("train", *TOY, "logger=csv", f"runs={tmp_path / place}", "name=name") != 0
        assert tree(tmp_path) == before, place


def test_folders_of_a_refused_sweep_are_as_they_were(tmp_path: Path) -> None:
    folders = [tmp_path / f"sweep{number}" for number in range(len(CONTENTS))]
    for folder, names in zip(folders, CONTENTS):
        fill(folder, names)
    before = tree(tmp_path)
    places = [f"hydra.sweep.dir={folder}" for folder in (*folders, tmp_path / "new" / "sweep")]
    for place in (*places, f"runs={tmp_path / 'new'}"):
        assert run("train", "-m", *TOY, "seed=0,1", "nothing=3", place) == 2
        assert tree(tmp_path) == before, place


@pytest.mark.parametrize("way", ["trainer.devices=-7", "logger.mode=bogus", "trainer.accelerator=tpu"])
def test_an_unfinished_run_is_as_it_was_when_its_resumption_is_refused(tmp_path: Path, way: str) -> None:
    common = (*TOY, "evaluate=false", f"runs={tmp_path}", "trainer.max_epochs=2")
    assert run("train", *common, "logger=csv") == 0
    folder = newest_run(tmp_path).parent.parent
    (folder / MARK).write_text("unfinished")
    files = [path for path in folder.rglob("*") if path.is_file()]
    before = [(path, path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    logger = "logger=wandb" if "logger" in way else "logger=csv"
    assert run("train", *common, logger, "ckpt_path=auto", "threads=1", way) == 2
    assert [(path, path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before
    assert {path for path in folder.rglob("*") if path.is_file()} == set(files)


def test_an_evaluation_into_the_folder_of_its_run_leaves_what_training_logged(tmp_path: Path) -> None:
    assert run("train", *TOY, "logger=csv", "evaluate=false", f"runs={tmp_path}") == 0
    folder = newest_run(tmp_path).parent.parent
    before = (folder / "metrics.csv").read_text().splitlines()
    assert run("eval", f"ckpt_path={folder}", f"out={folder}", "logger=csv", "num_samples=20") == 0
    after = (folder / "metrics.csv").read_text().splitlines()
    named = [[dict(zip(rows[0].split(","), row.split(","))) for row in rows[1:]] for rows in (before, after)]
    for old, new in zip(*named):
        assert {key: value for key, value in new.items() if value} == {key: v for key, v in old.items() if v}
    assert len(named[1]) > len(named[0])


def test_a_report_of_others_names_nothing_to_remove(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    (tmp_path / "report.json").write_text('{"files": ["thesis.tex"], "title": "my own"}')
    judge = ("eval", "denoiser=exact", "data=toy_1d_overlap", "num_samples=20", "w=[1]", f"out={tmp_path}")
    assert run(*judge) == 2
    assert (tmp_path / "thesis.tex").read_text() == "all of it" and "my own" in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize(
    "is_ours",
    [
        lambda folder: files_of(folder),
        lambda folder: read_mapping(folder / RECORD),
        lambda folder: is_same(folder / CONFIG, {}),
        lambda folder: read_mapping(folder / HYDRAS),
    ],
)
def test_files_that_are_nested_more_deeply_than_any_of_ours_are_of_others(
    is_ours: Callable[[Path], Any], tmp_path: Path
) -> None:
    for name in ("report.json", RECORD, CONFIG, HYDRAS):
        depth = 2000 if name.endswith(".yaml") else 10**5  # YAML takes the square of it
        (tmp_path / name).write_text("[" * depth + "]" * depth)
    assert not is_ours(tmp_path)


def test_a_file_of_a_reports_name_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    judge = ("eval", "denoiser=exact", "data=toy_1d_overlap", "num_samples=20", "w=[1]", "logger=csv", f"out={out}")
    assert run(*judge[:-1], f"out={tmp_path / 'first'}") == 0
    drawn = {path.name for path in (tmp_path / "first").iterdir()}
    out.mkdir()
    of_each_kind = {Path(name).suffix: name for name in sorted(drawn - {"report.json"})}
    assert set(of_each_kind) == {".html", ".csv", ".npz", ".png"}
    for name in [*of_each_kind.values(), "metrics.csv", "report.csv"]:
        (out / name).write_text("the user's own")
        assert run(*judge) == 2
        assert (out / name).read_text() == "the user's own" and not (out / "report.json").exists()
        (out / name).unlink()
    assert run(*judge) == 0 and run(*judge) == 0  # its own report it may replace
    assert {path.name for path in out.iterdir()} == drawn


NAMES = ("report.html", "report.csv", "report.json", "laws.npz", "metrics.csv")


@pytest.mark.parametrize(("name", "is_pipe"), every_pair(NAMES, [False, True]))
def test_a_link_that_leads_nowhere_and_a_pipe_are_not_replaced(tmp_path: Path, name: str, is_pipe: bool) -> None:
    os.mkfifo(tmp_path / name) if is_pipe else (tmp_path / name).symlink_to("nowhere")
    judge = ("eval", "denoiser=exact", "data=toy_1d_overlap", "num_samples=20", "w=[1]", "logger=csv")
    assert run(*judge, f"out={tmp_path}") == 2
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == [name]
    assert (tmp_path / name).is_fifo() if is_pipe else str((tmp_path / name).readlink()) == "nowhere"


def test_a_file_with_the_name_of_the_cache_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CACHE).write_text("mine")
    monkeypatch.setattr(evaluation, "run", lambda *_: pytest.fail("work has begun"))
    assert run("eval", *EXACT, "logger=null", f"out={tmp_path}") == 2
    assert (tmp_path / CACHE).read_text() == "mine"


def test_files_that_are_written_together_replace_neither_files_nor_links_of_others(tmp_path: Path) -> None:
    for kind in ("file", "folder", "link", "pipe"):
        for name in ("record.json", "named", "unnamed"):
            out = tmp_path / f"{kind}_{name}"
            out.mkdir()
            dead = out / part_name("record.json", 2**30)  # of a process that was killed
            dead.mkdir()
            mine = out / name
            {
                "file": mine.touch,
                "folder": mine.mkdir,
                "pipe": partial(os.mkfifo, mine),
                "link": lambda mine=mine: mine.symlink_to("nowhere"),
            }[kind]()
            with pytest.raises(UserError), written_together(out, "record.json", "x", ["named"]) as part:
                (part / "unnamed").touch()
            assert list(out.iterdir()) == [mine]


def test_of_two_processes_that_write_into_a_folder_the_last_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = ("eval", "denoiser=exact", "data=toy_1d_overlap", "num_samples=20", "w=[1]", f"out={tmp_path}")
    whole = evaluation.run

    def after_another(*arguments: Any) -> Any:
        monkeypatch.setattr(evaluation, "run", whole)
        target = toy_1d_overlap()
        report(target.denoiser(), target, w=[1], out=tmp_path, num_samples=20)
        return whole(*arguments)

    monkeypatch.setattr(evaluation, "run", after_another)
    assert run(*judge, "study=decay") == 0
    assert {path.name for path in tmp_path.iterdir()} == files_of(tmp_path)
    assert "decay_curves" in json.loads((tmp_path / "report.json").read_text())["columns"]


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_while_files_take_their_places_leaves_none_that_nobody_knows(
    tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(*names: str) -> None:
        with written_together(tmp_path, "record.json", "x", names) as part:
            for name in names:
                (part / name).touch()

    written("a", "b")
    left = [moment]
    for method in ("replace", "unlink"):
        whole = getattr(Path, method)

        def failing(self: Path, *arguments: Any, whole: Any = whole, **more: Any) -> Any:
            if self.parent.parent == tmp_path or (self.parent == tmp_path and self.name in ("a", "b")):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return whole(self, *arguments, **more)

        monkeypatch.setattr(Path, method, failing)
    with suppress(KeyboardInterrupt):
        written("c", "d")
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} <= files_of(tmp_path, "record.json")
    written("c", "d")
    assert {path.name for path in tmp_path.iterdir()} == files_of(tmp_path, "record.json") == {"c", "d", "record.json"}


PATHS = st.lists(st.sampled_from(["a", "b", "c", "a/b", "a/b/c", "b/a", "c/c/c"]), max_size=5)


@given(there=PATHS, folders=PATHS, files=PATHS, late=PATHS)
def test_what_was_made_is_taken_back_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, there: list[str], folders: list[str], files: list[str], late: list[str]
) -> None:
    root = tmp_path_factory.mktemp("root")
    for path in there:
        fill(root / path, ("mine.txt",)) if not (root / path).exists() else None
    before = tree(root)
    made = Made()
    for path in folders:
        made.folder(root / path)
        new_run_folder(root, path, made=made)
    for path in files:
        made.folder(root / path)
        made.file(root / path / "ours.txt").write_text("x")
        if (root / path / "mine.txt").exists():
            made.file(root / path / "mine.txt")
    added = {}
    for path in late:  # somebody else puts something there
        if (root / path).is_dir():
            (root / path / "late.txt").write_text("late")
            added[str(root / path / "late.txt")] = b"late"
    made.take_back()
    above = {str(one): None for path in added for one in Path(path).parents if one.is_relative_to(root)}
    assert tree(root) == before | added | above
