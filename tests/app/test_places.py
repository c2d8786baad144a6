"""Paths and names that a command takes: empty ones, names that lead elsewhere, moved data, keys given twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import EXACT, TINY, TOY, refusal, run
from helpers import every_pair, random_target

import mdlm_cfg
from mdlm_cfg.app import comparing, pages
from mdlm_cfg.app.overrides import last_of_each
from mdlm_cfg.app.places import moved, with_absolute_paths
from mdlm_cfg.reports import leaderboard
from mdlm_cfg.studies.comparison import compare
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.schema import TrainSchema, WeakSchema
from mdlm_cfg.targets.files import read_npz
from mdlm_cfg.training.checkpoints import CONFIG, newest_run, read_checkpoint
from mdlm_cfg.training.data.base import short_name
from mdlm_cfg.training.data.huggingface import features_of
from mdlm_cfg.training.data.images import load_images
from mdlm_cfg.training.data.text import load_text
from mdlm_cfg.training.runs import load_run
from mdlm_cfg.verify import command as verify

EMPTY = [
    *(("train", *TOY, key) for key in ("runs=", "ckpt_path=", "name=", "runs='  '")),
    *(("train", "-m", *TOY, "seed=0,1", key) for key in ("runs=", "name=", "hydra.sweep.dir=", "ckpt_path=")),
    *(("eval", "denoiser=exact", "data=toy_1d_overlap", key) for key in ("out=", "runs=")),
    *(("eval", key) for key in ("ckpt_path=", "runs=")),
    *(("sample", key) for key in ("ckpt_path=", "out=", "runs=")),
    *(("train", f"data={data}", "data.path=") for data in ("table", "text", "folder")),
    *(("eval", *EXACT, f"{key}='a{letter}b'") for key in ("out", "runs") for letter in "\n\x1b\x85"),
    ("train", *TOY, "name='a\nb'"),
    ("train", "data=text", "data.path='a\nb'"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert run("train", *TOY, "logger=csv", "evaluate=false", f"runs={folder}") == 0
    return folder


@pytest.mark.parametrize("arguments", EMPTY)
def test_an_empty_path_is_refused_and_nothing_is_written(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert arguments[-1].partition("=")[0] in refusal(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        *((comparing.main, arguments) for arguments in (["x", "out="], [""], ["x", "out=~/y"], ["~/x"], ["out=x"])),
        (comparing.main, ["x", "out=y", "out=z"]),
        *(
            (pages.main, ["leaderboard", *paths])
            for paths in (["x.json", ""], ["x.json", "~/y.md"], ["", "y.md"], [], ["x"])
        ),
        (pages.main, ["leaderbord", "x.json", "y.md"]),
        (verify.main, ["out=~/x"]),
        (verify.main, ["out=a\nb"]),
        (comparing.main, ["x", "out=a\nb"]),
    ],
)
def test_the_other_commands_refuse_what_is_no_path(
    main: Callable[[list[str]], None], arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["out", "runs", "ckpt_path"])
def test_a_home_is_not_a_folder_of_that_name(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ("~/x", "~", "~user/x"):
        refusal(capsys, "eval", *EXACT, f'{key}="{value}"')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["out", "runs"])
def test_a_link_that_leads_nowhere_is_named(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to("missing")
    for place in ("link", "link/below"):
        said = refusal(capsys, "eval", *EXACT, f"{key}={tmp_path / place}")
        assert str(tmp_path / "link") in said and "missing" in said
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("name", ["..", "../../x", "a/../../x", ".", "/elsewhere", "a/./b"])
def test_a_name_stays_inside_of_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sweep in ((), ("-m", "seed=0,1")):
        assert name in refusal(capsys, "train", *sweep, *TOY, f"runs={tmp_path / 'a' / 'runs'}", f"name={name}")
    assert list(tmp_path.iterdir()) == []


def test_data_are_named_by_the_folder_that_a_path_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "images" / "inside")
    assert [short_name(path) for path in ("..", ".", "../inside/..", "x.npz", "/")] == [
        *("images", "inside", "images", "x", "data"),
    ]


def write_table(path: Path) -> None:
    np.savez(path, class_pmfs=np.array([[0.5, 0.5, 0], [0, 0.5, 0.5]]), class_weights=np.array([0.5, 0.5]))


def test_a_run_is_judged_from_elsewhere_and_on_data_that_were_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("data.batch_size=64", "data.steps_per_epoch=3", "data.num_val=50", "data.num_test=50")
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.npz")
    assert run("train", *TINY, *few, "data=table", "data.path=t.npz", "logger=csv", "evaluate=false", "runs=r") == 0
    folder = newest_run(tmp_path / "r").parent.parent
    recorded = yaml.safe_load((folder / CONFIG).read_text())["data"]
    assert recorded["path"] == recorded["target"]["path"] == str(tmp_path / "t.npz")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    judge = ("eval", f"ckpt_path={folder}", "num_samples=20", "w=[0]")
    assert run(*judge) == 0
    (tmp_path / "t.npz").rename(tmp_path / "new.npz")
    assert "data.path" in refusal(capsys, *judge)
    assert run(*judge, "data.path=../new.npz") == 0
    assert "nonsense" in refusal(capsys, *judge, "data.path=../new.npz", "data.nonsense=3")
    np.savez(tmp_path / "new.npz", class_pmfs=np.array([[0.4, 0.6, 0], [0, 0.5, 0.5]]), class_weights=np.full(2, 0.5))
    assert load_run(folder).data["fingerprint"] in refusal(capsys, *judge, "data.path=../new.npz")


@pytest.mark.parametrize("command", ["eval", "sample"])
def test_to_resume_is_for_training_and_a_key_without_a_value_was_not_left_out(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "ckpt_path=auto" in refusal(capsys, command, "ckpt_path=auto")
    for key in ("out", "runs"):
        said = refusal(capsys, command, f"{key}=???")
        assert key in said and "~" not in said
    assert "~runs" in refusal(capsys, command, "~runs")


def test_only_what_was_made_from_a_path_moves_with_it() -> None:
    data = {"path": "a", "dataset": "a", "name": "b", "target": {"path": "a", "seed": 0}}
    assert moved(data, "a", "c") == {"path": "c", "dataset": "c", "name": "b", "target": {"path": "c", "seed": 0}}
    found = with_absolute_paths(TrainSchema(data=data, seed=1, runs="auto", ckpt_path="auto"))
    assert (found.runs, found.ckpt_path) == (os.path.abspath("auto"), "auto")
    assert found.data["target"]["path"] == found.data["path"] == os.path.abspath("a") and found.seed == 1


def test_of_a_key_that_is_given_twice_the_last_counts_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["-m", "seed=1", "~net.width", "data=a", "+seed=2", "w=[1]", "data=b", "w=[1]", "~net.width"]
    assert last_of_each(given) == ["-m", "~net.width", "+seed=2", "data=b", "w=[1]", "~net.width"]
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert run("train", *TOY, "logger=csv", "evaluate=false", "seed=1", "seed=2", f"runs={tmp_path}") == 0
    path = newest_run(tmp_path)
    assert load_run(path).hyper_parameters["seed"] == 2 and "seed-1" not in str(path)


def test_a_run_shorter_than_an_epoch_has_a_value(tmp_path: Path) -> None:
    sweeper = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optimizer.lr=interval(0.001,0.01)")
    short = ("data.steps_per_epoch=250", "trainer.max_steps=2", "evaluate=false", "logger=csv")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert run("train", "-m", *TOY, *short, *sweeper, f"hydra.sweep.dir={tmp_path}") == 0
    found = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert 0 < found["best_value"] < 100


def test_a_path_is_that_of_the_file_system_also_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the folder that a link leads to, ".." is elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to("there/inside")
    (tmp_path / "there" / "x").touch()
    (tmp_path / "x").touch()
    config = TrainSchema(ckpt_path="link/../x", weak=WeakSchema("link/../x"), data={"path": "link/../x"})
    found = with_absolute_paths(config)
    for path in (found.ckpt_path, found.weak.ckpt_path, found.data["path"]):
        assert os.path.isabs(str(path)) and os.path.samefile(str(path), tmp_path / "there" / "x")


OWN_DATA = ("text", "table", "tokens", "hmm", "folder", "idx", "images", "datasets")


@pytest.mark.parametrize(("data", "value"), every_pair(OWN_DATA, ["null", "true", "64", "0.5", "[a,b]"]))
def test_other_values_of_a_path_are_refused_by_its_key(
    data: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "data.path" in refusal(capsys, "train", f"data={data}", f"data.path={value}", f"runs={tmp_path / 'runs'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["eval", "eval of a run", "sample", "train", "compare", "report"])
def test_names_that_are_too_long_are_refused_before_any_work(
    command: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = "/".join("d" * 99 for _ in range(39))  # 4095 bytes are the most, which a folder of this depth does not reach
    out = tmp_path / deep / ("e" * (3990 - len(f"{tmp_path}/{deep}/")))
    exact = ("denoiser=exact", "data=toy_1d_overlap", "num_samples=20", "w=[0,1]")
    files = sorted(runs.rglob("*"))
    if command == "compare":
        monkeypatch.setattr("mdlm_cfg.studies.comparison.compare", lambda paths: paths)
        with pytest.raises(SystemExit) as ended:
            comparing.main(["somewhere", f"out={out}"])
        assert ended.value.code == 2
    elif command == "report":
        target = random_target(2, 1)
        with pytest.raises(UserError):
            mdlm_cfg.report(target.denoiser(), target, out=out)
    elif command == "train":
        refusal(capsys, "train", *TOY, "logger=csv", f"runs={out}")
    else:
        asked = {"eval": exact, "eval of a run": (f"runs={runs}",), "sample": (f"runs={runs}",)}[command]
        refusal(capsys, command.split()[0], *asked, f"out={out}")
    assert not list(tmp_path.iterdir()) and sorted(runs.rglob("*")) == files


READERS = {
    "table": partial(read_npz, required=["class_pmfs"]),
    "text": load_text,
    "images": partial(load_images, root=""),
    "saved data set": features_of,
    "checkpoint": read_checkpoint,
    "compared": lambda path: compare([path]),
    "leaderboard": lambda path: leaderboard.write_page(path, path.with_name("page.md")),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_in_the_place_of_a_file_is_said(name: str, tmp_path: Path) -> None:
    """Nothing, a folder, a file of something else, a pipe and a link that leads nowhere are not said to be the same."""
    path = tmp_path / "given"
    makes = (lambda: None, path.mkdir, path.touch, partial(os.mkfifo, path), lambda: path.symlink_to("nowhere"))
    said = []
    for make in makes:
        make()
        with pytest.raises(UserError) as error:
            READERS[name](path)
        said.append(str(error.value))
        if os.path.lexists(path):
            path.rmdir() if path.is_dir() else path.unlink()
    assert len(set(said)) == len(said), said
