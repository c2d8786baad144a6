"""What surrounds a command: Slurm, wandb, users without a name or a home, other processes, code of the user's own."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest
from commands import TOY, refusal, run

from mdlm_cfg.app.build import for_own_targets, is_alone_in_slurm
from mdlm_cfg.app.commands import _name_the_user
from mdlm_cfg.app.errors import FAULT, USER_ERROR, Failure, account_of, sentence
from mdlm_cfg.app.wandb_runs import check_wandb, earlier_wandb_run, keep_wandb_files_in
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import thing_named
from mdlm_cfg.support.schema import TrainSchema

ALLOCATION = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "mine"}


@pytest.mark.parametrize(
    ("more", "is_alone"),
    [
        ({}, True),  # the shell of salloc, or a batch script
        ({"SLURM_STEP_ID": "0", "SLURM_PTY_PORT": "4000"}, True),  # srun --pty bash
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "2"}, False),  # srun python train.py
        ({"TORCHELASTIC_RUN_ID": "none"}, False),  # torchrun in an allocation
    ],
)
def test_only_a_task_of_slurm_waits_for_the_others(more: dict[str, str], is_alone: bool) -> None:
    assert is_alone_in_slurm(ALLOCATION | more) is is_alone
    assert not is_alone_in_slurm(more)


def test_training_in_an_allocation_is_as_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ALLOCATION.items():
        monkeypatch.setenv(name, value)
    arguments = ("trainer.max_epochs=1", "data.steps_per_epoch=2", "evaluate=false", "logger=csv")
    assert run("train", *TOY, *arguments, f"runs={tmp_path}") == 0


@pytest.mark.parametrize("name", ["a/b", "a:b", "a?", "x" * 129])
def test_names_that_wandb_does_not_take_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"logger\.project"):
        check_wandb({"project": name})
    monkeypatch.setenv("WANDB_PROJECT", name)
    with pytest.raises(UserError, match="WANDB_PROJECT"):
        check_wandb({"project": "mine"})


def test_a_training_run_keeps_its_run_on_wandb(tmp_path: Path) -> None:
    assert earlier_wandb_run(tmp_path) is None
    for number, name in enumerate(("offline-run-20260101_101010-abcd1234", "run-20260102_101010-abcd1234")):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        os.utime(tmp_path / "wandb" / name, (number, number))
    assert earlier_wandb_run(tmp_path) == "abcd1234"


def test_users_without_a_name_or_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOGNAME", "")  # so that it is put back afterwards
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    _name_the_user()
    assert getpass.getuser() == f"uid{os.getuid()}"
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, "")
        del os.environ[name]
    keep_wandb_files_in(tmp_path)
    assert Path(os.environ["WANDB_DATA_DIR"]).is_relative_to(tmp_path)


def test_a_process_that_has_gone_is_a_sentence() -> None:
    for text in (
        "[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer",
        "gloo: Connection closed by peer",
    ):
        assert "another process" in str(sentence(RuntimeError(text)))
    assert sentence(RuntimeError("shapes do not match")) is None


def test_settings_of_an_experiment_are_those_of_the_optimizer_it_was_made_for() -> None:
    optimizer = {"_target_": "mdlm_cfg.nets.optimizer.adamw", "lr": 1e-3, "muon_lr": 2e-2}
    parts = TrainSchema(net={}, objective={}, optimizer=optimizer)
    assert set(for_own_targets(parts, ["optimizer=adamw"]).optimizer) == {"_target_", "lr"}
    assert "muon_lr" in for_own_targets(parts, ["optimizer=adamw", "optimizer.muon_lr=0.1"]).optimizer
    assert "muon_lr" in for_own_targets(parts, ["experiment=mnist"]).optimizer


@pytest.mark.parametrize(("name", "line"), [("breaks", 5), ("two", 8)])
def test_an_error_in_code_of_ones_own_is_called_so(
    name: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / f"my_own_{name}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "things.py").write_text(
        "import math\n\n\ndef breaks(w):\n    return math.log(-w)\n\n\ndef two(a, b):\n    return a\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    function = thing_named(f"{package.name}.things.{name}", "study.own")
    with pytest.raises((ValueError, TypeError)) as raised:
        function(1.0)
    account = account_of(Failure("", raised.value))
    assert account.code == USER_ERROR and f"things.py, line {line}" in account.said and "Traceback" in account.text
    ours = account_of(Failure("", KeyError("ours")))
    assert ours.code == FAULT


def test_what_benchmark_is_given_must_make_guidance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one_argument.py").write_text("def rule(w):\n    return w\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ("experiment=benchmark", "study.own=one_argument.rule", "study.targets=[toy_1d_overlap]", "w=[0]")
    assert "must return a Guidance" in refusal(capsys, "eval", *arguments, f"runs={tmp_path}")
