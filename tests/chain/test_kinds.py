"""Kinds of guidance by themselves: total rates, shares and limits, state by state."""

from __future__ import annotations

import math

import pytest
import torch

from mdlm_cfg.chain.kinds import KINDS, kind_of

Z = torch.tensor([[[1.0, 0.0, 2.0], [3.0, 0.0, 2.0]], [[4.0, 5.0, 0.0], [1.0, 7.0, 9.0]]], dtype=torch.float64)
RATE, NORMALIZED = KINDS["rate"], KINDS["normalized"]


def test_total_rates() -> None:
    log_z = Z.log()
    assert RATE.log_rate(log_z) is log_z
    assert NORMALIZED.log_rate(log_z).exp().tolist() == (Z > 0).double().tolist()


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_the_share_is_the_chance_to_be_next_over_z(kind) -> None:
    share = kind.share(Z).expand_as(Z)
    for c, m, s in [(c, m, s) for c in range(2) for m in range(2) for s in range(3)]:
        z = Z[c, :, s].tolist()
        if min(z) > 0:
            rates = z if kind == "rate" else [1.0, 1.0]
            assert float(share[c, m, s]) * z[m] == pytest.approx(rates[m] / sum(rates))


def test_the_ratio_that_decides_in_the_limit_is_of_each_state() -> None:
    assert RATE.deciding_ratio(Z).tolist() == [[[3.0, 0.0, 2.0]] * 2, [[4.0, 7.0, 9.0]] * 2]
    assert torch.equal(NORMALIZED.deciding_ratio(Z), Z)


def test_decays_are_stated() -> None:
    assert "double-exponentially in w" in RATE.decay_statement(2, None)
    assert RATE.decay_statement(2, "it waits") == "The decay saturates: it waits."
    for dims, formula in ((1, "1 - (1 - exp(-tau)) for"), (3, "1 - (1 - exp(-tau))^3 for")):
        assert formula in NORMALIZED.decay_statement(dims, None) == NORMALIZED.decay_statement(dims, "it waits")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="guidance kind 'x' is unknown; choose one of rate, normalized"):
        kind_of("x")
    assert RATE != NORMALIZED and math.pi != RATE
