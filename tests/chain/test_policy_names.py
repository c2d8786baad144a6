"""Policies as users write them: what `str` writes is read, and what cannot be read is refused with a guess."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.chain.policies import (
    Blocks,
    Confidence,
    Entropy,
    FixedOrder,
    KindPolicy,
    Margin,
    Policy,
    RatePolicy,
    Uniform,
)
from mdlm_cfg.chain.policy_names import parse_policy

temperatures = st.sampled_from([0.0, 0.5, 2.0, 0.125])
simple = st.one_of(
    st.sampled_from([RatePolicy(), Uniform(), FixedOrder()]),
    st.builds(Confidence, temperatures),
    st.builds(Margin, temperatures),
    st.builds(Entropy, temperatures),
)


@st.composite
def blocks(draw: st.DrawFn, within: st.SearchStrategy[Policy]) -> Policy:
    order = draw(st.permutations(range(draw(st.integers(1, 12)))))
    cuts = sorted(draw(st.sets(st.integers(1, len(order)), max_size=3)) - {len(order)})
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)])]
    return Blocks(parts, within=draw(within))


orders = st.integers(1, 12).flatmap(lambda d: st.permutations(range(d))).map(FixedOrder)


@given(policy=st.one_of(simple, orders, blocks(simple)))
def test_what_is_written_is_read(policy: Policy) -> None:
    assert parse_policy(str(policy)) == policy
    assert parse_policy(f"  {policy} ") == policy
    assert parse_policy(policy) is policy


def test_spaces_and_what_may_be_left_away() -> None:
    assert parse_policy("blocks( 0, 1 | 2,3 ;confidence( temperature = 0.5 ))") == Blocks(
        [[0, 1], [2, 3]], within=Confidence(0.5)
    )
    assert parse_policy("blocks(0,1|\n2,3)") == Blocks([[0, 1], [2, 3]])
    assert parse_policy("blocks(1|0)") == Blocks([[1], [0]], within=Uniform())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "blocks",
        "fixed_order()",
        "fixed_order(0,a)",
        "fixed_order(0;1)",
        "fixed_order[0,1]",
        "rate(1)",
        "uniform()",
        "confidence(0.5)",
        "confidence(temperature=)",
        "confidence(temperature=hot)",
        "blocks()",
        "blocks(0,1|)",
        "blocks(0||1)",
        "margin(temperature=1",
        "fixed_order(-1,0)",
        "fixed_order(0,1) rate",
        "fixed_order(\u0660)",  # a digit, and not one of ours
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read; write rate, uniform, fixed_order, confidence"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidance", "did you mean confidence"),
        ("fixed_ordr(0,1)", "did you mean fixed_order"),
        ("block(0|1)", "did you mean blocks"),
        ("blocks(0|1; entrop)", "did you mean entropy"),
        ("fixed_order(0,2)", "must hold each of 0..1 once"),
        ("blocks(0|0)", "must hold each of 0..1 once"),
        ("confidence(temperature=-1)", "temperature = -1"),
        ("entropy(temperature=nan)", "temperature = nan"),
        ("margin(temperature=inf)", "temperature = inf"),
    ],
)
def test_what_is_near_is_guessed_and_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_policy(text)


@pytest.mark.parametrize("text", ["confidence(0.5)", "rate(1)", "blocks()", "blocks"])
def test_what_is_named_rightly_is_not_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read") as found:
        parse_policy(text)
    assert "did you mean" not in str(found.value) and str(found.value).endswith("margin and entropy)")


def test_the_order_of_a_kind_is_called_as_the_kind() -> None:
    assert [str(KindPolicy(kind)) for kind in KINDS.values()] == list(KINDS)


def test_blocks_are_values_whatever_they_are_given_as() -> None:
    a = Blocks([[0, 1], [2]], "margin")
    b = Blocks(((0, 1), (2,)), Margin())
    assert a == b and hash(a) == hash(b) and a.blocks == ((0, 1), (2,))
    assert FixedOrder([1, 0]) == FixedOrder((1, 0)) and hash(FixedOrder([1, 0])) == hash(FixedOrder((1, 0)))
