"""What is refused before any work, whole sweeps, and settings that change on the way from training to judging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import TOY, refusal, run

from mdlm_cfg.training.runs import newest_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert run("train", *TOY, "logger=csv", f"runs={folder}", "evaluate=false") == 0
    return folder


@pytest.mark.slow
def test_every_failing_job_of_a_sweep_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-m", "denoiser=exact", "data=toy_1d_disjoint", "num_samples=20", f"runs={tmp_path}")
    assert run("eval", *arguments, "w=[-2],[0],[-3]") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error in job")]
    assert len(lines) == 2 and "w=[-2]" in lines[0] and "w=[-3]" in lines[1]
    assert "w = -2.0 is not allowed" in lines[0] and "w = -3.0 is not allowed" in lines[1]
    assert len(list(tmp_path.rglob("report.json"))) == 1  # the job between them was done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper=1d_overlap", "data=toy_2d_overlap"], "1d_overlap"),
        (["paper=2d_overlap", "data=toy_1d_overlap"], "2d_overlap"),
        (["paper=1d_overlap", "data=toy_1d_overlap", "guidance=normalized"], "guidance=rate"),
        (["paper=nothing"], "choose one of 1d_disjoint"),
        (["w=[]"], "no guidance strength"),
        (["w=[1,1]"], "was given twice"),
        (["w=[1e308]"], "at most 10000"),
        (["sampler=euler", "steps=0"], "must be at least 1"),
        (["sampler=euler", "steps=[0,1]"], "must end at inf"),
        (["sampler=euler", "steps=[0.5,inf]"], "starts at 0"),
        (["sampler=euler", "steps=[0,inf]", "schedule=cosine"], "no use beside a grid"),
        (["schedule=cosine"], "takes no schedule"),
        (["schedule=nonsense"], "choose one of linear, cosine, exponential"),
        (["target_class=2"], "class 2 is out of range"),
    ],
)
def test_what_no_study_could_do_is_refused_before_any_work(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, "eval", "denoiser=exact", f"runs={tmp_path}", *arguments)
    assert message in refusal(capsys, "train", *TOY, "logger=csv", f"runs={tmp_path}", *arguments)
    assert not list(tmp_path.iterdir())  # no folder is left behind


@pytest.mark.slow
def test_a_setting_of_the_data_may_change_on_the_way_and_the_data_may_not(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("eval", f"runs={runs}", "data.num_test=70", "num_samples=20", "w=[0]") == 0
    report = Path(capsys.readouterr().out.split("report: ")[1].strip())
    assert json.loads((report.parent / "report.json").read_text())["data"]["name"] == "toy_1d_overlap"
    assert "trained on other data" in refusal(capsys, "eval", f"runs={runs}", "data=toy_1d_disjoint")


def test_an_unknown_module_in_a_checkpoint_is_a_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, name in (("net", "no_such_package.Net"), ("data", "no_such_package.Data")):
        content = torch.load(newest_run(runs), weights_only=True)
        saved = content["hyper_parameters"]
        (saved["net"] if part == "net" else saved["config"]["data"])["_target_"] = name
        torch.save(content, tmp_path / "last.ckpt")
        assert name in refusal(capsys, "eval", f"ckpt_path={tmp_path / 'last.ckpt'}")


def test_a_grid_of_clock_times_goes_from_the_command_line_to_the_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("denoiser=exact", "data=toy_1d_overlap", "w=[2]", "num_samples=20", f"out={out}")
    assert run("eval", *arguments, "sampler=d_cfg", "steps=[0,0.5,1,inf]") == 0
    found = json.loads((out / "report.json").read_text())
    assert found["plan"]["steps"] == [0, 0.5, 1, "inf"] and found["plan"]["schedule"] is None
    assert found["ledger"][0]["steps"] == [0, 0.5, 1, "inf"] and found["ledger"][0]["sampler"] == "d_cfg"


def test_places_that_cannot_be_written_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    arguments = ("denoiser=exact", "data=toy_1d_disjoint", "num_samples=20", "w=[0]")
    assert "is a file, and must be a folder" in refusal(capsys, "eval", *arguments, f"out={file}")
    assert str(file) in refusal(capsys, "eval", *arguments, f"runs={file}")
    assert file.read_text() == "kept"


@pytest.mark.slow
def test_wandb_runs_have_groups_and_job_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    opened: list[dict] = []

    from lightning.pytorch.loggers import WandbLogger

    made = WandbLogger.__init__

    def watched(self: WandbLogger, *arguments: object, **options: object) -> None:
        opened.append(options)
        made(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(WandbLogger, "__init__", watched)
    assert run("train", *TOY, "logger=wandb", f"runs={tmp_path}", "evaluate=false") == 0
    assert run("eval", "logger=wandb", f"runs={tmp_path}", "w=[0]", "num_samples=20") == 0
    folder = newest_run(tmp_path).parent.parent
    assert [options["job_type"] for options in opened] == ["train", "eval"]
    assert {options["group"] for options in opened} == {folder.parent.name}
