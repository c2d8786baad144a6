"""Decay of TV in time and in w (theory, section 5)."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Inconsistent, random_target

from mdlm_cfg import Guidance, TableMixture, law_at
from mdlm_cfg.chain.guidance import linear_ramp
from mdlm_cfg.compare.decay import certain_states, log_still_masked, slowest_exit, time_to_tv, tv_decay
from mdlm_cfg.targets import toys


@pytest.mark.parametrize("w", [0.0, 3.0, 20.0])
def test_one_dimension_closed_form(w):  # arXiv 2506.10971, Prop 3.2
    target = toys.toy_1d_overlap()
    p, pz = target.pmf, target.class_pmfs[0]
    z = float((pz * (pz / p) ** w)[pz > 0].sum())
    taus = [0.01, 0.5, 30.0]
    log_tv = log_still_masked(target.denoiser(), Guidance(w), 0, taus)
    assert torch.allclose(log_tv, torch.tensor([-z * tau for tau in taus], dtype=torch.float64), rtol=1e-10)
    assert abs(time_to_tv(target.denoiser(), Guidance(w), 0, 0.05) * z / math.log(20) - 1) < 1e-8


@pytest.mark.parametrize("w", [1.5, linear_ramp(0.0, 3.0)])
def test_still_masked_is_one_minus_the_finished_mass(w):
    for denoiser in (random_target(3, 3, seed=3, zeros=0.3).denoiser(), Inconsistent(3, 3, 2)):
        for tau in (0.1, 1.0, 3.0):
            law = law_at(denoiser, Guidance(w), 0, tau)
            finished = float(law[:3, :3, :3].sum())
            ours = float(log_still_masked(denoiser, Guidance(w), 0, [tau])[0].exp())
            assert abs(ours - (1 - finished)) < 1e-11


def test_tiny_tv_keeps_its_relative_accuracy():
    # two independent coordinates, one class: each is masked with probability exp(-tau)
    pmf = torch.full((1, 2, 2), 0.25, dtype=torch.float64)
    denoiser = TableMixture(pmf, torch.tensor([1.0])).denoiser()
    tau = 200.0
    expected = math.log(2) - tau + math.log1p(-math.exp(-tau) / 2)
    assert abs(float(log_still_masked(denoiser, Guidance(0.0), 0, [tau])[0]) - expected) < 1e-10
    assert slowest_exit(denoiser, Guidance(0.0), 0) == pytest.approx(1.0)


def test_full_support_decays_double_exponentially():
    target = random_target(4, 2, seed=6)
    assert certain_states(target, 0) == []
    # as w grows, every exit rate grows like (largest ratio p(v | x_U, z) / p(v | x_U))^w: the slowest one wins
    ratio = (target.class_pmfs[0] / target.pmf).log()
    rows = ratio - (target.class_pmfs[0].sum(1) / target.pmf.sum(1)).log()[:, None]
    columns = ratio - (target.class_pmfs[0].sum(0) / target.pmf.sum(0)).log()[None, :]
    slowest = min(float(rows.amax(1).min()), float(columns.amax(0).min()))
    decay = tv_decay(target, 0, [Guidance(w) for w in (500.0, 550.0, 600.0, 650.0)], [0.1], fit_tau=0.5)
    assert abs(decay.fit_slope[1] / slowest - 1) < 0.02 and "double-exponentially" in decay.statement


def test_overlapping_squares_saturate_at_the_unguided_rate():
    target = toys.toy_2d_overlap()
    found = certain_states(target, 0)
    # a private first (or second) coordinate settles the class while the other is still masked
    assert {c.state for c in found} == {(v, 16) for v in range(1, 6)} | {(16, v) for v in range(1, 6)}
    assert all(abs(c.probability - 1 / 9) < 1e-12 for c in found)
    decay = tv_decay(target, 0, [Guidance(w) for w in (0, 1, 2, 4, 8, 16)], [0.5])
    values = (-decay.log_tv[:, 0]).tolist()
    assert abs(values[0] + math.log(1 - (1 - math.exp(-0.5)) ** 2)) < 1e-12
    assert values == sorted(values) and abs(values[-1] - 0.5) < 1e-3
    assert decay.fit_slope[1] < 0.05 < decay.fit_slope[0] and "saturates" in decay.statement


def test_a_level_outside_zero_one_is_refused():
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        time_to_tv(toys.toy_1d_overlap().denoiser(), Guidance(0.0), 0, 1.5)
