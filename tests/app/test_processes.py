"""Commands in several processes: what they draw and find is what one process does, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, TOY, run

from mdlm_cfg.training.checkpoints import CHECKPOINT, newest_run

ROOT = Path(__file__).parent.parent.parent
TWO = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
HMM = (
    *("data=hmm_dialects", "net=sequence", "objective=sampled", "data.num_test=20", "num_samples=6", "w=[0,1]"),
    *("study=sequences", "study.compare=false", "study.num_test=2", "study.num_draws=1", "num_draws=1"),
    *("sampler=event_leaping", "steps=4"),
)


def command(
    name: str, *arguments: str, folder: Path, wait: bool = True, within: tuple[str, ...] = ()
) -> subprocess.Popen:
    """A command in a process of its own, which another command may start."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    script = name.split() if " " in name else [str(ROOT / f"{name}.py")]
    process = subprocess.Popen(
        [*within, sys.executable, *script, *arguments, f"runs={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    if wait:
        _, said = process.communicate(timeout=400)
        assert process.returncode == 0, said
    return process


@pytest.mark.parametrize(
    "arguments",
    [
        HMM,
        (*TOY, "study=decay", "study.strengths=[0,1]"),
        (*TOY, "sampler._target_=mdlm_cfg.Sampler", "sampler.steps=3"),
    ],
)
def test_the_other_processes_compose_the_same_settings(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning starts them with the arguments in sys.argv."""
    found: list[tuple[object, list[str]]] = []
    monkeypatch.setattr("mdlm_cfg.app.train_command.train", lambda settings, *_: found.append((settings, sys.argv[1:])))
    assert run("train", *arguments, f"runs={tmp_path}") == 0
    assert run("train", *found[0][1]) == 0
    assert found[0][0] == found[1][0]


@pytest.mark.slow
def test_two_processes_train_draw_and_judge_as_one(tmp_path: Path) -> None:
    """Train in two, judge that run again in two and in one: the same report, and the same samples."""
    arguments = (*TINY, *HMM, "data.batch_size=20", "data.steps_per_epoch=2", "data.num_val=20", "logger=csv")
    command("train", *arguments, *TWO, folder=tmp_path)
    (folder,) = (path for path in (tmp_path / "hmm_dialects").iterdir())
    judged = [folder / "report", tmp_path / "two", tmp_path / "one"]
    command("eval", *TWO, f"out={judged[1]}", folder=tmp_path)
    command("eval", f"out={judged[2]}", folder=tmp_path)
    found = [json.loads((path / "report.json").read_text()) for path in judged]
    arrays = [np.load(path / "arrays.npz") for path in judged]
    for other, theirs in zip(found[1:], arrays[1:], strict=True):
        assert {key: other[key] for key in ("distances", "plan")} == {
            key: found[0][key] for key in ("distances", "plan")
        }
        assert set(theirs.files) == set(arrays[0].files)
        assert all(np.array_equal(theirs[name], arrays[0][name]) for name in theirs.files)
    assert found[1]["verdict"] == found[2]["verdict"]
    drawn = []
    for name, more in (("drawn by two", TWO), ("drawn by one", ())):
        command("-m mdlm_cfg.sample", *more, "n=5", "w=1", f"out={tmp_path / name}", folder=tmp_path)
        drawn.append(np.load(tmp_path / name / "samples.npz"))
    assert np.array_equal(drawn[0]["w1"], drawn[1]["w1"]) and drawn[0]["w1"].shape[1] == 5
    assert not list(tmp_path.rglob("other_ranks")) and not list(tmp_path.rglob("cache"))


@pytest.mark.slow
def test_two_processes_need_no_name_of_their_machine(tmp_path: Path) -> None:
    within = ("unshare", "--uts", "sh", "-c", 'hostname no-such-machine.invalid && exec "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], capture_output=True).returncode != 0:
        pytest.skip("the machine cannot be renamed here")
    arguments = (*TOY, *TWO, "logger=csv", "evaluate=false")
    command("train", *arguments, folder=tmp_path, within=within)
    assert torch.load(newest_run(tmp_path), weights_only=True)["global_step"] == 6


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_from_their_checkpoint(tmp_path: Path) -> None:
    arguments = (*TOY, *TWO, "trainer.max_epochs=12", "data.steps_per_epoch=20", "final_lr=1.0", "logger=csv")
    arguments = (*arguments, "evaluate=false", "ckpt_path=auto")
    process = command("train", *arguments, folder=tmp_path / "killed", wait=False)
    end = time.monotonic() + 200
    while not list((tmp_path / "killed").rglob("*.ckpt")) and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = torch.load(newest_run(tmp_path / "killed"), weights_only=True)
    assert 0 < before["global_step"] < 240, "it was to be killed on the way"
    command("train", *arguments, folder=tmp_path / "killed")
    command("train", *arguments, folder=tmp_path / "whole")
    (folder,) = (tmp_path / "killed" / "toy_1d_overlap").iterdir()  # it went on in its own
    found, expected = (torch.load(newest_run(tmp_path / name), weights_only=True) for name in ("killed", "whole"))
    assert found["global_step"] == expected["global_step"] == 240 and (folder / CHECKPOINT).is_file()
    assert all(torch.equal(value, found["state_dict"][name]) for name, value in expected["state_dict"].items())
    assert not (folder / "unfinished").exists()
