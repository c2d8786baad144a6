"""Slices: laws of a few coordinates given all others (theory, section 13)."""

from __future__ import annotations

import pytest
import torch
from helpers import Inconsistent, bernoulli_mixture, random_target

from mdlm_cfg import (
    AdaptiveCFG,
    FunctionDenoiser,
    Guidance,
    Interval,
    LinearRamp,
    Sampler,
    UserError,
    sample,
    terminal_law,
)
from mdlm_cfg.compare.metrics import histogram, total_variation
from mdlm_cfg.laws.slices import slice_denoiser
from mdlm_cfg.laws.tabulated import TabulatedDenoiser


@pytest.mark.parametrize("policy", [None, "confidence"])
@pytest.mark.parametrize("target_class", [None, 1])
def test_exact_and_unguided_it_is_bayes_for_tables(policy, target_class):
    target = random_target(3, 4, seed=1, zeros=0.2)
    state = torch.tensor([3, 1, 3, 0])
    pmf = target.class_pmf(target_class)[:, 1, :, 0]
    law = terminal_law(slice_denoiser(target.denoiser(), state), Guidance(0.0), target_class, policy)
    assert (law - pmf / pmf.sum()).abs().max() < 1e-12


@pytest.mark.parametrize("policy", [None, "entropy"])
def test_exact_and_unguided_it_is_bayes_for_images(policy):
    target = bernoulli_mixture(784)
    g = torch.Generator().manual_seed(1)
    state = target.sample(1, g, 2)[0][0]
    free = torch.randperm(784, generator=g)[:8].sort().values
    state[free] = 2
    values = torch.cartesian_prod(*[torch.arange(2)] * 8)
    images = state.repeat(256, 1)
    images[:, free] = values
    expected = target.log_prob(images, torch.full((256,), 2)).softmax(0)
    law = terminal_law(slice_denoiser(target.denoiser(), state), Guidance(0.0), 2, policy)
    assert (law.flatten() - expected).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_the_denoiser_is_asked_for_whole_states(dtype):
    asked = []

    def answer(tokens, classes):
        asked.append((tokens.dtype, tokens.tolist(), None if classes is None else classes.tolist()))
        return Inconsistent(3, 4, 2)(tokens, classes)

    part = slice_denoiser(FunctionDenoiser(answer, 3, 4, 2), torch.tensor([3, 1, 3, 0], dtype=dtype))
    tokens = torch.tensor([[2, 3], [3, 3], [0, 1]])
    whole = torch.tensor([[2, 1, 3, 0], [3, 1, 3, 0], [0, 1, 1, 0]])
    for classes in (None, torch.tensor([0, 2, 1])):
        assert torch.equal(part(tokens, classes), Inconsistent(3, 4, 2)(whole, classes)[:, [0, 2]])
        assert asked.pop() == (torch.int64, whole.tolist(), None if classes is None else classes.tolist())


def test_refusals():
    denoiser = Inconsistent(2, 3, 2)
    for state, message in (([0, 1, 1], "mask 2 "), ([0, 3, 1], r" 0\.\.2: "), ([0, 2], r"\(2,\).* 3 ")):
        with pytest.raises(ValueError, match=message):
            slice_denoiser(denoiser, torch.tensor(state))


@pytest.mark.parametrize("strengths", [LinearRamp(0.0, 6.0), Interval(4.0, 0.5, 1.0), [0.5, 3.0, -0.5, 2.0]], ids=str)
def test_a_schedule_counts_the_known_coordinates_in_laws_as_in_draws(strengths) -> None:
    target = random_target(2, 4, seed=7)
    guidance = Guidance(strengths)
    state = torch.tensor([1, 2, 0, 2])
    n = 200_000
    part = slice_denoiser(target.denoiser(), state)
    law = terminal_law(part, guidance, 0)
    assert torch.equal(terminal_law(TabulatedDenoiser(part), guidance, 0), law)
    # the whole chain, once it is in this state: strengths of 2 and 3 unmasked coordinates
    two = slice_denoiser(target.denoiser(), state)
    own = FunctionDenoiser(lambda tokens, classes: two(tokens, classes), 2, 2, target.num_classes)
    assert (law - terminal_law(own, Guidance(guidance.table(4)[2:]), 0)).abs().max() < 1e-14
    assert (law - terminal_law(own, Guidance(guidance.table(4)[:2]), 0)).abs().max() > 1e-3
    assert (law - Sampler("first_hitting").law(part, guidance, 0)).abs().max() < 1e-12
    x = sample(target.denoiser(), guidance, 0, n, generator=torch.Generator().manual_seed(0), start=state)
    assert total_variation(histogram(x[:, [1, 3]], 2), law) < 4 / n**0.5


@pytest.mark.parametrize("wrap", [lambda part: part, TabulatedDenoiser])
def test_a_rule_that_masks_known_coordinates_again_has_no_law_on_a_slice(wrap):
    part = wrap(slice_denoiser(random_target(3, 4, seed=1).denoiser(), torch.tensor([3, 1, 3, 0])))
    for rule in (AdaptiveCFG(k=1), AdaptiveCFG(share=0.5)):
        with pytest.raises(UserError, match="start="):
            terminal_law(part, Guidance(2.0, rule=rule), 1)
