"""The error of a denoiser's conditionals: image by image by hand, and its expectation over all masks."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Blurred

from mdlm_cfg.chain.masking import mask_uniform
from mdlm_cfg.compare.conditionals_error import conditionals_error
from mdlm_cfg.compare.images import draw_counts
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture


def target_of(dims: int = 3) -> BernoulliMixture:
    """Two classes of two components; the first pixel of the first component is never on."""
    p = torch.rand(2, 2, dims, generator=generator_for("p"), dtype=torch.float64)
    p[0, :, 0] = 0.0
    return BernoulliMixture(p, torch.tensor([[0.3, 0.7], [0.6, 0.4]]), torch.tensor([0.4, 0.6]))


def cost_of(target: BernoulliMixture, denoiser: Blurred, x: list[int], k: int, state: list[int]) -> list[float]:
    """D / m times the sums over the m masked coordinates: own and ideal cross entropy, and KL."""
    tokens = torch.tensor([state])
    label = torch.tensor([k])
    log_p, log_q = (d(tokens, label)[0].tolist() for d in (target.denoiser(), denoiser))
    masked = [i for i, value in enumerate(state) if value == 2]
    own = sum(-log_q[i][x[i]] for i in masked)
    ideal = sum(-log_p[i][x[i]] for i in masked)
    kl = sum(math.exp(log_p[i][v]) * (log_p[i][v] - log_q[i][v]) for i in masked for v in (0, 1) if log_p[i][v] > -1e9)
    return [len(x) / len(masked) * value for value in (own, ideal, kl)]


@pytest.mark.parametrize("with_classes", [True, False])
def test_it_is_what_the_same_masks_give_by_hand(with_classes: bool) -> None:
    target = target_of()
    draws = 4
    denoiser = Blurred(target, 0.3)
    x, classes = target.sample(20, generator_for("x"))
    found = conditionals_error(target, denoiser, x, classes if with_classes else None, generator=generator_for("m"))
    masks = generator_for("m")
    counts = draw_counts(20, draws, 3, masks).flatten()
    states = mask_uniform(x.repeat_interleave(draws, 0), counts, 2, masks).tolist()
    labels = classes.tolist() if with_classes else [2] * 20
    rows = [
        [cost_of(target, denoiser, x[b].tolist(), labels[b], state) for state in states[draws * b : draws * (b + 1)]]
        for b in range(20)
    ]
    own, ideal, kl = torch.tensor(rows, dtype=torch.float64).mean(dim=1).T
    assert found.nelbo == pytest.approx(float(own.mean()), rel=1e-12)
    assert found.exact_nelbo == pytest.approx(float(ideal.mean()), rel=1e-12)
    assert found.conditionals_error == pytest.approx(float((own - ideal).mean()), rel=1e-10)
    assert found.conditionals_error_se == pytest.approx(
        float((own - ideal).std(correction=1)) / math.sqrt(20), rel=1e-10
    )
    assert found.conditionals_kl == pytest.approx(float(kl.mean()), rel=1e-12)
    assert found.conditionals_kl_se == pytest.approx(float(kl.std(correction=1)) / math.sqrt(20), rel=1e-12)
    assert found.entropy == pytest.approx(-float(target.log_prob(x, torch.tensor(labels)).mean()), rel=1e-12)
    assert (found.num_examples, found.num_draws) == (20, 4)


def test_the_exact_denoiser_has_no_conditionals_error() -> None:
    target = target_of(dims=6)
    x, classes = target.sample(200, generator_for("x"))
    for labels in (classes, None):
        found = conditionals_error(target, target.denoiser(), x, labels, generator=generator_for("masks"))
        assert found.conditionals_error == found.conditionals_error_se == found.conditionals_kl == 0
        assert found.nelbo == found.exact_nelbo
