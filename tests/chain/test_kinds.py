"""Kinds of guidance by themselves: total rates and limits, state by state."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Opaque, random_target
from oracle import Chain, fractions
from torch import Tensor

from mdlm_cfg import Guidance, UserError, law_at, limit_law, stepped_law, terminal_law
from mdlm_cfg.chain.kinds import KINDS, Kind, kind_of
from mdlm_cfg.compare.decay import tv_decay

RATE = KINDS["rate"]
NORMALIZED = KINDS["normalized"]


class Root(Kind):
    """Coordinate i jumps at rate sqrt(Z_i): neither Z_i nor the same for all."""

    def log_rate(self, log_z: Tensor) -> Tensor:
        return log_z / 2


class Twice(Kind):
    """Coordinate i jumps at rate 2."""

    def log_rate(self, log_z: Tensor) -> Tensor:
        return torch.full_like(log_z, math.log(2)).masked_fill(log_z == -math.inf, -math.inf)


class Capped(Kind):
    """Coordinate i jumps at rate min(Z_i^a, c)."""

    def __init__(self, a: float = 0.5, c: float = 2.0) -> None:
        self.a = a
        self.c = c

    def log_rate(self, log_z: Tensor) -> Tensor:
        return (self.a * log_z).clamp(max=math.log(self.c))


class Reversed(Kind):
    """Coordinate i jumps at rate 1 / Z_i, where it can."""

    def log_rate(self, log_z: Tensor) -> Tensor:
        return torch.where(log_z == -math.inf, log_z, -log_z)


class Saturating(Kind):
    """Coordinate i jumps at rate Z_i / (1 + Z_i), which is no power of Z_i."""

    def log_rate(self, log_z: Tensor) -> Tensor:
        return -torch.logaddexp(torch.zeros_like(log_z), -log_z)


@pytest.mark.parametrize("kind", [RATE, NORMALIZED, Root(), Twice()], ids=str)
@pytest.mark.parametrize("seed", [4, 5])
def test_the_limit_of_strong_guidance_follows_from_the_rate(kind: Kind, seed: int) -> None:
    target = random_target(3, 2, k=2, seed=seed, zeros=0.2)
    strong = terminal_law(target.denoiser(), Guidance(1e4, kind), 1)
    assert float((limit_law(target, 1, kind) - strong).abs().max()) < 1e-9


@pytest.mark.parametrize("kind", [Capped(), Saturating(), Reversed()], ids=str)
def test_no_limit_is_claimed_for_a_rate_that_is_no_power(kind: Kind) -> None:
    target = random_target(3, 2, k=2, seed=4)
    with pytest.raises(UserError):
        limit_law(target, 1, kind)
    assert tv_decay(target, 1, [Guidance(w, kind) for w in (0.0, 1.0)], [0.5]).growth is None


@pytest.mark.parametrize("w", [0.0, 3.0])
def test_a_constant_rate_decays_alike_at_every_strength(w: float) -> None:
    decay = tv_decay(random_target(3, 2, k=2, seed=4), 1, [Guidance(w, Twice())], [0.1, 0.5])
    expected = 1 - (1 - (-2 * decay.taus).exp()) ** 2
    assert torch.allclose(decay.log_tv[0].exp(), expected, atol=1e-12) and decay.growth == "bounded"


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
