"""One step of a sampler by itself: what it draws and what it sums over, each by counting."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations, product

import pytest
import torch
from oracle import jump_probability

from mdlm_cfg.chain.policies import Blocks, Confidence, FixedOrder, RatePolicy
from mdlm_cfg.chain.selections import subset_chances
from mdlm_cfg.chain.steps import JUMPS, EventStep, TimeStep, draw_values, normalized, tau_leaping, uniform
from mdlm_cfg.support.seeds import generator_for

NEG_INF = -math.inf


def test_values_come_in_proportion_to_their_rates() -> None:
    rates = torch.tensor([[0.2, 0.0, 0.6, 0.2], [0.0, 0.0, 0.0, 5.0], [1e-3, 3e-3, 0.0, 0.0], [0.0] * 4]).double()
    log_rates = rates.log().expand(40_000, 4, 4)
    drawn = draw_values(log_rates, log_rates.logsumexp(-1), generator_for("values"))
    assert drawn.dtype == torch.int64
    for i, row in enumerate(rates[:3]):
        shares = torch.bincount(drawn[:, i], minlength=4).double() / 40_000
        assert float((shares - row / row.sum()).abs().max()) < 0.012
        assert float(shares[row == 0].sum()) == 0
    nan = torch.full((1, 1, 4), math.nan, dtype=torch.float64)
    assert draw_values(nan, nan.logsumexp(-1), None).tolist() == [[4]]  # visible, and no value
    nothing = torch.full((1, 1, 4), NEG_INF, dtype=torch.float64)
    assert 0 <= int(draw_values(nothing, nothing.logsumexp(-1), None)) < 4


@pytest.mark.parametrize("drawn", [0.0, 1 - 2**-53], ids=["the first", "the last"])
def test_what_has_no_rate_is_drawn_by_no_uniform(drawn: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_cfg.chain.steps.uniform", lambda shape, *_: torch.full(shape, drawn, dtype=torch.float64))
    rates = torch.rand(500, 3, 4, generator=generator_for("ends"), dtype=torch.float64)
    rates[:, :, [0, 3]] = rates[:, 1] = 0.0  # no first value, no last one, and no rate at all of the second coordinate
    log_rates = rates.log()
    x = torch.tensor([[4, 1, 4]] * 500)
    values = draw_values(log_rates, log_rates.logsumexp(-1), None)[:, [0, 2]]
    assert bool((rates[:, [0, 2]].gather(2, values[..., None]) > 0).all())
    for step in (TimeStep(tau_leaping, 0.3), EventStep(1), EventStep(3)):
        after = step.draw(x, log_rates, None)
        moved = after != x
        assert not bool(moved[:, 1].any()) and bool(rates.gather(2, after[..., None] % 4)[moved].gt(0).all())


def test_uniforms_are_of_53_bits() -> None:
    drawn = uniform(torch.Size([1000]), generator_for("bits"), torch.device("cpu"))
    assert drawn.dtype == torch.float64 and float(drawn.min()) >= 0 and float(drawn.max()) < 1
    assert bool((drawn != drawn.float().double()).any())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("with_tiers", [False, True])
def test_chances_of_subsets_are_sums_over_orders(count: int, with_tiers: bool) -> None:
    weights = torch.tensor([[1.0, 2.0, 0.0, 5.0], [3.0, 1.0, 1.0, 0.0], [0.0, 0.0, 2.0, 0.0]], dtype=torch.float64)
    # what has no weight comes last, as `Policy.choice` says
    tier = torch.tensor([[1, 0, 9, 1], [0, 1, 1, 9], [9, 9, 3, 9]]) if with_tiers else None
    found = subset_chances(weights.log(), count, tier)
    for state, row in enumerate(weights.tolist()):
        expected: dict[tuple[int, ...], float] = {}
        able = [i for i in range(4) if row[i] > 0]
        for order in permutations(able, min(count, len(able))):
            chance = 1.0
            left = list(able)
            for i in order:
                lowest = min(0 if tier is None else int(tier[state, k]) for k in left)
                first = [k for k in left if tier is None or int(tier[state, k]) == lowest]
                chance *= row[i] / sum(row[k] for k in first) if i in first else 0.0
                left.remove(i)
            key = tuple(sorted(order))
            expected[key] = expected.get(key, 0.0) + chance
        for subset in {*found, *expected}:
            value = float(found[subset][state]) if subset in found else 0.0
            assert value == pytest.approx(expected.get(subset, 0.0), abs=1e-12), (state, subset)
    assert all(len(subset) <= count for subset in found)


@pytest.mark.parametrize("policy", [RatePolicy(), FixedOrder([2, 0, 1, 3]), Confidence()], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_a_step_of_a_few_events_draws_what_sorting_all_clocks_gives(policy, count: int) -> None:
    rates = torch.rand(300, 4, 5, generator=generator_for("rates"), dtype=torch.float64)
    x = torch.where(torch.rand(300, 4, generator=generator_for("masks")) < 0.4, 1, 5)
    log_rates = rates.log().masked_fill((x != 5)[..., None], NEG_INF)
    log_z = log_rates.logsumexp(dim=-1)
    step = EventStep(count, policy)
    selection = step.selection(log_z, lambda: normalized(log_rates, log_z), torch.arange(4))
    every_count = replace(selection, count=torch.full((300,), count))  # takes them by the order of all clocks
    generator = generator_for("slow")
    slow = torch.where(every_count.draw(generator), draw_values(log_rates, log_z, generator), x)
    assert torch.equal(step.draw(x, log_rates, generator_for("slow")), slow)


@pytest.mark.parametrize("count", [1, 7, 30])
def test_within_a_block_the_first_clocks_are_next_however_many_there_are(count: int, monkeypatch) -> None:
    drawn = torch.rand(10, 40, generator=generator_for("clocks"), dtype=torch.float64)
    monkeypatch.setattr("mdlm_cfg.chain.selections.uniform", lambda *_: drawn)
    policy = Blocks([list(range(20, 40)), list(range(20))], "uniform")
    x = EventStep(count, policy).draw(torch.full((10, 40), 2), torch.zeros(10, 40, 2, dtype=torch.float64), None)
    for moved, clocks in zip((x != 2).tolist(), drawn.tolist(), strict=True):
        order = sorted(range(40), key=lambda i: (i < 20, clocks[i]))
        assert [i for i in range(40) if moved[i]] == sorted(order[:count])


def test_a_step_over_some_of_the_coordinates_is_told_which() -> None:
    # the first of three is unmasked already: of the others, the last is next
    log_z = torch.zeros(1, 2, dtype=torch.float64)
    values = torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    moves = EventStep(1, FixedOrder([0, 2, 1])).moves(log_z, values, torch.tensor([1, 2]))[0].view(3, 3)
    assert moves[2].tolist() == [0.5, 0.5, 0.0] and float(moves[:2].sum()) == 0


# four states of three masked coordinates: three, two, one and none of them have a rate
LOG_Z = torch.tensor(
    [[0.5, -1.0, 2.0], [0.5, NEG_INF, 2.0], [NEG_INF, -1.0, NEG_INF], [NEG_INF] * 3], dtype=torch.float64
)
VALUES = torch.tensor([[[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]]] * 4, dtype=torch.float64)
VALUES[LOG_Z == NEG_INF] = 0.0


def by_hand(log_z, values, count):
    """P(outcome of three coordinates) of one state, `count` events without replacement, by recursion over events."""
    z = [math.exp(value) for value in log_z]
    law = dict.fromkeys(product(range(3), repeat=3), 0.0)

    def follow(state, chance, left):
        able = [i for i in range(3) if z[i] > 0 and state[i] == 2]
        if left == 0 or not able:
            law[state] += chance
            return
        for i in able:
            for v in range(2):
                pick = z[i] / sum(z[k] for k in able)
                follow((*state[:i], v, *state[i + 1 :]), chance * pick * values[i][v], left - 1)

    follow((2, 2, 2), 1.0, count)
    return torch.tensor(list(law.values()), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_events_where_some_have_no_rate(count) -> None:
    moves = EventStep(count).moves(LOG_Z, VALUES)
    for row, log_z, values in zip(moves, LOG_Z.tolist(), VALUES.tolist(), strict=True):
        assert float((row - by_hand(log_z, values, count)).abs().max()) < 1e-14


def test_events_leave_what_is_unmasked() -> None:
    # one coordinate is left, and two events are due: the others keep their values
    x = torch.tensor([[1, 2, 0]])
    log_rates = torch.full((1, 3, 2), NEG_INF, dtype=torch.float64)
    log_rates[0, 1] = torch.tensor([NEG_INF, 0.3])
    assert EventStep(2).draw(x, log_rates, None).tolist() == [[1, 1, 0]]
    assert EventStep(3).draw(x, log_rates, None).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("u", [1e-3, 0.3, 0.999, 1.0])
def test_jumps_are_the_formulas(name, u) -> None:
    z = [1e-6, 0.3, 1.0, 4.0, 300.0]
    ours = JUMPS[name](torch.tensor(z, dtype=torch.float64).log(), torch.tensor(u, dtype=torch.float64))
    for jump, value in zip(ours.tolist(), z, strict=True):
        assert math.isclose(jump, jump_probability(name, value, u), rel_tol=1e-12, abs_tol=1e-15)
    # of a rate too small or too large for a number
    edge = JUMPS[name](torch.tensor([-2000.0, 2000.0], dtype=torch.float64), torch.tensor(u, dtype=torch.float64))
    assert edge.tolist() == ([1.0, 1.0] if u == 1 else [0.0, 1.0])


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("u", [0.3, 0.999, 1.0])
def test_what_stays_keeps_its_digits_where_nearly_all_jumps(name, u) -> None:
    z = torch.tensor([[0.3], [4.0], [60.0]], dtype=torch.float64)
    stays = TimeStep(JUMPS[name], u).moves(z.log(), torch.ones(3, 1, 1, dtype=torch.float64))[:, -1]
    own = {"tau_leaping": (1 - u) ** z, "d_cfg": (1 - u) / (u * z + 1 - u)}
    expected = own.get(name, 1 - JUMPS[name](z.log(), torch.tensor(u, dtype=torch.float64)))
    assert stays.tolist() == pytest.approx(expected.flatten().tolist(), rel=1e-11, abs=0)


def test_a_time_step_leaves_what_has_no_rate() -> None:
    for name, u in product(JUMPS, (0.3, 1.0)):
        step = TimeStep(JUMPS[name], u)
        moves = step.moves(LOG_Z, VALUES)
        assert float((moves.sum(dim=1) - 1).abs().max()) < 1e-14
        assert float(moves[3, -1]) == 1  # nowhere to go: it stays
        x = step.draw(torch.full((4, 3), 2), LOG_Z[..., None] + VALUES.log(), torch.Generator().manual_seed(0))
        assert bool((x[LOG_Z == NEG_INF] == 2).all())
