"""Laws at many clock times: the contours against transforms known in closed form, and against the chain's own expm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from mdlm_cfg import Guidance, TableMixture, law_at
from mdlm_cfg.laws.in_time import CONTOUR_NODES, MAX_SPREAD, contours, parabola, talbot
from tests.helpers import random_target
from tests.oracle import Chain

RATES = torch.cat([torch.zeros(1), torch.logspace(-12, 15, 28)]).double()


def inverted(nodes, weights):
    """exp(-rate * t) of every rate, from its transform 1 / (s + rate)."""
    return (weights @ (1 / (nodes[:, None] + RATES))).real


@settings(max_examples=50, deadline=None)
@given(st.floats(-10, 10), st.lists(st.floats(1, MAX_SPREAD), min_size=1, max_size=6))
def test_one_contour_inverts_every_rate_at_all_of_its_times(log_scale, spread):
    taus = 10**log_scale * torch.tensor(spread, dtype=torch.float64)
    for times in (taus, taus[:1], taus[0] * torch.tensor([1.0, 2.0, MAX_SPREAD])):
        assert (inverted(*parabola(times)) - (-RATES * times[:, None]).exp()).abs().max() < 5e-14
    for tau in taus.tolist():
        nodes, weights = talbot(tau)
        assert (inverted(nodes, weights[None])[0] - (-RATES * tau).exp()).abs().max() < 2e-13


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=40), st.sampled_from([CONTOUR_NODES // 2, 30, 1000]))
def test_every_time_has_its_contour_and_none_has_too_many_nodes(times, most):
    taus = torch.tensor(times, dtype=torch.float64)
    seen = []
    for nodes, weights, chosen in contours(taus, most):
        assert weights.shape == (len(chosen), len(nodes)) and len(nodes) <= most
        truth = (-RATES * taus[chosen][:, None]).exp()
        assert (inverted(nodes, weights) - truth).abs().max() < 2e-13
        seen += chosen
    assert sorted(seen) == list(range(len(times)))


def test_many_times_share_their_nodes():
    taus = torch.linspace(0.1, 3.0, 30, dtype=torch.float64)
    used = sum(len(nodes) for nodes, _, _ in contours(taus, 1000))
    assert used < 0.3 * 30 * CONTOUR_NODES // 2


def table(own, other, weight):
    return TableMixture(torch.stack([own, other]), torch.tensor([weight, 1 - weight], dtype=torch.float64))


@pytest.mark.parametrize("w", [[1e4, 1e4], [1e4, 3.0], [0.0, 1e4]])
@pytest.mark.parametrize("kind", ["rate", "normalized"])
@pytest.mark.parametrize("exact", [False, True])
def test_law_in_time_under_strong_guidance_of_two_dimensions(w, kind, exact):
    # ratios of 1 + 1 / w: rates are of order 1, and their rounding is one of 1e-12
    if exact:  # all sums are, and the first ratio is 1 without a rest
        base = torch.full((2, 2), 0.25, dtype=torch.float64)
        target = table(base + torch.tensor([[3, -1], [1, -3]]) * 2.0**-15, base, 0.5)
    else:
        base, change = random_target(3, 2, k=2, seed=11, zeros=0.2).class_pmfs
        moved = base * (1 + change * 9 / 1e4)
        target = table(moved / moved.sum(), base, 0.3)
    chain = Chain(target.denoiser(), lambda progress: [*w, 0.0][round(progress)], kind, 0)
    for tau in (0.05, 0.4, 2.0):
        ours = law_at(target.denoiser(), Guidance(w, kind), 0, tau)
        assert float((ours - chain.law_at(tau)).abs().max()) < 1e-9
