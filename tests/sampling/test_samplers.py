"""Samplers against the exact laws they should follow: seeded chi-square tests (theory, section 6)."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import Inconsistent, random_target
from scipy.stats import chi2

from mdlm_cfg import Guidance, sample, stepped_law, terminal_law
from mdlm_cfg.chain.guidance import linear_ramp
from mdlm_cfg.chain.schedules import cosine, exponential
from mdlm_cfg.compare.metrics import histogram, total_variation
from mdlm_cfg.sampling import SAMPLERS, Sampler
from mdlm_cfg.targets import toys


def chi_square_p_value(x, law):
    """P(a chi-square as large), cells with fewer than 5 expected counts pooled; impossible cells must be empty."""
    expected = len(x) * law.flatten()
    observed = len(x) * histogram(x, law.shape[0]).flatten()
    assert observed[expected == 0].sum() == 0
    small = expected < 5
    expected = torch.cat([expected[~small], expected[small].sum()[None]])
    observed = torch.cat([observed[~small], observed[small].sum()[None]])
    keep = expected > 0
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    return float(chi2.sf(float(statistic), int(keep.sum()) - 1))


def is_rejected(x, law):
    """Whether samples cannot be of a law: they are where it has nothing, or the chi-square says so."""
    impossible = histogram(x, law.shape[0])[law == 0].sum() > 0
    return bool(impossible) or chi_square_p_value(x, law) < 1e-6


def draw(denoiser, guidance, sampler, steps, schedule=None, seed=0, n=40_000, target_class=0):
    generator = torch.Generator().manual_seed(seed)
    return sample(denoiser, guidance, target_class, n, sampler, steps, schedule, generator=generator)


@pytest.mark.parametrize("kind", ["rate", "normalized"])
@pytest.mark.parametrize("w", [-1.0, 0.0, 2.5, 9.0])
def test_first_hitting_follows_the_terminal_law(kind, w):
    denoiser, guidance = random_target(3, 3, k=3, seed=11, zeros=0.3).denoiser(), Guidance(w, kind)
    law = terminal_law(denoiser, guidance, 0)
    assert chi_square_p_value(draw(denoiser, guidance, "first_hitting", None), law) > 1e-3


@pytest.mark.parametrize("sampler", ["tau_leaping", "euler", "d_cfg", "event_leaping"])
@pytest.mark.parametrize("make", ["zeros", "inconsistent"])
def test_stepped_samplers_follow_their_stepped_law(sampler, make):
    denoiser = random_target(3, 3, seed=12, zeros=0.4).denoiser() if make == "zeros" else Inconsistent(3, 3, 2)
    guidance = Guidance(linear_ramp(3.0, 0.5))
    law = stepped_law(denoiser, guidance, 0, sampler, 2, cosine())
    x = draw(denoiser, guidance, sampler, 2, cosine())
    assert chi_square_p_value(x, law[:3, :3, :3]) > 1e-3
    # and the test has the power to tell: the same sampler in three steps, or without steps, is another law
    other = stepped_law(denoiser, guidance, 0, sampler, 3, cosine())[:3, :3, :3]
    assert total_variation(law[:3, :3, :3], other) > 0.02
    assert is_rejected(x, other)


def test_two_values_are_not_biased_by_small_steps():
    # 2 tokens and many steps: where a float32 Gumbel-max over values and mask would drift
    denoiser, guidance = random_target(2, 2, seed=13).denoiser(), Guidance(4.0)
    law = stepped_law(denoiser, guidance, 0, "tau_leaping", 500, exponential(8.0))
    x = draw(denoiser, guidance, "tau_leaping", 500, exponential(8.0), n=60_000)
    assert chi_square_p_value(x, law[:2, :2]) > 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_seed_same_samples_and_nothing_masked(sampler):
    denoiser, guidance = toys.toy_2d_overlap().denoiser(), Guidance(2.0)
    steps = None if sampler == "first_hitting" else 3
    a, b, c = (draw(denoiser, guidance, sampler, steps, seed=seed, n=200) for seed in (1, 1, 2))
    assert a.dtype == torch.int64 and a.shape == (200, 2)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert int(a.max()) < 16 and int(a.min()) >= 0


def test_the_trajectory_only_unmasks():
    states = []
    sample(
        toys.toy_5d_hypercube().denoiser(),
        Guidance(1.0),
        1,
        50,
        "tau_leaping",
        8,
        generator=torch.Generator().manual_seed(0),
        on_step=states.append,
    )
    assert len(states) == 9 and bool((states[0] == 5).all()) and bool((states[-1] < 5).all())
    for before, after in itertools.pairwise(states):
        assert torch.equal(torch.where(before == 5, after, before), after)


def test_no_class_is_the_whole_mixture():
    target = random_target(3, 2, seed=14)
    x = draw(target.denoiser(), Guidance(5.0), "first_hitting", None, target_class=None)
    assert chi_square_p_value(x, target.pmf) > 1e-3


def test_refusals():
    denoiser = random_target(3, 2).denoiser()
    with pytest.raises(ValueError, match="unknown; choose one of first_hitting"):
        sample(denoiser, Guidance(1.0), 0, 10, "gibbs")
    with pytest.raises(ValueError, match="needs steps"):
        sample(denoiser, Guidance(1.0), 0, 10, "tau_leaping")
    with pytest.raises(ValueError, match="takes no steps"):
        sample(denoiser, Guidance(1.0), 0, 10, "first_hitting", 5)
    with pytest.raises(ValueError, match="class 7 is out of range"):
        sample(denoiser, Guidance(1.0), 7, 10)
    with pytest.raises(ValueError, match="must end at inf"):
        sample(denoiser, Guidance(1.0), 0, 10, "tau_leaping", [0.0, 1.0])


@pytest.mark.parametrize("w", [0.0, 2.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_cost_is_what_the_denoiser_was_asked_for(sampler, w):
    denoiser = random_target(2, 4).denoiser()
    for steps in [None] if sampler == "first_hitting" else [1, 3, 9]:
        asked = []

        class Counting(Inconsistent):
            def __call__(self, tokens, classes, asked=asked):
                asked.append(len(tokens))
                return denoiser(tokens, classes)

        draw(Counting(2, 4, 2), Guidance(w), sampler, steps, n=7)
        assert sum(asked) == Sampler(sampler, steps).num_rows(7, 4, Guidance(w))
