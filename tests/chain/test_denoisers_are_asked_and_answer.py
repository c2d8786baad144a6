"""Every denoiser refuses what is no partial state, and rows are normalised again whatever their type."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from helpers import bernoulli_mixture, random_target
from torch import nn

from mdlm_cfg import FunctionDenoiser, Guidance, UserError, terminal_law
from mdlm_cfg.chain.denoiser import Denoiser, conditionals
from mdlm_cfg.compare.by_state import MixedDenoiser
from mdlm_cfg.compare.likelihood import exact_likelihood
from mdlm_cfg.compare.path_kl import ideal_denoiser
from mdlm_cfg.laws.slices import slice_denoiser
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.studies.benchmark.targets import learned_rotation, rotation

TARGET = random_target(3, 2, seed=1)
EXACT = TARGET.denoiser()


class Flat(nn.Module):
    """The uniform distribution, as a network."""

    num_tokens = 3
    num_dims = 2
    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, tokens, classes):
        return torch.zeros(*tokens.shape, 3).log_softmax(dim=-1) + 0 * self.weight


DENOISERS: dict[str, Callable[[], Denoiser]] = {
    "table": TARGET.denoiser,
    "bernoulli": bernoulli_mixture(2).denoiser,
    "hidden Markov": rotation(2).denoiser,
    "function": lambda: FunctionDenoiser(EXACT, 3, 2, 2),
    "network": lambda: NetDenoiser(Flat()),
    "slice": lambda: slice_denoiser(random_target(3, 3).denoiser(), torch.tensor([3, 1, 3])),
    "tabulated": lambda: TabulatedDenoiser(EXACT),
    "mixed": lambda: MixedDenoiser(EXACT, EXACT),
    "ideal": lambda: ideal_denoiser(TARGET, 1.0, 0),
    "stored": lambda: learned_rotation().denoiser,
}


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("label", [None, 0])
def test_what_is_no_partial_state_is_refused(name, label) -> None:
    denoiser = DENOISERS[name]()
    n = denoiser.num_tokens
    d = denoiser.num_dims
    k = denoiser.num_classes
    good = torch.full((3, d), n)
    good[1, 0] = n - 1
    labels = None if label is None else torch.full((3,), label)
    assert denoiser(good, labels).shape == (3, d, n)
    for token in (-1, n + 1, -(n + 1), 100):
        bad = good.clone()
        bad[2, d - 1] = token
        with pytest.raises(UserError) as caught:
            denoiser(bad, labels)
        assert str(token) in str(caught.value) and str(d) in str(caught.value)
    for shape in ((3, d + 1), (d,)):
        with pytest.raises(UserError):
            denoiser(torch.full(shape, n), labels)
    for wrong in (-1, k + 1):
        with pytest.raises(UserError) as caught:
            denoiser(good, torch.tensor([0, wrong, 0]))
        assert str(wrong) in str(caught.value)


def off_by(excess: float, dtype: torch.dtype) -> FunctionDenoiser:
    """The exact conditionals, with rows that sum to 1 + excess, in a type."""
    return FunctionDenoiser(lambda tokens, classes: (EXACT(tokens, classes) + math.log1p(excess)).to(dtype), 3, 2, 2)


TYPES = {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rows_are_normalised_again_or_refused(dtype) -> None:
    state = torch.tensor([[3, 3], [1, 3]])
    for sign in (-1, 1):
        found = conditionals(off_by(sign * 0.3 * TYPES[dtype], dtype), state, 0)
        masked = found[state == 3]
        assert float(masked.logsumexp(dim=-1).abs().max()) < 1e-15 * 10
        with pytest.raises(UserError) as caught:
            conditionals(off_by(sign * 3 * TYPES[dtype], dtype), state, 0)
        assert "coordinate 1" in str(caught.value) and "(mask, mask)" in str(caught.value)


@pytest.mark.parametrize("excess", [-9e-7, -1e-9, 0.0, 1e-9, 9e-7])
def test_no_likelihood_falls_below_the_entropy(excess) -> None:
    found = exact_likelihood(TARGET, off_by(excess, torch.float64), 0)
    pmf = TARGET.class_pmf(0)
    entropy = -float(torch.special.xlogy(pmf, pmf).sum())
    for value in (found.nll, found.nelbo):
        assert value > entropy - 1e-12
    law = terminal_law(off_by(excess, torch.float64), Guidance(3.0), 0)
    assert float((law - terminal_law(EXACT, Guidance(3.0), 0)).abs().max()) < 1e-13
