"""P(still masked) with relative accuracy, against a sum over all paths in 400 digits (theory, section 5)."""

from __future__ import annotations

import math
from functools import cache
from itertools import permutations, product

import mpmath
import pytest
import torch
from helpers import Inconsistent, random_target, rarely_slow
from hypothesis import given, settings, strategies as st
from mpmath import mpf

from mdlm_cfg import Compose, Guidance, TableMixture, law_at
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.compare.decay import log_still_masked, time_to_tv

TAUS = (0.01, 0.5, 10.0)


def log_survival(denoiser: Denoiser, w: float, z: int, kind: str, taus: tuple[float, ...]) -> list[float]:
    """ln P(still masked): a sum over paths of their probability times the survival of a hypoexponential time."""
    n = denoiser.num_tokens
    d = denoiser.num_dims

    @cache
    def rates(state: tuple[int, ...]) -> dict[tuple[int, int], mpf]:
        tokens = torch.tensor([state])
        own, whole = (denoiser(tokens, c)[0].tolist() for c in (torch.tensor([z]), None))
        out = {}
        for i in (i for i, s in enumerate(state) if s == n):
            logs = {(i, v): (1 + mpf(w)) * own[i][v] - mpf(w) * whole[i][v] for v in range(n) if own[i][v] > -1e300}
            total = mpmath.fsum(mpmath.exp(one) for one in logs.values()) if kind == "normalized" else 1
            out |= {edge: mpmath.exp(one) / total for edge, one in logs.items()}
        return out

    found = [mpf(0)] * len(taus)
    with mpmath.workdps(400):
        for order, values in product(permutations(range(d)), product(range(n), repeat=d)):
            state = [n] * d
            chance = mpf(1)
            exits = []
            for i, v in zip(order, values):
                here = rates(tuple(state))
                # equal rates are set apart by a share of 1e-120, which partial fractions can divide by
                exits.append(mpmath.fsum(here.values()) * (1 + len(exits) * mpf(10) ** -120))
                chance *= here.get((i, v), 0) / mpmath.fsum(here.values())
                if chance == 0:
                    break
                state[i] = v
            else:
                for j, own in enumerate(exits):
                    share = chance * mpmath.fprod(e / (e - own) for k, e in enumerate(exits) if k != j)
                    found = [sofar + share * mpmath.exp(-own * tau) for sofar, tau in zip(found, taus)]
        return [float(mpmath.log(one)) for one in found]


def close(target_or_denoiser: TableMixture | Denoiser, w: float, kind: str = "rate") -> bool:
    denoiser = target_or_denoiser.denoiser() if isinstance(target_or_denoiser, TableMixture) else target_or_denoiser
    found = log_still_masked(denoiser, Guidance(w, kind), 0, TAUS).tolist()
    exact = log_survival(denoiser, w, 0, kind, TAUS)
    # what a float64 rate leaves of Lambda tau is a share of 1e-14 of the logarithm
    return all(abs(a - b) <= 1e-9 + 1e-12 * w * abs(b) for a, b in zip(found, exact))


@pytest.mark.parametrize("w", [-1.0, 0.0, 2.0, 4.0, 8.0, 16.0, 128.0])
def test_a_slow_state_that_is_hardly_ever_visited(w: float) -> None:
    assert close(rarely_slow(), w)


def test_the_known_value() -> None:
    found = log_still_masked(rarely_slow().denoiser(), Guidance(16.0), 0, [0.5])
    assert float(found) == pytest.approx(-56.875, abs=1e-3)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.sampled_from([(2, 2), (3, 2), (2, 3)]),
    seed=st.integers(0, 10**6),
    zeros=st.sampled_from([0.0, 0.3, 0.6]),
    w=st.sampled_from([-0.7, 1.0, 4.0, 16.0, 60.0]),
    kind=st.sampled_from(["rate", "normalized"]),
)
def test_random_tables(shape: tuple[int, int], seed: int, zeros: float, w: float, kind: str) -> None:
    assert close(random_target(*shape, k=2, seed=seed, zeros=zeros), w, kind)


@pytest.mark.parametrize("w", [2.0, 30.0])
def test_conditionals_of_no_joint(w: float) -> None:
    assert close(Inconsistent(2, 3, 2, seed=1), w)


def test_rates_beyond_float64_leave_nothing() -> None:
    target = random_target(3, 3, k=2, seed=3)
    found = log_still_masked(target.denoiser(), Guidance(1e4), 0, TAUS)
    assert found.tolist() == [-math.inf] * 3 and time_to_tv(target.denoiser(), Guidance(1e4), 0, 0.05) == 0


@pytest.mark.parametrize("w", [0.0, 20.0, 110.0, 130.0, 200.0, 2000.0])
def test_a_state_is_not_left_at_rates_too_slow_for_float64(w: float) -> None:
    """Two classes with little in common, composed: in one dimension all is left at the one rate Z."""
    rare = 1e-3
    pmfs = torch.tensor([[1 - rare, rare], [rare, 1 - rare]], dtype=torch.float64)
    denoiser = TableMixture(pmfs, torch.tensor([0.5, 0.5], dtype=torch.float64)).denoiser()
    guidance = Guidance(w, rule=Compose({0: 1.0, 1: 1.0}))
    with mpmath.workdps(30):
        z = 2 * (mpf(rare) * (1 - mpf(rare))) ** (1 + w) * mpf(2) ** (1 + 2 * w)
        taus = [0.01, 1.0, 1e100, 1e250]
        expected = [float(mpmath.exp(-tau * z)) if tau * z < 1e4 else 0.0 for tau in taus]
        time = math.log(2) / z
    assert law_at(denoiser, guidance, 0, taus)[:, -1].tolist() == pytest.approx(expected, abs=1e-12)
    assert log_still_masked(denoiser, guidance, 0, taus).exp().tolist() == pytest.approx(expected, abs=1e-12)
    found = time_to_tv(denoiser, guidance, 0, 0.5)
    assert found == math.inf if time > 1e300 else found == pytest.approx(float(time), rel=1e-8)


@pytest.mark.parametrize("w", [3.0, 100.0, 200.0, 290.0])
def test_a_time_is_found_however_fast_the_rates_are(w: float) -> None:
    """In one dimension TV = exp(-tau Z); the square of such a time is 0."""
    rare = 1e-3
    pmfs = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    target = TableMixture(pmfs, torch.tensor([rare, 1 - rare], dtype=torch.float64))
    z = sum(mpf(own) * (mpf(own) / whole) ** w for own, whole in zip(pmfs[0].tolist(), target.pmf.tolist()))
    found = time_to_tv(target.denoiser(), Guidance(w), 0, 0.5)
    assert found == pytest.approx(float(math.log(2) / z), rel=1e-8)
