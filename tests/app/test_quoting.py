"""Strengths and policies on the command line: from a shell's words to what hydra makes of them."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_configs import composed

from mdlm_cfg.app.quoting import quoted
from mdlm_cfg.app.settings import plan_of
from mdlm_cfg.chain.guidance_schedules import Interval, LinearRamp, PerCount
from mdlm_cfg.chain.policies import Blocks, Confidence, FixedOrder

ISSUE = "w=[ramp(0,4),interval(4,0.3,0.9),[0.58,2.0]]"


def read(argument: str) -> Any:
    """The value that hydra reads, after quoting; of a sweep, the values of its jobs."""
    (override,) = OverridesParser.create().parse_overrides(quoted([argument]))
    if override.is_sweep_override():
        return list(override.sweep_iterator())
    value = override.value()
    return value if isinstance(value, list) else str(value)


def test_without_quoting_hydra_refuses_it() -> None:
    with pytest.raises(Exception, match=r"[Uu]nknown function 'ramp'"):
        OverridesParser.create().parse_overrides([ISSUE])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (ISSUE, ["ramp(0,4)", "interval(4,0.3,0.9)", [0.58, 2.0]]),
        ("w=[2,ramp(0, 4)]", [2, "ramp(0, 4)"]),
        ("++w=ramp(0,4)", "ramp(0,4)"),
        ("w=['ramp(0,4)',\"interval(1,0,1)\"]", ["ramp(0,4)", "interval(1,0,1)"]),  # quoted already
        ("w=[nonsense(1)]", ["nonsense(1)"]),  # refused later, in a sentence of our own
        ("policy=fixed_order(2,0,1)", "fixed_order(2,0,1)"),
        ("policy=blocks(0,1|2,3;confidence(temperature=0.5))", "blocks(0,1|2,3;confidence(temperature=0.5))"),
        ("policy=confidence", "confidence"),
        ("remasking=loop(0.02, on=0.6)", "loop(0.02, on=0.6)"),
        ("correction=correction(size=2,policy=fixed_order(1,0))", "correction(size=2,policy=fixed_order(1,0))"),
        ("w=[int(2.5),2]", [2, 2]),  # a function of hydra's
    ],
)
def test_what_hydra_reads(argument: str, expected: Any) -> None:
    assert read(argument) == expected
    assert quoted(quoted([argument])) == quoted([argument])


@pytest.mark.parametrize(
    ("argument", "jobs"),
    [
        ("w=ramp(0,4),[0,2],2", ["'ramp(0,4)'", "[0,2]", "2"]),
        ("w=[ramp(0,4),2],[interval(4,0.3,0.9)]", ["['ramp(0,4)',2]", "['interval(4,0.3,0.9)']"]),
        ("w=choice(ramp(0,4),2)", [r"ramp\(0\,4\)", "2"]),  # hydra's own way of quoting
        ("policy=fixed_order(1,0),rate,blocks(0|1)", ["'fixed_order(1,0)'", "rate", "'blocks(0|1)'"]),
    ],
)
def test_commas_outside_brackets_separate_jobs(argument: str, jobs: list[str]) -> None:
    (override,) = OverridesParser.create().parse_overrides(quoted([argument]))
    assert list(override.sweep_string_iterator()) == jobs


def test_other_keys_stay_as_they_are() -> None:
    arguments = ["data.path='a(b).npz'", "steps=[0,1,inf]", "-m", "seed=range(0,3)", "w=[0,1", "w=[ramp(0,4"]
    assert quoted(arguments) == arguments


@pytest.mark.parametrize("shell", ["bash", "zsh", "sh"])
def test_single_quotes_pass_it_through_a_shell(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    words = [ISSUE, "policy=blocks(0,1|2,3;confidence)", "policy=confidence(temperature=0.5)"]
    line = "printf '%s\\n' " + " ".join(f"'{word}'" for word in words)
    found = subprocess.run([shell, "-c", line], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == words


def test_from_the_command_line_to_the_plan() -> None:
    arguments = ["w=[ramp(0,4),interval(4,0.3,0.9),[0.58,2.0],2]", "policy=blocks(0|1;confidence(temperature=0.5))"]
    plan = plan_of(composed(*quoted(arguments), "temperature=0.7", "top_p=0.9"))
    assert [g.w for g in plan.guidances] == [LinearRamp(0, 4), Interval(4, 0.3, 0.9), PerCount([0.58, 2.0]), 2.0]
    assert plan.sampler.policy == Blocks([[0], [1]], within=Confidence(0.5))
    assert {(g.temperature, g.top_p) for g in plan.guidances} == {(0.7, 0.9)}
    plan = plan_of(composed("w='[ramp(0,4),2]'", "policy='fixed_order(1,0)'", "events=2", "sampler=event_leaping"))
    assert [g.w for g in plan.guidances] == [LinearRamp(0, 4), 2.0]
    assert plan.sampler.policy == FixedOrder([1, 0]) and plan.sampler.events == 2 and plan.sampler.steps is None
