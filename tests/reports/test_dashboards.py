"""Dashboards as code: what would be saved, and that it is about names which runs log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import TOY, run

from mdlm_cfg.app.dashboards import main
from mdlm_cfg.compare.image_judge import STATISTICS
from mdlm_cfg.reports.dashboards import PICTURES, SECTIONS, TABLES
from mdlm_cfg.reports.wandb_log import AXIS

pytest.importorskip("wandb_workspaces")
WANDB = Path(sys.executable).with_name("wandb")


def names_shown() -> set[str]:
    """Every name that a panel, a picture or a table refers to."""
    panels = [panel for section in SECTIONS.values() for panel in section]
    return {name for panel in panels for name in (panel.axis, *panel.metrics)} | {*PICTURES, *TABLES}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of an offline training run with its evaluation, as wandb's own reader shows it."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setenv("WANDB_MODE", "offline")
    assert run("train", *TOY, f"runs={folder}", "logger=wandb") == 0
    patch.undo()
    (path,) = folder.rglob("*.wandb")
    found = subprocess.run(
        [WANDB, "leet", "inspect", "--summary", "--json", path], capture_output=True, text=True, check=True
    )
    return dict(json.loads(found.stdout))


@pytest.mark.slow
def test_panels_are_of_names_that_runs_log(logged: dict[str, Any]) -> None:
    of_images = {name for panel in SECTIONS["Samples of images over w"] for name in panel.metrics}
    assert {name.removeprefix("eval/") for name in of_images} <= set(STATISTICS)
    # a table shows no samples as pictures; media are kept under longer names
    names = names_shown() - of_images - {"eval_pictures/samples"}
    there = {name.split("._latest")[0] for name in logged["summary"]} | {"trainer/global_step"}
    assert names <= there, names - there


@pytest.mark.slow
def test_a_run_has_its_configuration_once(logged: dict[str, Any]) -> None:
    config = logged["config"]
    assert config["optimizer"]["lr"] > 0 and "config" not in config and config["run"].startswith("toy_1d_overlap/")
    assert config["version"]


def test_a_dry_run_prints_all_that_would_be_saved(capsys: pytest.CaptureFixture[str]) -> None:
    main(["team/project", "--dry-run"])
    found = json.loads(capsys.readouterr().out)
    workspace = found["workspace"]
    report = found["report"]
    assert (workspace["entity"], workspace["project"]) == (report["entity"], report["project"]) == ("team", "project")
    assert [section["name"] for section in workspace["sections"]] == [*SECTIONS, "Pictures"]
    for section, panels in zip(workspace["sections"], SECTIONS.values()):
        assert [set(panel["y"]) for panel in section["panels"]] == [set(panel.metrics) for panel in panels]
    over_w = [panel for section in workspace["sections"] for panel in section["panels"] if panel.get("x") == AXIS]
    assert len(over_w) == 7
    text = json.dumps(report)
    assert all(name in text for name in names_shown())


@pytest.mark.parametrize("where", ["project", "/project", "team/", "a/b/c"])
def test_a_project_that_is_none_is_refused(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as found:
        main([where])
    assert found.value.code == 2 and f"{where!r} " in capsys.readouterr().err


def test_saving_without_an_account_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setattr(type(wandb.api), "api_key", None)
    with pytest.raises(SystemExit) as found:
        main(["team/project"])
    assert found.value.code == 2 and "wandb login" in capsys.readouterr().err
