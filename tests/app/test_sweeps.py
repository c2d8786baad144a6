"""Sweeps: a folder that holds its jobs and says what became of them, going on, and other launchers and sweepers."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import EXACT, TOY, refusal, run
from helpers import every_pair
from omegaconf import OmegaConf

from mdlm_cfg import UserError
from mdlm_cfg.app import cli, eval_command, train_command
from mdlm_cfg.app.jobs import LOCK, RECORD, Outcome, interrupt_jobs_elsewhere
from mdlm_cfg.app.refusals import check_hydras
from mdlm_cfg.app.sweeps import sweep_of
from mdlm_cfg.reports import sweep_index
from mdlm_cfg.support import instantiate
from mdlm_cfg.support.atomic import HOST
from mdlm_cfg.support.schema import EvalSchema
from mdlm_cfg.training.checkpoints import CHECKPOINT, CONFIG
from mdlm_cfg.training.module import MaskedDiffusion
from mdlm_cfg.training.unfinished import locked

QUICK = ("-m", *TOY, "logger=csv", "evaluate=false")
OF_TWO_STEPS = (*QUICK, "trainer.max_steps=2", "seed=0,1")


def index_of(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_a_sweep_is_one_folder_with_its_jobs_and_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *QUICK, "seed=0,1", "optimizer.lr=1e-3,-1", f"runs={tmp_path}", "name=mine") == 2
    said = capsys.readouterr()
    assert len([line for line in said.err.splitlines() if line.startswith("error")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]  # and nothing anywhere else
    sweep = only(tmp_path / "mine")
    assert sweep.name.endswith("_sweep_seed-0-1+optimizer.lr-1e-3--1+data-toy_1d_overlap")
    jobs = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert jobs == [f"0{2 * k + j}_seed-{k}+optimizer.lr-{lr}" for k in (0, 1) for j, lr in enumerate(("0.001", "-1"))]
    rows = index_of(sweep)
    assert [row["state"] for row in rows] == ["done", "failed"] * 2
    assert [(row["seed"], row["optimizer.lr"]) for row in rows][2:] == [("1", "0.001"), ("1", "-1")]
    assert "-1" in rows[1]["error"] and rows[1]["value"] == ""
    with (sweep / jobs[0] / "metrics.csv").open() as file:
        nelbo = [float(row["val/nelbo"]) for row in csv.DictReader(file) if row["val/nelbo"]]
    assert math.isclose(float(rows[0]["value"]), nelbo[-1], rel_tol=1e-6)  # what a sweeper is told
    assert float(rows[0]["test/nelbo"]) > 0 and (sweep / jobs[0] / CHECKPOINT).is_file()
    assert str(sweep / "index.md") in said.out
    table = (sweep / "index.md").read_text()
    assert f"[2]({jobs[2]}) | seed=1 optimizer.lr=0.001 | done | {float(rows[2]['test/nelbo']):.4f}" in table


def test_the_index_is_there_while_jobs_run_and_links_to_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []

    def judged(config: EvalSchema, overrides: Any, job: Path) -> Outcome:
        seen.extend([row["state"] for row in index_of(path.parent)] for path in tmp_path.rglob("index.csv"))
        if config.seed == 1:
            raise UserError("no")
        (job / "report.html").write_text("a page")
        return Outcome(None, {"tv_exact_learned_w2": 0.25, "other": 3.0}, job / "report.html")

    monkeypatch.setattr(eval_command, "judge", judged)
    assert run("eval", "-m", "++seed=0,1,2", f"runs={tmp_path}") == 2
    assert seen == [["done"], ["done", "failed"]]
    sweep = only(tmp_path / "multirun")
    rows = index_of(sweep)
    assert [row["report"] for row in rows] == ["00_seed-0/report.html", "", "02_seed-2/report.html"]
    assert (sweep / rows[2]["report"]).is_file() and rows[2]["other"] == "3.0"
    text = (sweep / "index.md").read_text()
    assert "w=2" in text and "| 0.2500 | [report](02_seed-2/report.html)" in text
    assert f"python compare.py {sweep}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("widht=3,4",), "width"),
        (("data=nope,toy_1d_overlap",), "toy_2d_overlap"),
        (("net=tyo", "seed=1,2"), "image"),
        (("hydra/launcher=joblb", "seed=1,2"), "joblib"),
        (("w=[0", "seed=1,2"), "[a,b]"),
    ],
)
def test_a_sweep_that_never_began_leaves_no_folder_and_names_what_is_allowed(
    arguments: tuple[str, ...], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "train", *QUICK, *arguments, f"runs={tmp_path}")
    assert named in said.replace(str(tmp_path), "")
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("swept", ["seed=0,???", "net.width=8,???", "name=a,../b", "trainer.devices=1,2", "runs=a,~/b"])
def test_no_job_begins_if_the_settings_of_a_later_one_are_refused(
    swept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: Any) -> Outcome:
        raise AssertionError("a job has begun")

    monkeypatch.setattr(train_command, "train", work)
    assert swept.partition("=")[0] in refusal(capsys, "train", *QUICK, swept, f"hydra.sweep.dir={tmp_path / 's'}")
    assert list(tmp_path.iterdir()) == []


def test_what_is_known_only_in_a_job_is_checked_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def work(config: Any, *_: Any) -> Outcome:
        found.append(config.seed)
        return Outcome()

    monkeypatch.setattr(train_command, "train", work)
    assert run("train", *QUICK, "net.depth=1,2", "seed=${hydra:job.num}", f"hydra.sweep.dir={tmp_path}") == 0
    assert found == [0, 1]


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[tuple[int, int]] = []
    begin = MaskedDiffusion.on_train_batch_start

    def watched(self: MaskedDiffusion, batch: Any, batch_idx: int) -> None:
        steps.append((self.seed, self.global_step))
        if steps[-1] == (1, 4) and steps.count((1, 4)) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        begin(self, batch, batch_idx)

    monkeypatch.setattr(MaskedDiffusion, "on_train_batch_start", watched)
    arguments = (*QUICK, "seed=0,1,2", f"runs={tmp_path}")
    assert run("train", *arguments) == 130
    sweep = only(tmp_path / "multirun")
    assert [row["state"] for row in index_of(sweep)] == ["done", "interrupted"]
    assert f"hydra.sweep.dir={sweep}" in capsys.readouterr().err
    first = steps.copy()
    assert run("train", *arguments, f"hydra.sweep.dir={sweep}") == 0
    assert [step for step in steps[len(first) :] if step[0] == 0] == []  # done before
    assert [step for seed, step in steps[len(first) :] if seed == 1] == [5]  # what was left of it
    assert [row["state"] for row in index_of(sweep)] == ["done"] * 3
    assert len(list(tmp_path.rglob(CHECKPOINT.name))) == 3


def content_of(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file, with the time of its last change: of what is refused nothing is written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of two jobs of two steps."""
    sweep = tmp_path_factory.mktemp("swept") / "sweep"
    assert run("train", *OF_TWO_STEPS, f"hydra.sweep.dir={sweep}") == 0
    return sweep


