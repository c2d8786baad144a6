"""What laws refuse, and what they say: memory, classes, infinite rates, states that nothing leaves."""

from __future__ import annotations

import re
from functools import partial
from itertools import product

import pytest
import torch
from helpers import Inconsistent, Opaque

from mdlm_cfg import FunctionDenoiser, Guidance, TableMixture, UserError, law_at, terminal_law
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.laws import rates
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.laws.stepped import freeze
from mdlm_cfg.laws.weights import tilted_weights


def test_what_a_law_takes_is_held_against_the_memory_there_is(monkeypatch):
    lattice = Lattice(3, 10)
    monkeypatch.setattr(rates, "memory_allowed", lambda: 8 * lattice.num_states)  # one number a state
    with pytest.raises(UserError, match=r"on \(3\+1\)\^10 = 1\.05e\+06 partial states needs about .* GiB"):
        rates.refuse_if_too_large(lattice)
    monkeypatch.setattr(rates, "memory_allowed", lambda: 8000 * lattice.num_states)
    rates.refuse_if_too_large(lattice)


@pytest.mark.parametrize("shape", [(1, 6), (7, 3), (2, 5), (3, 4), (5, 1)], ids=str)
def test_what_a_law_takes_is_counted(shape, monkeypatch):
    # four numbers and what is kept for every partial state, four for every jump out of the widest level
    monkeypatch.setattr(rates, "SMALL_LAW", 0)
    monkeypatch.setattr(rates, "memory_allowed", lambda: 0)
    (n, d) = shape
    denoiser = Inconsistent(*shape, 1)
    masks = [state.count(n) for state in product(range(n + 1), repeat=d)]
    jumps = max(sum(n * count for count in masks if count == level) for level in range(1, d + 1))
    for kept in (0, 3):
        said = re.escape(f"needs about {8 * ((4 + kept) * len(masks) + 4 * jumps) / 2**30:.3g} GiB")
        more = {"states_kept": kept} if kept else {}
        for ask in (
            partial(rates.refuse_if_too_large, Lattice(n, d)),
            partial(rates.partial_state_lattice, denoiser, None),
        ):
            with pytest.raises(UserError, match=said):
                ask(**more)


@pytest.mark.parametrize(("w", "said"), [(2.0, "2"), (1e3, "1000")])
def test_a_state_with_an_infinite_rate_is_named(w, said):
    pmfs = torch.zeros(2, 2, 2)
    pmfs[0, 1, 1] = pmfs[1, 0, 0] = 1
    target = TableMixture(pmfs, torch.tensor([0.0, 1.0]))
    table = target.denoiser()
    # named are where it leads, of a table, and where it comes from
    for denoiser, state in ((table, r"\(1, mask\)"), (Opaque(table), r"\(mask, mask\)")):
        message = rf"^w = {said} gives an infinite rate in the partial state {state}: class 0 has"
        for kind in ("rate", "normalized"):  # no law goes by the states alone under `normalized`
            with pytest.raises(UserError, match=message):
                terminal_law(denoiser, Guidance(w, kind), 0)


@pytest.mark.parametrize("z", [-1, 2, 3])
def test_no_law_is_of_a_class_that_does_not_exist(z):
    # class 2 of a function of 2 classes is its null class: an answer to what nobody asked
    denoiser = Inconsistent(2, 2, 2)
    guidance = Guidance(1.0)
    for law in (terminal_law, visit_law, freeze, tilted_weights, partial(law_at, tau=1.0)):
        with pytest.raises(UserError, match=f"class {z} is out of range: there are 2 classes, 0 to 1"):
            law(denoiser, guidance, z)


@pytest.mark.parametrize("kind", ["rate", "normalized"])
@pytest.mark.parametrize("policy", [None, "uniform", "rate", "margin", "fixed_order"])
def test_what_ends_in_masks_is_refused(kind, policy):
    # where the first coordinate is 1 the class has one value of the second, and the mixture the other
    def answer(tokens, classes):
        p = torch.full((len(tokens), 2, 2), 0.5, dtype=torch.float64)
        own = classes == 0
        p[:, 1] = torch.where((tokens[:, 0] == 1)[:, None], torch.stack([own, ~own], dim=1).double(), p[:, 1])
        return copy_unmasked(p.log(), tokens)

    lost = 0.5 if policy == "fixed_order" else 0.25
    said = f"under class 0 ends in states with masks with probability {lost}: the denoiser gives them nowhere to go"
    for law in (terminal_law, visit_law):
        with pytest.raises(UserError, match=said):
            law(FunctionDenoiser(answer, 2, 2, 1), Guidance(-0.5, kind), 0, policy)


@pytest.mark.parametrize(("kind", "lost"), [("rate", 0.5 / (1 + 0.75**0.5)), ("normalized", 0.25)])
def test_what_ends_in_masks_of_a_table_is_refused(kind, lost):
    # class 1 alone has weight, and nothing at (1, 1), which is all that class 0 has where the first coordinate is 1
    pmfs = torch.tensor([[[0.25, 0.25], [0.0, 0.5]], [[0.25, 0.25], [0.5, 0.0]]])
    denoiser = TableMixture(pmfs, torch.tensor([0.0, 1.0])).denoiser()
    for law in (terminal_law, visit_law):
        for policy in (None, {"rate": "rate", "normalized": "uniform"}[kind]):
            with pytest.raises(
                UserError, match=f"under class 0 ends in states with masks with probability {lost:.3g}:"
            ):
                law(denoiser, Guidance(-0.5, kind), 0, policy)
