"""Kinds of guidance by themselves: total rates and limits, state by state."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Opaque, random_target
from oracle import Chain, fractions
from torch import Tensor

from mdlm_cfg import Guidance, law_at, stepped_law, terminal_law
from mdlm_cfg.chain.kinds import KINDS, Kind, kind_of

Z = torch.tensor([[[1.0, 0.0, 2.0], [3.0, 0.0, 2.0]], [[4.0, 5.0, 0.0], [1.0, 7.0, 9.0]]], dtype=torch.float64)
RATE = KINDS["rate"]
NORMALIZED = KINDS["normalized"]


def test_the_ratio_that_decides_in_the_limit_is_of_each_state() -> None:
    assert RATE.deciding_ratio(Z).tolist() == [[[3.0, 0.0, 2.0]] * 2, [[4.0, 7.0, 9.0]] * 2]
    assert torch.equal(NORMALIZED.deciding_ratio(Z), Z)


def test_decays_are_stated() -> None:
    said = [RATE.decay_statement(2, growth, "it waits") for growth in ("exponential", "linear", "bounded")]
    assert len(set(said)) == 3 and ["it waits" in one for one in said] == [False, True, True]
    for dims, formula in ((1, "1 - (1 - exp(-tau)) "), (3, "1 - (1 - exp(-tau))^3 ")):
        assert formula in NORMALIZED.decay_statement(dims, "bounded", "")


class Root(Kind):
    """Coordinate i jumps at rate sqrt(Z_i): neither Z_i nor the same for all."""

    name = "root"
    guides_time = True

    def log_rate(self, log_z: Tensor) -> Tensor:
        return log_z / 2

    def deciding_ratio(self, best: Tensor) -> Tensor:
        return best

    def decay_statement(self, num_dims: int, growth: str, neutral: str) -> str:
        return ""


class Saturating(Root):
    """Coordinate i jumps at rate Z_i / (1 + Z_i), which is no power of Z_i."""

    def log_rate(self, log_z: Tensor) -> Tensor:
        return -torch.logaddexp(torch.zeros_like(log_z), -log_z)

    def deciding_ratio(self, best: Tensor) -> Tensor:
        return best

    def decay_statement(self, num_dims: int, growth: str, neutral: str) -> str:
        return ""


@pytest.mark.parametrize("w", [-0.5, 0.0, 3.0])
@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize(("kind", "rate_of"), [(Root(), math.sqrt), (Saturating(), lambda z: z / (1 + z))])
def test_laws_of_a_kind_of_ones_own_by_brute_force(w, opaque, kind, rate_of) -> None:
    target = random_target(2, 3, k=2, seed=4, zeros=0.3)
    z = 1
    guidance = Guidance(w, kind)
    chain = Chain(target.denoiser(), w, "rate", z)
    for rates in chain.rates.values():
        rates |= {i: [rate and rate / sum(row) * rate_of(sum(row)) for rate in row] for i, row in rates.items()}
    denoiser = Opaque(target.denoiser()) if opaque else target.denoiser()
    assert (terminal_law(denoiser, guidance, z) - chain.terminal_by_orders()).abs().max() < 1e-12
    for tau in (0.1, 1.5):
        assert (law_at(denoiser, guidance, z, tau) - chain.law_at(tau)).abs().max() < 1e-12
    law = chain.stepped("tau_leaping", fractions("linear", 3))
    assert (stepped_law(denoiser, guidance, z, "tau_leaping", 3) - law).abs().max() < 1e-12


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'x' .* rate, normalized"):
        kind_of("x")
    assert RATE != NORMALIZED and math.pi != RATE
