"""w=calibrated and schedule=profile: what the command samples by is what the functions find, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TOY, refusal, run
from helpers import data_of, random_target

from mdlm_cfg import (
    Guidance,
    UserError,
    calibrated_strengths,
    exact_information_profile,
    load_run,
    terminal_law,
)
from mdlm_cfg.chain.guidance_schedules import Calibrated
from mdlm_cfg.compare.metrics import total_variation as tv
from mdlm_cfg.studies.fitting import Fit
from mdlm_cfg.training.runs import newest_run

TARGET = random_target(2, 4, 2, seed=8)
Z = 1


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    path = tmp_path / "table.npz"
    np.savez(path, class_pmfs=TARGET.class_pmfs.numpy(), class_weights=TARGET.class_weights.numpy())
    return ["denoiser=exact", "data=table", f"data.path={path}", "num_samples=20"]


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_calibrated_strengths_on_the_command_line(data: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    own = ("study=laws", f"target_class={Z}", f"out={out}", "guidance=normalized")
    assert run("eval", *data, *own, "w=[2,calibrated(2),calibrated]") == 0
    strengths = calibrated_strengths(TARGET, 2.0, Z)
    plan = report(out)["plan"]["guidances"]
    assert plan[1]["w"] == "calibrated(2)" and plan[1]["strengths"] == pytest.approx(strengths, abs=1e-12)
    assert plan[2]["strengths"] == [0.0] * 4
    rows = {row["w"]: row for row in report(out)["distances"]}
    law = terminal_law(TARGET.denoiser(), Guidance(strengths, "normalized"), Z)
    assert rows["calibrated(2)"]["tv_class_exact"] == pytest.approx(tv(TARGET.class_pmf(Z), law), abs=1e-12)


@pytest.mark.parametrize(("schedule", "w"), [("profile", 0.0), ("profile(2)", 2.0)])
def test_the_steps_of_a_profile_on_the_command_line(data: list[str], schedule: str, w: float, tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps = ("sampler=event_leaping", "steps=2", f"schedule={schedule}", f"target_class={Z}")
    assert run("eval", *data, *steps, "study=laws", "w=[0,2]", f"out={out}") == 0
    sizes = exact_information_profile(TARGET, Z, w).best(2).sizes
    assert report(out)["plan"]["events"] == list(sizes) and report(out)["plan"]["steps"] is None


@pytest.mark.parametrize(
    "asked",
    [
        ("w=calibrated",),  # to no class
        ("w=calibrated(-2)", "target_class=1"),
        ("w=calibrated(nan)", "target_class=1"),
        ("w=calibrated(x)", "target_class=1"),
        ("w=calibrated()", "target_class=1"),
        ("w=[calibrated,calibrated(0)]", "target_class=1"),
        ("w=calibrated(1)", "target_class=2"),
        ("w=calibrated(1)", "target_class=1", "guidance=negative(0)"),
        ("schedule=profile", "sampler=event_leaping"),
        ("schedule=profile", "target_class=1"),  # first_hitting takes no steps
        ("schedule=profile", "target_class=1", "sampler=euler"),
        ("schedule=profile", "target_class=1", "sampler=remdm"),
        ("schedule=profile", "target_class=1", "sampler=event_leaping", "events=2"),
        ("schedule=profile", "target_class=1", "sampler=event_leaping", "steps=[0,1,inf]"),
        ("schedule=profile", "target_class=1", "sampler=event_leaping", "steps=0"),
        ("schedule=profile(x)", "target_class=1", "sampler=event_leaping"),
        ("schedule=profile(-2)", "target_class=1", "sampler=event_leaping"),
        ("schedule=profile", "target_class=1", "sampler=sampled_confidence", "policy='blocks(0,1|2,3)'"),
        ("schedule=profil", "target_class=1", "sampler=event_leaping"),
        ("events=[2,1]", "target_class=1", "sampler=event_leaping"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    data: list[str], asked: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["study=laws", "w=[1]", *asked, f"out={tmp_path / 'no'}"]
    assert refusal(capsys, "eval", *data, *given)
    assert not (tmp_path / "no").exists()


def test_examples_have_no_tilted_distribution_to_be_fitted_to() -> None:
    examples = data_of(TARGET)
    examples.target = None
    examples.test_examples = lambda: TARGET.sample(2000, torch.Generator().manual_seed(0))
    fit = Fit(examples, TARGET.denoiser(), Z)
    assert len(fit.strengths(Calibrated()).values) == 4 and sum(fit.sizes(0.0, 2)) == 4
    with pytest.raises(UserError):
        fit.strengths(Calibrated(2.0))
    with pytest.raises(UserError):
        fit.sizes(2.0, 2)
    with pytest.raises(UserError):
        Guidance(Calibrated(2.0)).table(4)


@pytest.mark.parametrize("asked", ["w=calibrated", "w=[0,calibrated(2)]", "schedule=profile"])
def test_a_network_is_trained_before_anything_is_fitted_to_it(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "train" in refusal(capsys, "train", *TOY, asked, "sampler=event_leaping", f"runs={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_a_trained_network_is_fitted_to(tmp_path: Path) -> None:
    table = tmp_path / "table.npz"
    np.savez(table, class_pmfs=TARGET.class_pmfs.numpy(), class_weights=TARGET.class_weights.numpy())
    runs = tmp_path / "runs"
    own = [item for item in TOY if not item.startswith(("data=", "w="))]
    assert run("train", *own, "data=table", f"data.path={table}", "evaluate=false", "logger=csv", f"runs={runs}") == 0
    ckpt = newest_run(runs).parent.parent
    steps = ("sampler=event_leaping", "steps=2", "schedule=profile")
    out = tmp_path / "out"
    asked = (f"ckpt_path={ckpt}", f"target_class={Z}", *steps, "w=[0,calibrated(2)]", "n=50", f"out={out}")
    assert run("sample", *asked) == 0
    denoiser = load_run(ckpt).denoiser
    strengths = calibrated_strengths(TARGET, 2.0, Z, denoiser)
    sizes = exact_information_profile(TARGET, Z, 0.0, denoiser).best(2).sizes
    again = tmp_path / "again"
    given = (f"w=[[{','.join(map(repr, strengths))}]]", f"events=[{','.join(map(str, sizes))}]", f"out={again}")
    numbers = (f"ckpt_path={ckpt}", f"target_class={Z}", "sampler=event_leaping", "n=50", *given)
    assert run("sample", *numbers) == 0
    with np.load(out / "samples.npz") as a, np.load(again / "samples.npz") as b:
        (name,) = [name for name in b.files if name != "classes"]
        assert torch.equal(torch.tensor(a["wcalibrated(2)"]), torch.tensor(b[name]))
