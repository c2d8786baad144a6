"""One step of a sampler by itself: what it draws and what it sums over, also where some coordinates have no rate."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from oracle import jump_probability

from mdlm_cfg.chain.kinds import KINDS, Rate, kind_of
from mdlm_cfg.chain.steps import JUMPS, EventStep, TimeStep

NEG_INF = -math.inf
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


@pytest.mark.parametrize("count", [1, 2, 3])
def test_events_are_drawn_as_they_are_summed(count) -> None:
    n = 40_000
    log_rates = LOG_Z[..., None] + VALUES.log()
    for k, expected in enumerate(EventStep(count).moves(LOG_Z, VALUES)):
        x = torch.full((n, 3), 2)
        drawn = EventStep(count).draw(x, log_rates[k].expand(n, 3, 2), torch.Generator().manual_seed(k))
        found = torch.bincount((drawn * torch.tensor([9, 3, 1])).sum(1), minlength=27).double() / n
        assert float((found - expected).abs().max()) < 5 * 0.5 / n**0.5
        assert float(found[expected == 0].sum()) == 0


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


def test_a_time_step_leaves_what_has_no_rate() -> None:
    for name, u in product(JUMPS, (0.3, 1.0)):
        step = TimeStep(JUMPS[name], u)
        moves = step.moves(LOG_Z, VALUES)
        assert float((moves.sum(dim=1) - 1).abs().max()) < 1e-14
        assert float(moves[3, -1]) == 1  # nowhere to go: it stays
        x = step.draw(torch.full((4, 3), 2), LOG_Z[..., None] + VALUES.log(), torch.Generator().manual_seed(0))
        assert bool((x[LOG_Z == NEG_INF] == 2).all())


def test_a_kind_has_a_name_and_equals_no_string() -> None:
    for name, kind in KINDS.items():
        assert str(kind) == name and kind_of(name) is kind and kind_of(kind) is kind
        for other in ("", "a", *KINDS, *(k for n, k in KINDS.items() if n != name)):
            assert kind != other
    assert Rate() == KINDS["rate"] and repr(Rate()) == "Rate()"
    assert KINDS["rate"].guides_time and not KINDS["normalized"].guides_time
