"""Sampled policies, starts, weights and resampling against their exact laws (theory, sections 10, 11 and 13)."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch
from helpers import Inconsistent, chi_square_p_value, random_target
from test_samplers import holm, shipped

from mdlm_cfg import Compose, Guidance, TableMixture, UserError, sample, terminal_law, tilted_law
from mdlm_cfg.chain.guidance import LinearRamp
from mdlm_cfg.chain.policies import Blocks, Confidence, Entropy, FixedOrder
from mdlm_cfg.compare.metrics import histogram, total_variation
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling import Sampler, sequential_monte_carlo
from mdlm_cfg.sampling.smc import resample
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture

EVERY = [
    "rate",
    "uniform",
    "confidence",
    "margin",
    "entropy",
    FixedOrder([2, 0, 1]),
    Blocks([[2, 0], [1]], "margin"),
    Confidence(0.5),
    Entropy(0.2),
]
N = 40_000


def is_rejected(x, law):
    """Whether samples cannot be of a law: they are where it has nothing, or the chi-square says so."""
    impossible = histogram(x, law.shape[0])[law == 0].sum() > 0
    return bool(impossible) or chi_square_p_value(x, law) < 1e-6


@pytest.mark.parametrize("policy", EVERY, ids=str)
@pytest.mark.parametrize("events", [1, 2])
def test_samples_follow_the_law_of_their_policy(policy, events):
    denoiser = Inconsistent(3, 3, 2, seed=21)
    guidance = Guidance(LinearRamp(3.0, 0.5), "normalized")
    sampler = Sampler("event_leaping", events=events, policy=policy)
    law = sampler.law(denoiser, guidance, 1)
    x = sampler.draw(denoiser, guidance, 1, N, generator_for("policies", str(policy), events))
    assert chi_square_p_value(x, law) > 1e-3
    other = Sampler("event_leaping", events=3 - events, policy=policy).law(denoiser, guidance, 1)
    assert total_variation(law, other) < 0.02 or is_rejected(x, other)  # it has the power to tell


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy", ["rate", "uniform", "fixed_order", "confidence", "margin", "entropy", Confidence(0.5)]
)
@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_every_policy_on_every_shipped_target(policy, kind):
    p_values = {}
    told = []
    for name, exact in shipped().items():
        z = exact.num_classes - 1
        denoiser = TabulatedDenoiser(exact)
        order = FixedOrder(list(range(exact.num_dims))[::-1]) if policy == "fixed_order" else policy
        for made in (Sampler(policy=order), Sampler("event_leaping", 3, policy=order)):
            for w in (0.0, 1.5, 6.0):
                guidance = Guidance(w, kind)
                generator = generator_for(name, made.label, kind, w)
                x = made.draw(denoiser, guidance, z, 20_000, generator)
                law = made.law(denoiser, guidance, z)
                p_values[name, made.label, w] = chi_square_p_value(x, law)
                others = ("uniform", "confidence", FixedOrder(list(range(exact.num_dims))))
                laws = [Sampler(made.name, made.steps, policy=other).law(denoiser, guidance, z) for other in others]
                told += [is_rejected(x, other) for other in laws if total_variation(law, other) > 0.03]
    assert holm(p_values.values())[0] > 0.01, sorted(p_values.items(), key=lambda item: item[1])[:3]
    assert len(told) > 5 and all(told)  # another policy's law is told from it, wherever it differs


@pytest.mark.parametrize("policy", ["confidence", "entropy"])
def test_ties_are_shared_equally_by_samples(policy):
    # both coordinates are alike, and the denoiser's answers are not consistent: the order decides the law
    denoiser = Inconsistent(2, 2, 1, seed=3)
    denoiser.table[:, -1, 1] = denoiser.table[:, -1, 0].flip(-1)
    law = terminal_law(denoiser, Guidance(2.0), 0, policy)
    x = sample(denoiser, Guidance(2.0), 0, N, policy=policy, generator=generator_for("ties", policy))
    assert chi_square_p_value(x, law) > 1e-3
    for order in ([0, 1], [1, 0]):
        assert is_rejected(x, terminal_law(denoiser, Guidance(2.0), 0, FixedOrder(order)))


def test_a_policy_by_name_or_in_the_sampler_is_the_same_and_not_both():
    denoiser = Inconsistent(3, 3, 2)
    guidance = Guidance(1.0)
    a = sample(denoiser, guidance, 0, 100, policy="margin", generator=generator_for("same"))
    b = sample(denoiser, guidance, 0, 100, Sampler(policy="margin"), generator=generator_for("same"))
    assert torch.equal(a, b)
    assert Sampler(policy="margin").label == "first_hitting, margin"
    assert Sampler(policy="margin").describe()["policy"] == "margin"
    assert "policy" not in Sampler().describe()
    assert Sampler("event_leaping", events=2).calls(5) == 3
    with pytest.raises(ValueError, match="first_hitting, margin "):
        sample(denoiser, guidance, 0, 10, Sampler(policy="margin"), policy="rate")
    with pytest.raises(ValueError, match=r"euler .*rate.* event_leaping$"):
        sample(denoiser, guidance, 0, 10, "euler", 3, policy="rate")


@pytest.mark.parametrize("policy", [None, "confidence"])
def test_samples_start_from_partial_states(policy):
    # rows of their own, with different numbers of masks, for every sampler
    target = random_target(3, 3, seed=22)
    guidance = Guidance(0.0)
    starts = torch.tensor([[3, 1, 3], [0, 1, 2], [3, 3, 3], [2, 3, 1]])
    for sampler in (Sampler(policy=policy), Sampler("event_leaping", 2, policy=policy), Sampler("tau_leaping", 3)):
        x = sample(target.denoiser(), Guidance(2.0), 0, 4, sampler, start=starts)
        assert torch.equal(torch.where(starts == 3, 3, x), starts) and int(x.max()) < 3
    with pytest.raises(ValueError, match=r"start .* 0\.\.3: .* 3$"):
        sample(target.denoiser(), guidance, 0, 4, start=torch.tensor([0, 4, 3]))
    with pytest.raises(ValueError, match=r"start .*\(2,\).*\(3,\).*\(4, 3\)"):
        sample(target.denoiser(), guidance, 0, 4, start=torch.tensor([0, 3]))


@pytest.mark.parametrize("events", [1, 2, 3])
def test_every_step_in_blocks_unmasks_as_many_as_asked_for_wherever_it_starts(events):
    blocks = ((0,), (1, 2, 3), (4, 5))
    denoiser = Inconsistent(2, 6, 1, seed=4)
    sampler = Sampler("sampled_confidence", events=events, policy=Blocks(blocks))
    for known in product([False, True], repeat=4):
        seen: list[torch.Tensor] = []
        start = torch.tensor([*(0 if one else 2 for one in known), 2, 2])
        generator = generator_for("blocks", events)
        sampler.draw(denoiser, Guidance(1.0), 0, 1, generator, start=start, on_step=seen.append)
        left = [int((x == 2).sum()) for x in seen]
        masked = [sum(not (*known, False, False)[i] for i in block) for block in blocks]
        steps = [min(events, m - done) for m in masked for done in range(0, m, events)]
        assert [before - after for before, after in pairwise(left) if before > after] == steps


@pytest.mark.parametrize("kind", ["rate", "normalized"])
@pytest.mark.parametrize("policy", [None, "confidence"])
def test_weights_of_samples_have_the_exact_moments_and_the_tilted_law(kind, policy):
    target = random_target(3, 3, seed=23, zeros=0.3)
    guidance = Guidance(1.5, kind)
    exact = tilted_weights(target.denoiser(), guidance, 0, policy)
    x, log_w = Sampler(policy=policy).draw_weighted(target.denoiser(), guidance, 0, N, generator_for("w", kind))
    w = log_w.exp()
    assert log_w.dtype == torch.float64 and log_w.shape == (N,)
    assert abs(float(w.mean()) - math.exp(exact.log_normalizer)) < 4 * float(w.std()) / math.sqrt(N)
    assert abs(float(w.mean() ** 2 / (w**2).mean()) / exact.ess - 1) < 0.05
    tv = [total_variation(weighted_histogram(x[:n], w[:n], 3), tilted_law(target, 1.5, 0)) for n in (400, N)]
    unweighted = total_variation(terminal_law(target.denoiser(), guidance, 0, policy), tilted_law(target, 1.5, 0))
    assert tv[1] < tv[0] / 3 and tv[1] < unweighted / 3
    plain = sample(target.denoiser(), guidance, 0, N, policy=policy, generator=generator_for("w", kind))
    assert torch.equal(plain, x)


def weighted_histogram(x, w, n):
    cells = (x * n ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)
    law = torch.zeros(n ** x.shape[1], dtype=torch.float64).index_add(0, cells, w / w.sum())
    return law.reshape([n] * x.shape[1])


def test_weights_are_refused_where_they_lead_nowhere():
    denoiser = random_target(3, 2).denoiser()
    with pytest.raises(ValueError, match=r"event_leaping, 2 steps, .* first_hitting, "):
        Sampler("event_leaping", 2).draw_weighted(denoiser, Guidance(1.0), 0, 10)
    with pytest.raises(ValueError, match=r"ramp\(0,1\)"):
        Sampler().draw_weighted(denoiser, Guidance(LinearRamp(0, 1)), 0, 10)


@pytest.mark.parametrize(
    "threshold", [pytest.param(0.0, marks=pytest.mark.slow), 0.5, pytest.param(1.0, marks=pytest.mark.slow)]
)
def test_smc_is_unbiased_and_its_error_is_what_it_says(threshold):
    target = random_target(3, 3, seed=24)
    guidance = Guidance(3.0)
    p = tilted_law(random_target(3, 3, seed=24), 3.0, 0)
    exact = math.exp(tilted_weights(target.denoiser(), guidance, 0).log_normalizer)
    runs = [
        sequential_monte_carlo(
            target.denoiser(), guidance, 0, 400, threshold=threshold, generator=generator_for("smc", seed)
        )
        for seed in range(300)
    ]
    estimates = torch.tensor([math.exp(run.log_normalizer) for run in runs], dtype=torch.float64)
    error = float(estimates.std()) / math.sqrt(len(runs))
    assert abs(float(estimates.mean()) - exact) < 4 * error
    stated = torch.tensor([run.relative_error for run in runs], dtype=torch.float64) * exact
    assert 0.75 < float(stated.pow(2).mean().sqrt() / estimates.std()) < 1.3
    assert (sum(sum(run.num_resampled) for run in runs) == 0) == (threshold == 0)
    x = torch.cat([run.x for run in runs])
    w = torch.cat([run.log_weights for run in runs]).exp()
    assert total_variation(weighted_histogram(x, w, 3), p) < 0.02


def test_systematic_resampling_keeps_every_weight_on_average_and_rounds_to_neighbours():
    log_w = torch.tensor([[0.0, 1.0, -2.0, 0.5, -math.inf], [0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    share = 5 * log_w[0].softmax(0)
    counts = torch.zeros(2000, 5, dtype=torch.float64)
    for row, g in zip(counts, (generator_for("systematic", k) for k in range(2000))):
        rows, after, uneven = resample(log_w, 0.9, g)
        row += torch.bincount(rows[:5], minlength=5)
        assert rows[5:].tolist() == [5, 6, 7, 8, 9] and int(uneven) == 1
        assert torch.allclose(after.logsumexp(1), log_w.logsumexp(1)) and after[0].std() < 1e-12
    assert bool(((counts - share).abs() < 1).all())
    assert bool(((counts.mean(0) - share).abs() < 5 * 0.5 / math.sqrt(2000)).all())


def test_smc_in_many_dimensions_moves_samples_to_their_class():
    g = torch.Generator().manual_seed(5)
    p = torch.rand(2, 3, 60, generator=g, dtype=torch.float64) * 0.5 + 0.25
    target = BernoulliMixture(p, torch.full((2, 3), 1 / 3), torch.tensor([0.5, 0.5]))
    run = sequential_monte_carlo(target.denoiser(), Guidance(2.0), 1, 400, generator=generator_for("high"))
    assert run.x.shape == (400, 60) and run.ess > 0.2 and run.relative_error < 1
    with pytest.raises(ValueError, match=r"threshold = 2\.0 .* 0 .* 1$"):
        sequential_monte_carlo(target.denoiser(), Guidance(2.0), 1, 400, threshold=2)
    with pytest.raises(ValueError, match=r"401 .* 10 "):
        sequential_monte_carlo(target.denoiser(), Guidance(2.0), 1, 401)


def test_smc_does_not_resample_particles_away_that_cannot_finish():
    """A tenth has no second value that both classes allow, and a tenth of the weight of the others."""
    pmfs = [[[0.1, 0], [0.9, 0]], [[0, 0.1], [0.9, 0]], [[0.05, 0.05], [0, 0.9]]]
    target = TableMixture(torch.tensor(pmfs), torch.tensor([0.05, 0.05, 0.9]))
    guidance = Guidance(0.0, rule=Compose({0: 1.0, 1: 1.0}))
    assert tilted_weights(target.denoiser(), guidance, 0, "fixed_order").log_normalizer == pytest.approx(math.log(9))
    for seed in range(20):
        how = {"policy": "fixed_order", "threshold": 1.0, "num_groups": 2, "generator": generator_for("stuck", seed)}
        with pytest.raises(UserError, match=r"^\d+ of 100 "):
            sequential_monte_carlo(target.denoiser(), guidance, 0, 100, **how)


def test_one_dimension_has_one_weight():
    target = TableMixture(torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), torch.tensor([0.5, 0.5]))
    _, log_w = Sampler().draw_weighted(target.denoiser(), Guidance(2.0), 0, 50)
    exact = tilted_weights(target.denoiser(), Guidance(2.0), 0)
    assert exact.ess == pytest.approx(1) and torch.allclose(
        log_w.exp(), torch.tensor(math.exp(exact.log_normalizer), dtype=torch.float64)
    )
