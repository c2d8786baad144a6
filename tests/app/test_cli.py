"""train.py and eval.py, end to end: what they leave behind, and how they say no."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import TINY, TOY, refusal, run
from idx_files import write_images

from mdlm_cfg.app.build import build_data
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.runs import CHECKPOINT, CONFIG, load_run, newest_run

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert run("train", *TOY, "logger=csv", f"runs={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


def test_a_run_leaves_everything(runs: Path) -> None:
    path = newest_run(runs)
    folder = path.parent.parent
    assert path.name == "last.ckpt" and folder.parent.name == "toy_1d_overlap"
    assert yaml.safe_load((folder / CONFIG).read_text())["net"]["width"] == 16
    with (folder / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    assert {
        "train/loss",
        "train/nelbo_null",
        "val/nelbo",
        "val/tv_w2",
        "test/nelbo",
        "eval/tv_exact_learned_w2",
    } <= set(columns)
    report = json.loads((folder / "report" / "report.json").read_text())
    assert [row["w"] for row in report["distances"]] == [0, 2]
    assert report["distances"][0]["tv_exact_learned"] > 0
    assert report["version"] == 3 and report["test"]["test/nelbo"] > 0 and report["data"]["name"] == "toy_1d_overlap"
    assert (folder / "report" / "report.html").is_file()
    assert load_run(path).config["w"] == [0, 2]


def test_eval_takes_the_newest_run_and_its_settings(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", f"runs={runs}", "guidance=normalized", "sampler=tau_leaping", "steps=4") == 0
    report = Path(capsys.readouterr().out.split("report: ")[1].strip())
    assert report.is_file() and report.parent.parent.name == "evaluations"
    found = json.loads((report.parent / "report.json").read_text())
    plan = found["plan"]
    assert [(g["w"], g["kind"]) for g in plan["guidances"]] == [(0, "normalized"), (2, "normalized")]
    assert (plan["sampler"], plan["steps"], plan["num_samples"]) == ("tau_leaping", 4, 50)
    assert [row["w"] for row in found["distances"]] == [0, 2]


def test_eval_of_the_exact_denoiser_needs_no_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "report"
    arguments = ("denoiser=exact", "data=toy_1d_disjoint", "num_samples=50", "w=1", "target_class=1", f"out={out}")
    assert run("eval", *arguments, f"runs={tmp_path}") == 0
    found = json.loads((out / "report.json").read_text())
    assert found["target_class"] == 1 and found["distances"][0]["tv_exact_learned"] is None


@pytest.mark.parametrize(
    "sampler",
    ["euler", pytest.param("d_cfg", marks=pytest.mark.slow), pytest.param("event_leaping", marks=pytest.mark.slow)],
)
def test_every_sampler_has_default_steps(tmp_path: Path, sampler: str) -> None:
    arguments = ("denoiser=exact", "data=toy_1d_disjoint", "num_samples=20", "w=[0]", f"sampler={sampler}")
    assert run("eval", *arguments, f"out={tmp_path}", "schedule=exponential") == 0


def test_images_end_to_end(images: Path, tmp_path: Path) -> None:
    arguments = (
        *(*TINY, "data=idx", f"data.path={images}", "data.batch_size=20", "threads=1"),  # nothing else need be said
        *("net.stem_channels=4", "num_samples=2", "w=[0,1]", "steps=3", "num_draws=2"),
    )
    assert run("train", *arguments, "logger=csv", f"runs={tmp_path}") == 0
    folder = newest_run(tmp_path).parent.parent / "report"
    assert np.load(folder / "samples.npz")["w1"].shape == (2, 2, 8, 8)
    assert json.loads((folder / "report.json").read_text())["test"]["test/nelbo_mc_se"] > 0
    assert run("eval", f"runs={tmp_path}", "target_class=1", "classifier=false", f"out={tmp_path / 'out'}") == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "classifier_accuracy" not in found and "diversity" in found["distances"][0]
    assert found["distances"][0]["accuracy"] is None


@pytest.mark.slow
def test_tiny_images_end_to_end(images: Path, tmp_path: Path) -> None:
    arguments = (
        *(*TINY, "experiment=tiny_mnist", f"data.dataset={images}", "data.height=1", "data.width=3", "threads=1"),
        *("data.batch_size=500", "data.steps_per_epoch=2", "data.num_test=50", "objective.rows=20", "num_samples=20"),
    )
    assert run("train", *arguments, "logger=csv", f"runs={tmp_path}") == 0
    found = json.loads((newest_run(tmp_path).parent.parent / "report" / "report.json").read_text())
    assert [entry["w"] for entry in found["ledger"]][::3] == [0, 1, 2, 4]


@pytest.mark.slow
def test_bernoulli_mixture_of_images_end_to_end(images: Path, tmp_path: Path) -> None:
    arguments = (
        *(*TINY, "experiment=bernoulli_mnist", f"data.dataset={images}", f"data.root={tmp_path}", "threads=1"),
        *("data.num_components=2", "data.iterations=3", "data.batch_size=20", "data.steps_per_epoch=2"),
        *("data.num_val=20", "data.num_test=20", "net.patch_size=4", "net.stem_channels=4"),
        *("num_samples=2", "w=[0,1]", "steps=3", "num_draws=2"),
    )
    assert run("train", *arguments, "logger=csv", f"runs={tmp_path}") == 0
    found = json.loads((newest_run(tmp_path).parent.parent / "report" / "report.json").read_text())
    assert found["conditionals_error"][0]["conditionals_error_se"] > 0


def test_resuming_by_command_line_is_bitwise(runs: Path, tmp_path: Path) -> None:
    arguments = (*TOY, "logger=csv", "evaluate=false")
    half, rest, whole = (tmp_path / name for name in ("half", "rest", "whole"))
    assert run("train", *arguments, "final_lr=1.0", "trainer.max_epochs=1", f"runs={half}") == 0
    longer = (*arguments, "final_lr=1.0")  # a cosine knows the number of epochs
    assert run("train", *longer, f"ckpt_path={newest_run(half)}", f"runs={rest}") == 0
    assert run("train", *longer, f"runs={whole}") == 0
    found, expected = (torch.load(newest_run(folder), weights_only=True) for folder in (rest, whole))
    assert all(torch.equal(value, found["state_dict"][name]) for name, value in expected["state_dict"].items())


@pytest.mark.slow
def test_wandb_works_offline_and_warns_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert run("train", *TOY, f"runs={tmp_path}") == 0
    assert "wandb: WARNING" not in capfd.readouterr().err
    folder = newest_run(tmp_path).parent.parent
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert (folder / "metrics.csv").is_file()


@pytest.mark.slow
def test_a_time_limit_anneals_the_learning_rate(tmp_path: Path) -> None:
    arguments = ("trainer.max_epochs=-1", "trainer.max_time=00:00:00:03", "data.steps_per_epoch=20")
    assert run("train", *TOY, *arguments, "logger=csv", f"runs={tmp_path}", "evaluate=false") == 0
    with (newest_run(tmp_path).parent.parent / "metrics.csv").open() as file:
        rates = [float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]]
    assert rates[-1] < 0.2 * max(rates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=nope"], "Could not find 'experiment/nope'; Available options"),
        (["data=nope"], "Could not find 'data/nope'"),
        (["widht=3"], "Key 'widht' not in"),
        (["net.widht=3"], "Key 'widht' is not in"),
        (["+net.widht=3"], "net.widht is no argument of GridTransformer"),
        (["+trainer.widht=3"], "trainer.widht is no argument of Trainer"),
        (["optimizer.lr=abc"], "optimizer.lr = 'abc' must be a number"),
        (["optimizer.lr=-1"], "learning rate -1"),
        (["w=[0,-2]"], "w = -2.0 is not allowed"),
        (["w=[0"], "no viable alternative"),
        (["w=much"], "the strength 'much' cannot be read; write a number, ramp(start,end)"),
        (["target_class=2"], "class 2 is out of range: there are 2 classes"),
        (["guidance=odd"], "choose a kind, rate or normalized"),
        (["sampler=odd"], "choose one of first_hitting"),
        (["schedule=odd"], "choose one of linear, cosine, exponential"),
        (["steps=5"], "first_hitting takes no steps"),
        (["num_samples=0"], "num_samples = 0 is not allowed: it must be at least 1"),
        (["threads=0"], "threads = 0 is not allowed: it must be 1 to 1024"),
        (["threads=100000"], "threads = 100000 is not allowed"),
        (["sampler=tau_leaping", "steps=1000000000"], "at most 1000000"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu is not supported"),
        (["=3"], "'=3' has no key"),
        (["name=${nope}"], "'nope' not found"),
        (["runs=~/x"], "write the whole path"),
        (["-m", "experiment=glob(paper/1d*)"], "no job: nothing matches experiment=glob(paper/1d*)"),
        (["-m", "seed=0,1", "--cfg", "job"], "--cfg shows one configuration"),
        (["objective=odd"], "Could not find 'objective/odd'"),
        (["objective._target_=mdlm_cfg.training.objectives.Odd"], "there is no class or function Odd"),
        (["objective._target_=mdlm_cfg.nets.optimizer.adamw"], "objective.net is missing: adamw needs it"),
        (["objective.paired=true"], "Key 'paired' is not in"),
        (["optimizer.betas=[0.9]"], "betas [0.9] must be two numbers"),
        (["optimizer=muon", "net.depth=0"], "optimizer=adamw"),
        (["ema_decay=1"], "ema_decay 1.0"),
        (["net._target_=no_such_package.Net"], "No module named 'no_such_package'"),
        (["net.num_heads=3"], "width 16 must be a multiple of num_heads 3"),
        (["trainer.max_time=5"], "max_time = 5 is not a time"),
        (["logger=wandb", "logger.mode=odd"], "logger.mode=odd is unknown; choose one of online, offline"),
        (["max_time=soon"], "max_time = soon is not a time"),
        (["max_time=00:00:00:00"], "leaves nothing to train"),
        (["data=table"], "path is missing"),
        (["data=table", "data.path=nowhere.npz"], "nowhere.npz"),
        (["ckpt_path=nowhere.ckpt"], "there is no checkpoint at nowhere.ckpt"),
    ],
)
def test_train_refuses(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(capsys, "train", *TINY, "logger=csv", f"runs={tmp_path}", *arguments)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ckpt_path=nowhere.ckpt"], "there is no checkpoint at nowhere.ckpt"),
        (["denoiser=odd"], "choose one of learned, exact"),
        (["w=[-1.5]"], "w = -1.5 is not allowed"),
        (["target_class=5"], "class 5 is out of range"),
        (["data=toy_2d_overlap"], "was trained on other data: toy_1d_overlap"),
        (["denoiser=exact", "target_class=-1"], "class -1 is out of range"),
    ],
)
def test_eval_refuses(runs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(capsys, "eval", f"runs={runs}", *arguments)


def test_eval_refuses_where_there_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no run in" in refusal(capsys, "eval", f"runs={tmp_path}")


def test_damaged_checkpoint(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "last.ckpt"
    whole = newest_run(runs).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(capsys, "eval", f"ckpt_path={path}")
    assert "cannot be read" in refusal(capsys, "train", *TOY, "logger=csv", f"ckpt_path={path}", f"runs={tmp_path}")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", ["trainer.devices=0"]),
        ("train", ["trainer.strategy=odd"]),
        ("train", ["logger=wandb", "logger.mode=odd"]),
        ("train", ["logger._target_=no_such_package.Logger"]),
        ("eval", ["denoiser=exact", "+logger._target_=no_such_package.Logger"]),
    ],
)
def test_what_cannot_be_started_leaves_no_folder(command: str, arguments: list[str], tmp_path: Path) -> None:
    given = (*TOY, "logger=csv") if command == "train" else ("data=toy_1d_overlap",)
    assert run(command, *given, f"runs={tmp_path}", *arguments) != 0
    assert not list(tmp_path.iterdir())


def test_wandb_online_without_a_login_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **_: False)
    said = refusal(capsys, "train", *TOY, "logger=wandb", "logger.mode=online", f"runs={tmp_path}")
    assert "wandb login" in said and "logger=csv" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pmfs", "message"),
    [([[1.2, -0.2], [0.5, 0.5]], "holds -0.2"), ([[0.5, 0.6], [0.5, 0.5]], "sums to 1.1 and must sum to 1")],
)
def test_bad_pmfs(pmfs: list[list[float]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, class_pmfs=pmfs, class_weights=[0.5, 0.5])
    assert message in refusal(capsys, "eval", "denoiser=exact", "data=table", f"data.path={path}")


def test_own_table(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    out = tmp_path / "out"
    np.savez(path, class_pmfs=[[[0.4, 0.1], [0.3, 0.2]]] * 2, class_weights=[0.5, 0.5])
    arguments = ("denoiser=exact", "data=table", f"data.path={path}", "num_samples=10", f"out={out}", "w=0")
    assert run("eval", *arguments) == 0
    assert (out / "report.json").is_file()


def test_corrupt_images(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in images.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 cut")
    said = refusal(
        capsys,
        "train",
        *TINY,
        "experiment=mnist",
        "data=idx",
        f"data.path={tmp_path}",
        "logger=csv",
        f"runs={tmp_path}",
    )
    assert "train-images-idx3-ubyte" in said


def test_exact_denoiser_of_unknown_data(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "needs data known exactly" in refusal(capsys, "eval", "denoiser=exact", "data=idx", f"data.path={images}")


def test_a_checkpoint_can_not_name_other_code() -> None:
    for target in (
        "os.system",
        "mdlm_cfg.training.data.idx.subprocess.run",
        "mdlm_cfg.training.data.Path",
        "mdlm_cfg.training.data.nothing",
    ):
        with pytest.raises(UserError, match="data cannot be made by"):
            build_data({"_target_": target})


OWN_NET = """
import math

