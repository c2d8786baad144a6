"""Policies by themselves: what comes first, in which proportion, and how they are written and read."""

from __future__ import annotations

import math
import re

import pytest
import torch
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
    log_first,
    policy_of,
    tiers,
)
from mdlm_cfg.chain.policy_names import parse_policy

NEG_INF = -math.inf


def order_of(policy: Policy, num: int, states: int = 1) -> list[int]:
    """The coordinates one after another, of a policy that leaves nothing to chance, all states asked at once."""
    log_r = torch.full((states, num, 2), 0.5, dtype=torch.float64).log()
    left = list(range(num))
    order = []
    while left:
        coordinates = torch.tensor(left)
        chance = policy.log_choice(
            torch.zeros(states, len(left), dtype=torch.float64), lambda left=left: log_r[:, left], coordinates
        ).exp()
        assert bool((chance == chance[0]).all()) and sorted(chance[0].tolist()) == [0.0] * (len(left) - 1) + [1.0]
        order.append(left.pop(int(chance[0].argmax())))
    return order


@pytest.mark.parametrize("states", [1, 7])
def test_blocks_come_one_after_another_and_within_as_their_policy_says(states: int) -> None:
    policy = Blocks([[4, 1, 5], [0, 2, 3]], FixedOrder([5, 4, 3, 2, 1, 0]))
    assert order_of(policy, 6, states) == [5, 4, 1, 3, 2, 0]
    assert order_of(Blocks([[3], [2], [0], [1]]), 4, states) == [3, 2, 0, 1]
    assert policy.log_choice(torch.zeros(6).double(), lambda: None, torch.arange(6)).argmax() == 5  # a single state
    assert order_of(FixedOrder(), 4, states) == [0, 1, 2, 3]
    assert order_of(FixedOrder([2, 0, 3, 1]), 4, states) == [2, 0, 3, 1]


def test_within_a_block_equals_share() -> None:
    log_z = torch.tensor([[0.0, math.log(3), 5.0, NEG_INF]], dtype=torch.float64)
    log_r = torch.full((1, 4, 2), 0.5, dtype=torch.float64).log()
    for within, expected in ((Uniform(), [0.5, 0.5, 0, 0]), (RatePolicy(), [0.25, 0.75, 0, 0])):
        policy = Blocks([[3, 0, 1], [2]], within)
        chance = policy.log_choice(log_z, lambda: log_r, torch.arange(4)).exp()
        assert chance[0].tolist() == pytest.approx(expected)


def test_scores_are_the_formulas() -> None:
    r = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8]], dtype=torch.float64)
    assert Confidence().score(r.log()).tolist() == pytest.approx([math.log(v) for v in (0.5, 1.0, 0.8)])
    assert Margin().score(r.log()).tolist() == pytest.approx([0.2, 1.0, 0.7])
    assert Margin().score(r[None, :1].log()).tolist() == [pytest.approx([0.2])]  # one coordinate has a second value
    entropies = [sum(p * math.log(p) for p in row if p > 0) for row in r.tolist()]
    assert Entropy().score(r.log()).tolist() == pytest.approx(entropies)
    assert Margin().score(r[:, :1].log()).tolist() == pytest.approx([0.2, 1.0, 0.1])  # one value has no second


@pytest.mark.parametrize("make", [Confidence, Margin, Entropy])
def test_a_temperature_draws_in_proportion_to_the_exponentiated_scores(make) -> None:
    log_r = torch.tensor([[[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]]], dtype=torch.float64).log()
    log_z = torch.tensor([[0.3, 2.0, NEG_INF]], dtype=torch.float64)
    score = make().score(log_r)[0].tolist()
    weights = [math.exp(score[0] / 0.4), math.exp(score[1] / 0.4), 0.0]
    chance = make(0.4).log_choice(log_z, lambda: log_r, torch.arange(3)).exp()[0].tolist()
    assert chance == pytest.approx([w / sum(weights) for w in weights])
    best = make().log_choice(log_z, lambda: log_r, torch.arange(3)).exp()[0].tolist()
    assert best == [1.0, 0.0, 0.0]


def test_equal_scores_share_a_place() -> None:
    inf = math.inf
    score = torch.tensor([[1.0, 3.0, 3.0 + 1e-13, -inf, -inf], [2.0, 1.0, 0.0, 5.0, 1.0 + 1e-9]], dtype=torch.float64)
    assert tiers(score).tolist() == [[1, 0, 0, 2, 2], [1, 3, 4, 0, 2]]
    assert tiers(score[:, :1]).tolist() == [[0], [0]]