@pytest.mark.parametrize("state", ["done", "running", "interrupted"])
def test_a_sweep_is_not_gone_on_with_by_another_configuration(
    swept: Path, tmp_path: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(swept, sweep)  # it may be moved
    arguments = (*OF_TWO_STEPS, f"hydra.sweep.dir={sweep}")
    for record in sweep.glob(f"*/{RECORD}"):
        record.write_text(record.read_text().replace('"done"', f'"{state}"'))  # as a kill leaves it
    before = content_of(sweep)
    other = (["trainer.max_steps=7"], ["optimizer.lr=0.5"], ["data=toy_1d_disjoint"], ["data.num_val=51"])
    for changes in other if state == "done" else other[:1]:
        refusal(capsys, "train", *arguments, *changes)
        assert content_of(sweep) == before, changes
    if state == "done":  # these decide nothing
        for changes in (["threads=null", "save_minutes=3", "trainer.enable_progress_bar=true"], ["ckpt_path=auto"]):
            assert run("train", *arguments, *changes) == 0
        assert {row["state"] for row in index_of(sweep)} == {"done"}
        assert all(content_of(sweep)[path][0] == value[0] for path, value in before.items())


def test_a_sweep_is_not_gone_on_with_on_other_data_or_another_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_command, "judge", lambda *_: Outcome())
    monkeypatch.setattr(train_command, "train", lambda *_: Outcome(0.5))
    data = tmp_path / "data.npz"
    image = tmp_path / "images" / "a" / "0.png"
    ckpt = tmp_path / "runs" / "name" / "time" / CHECKPOINT
    ckpt.parent.mkdir(parents=True)
    image.parent.mkdir(parents=True)
    for path in (data, image, ckpt):
        path.write_bytes(b"before")
    train = ("-m", "seed=0", "data=table", f"data.path={data}", f"hydra.sweep.dir={tmp_path / 'a'}")
    judge = ("-m", "++seed=0", f"ckpt_path={ckpt.parent.parent}", f"hydra.sweep.dir={tmp_path / 'b'}")
    images = ("-m", "seed=0", "data=folder", f"data.path={tmp_path / 'images'}", f"hydra.sweep.dir={tmp_path / 'c'}")
    for command, arguments, path in (("train", train, data), ("train", images, image), ("eval", judge, ckpt)):
        assert run(command, *arguments) == 0
        path.write_bytes(b"beyond")  # as many bytes under the same name
        there = content_of(tmp_path)
        for more in ((), ("hydra.sweeper.max_batch_size=x",))[: 1 + (path is data)]:
            refusal(capsys, command, *arguments, *more)
        assert content_of(tmp_path) == there
        path.write_bytes(b"before")
        assert run(command, *arguments) == 0