import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, num_tokens: int, grid_shape: list[int], num_classes: int, features: int = 8):
        super().__init__()
        self.num_tokens, self.num_dims, self.num_classes = num_tokens, math.prod(grid_shape), num_classes
        self.classes = nn.Embedding(num_classes + 1, num_tokens * self.num_dims)

    def forward(self, tokens, classes):
        return self.classes(classes).unflatten(1, (self.num_dims, self.num_tokens)).log_softmax(-1)


def probabilities(num_tokens: int, grid_shape: list[int], num_classes: int):
    class Wrong(Tiny):
        def forward(self, tokens, classes):
            return super().forward(tokens, classes).exp()

    return Wrong(num_tokens, grid_shape, num_classes)
"""


@pytest.mark.slow
def test_a_network_of_the_users_own_is_trained_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_net_of_a_user.py").write_text(OWN_NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = [item for item in TOY if not item.startswith("net.")]
    name = "net._target_=own_net_of_a_user.Tiny"
    arguments = (*own, "logger=csv", f"runs={tmp_path}")
    assert run("train", *arguments, name, "+net.features=4") == 0
    path = newest_run(tmp_path)
    assert load_run(path, trusted=["own_net_of_a_user.Tiny"]).hyper_parameters["net"]["features"] == 4
    del sys.modules["own_net_of_a_user"]
    said = refusal(capsys, "eval", f"runs={tmp_path}")
    assert "names the network own_net_of_a_user.Tiny" in said and name in said
    assert "own_net_of_a_user" not in sys.modules
    assert run("eval", f"runs={tmp_path}", name) == 0
    wrong = refusal(capsys, "train", *arguments, "net._target_=own_net_of_a_user.probabilities")
    assert "must answer log-probabilities" in wrong


def test_a_diverged_run_says_which_checkpoint_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*TOY, "logger=csv", f"runs={tmp_path}", "evaluate=false")
    assert run("train", *arguments) == 0
    path = newest_run(tmp_path)
    content = newest_run(tmp_path).read_bytes()
    said = refusal(
        capsys, "train", *arguments, f"ckpt_path={path}", "optimizer.lr=1e30", "trainer.max_epochs=4", "final_lr=1"
    )
    assert "lower optimizer.lr" in said and f"the last good checkpoint is {path}" in said
    assert newest_run(tmp_path) == path and path.read_bytes() == content


@pytest.mark.slow
def test_resuming_a_finished_run_says_so_and_judges_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*TOY, "logger=csv", f"runs={tmp_path}")
    assert run("train", *arguments) == 0
    path = newest_run(tmp_path)
    capsys.readouterr()
    assert run("train", *arguments, f"ckpt_path={path}") == 0
    said = capsys.readouterr()
    assert f"nothing is left to train in {path}" in said.err
    assert f"checkpoint: {path}" in said.out and "report: " in said.out
    assert "leaves nothing to train" in refusal(capsys, "train", *arguments, "trainer.max_epochs=0")


def test_a_checkpoint_that_does_not_say_how_its_data_were_made(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(newest_run(runs), weights_only=True)
    del content["hyper_parameters"]["config"]["data"]
    torch.save(content, tmp_path / "last.ckpt")
    assert "give data=..." in refusal(capsys, "eval", f"ckpt_path={tmp_path / 'last.ckpt'}")


def test_errors_that_are_ours_keep_their_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("too many values to unpack")  # no UserError

    arguments = ("denoiser=exact", "data=toy_1d_overlap", "w=[0]", f"out={tmp_path / 'out'}")
    with monkeypatch.context() as patch:
        patch.setattr("mdlm_cfg.studies.laws.evaluation_of", broken)
        capsys.readouterr()
        assert run("eval", *arguments) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "ValueError: too many values to unpack" in said and "a fault of mdlm_cfg" in said
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # a user's error too, where it is asked for
    assert run("eval", "denoiser=exact", "w=[-2]") == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("error: guidance strength w = -2")


@pytest.mark.slow
def test_the_script_and_an_interrupt(tmp_path: Path) -> None:
    arguments = [*TOY, "logger=csv", "trainer.max_epochs=1000", "data.steps_per_epoch=50", f"runs={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob(CHECKPOINT.name)) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    path = newest_run(tmp_path)
    assert process.returncode == 130 and f"resume with ckpt_path={path}" in said
    assert load_run(path).step > 0


@pytest.mark.slow
def test_the_default_toy_is_learned(tmp_path: Path) -> None:
    assert run("train", "logger=csv", f"runs={tmp_path}", "num_samples=1000") == 0
    report = newest_run(tmp_path).parent.parent / "report" / "report.json"
    error = {row["w"]: row["tv_exact_learned"] for row in json.loads(report.read_text())["distances"]}
    assert error[0] < 0.01 and error[2] < 0.02 and error[4] < 4 * max(error[0], 0.002)