def test_the_first_is_of_the_lowest_tier_there_is() -> None:
    tier = torch.tensor([[1, 2, 1], [3, 3, 3]])
    log_weight = torch.tensor([[0.0, 9.0, math.log(3)], [NEG_INF, 1e8, 1e8 + math.log(4)]], dtype=torch.float64)
    assert log_first(tier, log_weight).exp()[0].tolist() == pytest.approx([0.25, 0, 0.75])
    assert log_first(tier, log_weight).exp()[1].tolist() == pytest.approx([0, 0.2, 0.8], rel=1e-7)
    assert log_first(None, log_weight)[0].exp().tolist() == pytest.approx([1 / (math.exp(9) + 4), 1, 0], abs=1e-3)
    nowhere = torch.full((1, 3), NEG_INF, dtype=torch.float64)
    assert log_first(None, nowhere).tolist() == nowhere.tolist() == log_first(tier[:1], nowhere).tolist()


def test_chances_of_a_state_are_its_own_whatever_the_others_weights_are() -> None:
    own = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    found = log_first(None, torch.cat([own, own + 1e8, torch.full_like(own, NEG_INF)]))
    assert (found[0] - own.log_softmax(dim=1)[0]).abs().max() < 1e-15
    assert (found[1] - own.log_softmax(dim=1)[0]).abs().max() < 1e-7  # what 1e8 leaves of the digits


def test_policies_by_name() -> None:
    assert policy_of("margin") == Margin() and policy_of("fixed_order") == FixedOrder()
    made = Confidence(0.5)
    assert policy_of(made) is made
    with pytest.raises(ValueError, match=r"'x' .* rate, uniform, "):
        policy_of("x")
    for wrong in ([0, 0], [1, 2], [0, 2]):
        with pytest.raises(ValueError, match=r"order .* 0\.\.1 "):
            FixedOrder(wrong)
    for short in (FixedOrder([0, 1]), Blocks([[0], [1]], FixedOrder([0, 1]))):
        with pytest.raises(ValueError, match=r"\[0, 1\].* 0\.\.2 "):
            short.check(3)
    with pytest.raises(ValueError, match=r"blocks .*\[0, 0\].* 0\.\.1 "):
        Blocks([[0], [0]])
    with pytest.raises(ValueError, match=r"order .*\[0, 1, 2\].* 0\.\.1 "):
        Blocks([[0], [1]], FixedOrder([0, 1, 2]))
    FixedOrder().check(5)
    FixedOrder([1, 0]).check(2)


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
    with pytest.raises(ValueError, match=rf"{re.escape(repr(text))} .* rate, uniform, fixed_order, confidence"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidance", r"confidence\?$"),
        ("fixed_ordr(0,1)", r"fixed_order\?$"),
        ("block(0|1)", r"blocks\?$"),
        ("blocks(0|1; entrop)", r"entropy\?$"),
        ("fixed_order(0,2)", r"order .*\[0, 2\].* 0\.\.1 "),
        ("blocks(0|0)", r"blocks .*\[0, 0\].* 0\.\.1 "),
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
    with pytest.raises(ValueError, match=re.escape(repr(text))) as found:
        parse_policy(text)
    assert "?" not in str(found.value)


def test_the_order_of_a_kind_is_called_as_the_kind() -> None:
    assert [str(KindPolicy(kind)) for kind in KINDS.values()] == list(KINDS)


def test_blocks_are_values_whatever_they_are_given_as() -> None:
    a = Blocks([[0, 1], [2]], "margin")
    b = Blocks(((0, 1), (2,)), Margin())
    assert a == b and hash(a) == hash(b) and a.blocks == ((0, 1), (2,))
    assert FixedOrder([1, 0]) == FixedOrder((1, 0)) and hash(FixedOrder([1, 0])) == hash(FixedOrder((1, 0)))


def test_a_policy_made_of_another_is_asked_what_it_prefers() -> None:
    class Halved(RatePolicy):
        def preference(self, log_z, log_r, coordinates):
            return None, 0.5 * log_z

    log_z = torch.tensor([[0.0, NEG_INF, 2.0]], dtype=torch.float64)
    found = Halved().log_choice(log_z, lambda: log_z[..., None], torch.arange(3)).exp()
    assert torch.allclose(found, (0.5 * log_z).softmax(dim=1), rtol=1e-15, atol=0)
    assert torch.allclose(RatePolicy().log_choice(log_z, lambda: log_z, torch.arange(3)).exp(), log_z.softmax(dim=1))
