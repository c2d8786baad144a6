"""What was asked for is shown as it was typed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from commands import run

from mdlm_cfg.app.overrides import as_typed, for_any_data
from mdlm_cfg.app.quoting import quoted, with_objects


@pytest.mark.parametrize(
    "typed",
    [
        ["seed=3", "w=[0,1]"],
        ["policy=blocks(0,1|2; confidence(temperature=0.5))"],
        ["w=[ramp(0,4),2]"],
        ["sampler._target_=my.Own", "sampler.steps=4"],
        ["data.path=a folder/x"],
        ["data.num_test=9"],
    ],
)
def test_what_is_shown_can_be_typed_again(typed: list[str]) -> None:
    assert shlex.split(" ".join(as_typed(for_any_data(with_objects(quoted(typed)))))) == typed


def test_a_report_names_the_command_study_and_data(tmp_path: Path) -> None:
    typed = ["denoiser=exact", "data=toy_1d_overlap", "study=decay", "w=[0,ramp(0,2)]", f"out={tmp_path}"]
    assert run("eval", *typed) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert set(shlex.split(found["run"]["command"])) == {"eval.py", *typed}
    assert {"toy_1d_overlap", "decay"} <= set(found["title"].replace(",", "").split())
