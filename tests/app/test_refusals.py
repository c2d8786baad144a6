"""Nonsense is answered by one sentence, with exit code 2 and nothing left behind; whatever is wrong with it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TOY, refusal, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdlm_cfg.training.runs import newest_run

EXACT = ("denoiser=exact", "data=toy_1d_overlap", "num_samples=20", "w=[0,1]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert run("train", *TOY, "logger=csv", "evaluate=false", f"runs={folder}") == 0
    return folder


def left_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_a_paper_about_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, more in (("eval", ["denoiser=exact"]), ("train", [*TOY, "logger=csv"])):
        arguments = [*more, "paper=1d_overlap", "data=toy_2d_overlap", "w=[0,1]", f"runs={tmp_path}"]
        said = refusal(capsys, command, *arguments)
        assert "1d_overlap" in said and "D = 1" in said and "D = 2" in said
    assert left_in(tmp_path) == []


def test_every_failing_job_of_a_sweep_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    jobs = ("-m", *EXACT[:3], "w=1,-2,-3", f"runs={tmp_path}", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert run("eval", *jobs) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error in job")]
    assert len(lines) == 2
    assert "w=-2" in lines[0] and "w = -2.0 is not allowed" in lines[0]
    assert "w=-3" in lines[1] and "w = -3.0 is not allowed" in lines[1]
    assert len(list(tmp_path.rglob("report.json"))) == 1  # the job that was right was done all the same


@pytest.mark.parametrize("place", [1, 3])
def test_a_sweep_may_be_asked_for_anywhere(place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    given_ = [*EXACT[:3], "w=-2,-3", f"runs={tmp_path}"]
    assert run("eval", *given_[:place], "-m", *given_[place:]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error in job")]
    assert len(lines) == 2 and "w=-2" in lines[0] and "w=-3" in lines[1]


def test_a_fault_among_jobs_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr("mdlm_cfg.studies.laws.evaluation_of", broken)
    jobs = ("-m", *EXACT[:3], "w=1,-2", f"runs={tmp_path}", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert run("eval", *jobs) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "ValueError: ours" in said and "w = -2.0 is not allowed" in said


@pytest.mark.slow
def test_settings_of_the_data_that_leave_the_distribution_alone(runs: Path, tmp_path: Path) -> None:
    assert run("eval", f"runs={runs}", "data.num_test=100", "num_samples=20", f"out={tmp_path}") == 0
    assert json.loads((tmp_path / "report.json").read_text())["judged"] == "learned"


@pytest.mark.parametrize(
    "name", ["no_such_package.data.Table", "mdlm_cfg.training.data.nothing.Table", "os.system", ""]
)
def test_an_unknown_module_in_a_checkpoint(
    runs: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(newest_run(runs), weights_only=True)
    content["hyper_parameters"]["config"]["data"]["_target_"] = name
    torch.save(content, tmp_path / "last.ckpt")
    said = refusal(capsys, "eval", f"ckpt_path={tmp_path / 'last.ckpt'}")
    assert "data" in said and name in said
    assert left_in(tmp_path) == [tmp_path / "last.ckpt"]


@pytest.mark.slow
def test_a_grid_works_and_one_that_leaves_masks_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*EXACT, "sampler=tau_leaping", f"runs={tmp_path}")
    assert "must end at inf" in refusal(capsys, "eval", *arguments, "steps=[0,0.5,1]")
    for steps in ("[0.5,inf]", "[0,2,1]", "[0,nan]", "[]", "abc", "2.5", "true", "-3", "[[0,1]]"):
        assert "steps" in refusal(capsys, "eval", *arguments, f"steps={steps}")
    assert left_in(tmp_path) == []
    assert run("eval", *arguments, "steps=[0,0.5,1,inf]", f"out={tmp_path / 'out'}") == 0
    assert (tmp_path / "out" / "report.json").is_file()


def test_places_that_cannot_hold_a_report(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    for more in (EXACT, (f"runs={runs}",)):
        said = refusal(capsys, "eval", *more, f"out={file}")
        assert str(file) in said and "file" in said
    for more in (("eval", *EXACT), ("train", *TOY, "logger=csv")):
        assert str(file) in refusal(capsys, *more, f"runs={file}")
        assert str(file) in refusal(capsys, *more, f"runs={file}/below")
    assert file.read_text() == "mine" and left_in(tmp_path) == [file]


def test_a_place_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Path.mkdir

    def denied(self: Path, *arguments: Any, **settings: Any) -> None:
        if "shut" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        right(self, *arguments, **settings)

    # who runs the tests may be allowed everywhere: what counts is what is said of the file system's answer
    monkeypatch.setattr(Path, "mkdir", denied)
    for more in (("eval", *EXACT), ("train", *TOY, "logger=csv")):
        said = refusal(capsys, *more, f"runs={tmp_path / 'shut'}")
        assert str(tmp_path / "shut") in said and "Permission denied" in said


INTEGERS = ["abc", "1.5", "[]", "1e30", "nan", "''", "true", "{}", "[1]"]
NO_FILE = ["abc", "''", "3", "true", "{}", "{a:1}", "[abc]"]
NONSENSE: dict[str, list[str]] = {
    "data": [*NO_FILE, "null", ""],
    "study": NO_FILE,
    "logger": NO_FILE,
    "experiment": NO_FILE,
    "w": [
        *("abc", "''", "null", "[]", "[[0,0]]", "[[]]", "[[a]]", "nan", "[nan]", "-2", "inf", "1e30", "[true]", "{}"),
        *("[0,0]", "[0,abc]", "[ramp(0)]", "[ramp(0,4),ramp(0,4)]", "ramp(0,-3)", "interval(1,2)", "[rampp(0,1)]"),
    ],
    "target_class": [*INTEGERS, "-1", "2", "10000000000000000000000"],
    "policy": ["confidenc", "''", "fixed_order(1,0)", "blocks(0|1)", "fixed_order(0,0)", "[]", "{}", "confidence(2)"],
    "events": [*INTEGERS, "0", "2", "[1,1]", "[2]"],  # first_hitting takes none
    "temperature": ["0", "-1", "inf", "nan", "hot", "[]", "null", "''"],
    "top_p": ["0", "-1", "1.5", "nan", "most", "[]", "null", "''"],
    "guidance": ["''", "0", "nan", "rates", "[]", "{}", "null"],
    "sampler": ["''", "0", "nan", "first", "[]", "{}", "null"],
    "schedule": ["linear", "''", "0", "[]", "{}"],  # first_hitting takes none
    "steps": ["0", "5", "-1", "abc", "''", "[0,inf]", "{}"],  # nor steps
    "num_samples": [*INTEGERS, "0", "-1", "null"],
    "seed": ["-1", "4294967296", "abc", "1.5", "[]", "''", "{}", "null", "1e30"],
    "paper": ["abc", "''", "0", "[]", "{}", "5d_hypercube"],
    "threads": ["0", "-1", "abc", "1.5", "[]", "''"],
    "denoiser": ["''", "0", "abc", "null", "[]"],
}
CASES = [(key, value) for key, values in NONSENSE.items() for value in values]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), CASES, ids=[f"{key}={value}" for key, value in CASES])
def test_nonsense_is_refused_in_a_sentence(
    key: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [item for item in EXACT if not item.startswith(f"{key}=")]
    said = refusal(capsys, "eval", *arguments, f"runs={tmp_path}", f"{key}={value}")
    assert len(said) > 20
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("key", ["batch_size", "num_samples", "target_class", "steps"])
@pytest.mark.parametrize("value", ["0", "-1"])
def test_nonsense_beside_a_checkpoint(runs: Path, key: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    if (key, value) == ("target_class", "0"):
        return
    before = left_in(runs)
    refusal(capsys, "eval", f"runs={runs}", "sampler=euler", f"{key}={value}")
    assert left_in(runs) == before


SCALARS = st.one_of(
    st.integers(-3, 3).map(str),
    st.sampled_from(["1e30", "-1e30", "nan", "inf", "null", "true", "''", "[]", "{}"]),
    st.text("abcxyz_", min_size=1, max_size=6),
    st.lists(st.integers(-2, 2), max_size=3).map(lambda values: str(values).replace(" ", "")),
)
KEYS = ("w", "target_class", "guidance", "sampler", "schedule", "steps", "num_samples", "seed", "paper")


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.dictionaries(st.sampled_from(KEYS), SCALARS, min_size=1, max_size=3))
def test_any_configuration_is_answered_or_refused_in_a_sentence(
    chosen: dict[str, str], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    given_ = [f"{key}={value}" for key, value in ({"num_samples": "20", "w": "[1]"} | chosen).items()]
    capsys.readouterr()
    code = run("eval", "denoiser=exact", "data=toy_1d_overlap", f"runs={folder}", *given_)
    said = capsys.readouterr().err.splitlines()
    assert code in (0, 2), said
    if code == 2:
        assert len(said) == 1 and said[0].startswith("error: ") and left_in(folder) == []
    else:
        assert len(list(folder.rglob("report.json"))) == 1


def test_the_environment_is_left_as_it_was(tmp_path: Path) -> None:
    before = os.environ.get("HYDRA_FULL_ERROR", "0")
    assert run("eval", *EXACT, "w=[-2]", f"runs={tmp_path}") == 2
    assert os.environ["HYDRA_FULL_ERROR"] == before
