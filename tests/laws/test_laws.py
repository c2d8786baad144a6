"""Exact laws against brute force, closed forms and identities (theory, sections 3 to 5), and what they refuse."""

from __future__ import annotations

import math
import re
from functools import partial
from itertools import product

import pytest
import torch
from helpers import Inconsistent, Opaque, random_target
from hypothesis import given, settings, strategies as st
from oracle import Chain

from mdlm_cfg import FunctionDenoiser, Guidance, TableMixture, UserError, law_at, terminal_law
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.chain.schedules import exponential
from mdlm_cfg.laws import rates
from mdlm_cfg.laws.joint import joint_chain
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.laws.stepped import freeze
from mdlm_cfg.laws.weights import tilted_weights


@settings(max_examples=25, deadline=None)
@given(
    d=st.integers(1, 5),
    k=st.integers(1, 3),
    seed=st.integers(0, 10**6),
    w=st.floats(-1, 30),
    zeros=st.sampled_from([0.0, 0.4]),
    kind=st.sampled_from(["rate", "normalized"]),
)
def test_properties_of_random_mixtures(d, k, seed, w, zeros, kind):
    target = random_target({1: 8, 2: 4, 3: 3, 4: 2, 5: 2}[d], d, k, seed, zeros)
    pmfs = target.class_pmfs.clone()
    guidance = Guidance(w, kind)
    levels = visit_law(target.denoiser(), guidance, 0)
    for level in levels:
        assert abs(float(level.sum()) - 1) < 1e-10 and (level >= 0).all()
    last = levels[-1].reshape(target.class_pmfs[0].shape)
    assert torch.allclose(last, terminal_law(target.denoiser(), guidance, 0), rtol=1e-11, atol=1e-15)
    assert (terminal_law(target.denoiser(), Guidance(0.0, kind), 0) - target.class_pmfs[0]).abs().max() < 1e-12
    assert (terminal_law(target.denoiser(), guidance, None) - target.pmf).abs().max() < 1e-12
    assert torch.equal(target.class_pmfs, pmfs)  # nobody writes on the caller's table
    if zeros == 0:
        assert (terminal_law(target.denoiser(), Guidance(-1.0, kind), 0) - target.pmf).abs().max() < 1e-12


def test_law_at_the_ends_and_by_noise_time():
    target = random_target(3, 2, seed=4)
    denoiser = target.denoiser()
    guidance = Guidance(1.5)
    start = law_at(denoiser, guidance, 0, 0.0)
    assert start[-1, -1] == 1 and start.sum() == 1
    end = law_at(denoiser, guidance, 0, math.inf)
    assert (end[:3, :3] - terminal_law(denoiser, guidance, 0)).abs().max() < 1e-13 and end[-1].sum() == 0
    schedule = exponential(3.0)
    by_time = law_at(denoiser, guidance, 0, schedule.tau(0.4))
    tau = math.log((1 - math.exp(-3.0)) / (1 - math.exp(-0.4)))
    assert (by_time - law_at(denoiser, guidance, 0, tau)).abs().max() < 1e-12


def test_refusals():
    target = random_target(3, 2)
    with pytest.raises(ValueError, match=r"tau = -0\.1 .* 0$"):
        law_at(target.denoiser(), Guidance(1.0), 0, -0.1)

    class Large:
        num_tokens = 10
        num_dims = 12
        num_classes = 2

        def __call__(self, tokens, classes):
            raise AssertionError("the denoiser must not be asked")

    with pytest.raises(ValueError, match=r"\(10\+1\)\^12 = 3\.14e\+12 .* GiB"):
        terminal_law(Large(), Guidance(1.0), 0)


@pytest.mark.parametrize("kind", ["rate", "normalized"])
@pytest.mark.parametrize("most", [0, 10**6])
def test_levels_of_any_size_are_pushed_alike(kind, most, monkeypatch):
    # by one call for all values or by one for each
    monkeypatch.setattr("mdlm_cfg.laws.push.SMALL", most)
    target = random_target(3, 3, k=2, seed=2, zeros=0.2)
    guidance = Guidance(2.0, kind)
    chain = Chain(target.denoiser(), 2.0, kind, 1)
    for denoiser in (target.denoiser(), Opaque(target.denoiser())):
        levels = visit_law(denoiser, guidance, 1)
        assert [tuple(flow.shape) for flow in levels] == [(math.comb(3, level), 3**level) for level in range(4)]
        assert all(abs(float(flow.sum()) - 1) < 1e-13 for flow in levels)
        assert (levels[-1].reshape(3, 3, 3) - chain.terminal_by_generator()).abs().max() < 1e-13
        assert (law_at(denoiser, guidance, 1, 0.7) - chain.law_at(0.7)).abs().max() < 1e-12


def test_weights_that_do_not_fit_a_number_are_left_to_logarithms():
    target = random_target(3, 3, seed=10)
    assert joint_chain(target.denoiser(), Guidance(2000.0), 0) is None
    law = terminal_law(target.denoiser(), Guidance(2000.0), 0)
    assert abs(float(law.sum()) - 1) < 1e-12


@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_a_single_value_leaves_nothing_to_chance(kind):
    target = TableMixture(torch.ones(2, 1, 1, 1), torch.tensor([0.5, 0.5]))
    for denoiser in (target.denoiser(), Opaque(target.denoiser())):
        assert terminal_law(denoiser, Guidance(2.0, kind), 0).flatten().tolist() == [1.0]


def test_what_a_law_takes_is_held_against_the_memory_there_is(monkeypatch):
    lattice = Lattice(3, 10)
    monkeypatch.setattr(rates, "memory_allowed", lambda: 8 * lattice.num_states)  # one number a state
    with pytest.raises(UserError, match=r"on \(3\+1\)\^10 = 1\.05e\+06 .* GiB"):
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
        said = re.escape(f" {8 * ((4 + kept) * len(masks) + 4 * jumps) / 2**30:.3g} GiB, ")
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
        message = rf"^w = {said} .* {state}: class 0 "
        for kind in ("rate", "normalized"):  # no law goes by the states alone under `normalized`
            with pytest.raises(UserError, match=message):
                terminal_law(denoiser, Guidance(w, kind), 0)


@pytest.mark.parametrize("z", [-1, 2, 3])
def test_no_law_is_of_a_class_that_does_not_exist(z):
    # class 2 of a function of 2 classes is its null class: an answer to what nobody asked
    denoiser = Inconsistent(2, 2, 2)
    guidance = Guidance(1.0)
    for law in (terminal_law, visit_law, freeze, tilted_weights, partial(law_at, tau=1.0)):
        with pytest.raises(UserError, match=f"class {z} .* 2 .* 0 to 1"):
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
    said = f"class 0 .* {lost}: "
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
            with pytest.raises(UserError, match=f"class 0 .* {lost:.3g}: "):
                law(denoiser, Guidance(-0.5, kind), 0, policy)
