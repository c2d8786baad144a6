"""train.py and eval.py, end to end: what they leave behind, how a run goes on, and networks of the user's own."""

from __future__ import annotations

import csv
import json
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import QUICK, TINY, TOY, findings_in, numbers, refusal, report_in, run
from idx_files import write_images

from mdlm_cfg import load_run
from mdlm_cfg.app.cli import help_as_text
from mdlm_cfg.training.checkpoints import CONFIG, newest_run
from mdlm_cfg.training.metrics import METRICS

ROOT = Path(__file__).parent.parent.parent


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
    judged = {"train/loss", "train/nelbo_null", "val/nelbo", "val/tv_w2", "test/nelbo", "eval/tv_exact_learned_w2"}
    assert judged <= set(columns)
    report = report_in(folder / "report")
    assert [row["w"] for row in report["distances"]] == [0, 2]
    assert report["distances"][0]["tv_exact_learned"] > 0
    assert report["version"] == 3 and report["test"]["test/nelbo"] > 0 and report["data"]["name"] == "toy_1d_overlap"
    assert (folder / "report" / "report.html").is_file()
    assert load_run(path).config["w"] == [0, 2]


def test_eval_takes_the_newest_run_and_its_settings(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", f"runs={runs}", "guidance=normalized", "sampler=tau_leaping", "steps=4") == 0
    report = Path(capsys.readouterr().out.split("report: ")[1].strip())
    assert report.is_file() and report.parent.parent.name == "evaluations"
    found = report_in(report.parent)
    plan = found["plan"]
    assert [(g["w"], g["kind"]) for g in plan["guidances"]] == [(0, "normalized"), (2, "normalized")]
    assert (plan["sampler"], plan["steps"], plan["num_samples"]) == ("tau_leaping", 4, 50)
    assert [row["w"] for row in found["distances"]] == [0, 2]


def test_images_end_to_end(images: Path, tmp_path: Path) -> None:
    arguments = (
        *(*TINY, "data=idx", f"data.path={images}", "data.batch_size=20", "threads=1"),  # nothing else need be said
        *("net.stem_channels=4", "num_samples=2", "w=[0,1]", "steps=3", "num_draws=2"),
    )
    assert run("train", *arguments, "logger=csv", f"runs={tmp_path}") == 0
    folder = newest_run(tmp_path).parent.parent / "report"
    assert np.load(folder / "samples.npz")["w1"].shape == (2, 2, 8, 8)
    assert report_in(folder)["test"]["test/nelbo_mc_se"] > 0
    assert run("eval", f"runs={tmp_path}", "target_class=1", "classifier=false", f"out={tmp_path / 'out'}") == 0
    found = report_in(tmp_path / "out")
    assert [row["judge"] for row in found["classifiers"]] == ["nelbo"] and "diversity" in found["distances"][0]
    assert found["distances"][0]["accuracy"] is None


@pytest.mark.slow
def test_distributions_of_images_end_to_end(images: Path, tmp_path: Path) -> None:
    tiny = (
        *(*TINY, "experiment=tiny_mnist", f"data.dataset={images}", "data.height=1", "data.width=3", "threads=1"),
        *("data.batch_size=500", "data.steps_per_epoch=2", "data.num_test=50", "objective.rows=20", "num_samples=20"),
    )
    assert run("train", *tiny, "logger=csv", f"runs={tmp_path / 'tiny'}") == 0
    assert [entry["w"] for entry in report_in(tmp_path / "tiny")["ledger"]][::3] == [0, 1, 2, 4]
    mixture = (
        *(*TINY, "experiment=bernoulli_mnist", f"data.dataset={images}", f"data.root={tmp_path}", "threads=1"),
        *("data.num_components=2", "data.iterations=3", "data.batch_size=20", "data.steps_per_epoch=2"),
        *("data.num_val=20", "data.num_test=20", "net.patch_size=4", "net.stem_channels=4"),
        *("num_samples=2", "w=[0,1]", "steps=3", "num_draws=2"),
    )
    assert run("train", *mixture, "logger=csv", f"runs={tmp_path / 'mixture'}") == 0
    assert report_in(tmp_path / "mixture")["conditionals_error"][0]["conditionals_error_se"] > 0


@pytest.mark.slow
def test_a_time_limit_anneals_the_learning_rate(tmp_path: Path) -> None:
    arguments = ("trainer.max_epochs=-1", "trainer.max_time=00:00:00:03", "data.steps_per_epoch=20")
    assert run("train", *QUICK, *arguments, f"runs={tmp_path}") == 0
    with (newest_run(tmp_path).parent.parent / "metrics.csv").open() as file:
        rates = [float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]]
    assert rates[-1] < 0.2 * max(rates)


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
    assert name in refusal(capsys, "eval", f"runs={tmp_path}")
    assert "own_net_of_a_user" not in sys.modules
    assert run("eval", f"runs={tmp_path}", name) == 0
    wrong = refusal(capsys, "train", *arguments, "net._target_=own_net_of_a_user.probabilities")
    assert "network Wrong" in wrong