SAMPLER = """
from mdlm_cfg import Sampler

def mine():
    from {helper} import STEPS
    return Sampler("euler", steps=STEPS)
"""


def test_a_sweep_is_not_gone_on_with_by_other_code_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, helper = (f"{part}_{tmp_path.parent.name.replace('-', '_')}" for part in ("own", "helper"))
    modules = {name: SAMPLER.format(helper=helper), helper: "STEPS = 1\n"}
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = ("w=[0]", "study=laws", f"sampler._target_={name}.mine", "logger=null")

    def in_a_new_process(*more: tuple[str, str]) -> tuple[str, ...]:
        for module, text in {**modules, **dict(more)}.items():
            (tmp_path / f"{module}.py").write_text(text)
            sys.modules.pop(module, None)
        monkeypatch.setattr(instantiate, "CODE", {})
        monkeypatch.setattr(instantiate, "SEEN", instantiate.SEEN - modules.keys())
        return (*EXACT, "-m", "seed=0", *settings, f"hydra.sweep.dir={tmp_path / 'sweep'}")

    assert run("eval", *in_a_new_process()) == 0
    there = content_of(tmp_path / "sweep")
    for module, text in modules.items():
        assert module in refusal(capsys, "eval", *in_a_new_process((module, f"{text}MORE = 1\n")))
        assert content_of(tmp_path / "sweep") == there
    assert run("eval", *in_a_new_process()) == 0


def test_a_fault_in_a_job_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(config: EvalSchema, *_: Any) -> Outcome:
        if config.seed == 1:
            raise ZeroDivisionError("ours")
        raise UserError("theirs")

    monkeypatch.setattr(eval_command, "judge", broken)
    assert run("eval", "-m", "seed=0,1", f"runs={tmp_path}") == 1
    said = capsys.readouterr().err
    assert "'seed=0': theirs" in said and "Traceback" in said and "ZeroDivisionError: ours" in said
    record = json.loads(next(tmp_path.rglob(f"00_seed-0/{RECORD}")).read_text())
    assert (record["state"], record["failure"]["said"]) == ("failed", "theirs")


