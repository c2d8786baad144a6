"""Strengths that change with progress: as users write them, and per count (theory, section 12)."""

from __future__ import annotations

import re

import pytest
import torch
from helpers import Inconsistent
from oracle import Chain

from mdlm_cfg import Guidance, terminal_law
from mdlm_cfg.chain.guidance_schedules import Interval, LinearRamp, PerCount, interval, parse_strength, parse_strengths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", 2.0),
        (" -0.5 ", -0.5),
        ("1e-3", 1e-3),
        (3, 3.0),
        ("ramp(0,4)", LinearRamp(0, 4)),
        ("ramp( 0.5 , -1 )", LinearRamp(0.5, -1)),
        ("interval(4,0.3,0.9)", Interval(4, 0.3, 0.9)),
        ("interval(4,0.3,0.9,1)", Interval(4, 0.3, 0.9, 1)),
        ("[0.58, 2.0]", PerCount([0.58, 2.0])),
        ([0.58, 2.0], PerCount((0.58, 2.0))),
        (torch.tensor([1.0, 2.0]), PerCount([1, 2])),
        ("[3]", PerCount([3])),
        ("[0.58,\n2.0]", PerCount([0.58, 2.0])),
    ],
)
def test_what_users_write(text, expected):
    parsed = parse_strength(text)
    assert parsed == expected and type(parsed) is type(expected)
    if not isinstance(parsed, float):
        assert parse_strength(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text", ["", "ramp(0)", "ramp[0,4]", "interval(1,2)", "[]", "[1,x]", "two", "(2)", "ramp", "1,2"]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"the strength {text!r} cannot be read; write a number")):
        parse_strength(text)


@pytest.mark.parametrize("value", [True, None, [], [1, True], [1, None], [1, "2"], {}])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=re.escape(f"the strength {value!r} cannot be read; write a number")) as found:
        parse_strength(value)
    assert "did you mean" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "near"), [("rampe(0,4)", "ramp"), ("intervall(4,0.3,0.9)", "interval"), ("rmp", "ramp")]
)
def test_what_is_near_is_guessed(text, near):
    with pytest.raises(ValueError, match=f"did you mean {near}"):
        parse_strength(text)


def test_what_is_a_schedule_already_is_handed_back():
    for schedule in (LinearRamp(0, 1), interval(2.0, 0.25, 0.75, 1.0), abs):
        assert parse_strength(schedule) is schedule
    assert [interval(2.0, 0.25, 0.75, 1.0)(progress) for progress in (0, 0.25, 0.75, 1)] == [1, 2, 2, 1]
    assert str(interval(4, 0.3, 0.9)) == "interval(4,0.3,0.9)" and str(interval(4, 0, 1, 2)) == "interval(4,0,1,2)"


def test_lists_of_strengths():
    expected = [LinearRamp(0, 4), Interval(4, 0.3, 0.9), PerCount([0.58, 2.0]), 2.0]
    for text in ("[ramp(0,4),interval(4,0.3,0.9),[0.58,2.0],2]", "ramp(0,4), interval(4,0.3,0.9), [0.58,2.0], 2"):
        assert parse_strengths(text) == expected
    assert parse_strengths("[0,1,2]") == [0, 1, 2] and parse_strengths("2") == [2]
    assert parse_strengths("1,[2,3]") == [1, PerCount([2, 3])] == parse_strengths("[1,[2,3]]")
    assert parse_strengths("[2,3],1") == [PerCount([2, 3]), 1]
    assert parse_strengths("[[0.58,2.0]]") == [PerCount([0.58, 2.0])]


def test_per_count_is_one_strength_for_every_number_of_unmasked_coordinates():
    guidance = Guidance([3.0, -1.0, 0.5])
    assert guidance.table(3) == [3.0, -1.0, 0.5] and guidance.label == "[3,-1,0.5]"
    assert [guidance.w(k / 2) for k in range(3)] == [3.0, -1.0, 0.5]
    denoiser = Inconsistent(2, 3, 2)
    law = Chain(denoiser, guidance.w, "rate", 0).terminal_by_orders()
    assert (law - terminal_law(denoiser, guidance, 0)).abs().max() < 1e-11
    assert Guidance([2.5]).table(1) == [2.5]
    with pytest.raises(ValueError, match="are 3, and there must be 2"):
        guidance.table(2)
    with pytest.raises(ValueError, match="at least -1"):
        Guidance([0.0, -2.0]).table(2)
    with pytest.raises(ValueError, match="is empty"):
        PerCount([])
