"""Laws of unmasking policies against brute force and identities (theory, sections 10 and 11)."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from helpers import Inconsistent, Opaque, random_target
from policy_oracle import law_by_paths

from mdlm_cfg import Compose, Guidance, TableMixture, UserError, terminal_law, tilted_law
from mdlm_cfg.chain.guidance import LinearRamp, effective_guidance
from mdlm_cfg.chain.kinds import Rate
from mdlm_cfg.chain.policies import Confidence, FixedOrder, Uniform, tiers
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling import Sampler

NAMES = ["rate", "uniform", "fixed_order", "confidence", "margin", "entropy"]


# of the two orders one is not its own inverse, and one depends on which coordinates are left and not on their number
@pytest.mark.parametrize(
    ("name", "order"),
    [*((name, None) for name in NAMES if name != "fixed_order"), ("fixed", [2, 0, 1]), ("fixed", [1, 0, 2])],
    ids=str,
)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_k_at_a_time_against_brute_force(name, order, k):
    # symmetric classes have ties; an incoherent table has no joint
    symmetric = torch.tensor([[0.4, 0.1, 0.1, 0.4], [0.1, 0.4, 0.4, 0.1]], dtype=torch.float64)
    pmfs = (symmetric[:, :, None] * torch.full((2, 1, 2), 0.5, dtype=torch.float64)).reshape(2, 2, 2, 2)
    for denoiser in (
        TableMixture(pmfs, torch.tensor([0.5, 0.5])).denoiser(),
        Inconsistent(2, 3, 2, seed=3),
        Inconsistent(3, 3, 2, seed=4),
    ):
        guidance = Guidance(LinearRamp(2.0, 0.5), "normalized")
        expected = law_by_paths(denoiser, guidance, 1, name, k, order)[0]
        policy = FixedOrder(order) if name == "fixed" else name
        law = Sampler("event_leaping", events=k, policy=policy).law(denoiser, guidance, 1)
        assert (law - expected).abs().max() < 1e-12
        if k == 1:
            assert (terminal_law(denoiser, guidance, 1, policy) - expected).abs().max() < 1e-12


def test_ties_are_shared_equally_whatever_rounding_says():
    scores = torch.tensor([0.5, 0.7, 0.5 + 1e-15, 0.1, -math.inf, -math.inf], dtype=torch.float64)
    assert tiers(scores).tolist() == [1, 0, 1, 2, 3, 3]
    # exchangeable classes: every coordinate ties with every other, and rounding differs from one to the next
    g = torch.Generator().manual_seed(4)
    pmfs = torch.rand(2, 3, 3, 3, generator=g, dtype=torch.float64)
    pmfs = sum(pmfs.permute(0, *(1 + i for i in order)) for order in permutations(range(3)))
    target = TableMixture(pmfs / pmfs.flatten(1).sum(1).reshape(2, 1, 1, 1), torch.tensor([0.3, 0.7]))
    for name in ("confidence", "margin", "entropy"):
        for denoiser in (target.denoiser(), Opaque(target.denoiser())):
            law = terminal_law(denoiser, Guidance(3.7), 1, name)
            for order in permutations(range(3)):
                assert (law - law.permute(order)).abs().max() < 1e-12


@pytest.mark.parametrize("policy", ["rate", "uniform", "confidence", Confidence(0.2), FixedOrder([1, 2, 0])], ids=str)
@pytest.mark.parametrize("w", [-0.5, 1.0, 3.0])
def test_weights_give_the_tilted_law_under_every_policy(policy, w):
    target = random_target(3, 3, k=3, seed=7, zeros=0.3)
    weights = tilted_weights(target.denoiser(), Guidance(w), 2, policy)
    assert (weights.law - tilted_law(target, w, 2)).abs().max() < 1e-12
    p = target.pmf
    pz = target.class_pmfs[2]
    total = float((pz[pz > 0] ** (1 + w) * p[pz > 0] ** -w).sum())
    assert math.isclose(math.exp(weights.log_normalizer), total, rel_tol=1e-12)
    assert 0 < weights.ess <= 1


@pytest.mark.parametrize("own", [[[0.5, 0.0], [0.0, 0.5]], [[0.5, 0.25], [0.0, 0.25]]])
def test_weights_of_a_chain_that_may_not_finish_are_those_of_its_ends(own):
    """What two classes allow together may be nothing, or nothing once a coordinate is known: W = 0."""
    pmfs = torch.tensor([own, [[0.0, 0.5], [0.5, 0.0]]], dtype=torch.float64).flip(1)
    target = TableMixture(pmfs, torch.tensor([0.5, 0.5], dtype=torch.float64))
    guidance = Guidance(1.0, rule=Compose({0: 1.0, 1: 1.0}))
    log_t = 2 * pmfs.log().sum(0) - 3 * target.pmf.log()  # powers 2, 2 and 1 - 4
    if bool((log_t == -math.inf).all()):
        with pytest.raises(UserError):
            tilted_weights(target.denoiser(), guidance, 0)
        return
    found = tilted_weights(target.denoiser(), guidance, 0)
    assert found.log_normalizer == pytest.approx(float(log_t.flatten().logsumexp(0)), rel=1e-12)
    assert torch.allclose(found.law, log_t.flatten().softmax(0).view(2, 2), atol=1e-14)


def test_weights_of_a_huge_w_stay_in_logarithms():
    target = random_target(4, 3, seed=3)
    weights = tilted_weights(target.denoiser(), Guidance(900.0), 0)
    log_t = 901 * target.class_pmfs[0].log() - 900 * target.pmf.log()
    assert weights.log_normalizer == pytest.approx(float(log_t.flatten().logsumexp(0)), rel=1e-10)
    assert (weights.law - tilted_law(target, 900.0, 0)).abs().max() < 1e-9 and 0 <= weights.ess <= 1


def test_temperature_and_top_p_change_the_values_alone():
    target = random_target(4, 1, seed=2)
    z = 0
    r = tilted_law(target, 1.5, z)
    law = terminal_law(target.denoiser(), Guidance(1.5, temperature=0.5), z)
    assert (law - r**2 / (r**2).sum()).abs().max() < 1e-14
    best = r.sort(descending=True).values
    cut = float(best[:2].sum()) - 1e-6  # two values hold it, one does not
    law = terminal_law(target.denoiser(), Guidance(1.5, top_p=cut), z)
    kept = torch.where(r >= best[1], r, 0.0)
    assert (law - kept / kept.sum()).abs().max() < 1e-14
    # Z stays: in two dimensions who is first does not change, and what it becomes does
    denoiser = Inconsistent(3, 2, 2, seed=1)
    visits = [visit_law(denoiser, Guidance(1.5, temperature=t), 0)[1] for t in (1.0, 4.0)]
    assert torch.allclose(visits[0].sum(1), visits[1].sum(1), atol=1e-14)
    assert float((visits[0] - visits[1]).abs().max()) > 0.02


def test_refusals():
    denoiser = random_target(3, 3).denoiser()
    with pytest.raises(ValueError, match=r"\[0, 1\].* 0\.\.2 "):
        terminal_law(denoiser, Guidance(1.0), 0, FixedOrder([0, 1]))
    with pytest.raises(ValueError, match=r"ramp\(0,1\)"):
        tilted_weights(denoiser, Guidance(LinearRamp(0, 1)), 0)
    with pytest.raises(ValueError, match=r"temperature = 0\.5, top_p = 1"):
        tilted_weights(denoiser, Guidance(1.0, temperature=0.5), 0)
    assert effective_guidance(Guidance(1.0, "normalized"), Uniform()).kind == Rate()
