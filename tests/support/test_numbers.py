"""Shares in words: no rounding makes a part of something all of it, or nothing."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

from hypothesis import example, given, strategies as st

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.studies.best_schedule import TransferRow, carried_over
from mdlm_cfg.studies.image_models import IMAGE
from mdlm_cfg.studies.simple_models import of_recognised
from mdlm_cfg.support.numbers import apart, in_percent, instead_of, percent, rounded_up

halves = st.sampled_from([0.0005, 0.005, 0.995, 0.9995])  # as far from two numbers of percent
near_the_ends = st.floats(-9, -1.5).map(lambda power: 10.0**power)
exact = st.sampled_from([0.0, 1.0])
shares = st.one_of(st.floats(0, 1), near_the_ends, near_the_ends.map(lambda least: 1 - least), exact, halves)


def number_in(text: str) -> float:
    """The number before the only percent sign of a text."""
    (found,) = re.findall(r"([-\d.]+)%", text)
    return float(found) / 100


@example(0.005, 0)
@given(shares, st.integers(0, 1))
def test_a_share_is_all_or_nothing_only_where_it_is(share: float, digits: int) -> None:
    text = percent(share, digits)
    said = number_in(text)
    assert said not in (0, 1) or math.isclose(said, share, rel_tol=0, abs_tol=1e-12)
    assert abs(said - share) <= 10.0 ** -(digits + 2) * 1.001
    assert ("less" in text) <= (share < said) and ("more" in text) <= (share > said)


@example(1.4e-13, 1)
@given(st.one_of(st.floats(0, 1), st.floats(-300, 300).map(lambda power: 10.0**power)), st.integers(1, 4))
def test_a_bound_is_never_below_what_it_bounds(value: float, digits: int) -> None:
    said = float(rounded_up(value, digits))
    assert value <= said <= value * (1 + 1.001 * 10.0 ** (1 - digits))


@given(shares, st.integers(1, 2))
def test_samples_are_said_to_be_all_of_their_class_only_where_they_are(share: float, num: int) -> None:
    rows = [SimpleNamespace(w=Guidance(float(w)), accuracy=share) for w in range(num)]
    held = SimpleNamespace(accuracy=share)
    said = of_recognised("classifier", rows, [1000] * num, held, IMAGE)
    assert said.count(in_percent(share)) == num + 1


@given(shares)
def test_at_least_is_at_most_what_it_is(share: float) -> None:
    (sentence,) = carried_over([TransferRow(Guidance(2.0), gain=1.0, share_kept=share)])
    assert share - 0.001 <= number_in(sentence) <= share + 1e-12


@given(
    st.floats(0, 1), st.one_of(st.floats(0, 1), st.floats(-11, -1).map(lambda power: 10.0**power)), st.integers(2, 4)
)
def test_two_numbers_of_a_sentence_look_alike_only_where_they_are(first: float, change: float, digits: int) -> None:
    second = first + change
    shown, other = apart(first, second, digits)
    assert (shown == other) <= math.isclose(first, second, rel_tol=1e-12, abs_tol=1e-12)
    assert instead_of(first, second).split(" instead of ") == list(dict.fromkeys(apart(first, second)))
    for text, value in ((shown, first), (other, second)):
        half = 0.5 * 10.0**-digits + 1e-12  # of the last digit: 0.875 is 0.88
        assert math.isclose(float(text), value, rel_tol=0, abs_tol=max(0.0006 * value, half))


def test_infinite_numbers_are_alike() -> None:
    assert apart(math.inf, math.inf) == ("inf", "inf")
