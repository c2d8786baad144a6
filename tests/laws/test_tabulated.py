"""A network as a table: what it is asked for, and how often."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from helpers import Inconsistent, data_of, random_target
from torch import Tensor

from mdlm_cfg import Guidance, terminal_law
from mdlm_cfg.laws import tabulated
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.case import LEARNED, Case
from mdlm_cfg.studies.plan import Plan


class Counting(Inconsistent):
    """Remembers every row it was asked for, call by call."""

    def __init__(self, n: int, d: int, k: int) -> None:
        super().__init__(n, d, k)
        self.calls: list[list[tuple[int, ...]]] = []

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        assert classes is not None
        self.calls.append([(*row, k) for row, k in zip(tokens.tolist(), classes.tolist())])
        return super().__call__(tokens, classes)


def test_every_state_with_a_mask_is_asked_for_once_and_both_labels_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(tabulated, "MAX_BATCH", 40)
    told: list[float] = []
    asked = Counting(3, 3, 4)
    table = TabulatedDenoiser(asked, shown=lambda: nullcontext(told.append))
    for w in (0.0, 1.0, 4.0):
        assert torch.equal(terminal_law(table, Guidance(w), 2), terminal_law(Inconsistent(3, 3, 4), Guidance(w), 2))
    rows = [row for call in asked.calls for row in call]
    states = [
        (*state, k) for state in torch.cartesian_prod(*[torch.arange(4)] * 3).tolist() for k in (2, 4) if 3 in state
    ]
    assert sorted(rows) == sorted(states)
    assert all({row[-1] for row in call} == {2, 4} and len(call) <= 40 for call in asked.calls)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) == len(asked.calls) > 1
    before = len(rows)
    terminal_law(table, Guidance(1.0), 0)  # another class: its own answers alone
    assert {row[-1] for call in asked.calls for row in call} == {0, 2, 4}
    assert sum(map(len, asked.calls)) == before + before // 2


def test_a_table_of_a_table_shares_what_it_holds() -> None:
    asked = Counting(2, 3, 2)
    table = TabulatedDenoiser(asked)
    before = terminal_law(table, Guidance(2.0), 0)
    calls = len(asked.calls)
    again = TabulatedDenoiser(table)
    assert again.denoiser is asked
    assert torch.equal(terminal_law(again, Guidance(2.0), 0), before) and len(asked.calls) == calls
    terminal_law(again, Guidance(2.0), 1)
    assert {row[-1] for row in asked.calls[-1]} == {1}
    calls = len(asked.calls)
    terminal_law(table, Guidance(2.0), 1)
    assert len(asked.calls) == calls


def test_what_is_kept_is_of_one_denoiser_and_its_labels() -> None:
    store: dict[object, object] = {}

    def keep(key, make):
        if key not in store:
            store[key] = make()
        return store[key]

    denoisers = {about: Inconsistent(2, 2, 2, seed=seed) for seed, about in enumerate(("one", "other"))}
    for asked_before in (False, True):
        for about, denoiser in denoisers.items():
            counted = Counting(2, 2, 2)
            counted.table = denoiser.table
            table = TabulatedDenoiser(counted, keep, about)
            for z in (0, 1, None):
                assert torch.equal(terminal_law(table, Guidance(1.0), z), terminal_law(denoiser, Guidance(1.0), z))
            assert bool(counted.calls) is not asked_before


@pytest.mark.parametrize("done_before", [(), (0,), (1,), (2,), (0, 1), (2, 0)])
def test_what_shares_a_call_does_not_depend_on_what_was_done_before_an_interruption(
    done_before: tuple[int, ...],
) -> None:
    asked = Counting(2, 2, 3)
    plan = Plan((Guidance(1.0),), Sampler(), num_samples=10, classes=(1,))
    table = Case.of(data_of(random_target(2, 2, 3)), asked, plan).table(LEARNED)
    for z in (z for z in (0, 1, 2) if z not in done_before):
        terminal_law(table, Guidance(1.0), z)
    together = {frozenset(row[-1] for row in call) for call in asked.calls}
    assert together <= {frozenset({1, 3}), frozenset({0}), frozenset({2})}
    assert sum(map(len, asked.calls)) == len({row for call in asked.calls for row in call})


def test_labels_are_told_apart_where_nothing_waits_for_them(monkeypatch) -> None:
    # true numbers, looked up as an accelerator's are: every label for every row
    monkeypatch.setattr("mdlm_cfg.chain.denoiser.is_on_cpu", lambda values: False)
    states = torch.cartesian_prod(*[torch.arange(3)] * 2)
    states = states[(states == 2).any(dim=1)].repeat_interleave(4, dim=0)
    classes = torch.arange(4).repeat(len(states) // 4)
    denoiser = Inconsistent(2, 2, 3)
    assert torch.equal(TabulatedDenoiser(denoiser)(states, classes), denoiser(states, classes))


def test_finished_states_are_copied() -> None:
    table = TabulatedDenoiser(Inconsistent(2, 2, 1))
    answer = table(torch.tensor([[0, 1]]), None)
    assert answer.exp().tolist() == [[[1.0, 0.0], [0.0, 1.0]]]
