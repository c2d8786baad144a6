"""What every kind of guidance promises: a new one inherits these tests by its entry in `KINDS`."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from helpers import Inconsistent, law_by_jumps, random_target
from torch import Tensor

from mdlm_cfg import Guidance, UserError, limit_law, terminal_law
from mdlm_cfg.chain.kinds import KINDS, Kind, kind_of
from mdlm_cfg.support.seeds import generator_for

NEG_INF = float("-inf")
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def some_log_z() -> Tensor:
    log_z = 6 * torch.randn(40, 5, generator=generator_for("log z"), dtype=torch.float64)
    return log_z.masked_fill(torch.rand(40, 5, generator=generator_for("nowhere")) < 0.3, NEG_INF)


@kinds
def test_a_coordinate_with_nowhere_to_go_has_no_rate_and_every_other_has_one(kind: Kind) -> None:
    log_z = some_log_z()
    rate = kind.log_rate(log_z)
    assert torch.equal(rate == NEG_INF, log_z == NEG_INF)
    assert bool((rate < math.inf).all()) and not bool(rate.isnan().any())


@kinds
def test_is_rho_says_whether_the_rate_is_z(kind: Kind) -> None:
    log_z = some_log_z()
    assert kind.is_rho == torch.equal(kind.log_rate(log_z), log_z)


def by_enumeration(denoiser: Inconsistent, guidance: Guidance, kind: Kind, z: int) -> Tensor:
    """The law of the jump chain of a kind's rates."""
    n = denoiser.num_tokens
    d = denoiser.num_dims

    def jumps(state: tuple[int, ...]) -> Iterator[tuple[int, int, float]]:
        x = torch.tensor([state])
        conditional = denoiser(x, torch.tensor([z]))[0]
        log_rho = (1 + guidance.constant) * conditional - guidance.constant * denoiser(x, None)[0]
        masked = [i for i in range(d) if state[i] == n]
        log_z = log_rho[masked].logsumexp(dim=-1)
        rate = kind.log_rate(log_z).exp()
        for (place, i), v in product(enumerate(masked), range(n)):
            yield i, v, float(rate[place] / rate.sum() * (log_rho[i, v] - log_z[place]).exp())

    return law_by_jumps(n, d, jumps)


@kinds
@pytest.mark.parametrize(("n", "d"), [(3, 3), (2, 4)])
def test_its_law_is_that_of_its_rates(kind: Kind, n: int, d: int) -> None:
    denoiser = Inconsistent(n, d, 2, seed=d)
    guidance = Guidance(1.3, kind)
    expected = by_enumeration(denoiser, guidance, kind, 1)
    assert torch.allclose(terminal_law(denoiser, guidance, 1), expected, atol=1e-13)


@kinds
def test_strong_guidance_goes_to_the_limit(kind: Kind) -> None:
    target = random_target(3, 2, 3, seed=5)
    limit = limit_law(target, 1, kind)
    distances = [
        0.5 * float((terminal_law(target.denoiser(), Guidance(w, kind), 1) - limit).abs().sum())
        for w in (1.0, 10.0, 1000.0)
    ]
    assert distances[2] < 1e-9 and distances[2] <= distances[1] <= distances[0]


@kinds
def test_it_is_equal_by_type_and_fields(kind: Kind) -> None:
    class Same(type(kind)):  # type: ignore[misc]
        name = kind.name

    assert copy.deepcopy(kind) == kind == pickle.loads(pickle.dumps(kind))
    assert Same() != kind and hash(copy.deepcopy(kind)) == hash(kind)
    assert kind_of(kind.name) is kind
    with pytest.raises(UserError):
        kind_of(Same())