ELSEWHERE = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,-1"),
    "submitit": ("hydra/launcher=submitit_local", "seed=0,1,-1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ELSEWHERE)
def test_jobs_in_other_processes_are_in_the_same_index(tmp_path: Path, launcher: str) -> None:
    found = script(*QUICK, *ELSEWHERE[launcher], f"runs={tmp_path}")
    assert found.returncode == 2 and "'seed=-1': seed = -1" in found.stderr
    rows = index_of(only(tmp_path / "multirun"))
    assert [(row["seed"], row["state"]) for row in rows] == [("0", "done"), ("1", "done"), ("-1", "failed")]
    assert rows[0]["value"] != rows[1]["value"]


@pytest.mark.slow
def test_optuna_minimises_the_validation_nelbo(tmp_path: Path) -> None:
    arguments = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1")
    found = script(*QUICK, *arguments, "optimizer.lr=interval(1e-4,1e-2)", f"runs={tmp_path}")
    assert found.returncode == 0, found.stderr
    sweep = only(tmp_path / "multirun")
    rows = index_of(sweep)
    best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert len(rows) == 3 and math.isclose(best["best_value"], min(float(row["value"]) for row in rows))
    assert f"optimizer.lr={best['best_params']['optimizer.lr']}" in found.stdout


@pytest.mark.parametrize(("choice", "states"), [("-1,-2", {"failed"}), ("1e-3,-1", {"failed", "done"})])
@pytest.mark.slow
def test_optuna_goes_on_after_trials_that_fail(choice: str, states: set[str], tmp_path: Path) -> None:
    arguments = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=1")
    seeded = "hydra.sweeper.sampler.seed=1"  # by chance, all trials of one sweep in 32 have the same value
    found = script(*QUICK, *arguments, seeded, f"optimizer.lr=choice({choice})", f"runs={tmp_path}")
    rows = index_of(only(tmp_path / "multirun"))
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert len(rows) == 6 and {row["state"] for row in rows} == states
    errors = [line for line in found.stderr.splitlines() if line.startswith("error")]
    of_sweeper = states == {"failed"}  # which has no best trial then
    assert len(errors) == of_sweeper + len({row["optimizer.lr"] for row in rows if row["state"] == "failed"})


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """train.py in a process of its own."""
    root = Path(__file__).parent.parent.parent
    return subprocess.run([sys.executable, "train.py", *arguments], cwd=root, capture_output=True, text=True)


ODD = ("={seed:3}", "={seed:[0,1]}", "={seed:null}", "={a:{b:1}}", "=[1]", "=abc", "=3", ".seed=3")


@pytest.mark.parametrize(("value", "sweeper"), every_pair(ODD, ["basic", "optuna"]))
def test_odd_parameters_of_a_sweeper_are_a_sentence(
    value: str, sweeper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "n_jobs=1" if sweeper == "optuna" else "max_batch_size=1"  # which is not to blame
    given = ("-m", "seed=0,1", f"hydra/sweeper={sweeper}", f"runs={tmp_path}", f"hydra.sweeper.{other}")
    said = refusal(capsys, "train", *given, f"hydra.sweeper.params{value}")
    assert "hydra.sweeper.params" in said and other not in said
    assert list(tmp_path.iterdir()) == []


def test_what_ends_a_sweep_in_hydra_itself_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = (*QUICK, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert "sweeper" in refusal(capsys, "train", *sweep, "hydra.sweeper.max_batch_size=0")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(OmegaConf, "save", full)
    assert str(tmp_path / "sweep") in refusal(capsys, "train", *sweep)
    assert list(tmp_path.iterdir()) == []


NAMES = ("index.csv", "index.md", "multirun.yaml", f"00_seed-0/{RECORD}", f"00_seed-0/{CONFIG}")


@pytest.mark.parametrize(("name", "kind"), every_pair(NAMES, ["file", "link", "pipe"]))
def test_a_sweep_replaces_no_file_of_anybody_elses(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep" / name
    path.parent.mkdir(parents=True)
    {"file": path.touch, "link": partial(path.symlink_to, "nowhere"), "pipe": partial(os.mkfifo, path)}[kind]()
    before = path.lstat()
    refusal(capsys, "train", *QUICK, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert path.lstat().st_ino == before.st_ino and path.lstat().st_size == before.st_size
    assert [one for one in (tmp_path / "sweep").rglob("*") if not one.is_dir()] == [path]


def test_a_sweep_may_be_moved_and_a_report_that_is_gone_is_made_again(tmp_path: Path) -> None:
    judge = ("eval", "-m", *EXACT, "w=[1]", "seed=0,1", "study=laws")
    assert run(*judge, f"hydra.sweep.dir={tmp_path / 'here'}") == 0
    (tmp_path / "here").rename(tmp_path / "there")
    pages = [tmp_path / "there" / row["report"] for row in index_of(tmp_path / "there")]
    before = [page.stat().st_mtime_ns for page in pages]
    pages[1].unlink()
    assert run(*judge, f"hydra.sweep.dir={tmp_path / 'there'}") == 0
    assert [tmp_path / "there" / row["report"] for row in index_of(tmp_path / "there")] == pages
    assert pages[0].stat().st_mtime_ns == before[0] and pages[1].is_file()
    assert all(
        page.relative_to(tmp_path / "there").as_posix() in (tmp_path / "there" / "index.md").read_text()
        for page in pages
    )


def test_a_job_that_another_process_works_on_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_command, "judge", lambda *_: Outcome())
    judge = ("eval", "-m", *EXACT, "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert run(*judge) == 0
    path = tmp_path / "00_seed-0" / RECORD
    path.write_text(path.read_text().replace('"done"', '"running"'))
    held = path.read_bytes()
    with locked(path.with_name(LOCK)) as is_ours:
        assert is_ours and run(*judge) == 0 and path.read_bytes() == held
    assert str(path.parent) in capsys.readouterr().err and run(*judge) == 0
    assert {row["state"] for row in index_of(tmp_path)} == {"done"} and not path.with_name(LOCK).exists()


def test_the_folder_of_a_sweep_needs_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "-m" in refusal(capsys, "eval", *EXACT, "hydra.sweep.dir=x") and list(tmp_path.iterdir()) == []


def test_the_folder_of_a_sweep_may_name_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)
    for given in (["runs=${oc.env:SCRATCH}/runs", "name=mine"], ["hydra.sweep.dir=${oc.env:SCRATCH}/swept"]):
        sweep = sweep_of(["-m", "seed=0,1", *given])
        assert sweep is not None and sweep.folder.is_dir() and sweep.folder.is_relative_to(tmp_path / "scratch")


def test_a_sweep_that_was_killed_before_its_first_job_is_begun_again(tmp_path: Path) -> None:
    sweep = (*QUICK, "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert run("train", *sweep) == 0
    for path in tmp_path.iterdir():  # hydra's multirun.yaml is all that there would be
        shutil.rmtree(path) if path.is_dir() else path.name == "multirun.yaml" or path.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["multirun.yaml"] and run("train", *sweep) == 0


@pytest.mark.parametrize(
    "setting",
    ["hydra.sweep.subdir=mine", "hydra.run.dir=mine", "hydra.output_subdir=.hydra", "hydra.job.chdir=true"],
)
@pytest.mark.parametrize("is_sweep", [False, True])
def test_hydra_chooses_no_folders(
    setting: str,
    is_sweep: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A setting that is not honoured is refused; those that Lightning gives the processes it starts are none."""
    monkeypatch.chdir(tmp_path)
    assert setting in refusal(capsys, "train", *QUICK[0 if is_sweep else 1 :], setting)
    assert list(tmp_path.iterdir()) == []
    check_hydras(['hydra.run.dir="."', "hydra.output_subdir=null", "hydra.job.chdir=false", "hydra.job.name=x"])


def test_a_sweep_does_not_repeat_what_an_earlier_one_in_its_folder_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(config: Any, *_: Any) -> Outcome:
        if config.seed == 1:
            raise UserError("seed 1 is not liked")
        return Outcome(0.5)

    monkeypatch.setattr(train_command, "train", work)
    folder = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    for _ in range(2):  # a job that failed is tried again
        assert run("train", "-m", "seed=0,1", "data=toy_1d_overlap", folder) == 2
        assert "seed 1 is not liked" in capsys.readouterr().err
    assert run("train", "-m", "seed=2,3", "data=toy_1d_overlap", folder) == 0
    assert "seed 1" not in capsys.readouterr().err


@pytest.mark.parametrize("times", [1, 2])
def test_a_disk_that_becomes_full_before_the_index_is_written_is_an_error_in_a_sentence(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The index is written after each job, and at the end; of a job that failed before it is said all the same."""
    left = [times]
    write = sweep_index.write_index

    def failing(folder: Path, records: Any) -> Path:
        if left[0] == len(records):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "index.csv"))
        return write(folder, records)

    monkeypatch.setattr(sweep_index, "write_index", failing)
    assert run("eval", "-m", "denoiser=bogus,other", f"hydra.sweep.dir={tmp_path}") == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "bogus" in said and said.count("index.csv") == 1


def test_a_job_whose_process_was_killed_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on another machine may hold a lock that is not visible here."""
    monkeypatch.setattr(eval_command, "judge", lambda *_: Outcome())
    sweep = ("eval", "-m", *EXACT, f"hydra.sweep.dir={tmp_path}")
    assert run(*sweep, "seed=0,1,2,3") == 0
    records = sorted(tmp_path.glob(f"*/{RECORD}"))
    for path, host in zip(records[1:], [HOST, "another", HOST]):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "running", "host": host}))
    states = ["done", "interrupted", "running", "running"]
    with locked(records[3].with_name(LOCK)):
        assert run(*sweep, "seed=choice(0)") == 0
        assert [row["state"] for row in index_of(tmp_path)] == states
        assert [json.loads(path.read_text())["state"] for path in records] == states


JOB = """
import json, os, signal, sys, time
record = {"job": 0, "state": "running", "host": sys.argv[2], "process": os.getpid()}
def say():
    with open(sys.argv[1] + ".new", "w") as file:
        json.dump(record, file)
    os.replace(sys.argv[1] + ".new", sys.argv[1])
def interrupted(*_):
    time.sleep(0.2)  # it saves
    record["state"] = "interrupted"
    say()
    time.sleep(60)  # such a process is there until its launcher ends it
signal.signal(signal.SIGTERM, interrupted)
say()
time.sleep(60)
"""


def test_an_interrupt_waits_until_jobs_in_other_processes_have_saved(tmp_path: Path) -> None:
    path = tmp_path / "00_seed-0" / RECORD
    path.parent.mkdir()
    interrupt_jobs_elsewhere(tmp_path)  # there is none yet
    with subprocess.Popen([sys.executable, "-c", JOB, str(path), HOST]) as job:
        while not path.is_file():
            time.sleep(0.01)
        interrupt_jobs_elsewhere(tmp_path)
        assert json.loads(path.read_text())["state"] == "interrupted" and job.poll() is None
        job.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_of_several_processes_keeps_what_they_have_trained(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Ctrl-C reaches every process of a terminal, and kill(1) the command's own alone."""
    settings = ("seed=0,1", *ELSEWHERE["joblib"][:2], f"hydra.sweep.dir={tmp_path}", "save_minutes=null")
    endless = [item for item in QUICK if "max_epochs" not in item] + ["data.steps_per_epoch=100000"]
    endless = [item for item in endless if item != "data.steps_per_epoch=3"]
    arguments = [sys.executable, "train.py", *endless, *settings]
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(arguments, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True) as sweep:
        while len(list(tmp_path.glob("*/metrics.csv"))) < 2:
            assert sweep.poll() is None
            time.sleep(0.1)
        os.killpg(sweep.pid, number) if number == signal.SIGINT else sweep.send_signal(number)
        _, said = sweep.communicate()
    assert sweep.returncode == 130 and "Traceback" not in said
    assert [row["state"] for row in index_of(tmp_path)] == ["interrupted"] * 2
    assert len(list(tmp_path.rglob(CHECKPOINT.name))) == 2


def test_a_job_in_another_process_hears_an_interrupt_that_its_launcher_would_pass_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As submitit does with SIGTERM; the process of the command waits until the job has ended."""

    def worked(*_: object) -> Outcome:
        signal.raise_signal(signal.SIGTERM)
        return Outcome()

    monkeypatch.setattr(cli, "sweep_of", lambda arguments: replace(sweep_of(arguments), process=0))
    monkeypatch.setattr(cli, "_work", worked)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        assert run("train", *QUICK, "seed=0,1", f"hydra.sweep.dir={tmp_path}") == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [row["state"] for row in index_of(tmp_path)] == ["interrupted"]


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is Slurm")
def test_an_error_of_a_launcher_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = (*QUICK, "seed=0,1", "hydra/launcher=submitit_slurm", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert "srun" in refusal(capsys, "train", *sweep)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ELSEWHERE)
def test_a_sweep_that_is_refused_in_another_process_says_why(launcher: str, tmp_path: Path) -> None:
    found = script(*QUICK, "trainer.devices=2", *ELSEWHERE[launcher], f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert found.returncode == 2 and found.stderr.startswith("error: trainer.devices=2")
    assert len(found.stderr.splitlines()) == 1
