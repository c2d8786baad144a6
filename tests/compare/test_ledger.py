"""The error ledger: its lines are metrics, and its prediction holds (theory, section 8)."""

from __future__ import annotations

import pytest
import torch
from helpers import Inconsistent, random_target
from hypothesis import given, settings, strategies as st
from scipy.stats import binom

from mdlm_cfg import Guidance, Sampler, TableMixture, error_ledger, terminal_law
from mdlm_cfg.chain.guidance import linear_ramp
from mdlm_cfg.chain.policies import Confidence
from mdlm_cfg.compare.ledger import ledger_laws, ledger_of, predicted_sample_tv
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, multinomial_counts, total_variation
from mdlm_cfg.support.seeds import generator_for


def perturbed(target: TableMixture, strength: float, seed: int = 0) -> TableMixture:
    """Another table near this one: the stand-in for a trained network."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.rand(target.class_pmfs.shape, generator=g, dtype=torch.float64)
    pmfs = target.class_pmfs * (1 + strength * noise)
    sums = pmfs.flatten(1).sum(1).reshape(-1, *[1] * target.num_dims)
    return TableMixture(pmfs / sums, target.class_weights)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    w=st.floats(0, 6),
    run=st.sampled_from([("first_hitting", None), ("tau_leaping", 3), ("d_cfg", 2), ("event_leaping", 1)]),
)
def test_lines_obey_the_triangle_inequality(seed, w, run):
    target = random_target(3, 2, seed=seed, zeros=0.2)
    generator = torch.Generator().manual_seed(seed)
    learned = perturbed(target, 0.5, seed).denoiser()
    ledger = error_ledger(target, learned, Guidance(w), 0, *run, num_samples=500, generator=generator)
    tv = ledger.tv
    assert tv["total"] <= ledger.bound + 1e-12
    assert tv["error of the network"] <= tv["total"] + tv["discretisation error"] + tv["sampling noise"] + 1e-12
    assert ledger.noise.value == tv["sampling noise"]
    if run[0] == "first_hitting":
        assert tv["discretisation error"] == 0


def test_an_exact_denoiser_has_no_conditionals_error():
    target = random_target(3, 3, seed=1, zeros=0.3)
    ledger = error_ledger(target, target.denoiser(), Guidance(2.0), 0, generator=torch.Generator().manual_seed(0))
    assert ledger.tv["error of the network"] < 1e-12 and max(ledger.shared.error_share.values()) < 1e-12
    assert all(abs(a) + abs(b) < 1e-12 for a, b in ledger.shared.visit_error)
    assert ledger.closes


def test_the_predicted_interval_covers_the_sampled_total():
    target = random_target(4, 2, seed=3)
    learned = perturbed(target, 1.0).denoiser()
    closed = 0
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        closed += error_ledger(
            target, learned, Guidance(1.0), 0, "tau_leaping", 4, num_samples=2000, generator=generator
        ).closes
    assert closed >= 28  # a central 99%


def test_the_prediction_against_drawn_samples():
    target = random_target(4, 2, seed=4)
    other = random_target(4, 2, seed=5)
    generator = torch.Generator().manual_seed(0)
    own = predicted_sample_tv(target.pmf, target.pmf, 1000, 2000, generator)
    assert abs(own.value / expected_sampling_tv(target.pmf, 1000) - 1) < 0.02
    drawn = [total_variation(target.pmf, histogram(other.sample(1000, generator)[0], 4)) for _ in range(200)]
    predicted = predicted_sample_tv(target.pmf, other.pmf, 1000, 2000, generator)
    assert abs(sum(drawn) / 200 - predicted.value) < 0.002
    assert sum(predicted.low <= d <= predicted.high for d in drawn) >= 190


def test_the_interval_misses_one_in_a_hundred_however_few_draws_it_is_made_of():
    law = random_target(3, 2, seed=4).pmf
    generator = torch.Generator().manual_seed(0)
    repeats = 4000
    counts = multinomial_counts(law.flatten(), 50, repeats, generator)
    sampled = ((counts / 50 - law.flatten()).abs().sum(dim=1) / 2).tolist()
    intervals = [predicted_sample_tv(law, law, 50, 199, generator) for _ in sampled]
    missed = sum(not one.low <= tv <= one.high for one, tv in zip(intervals, sampled))
    assert missed <= binom.ppf(1 - 1e-5, repeats, 0.01), missed


def test_a_schedule_of_w_has_no_tilted_law_and_a_ledger_all_the_same():
    target = random_target(3, 2)
    guidance = Guidance(linear_ramp(0, 2))
    learned = perturbed(target, 1.0).denoiser()
    ledger = error_ledger(target, learned, guidance, 0, generator=torch.Generator().manual_seed(0))
    assert "L1" not in ledger.laws and "gap to tilted" not in ledger.tv
    score = total_variation(terminal_law(target.denoiser(), guidance, 0), terminal_law(learned, guidance, 0))
    assert abs(ledger.tv["error of the network"] - score) < 1e-12 and ledger.closes


@pytest.mark.parametrize("policy", [None, Confidence()], ids=str)
@pytest.mark.parametrize("strength", [2.0, linear_ramp(0, 2)], ids=str)
def test_the_targets_own_denoiser_is_judged_without_a_conditionals_error(strength, policy):
    target = random_target(3, 2, k=3, seed=8)
    guidance = Guidance(strength)
    own = ledger_laws(target, None, guidance, 2, policy)
    learned = ledger_laws(target, target.denoiser(), guidance, 2, policy)  # the same, as if nobody knew
    assert own.target is target and own.learned is None and own.guidance is guidance
    assert own.target_class == 2 and own.policy is policy and set(own.laws) == set(learned.laws)
    assert all(torch.allclose(own.laws[name], law, atol=1e-12) for name, law in learned.laws.items())
    assert (own.error_share, own.states, own.visit_error) == ({}, [], [])
    made = Sampler("event_leaping", events=2, policy=policy)
    found, same = (ledger_of(laws, made, 500, generator_for("own")) for laws in (own, learned))
    assert found.tv["error of the network"] == 0 and found.tv["discretisation error"] > 0.001
    assert found.tv == pytest.approx(same.tv, abs=1e-12)


def test_a_sampler_by_its_name_is_made_of_its_steps_and_schedule():
    target = random_target(2, 2)
    learned = Inconsistent(2, 2, 2)
    guidance = Guidance(1.0)
    found = error_ledger(target, learned, guidance, 0, "tau_leaping", 3, "cosine", num_samples=10)
    assert found.sampler == Sampler("tau_leaping", 3, "cosine") != Sampler("tau_leaping", 3)
    found = error_ledger(target, learned, guidance, 0)
    assert found.sampler == Sampler() and found.num_samples == 10_000