def test_a_diverged_run_says_which_checkpoint_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*QUICK, f"runs={tmp_path}")
    assert run("train", *arguments) == 0
    path = newest_run(tmp_path)
    content = path.read_bytes()
    strong = ("optimizer.lr=1e30", "trainer.max_epochs=4", "final_lr=1")
    said = refusal(capsys, "train", *arguments, f"ckpt_path={path}", *strong)
    assert "optimizer.lr" in said and str(path) in said
    assert newest_run(tmp_path) == path and path.read_bytes() == content


@pytest.mark.slow
def test_resuming_a_finished_run_says_so_and_judges_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*TOY, "logger=csv", f"runs={tmp_path}")
    assert run("train", *arguments) == 0
    path = newest_run(tmp_path)
    capsys.readouterr()
    assert run("train", *arguments, f"ckpt_path={path}") == 0
    said = capsys.readouterr()
    assert str(path) in said.err and str(path) in said.out and "report.html" in said.out
    assert run("train", *arguments, "name=fewer", "trainer.max_epochs=1", "evaluate=false", f"ckpt_path={path}") == 0
    with next((tmp_path / "fewer").rglob(METRICS)).open(newline="") as file:
        assert {row["step"] for row in csv.DictReader(file)} == {"6"}  # where the network that is tested was trained
    assert "trainer.max_epochs = 0" in refusal(capsys, "train", *arguments, "trainer.max_epochs=0")


@pytest.mark.slow
def test_the_default_toy_is_learned(tmp_path: Path) -> None:
    assert run("train", "logger=csv", f"runs={tmp_path}", "num_samples=1000") == 0
    report = newest_run(tmp_path).parent.parent / "report" / "report.json"
    error = {row["w"]: row["tv_exact_learned"] for row in json.loads(report.read_text())["distances"]}
    assert error[0] < 0.01 and error[2] < 0.02 and error[4] < 4 * max(error[0], 0.002)


# the same seed on the same machine gives the same numbers, whatever the batches of an evaluation


@pytest.mark.slow
def test_batches_of_an_evaluation_change_rounding_alone(runs: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 7, 1024):
        out = tmp_path / str(size)
        assert run("eval", f"batch_size={size}", f"out={out}", f"runs={runs}") == 0
        found.append(findings_in(out))
    for other in found[:2]:
        assert numbers(other) == pytest.approx(numbers(found[2]), abs=1e-5)
        drawn = [[row["tv_exact_samples"] for row in one["distances"]] for one in (other, found[2])]
        assert drawn[0] == drawn[1]


class Lazy:
    """What hydra gives in place of a help text."""


def test_any_help_is_text_and_argparse_is_as_it_was() -> None:
    original = ArgumentParser.add_argument
    parser = ArgumentParser()
    with help_as_text():
        parser.add_argument("--shell-completion", help=Lazy())
        parser.add_argument("--other", help="as it is")
        parser.add_argument("--none")
    assert "as it is" in parser.format_help()  # argparse formats, and on Python 3.14 checks, texts alone
    assert ArgumentParser.add_argument is original
