"""eval.py: what it was asked is what it answers, and where it shows that."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from test_cli import TOY, refusal, run

from mdlm_cfg import Guidance, stepped_law, terminal_law
from mdlm_cfg.compare.decay import tv_decay
from mdlm_cfg.compare.ledger import ledger_laws
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.studies.decay import STRENGTHS, TAUS
from mdlm_cfg.studies.samplers import BUDGETS, STEPPED
from mdlm_cfg.support.atomic import PART
from mdlm_cfg.targets.toys import toy_1d_overlap, toy_2d_overlap
from mdlm_cfg.training.runs import newest_run

TINY_EVAL = ("denoiser=exact", "data=toy_1d_overlap", "num_samples=50", "w=[0,2]")


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("z", [0, 1])
def test_normalized_cosine_steps_are_what_was_asked_for(z: int, tmp_path: Path) -> None:
    arguments = ("guidance=normalized", "sampler=tau_leaping", "schedule=cosine", "steps=8", "w=[0,2,4]")
    arguments = (*arguments, f"target_class={z}", "num_samples=100")
    assert run("eval", "denoiser=exact", *arguments, f"out={tmp_path}") == 0
    found = read(tmp_path)
    target = toy_2d_overlap()
    exact = target.denoiser()
    inside = (slice(0, 16),) * 2
    rows = {(row["w"], row["sampler"], row["steps"]): row for row in found["samplers"]}
    assert len(rows) == len(found["samplers"]) == 3 * len(STEPPED) * len(BUDGETS)
    for w in (0, 2, 4):
        guidance = Guidance(w, "normalized")
        end = terminal_law(exact, guidance, z)
        for name in STEPPED:
            for budget in BUDGETS:
                law = stepped_law(exact, guidance, z, name, budget, "cosine")[inside]
                assert abs(rows[w, name, budget]["tv"] - total_variation(law, end)) < 1e-12
                assert rows[w, name, budget]["schedule"] == "cosine"
        own = next(entry for entry in found["ledger"] if entry["w"] == w)
        assert (own["sampler"], own["schedule"], own["steps"], own["kind"]) == (
            "tau_leaping",
            "cosine",
            8,
            "normalized",
        )
        law = stepped_law(exact, guidance, z, "tau_leaping", 8, "cosine")[inside]
        shared = ledger_laws(target, None, guidance, z)
        assert abs(own["discretisation_error"] - total_variation(law, end)) < 1e-12
        assert abs(own["gap_to_tilted"] - total_variation(shared.laws["L1"], end)) < 1e-12
        assert abs(own["guidance_effect"] - total_variation(target.class_pmf(z), end)) < 1e-12
    expected = tv_decay(target, z, [Guidance(w, "normalized") for w in STRENGTHS], TAUS)
    (fit,) = found["decay_fit"]
    assert fit["statement"] == expected.statement and not fit["double_exponential"]
    assert [row["log_tv"] for row in found["decay_curves"]] == pytest.approx(expected.log_tv.flatten().tolist())


@pytest.mark.slow
def test_a_grid_of_clock_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*TINY_EVAL, "sampler=euler", f"out={tmp_path}")
    assert run("eval", *arguments, "steps=[0,0.5,1,inf]") == 0
    found = read(tmp_path)
    assert found["plan"]["steps"] == [0, 0.5, 1, "inf"] and found["plan"]["schedule"] is None
    own = [row for row in found["samplers"] if isinstance(row["steps"], list)]
    exact = toy_1d_overlap().denoiser()
    for row in own:
        guidance = Guidance(row["w"])
        law = stepped_law(exact, guidance, 0, "euler", (0, 0.5, 1, math.inf))[:-1]
        assert abs(row["tv"] - total_variation(law, terminal_law(exact, guidance, 0))) < 1e-12
    assert [row["w"] for row in own] == [0, 2] and found["ledger"][0]["steps"] == [0, 0.5, 1, "inf"]
    for steps, message in (("[0,0.5,1]", "must end at inf"), ("[0.5,inf]", "starts at 0"), ("odd", "whole number")):
        assert message in refusal(capsys, "eval", *arguments, f"steps={steps}")
    assert "no use beside a grid" in refusal(capsys, "eval", *arguments, "steps=[0,inf]", "schedule=cosine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("paper=1d_overlap", "data=toy_2d_overlap"), "needs data with D = 1"),
        (("paper=1d_overlap", "data=toy_1d_disjoint"), "must have values of its own and values that it shares"),
        (("paper=1d_disjoint", "guidance=normalized", "data=toy_1d_disjoint"), "the paper states it for guidance=rate"),
        (("paper=odd",), "paper experiment 'odd' is unknown"),
    ],
)
def test_a_paper_that_the_data_do_not_fit_is_refused_before_any_work(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert message in refusal(capsys, "eval", *TINY_EVAL, *arguments, f"out={out}", f"runs={tmp_path}")
    assert not out.exists()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What wandb runs were opened with, offline."""
    import wandb

    calls: list[dict[str, Any]] = []
    init = wandb.init

    def remember(*positional: Any, **settings: Any) -> Any:
        calls.append(settings)
        return init(*positional, **settings)

    monkeypatch.setattr(wandb, "init", remember)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.slow
def test_wandb_shows_an_experiment_and_its_evaluations_as_one_group(
    tmp_path: Path, opened: list[dict[str, Any]]
) -> None:
    import wandb

    assert run("train", *TOY, f"runs={tmp_path}", "logger=wandb") == 0
    assert wandb.run is None
    folder = newest_run(tmp_path).parent.parent
    assert run("eval", f"runs={tmp_path}") == 0
    assert len(opened) == 1  # no wandb unless it is asked for
    assert run("eval", f"runs={tmp_path}", "logger=wandb") == 0
    assert wandb.run is None
    assert [settings["job_type"] for settings in opened] == ["train", "eval"]
    assert {settings["group"] for settings in opened} == {folder.parent.name}
    for settings in opened:  # the configuration once, with the run that was judged
        assert settings["config"]["run"] == f"{folder.parent.name}/{folder.name}"
        assert settings["config"]["w"] == [0, 2] and "config" not in settings["config"]
    assert all(settings["mode"] == "offline" for settings in opened)
    assert len(list(folder.rglob("offline-run-*/*.wandb"))) == 2


@pytest.mark.slow
def test_wandb_is_finished_after_a_failure(
    tmp_path: Path, opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    from mdlm_cfg.app import commands

    def fail(*_: Any) -> None:
        assert wandb.run is not None
        raise RuntimeError("a bug")

    monkeypatch.setattr(commands, "log_evaluation", fail)
    assert run("eval", *TINY_EVAL, "logger=wandb", f"out={tmp_path}", f"runs={tmp_path}") == 1
    assert opened and wandb.run is None


def test_what_a_killed_report_left_half_written_is_gone_and_nothing_else(tmp_path: Path) -> None:
    arguments = ("denoiser=exact", "data=toy_1d_overlap", "num_samples=20", "w=[1]", f"out={tmp_path}")
    dead, alive = (f".pictures.png.{process}{PART}" for process in (2**30, os.getppid()))
    theirs = {"notes.part", ".hidden", ".notes.part", ".pictures.png.12345.part", f".notes{PART}", alive}
    for name in (dead, *theirs):
        (tmp_path / name).write_text("")
    assert run("eval", *arguments) == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert {"pictures.png", "report.html"} | theirs <= left and dead not in left
