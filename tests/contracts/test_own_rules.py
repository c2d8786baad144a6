"""Jump rules, policies and kinds of one's own: what would make laws and draws differ is refused when it is made.

What is wrong only where nobody looked then is refused when it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import random_target
from torch import Tensor

from mdlm_cfg import (
    CFG,
    Correction,
    FunctionDenoiser,
    Guidance,
    Rule,
    Sampler,
    TableMixture,
    UserError,
    law_at,
    sample,
    terminal_law,
)
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.chain.rules import ProductRule, Term
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, total_variation

DENOISER = random_target(3, 3, seed=2).denoiser()
GUIDANCE = Guidance(2.0)
NUM = 4000


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def is_drawn_from(x: Tensor, law: Tensor) -> bool:
    return total_variation(histogram(x, 3), law) < 2 * expected_sampling_tv(law, NUM)


JUMPS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "above one": lambda log_z, u: 1 + u + 0 * log_z,
    "not clamped": lambda log_z, u: log_z.exp() * -torch.log1p(-u),
    "below zero": lambda log_z, u: torch.where(u < 1, -0.1, 1.0) + 0 * log_z,
    "NaN": lambda log_z, u: torch.where(log_z > 1, math.nan, u),
    "masks left": lambda log_z, u: u / 2 + 0 * log_z,
    "random": lambda log_z, u: torch.where(u < 1, torch.rand_like(log_z), 1.0),
    "truth": lambda log_z, u: u + log_z > 0.5,
    "other shape": lambda log_z, u: torch.ones(7),
    "number": lambda log_z, u: 1.0,
    "whole numbers": lambda log_z, u: torch.ones_like(log_z).long(),
    "of all coordinates together": lambda log_z, u: torch.where(u < 1, u * log_z.softmax(dim=-1), 1.0),
    "of all states together": lambda log_z, u: torch.where(u < 1, u / log_z.numel() + 0 * log_z, 1.0),
}


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_rule_that_is_no_probability_is_refused(name: str) -> None:
    with pytest.raises(UserError):
        Sampler("mine", steps=3, jump=JUMPS[name])


@pytest.mark.parametrize(
    "jump", [lambda log_z, u: u, lambda log_z, u: u.float(), lambda log_z, u: torch.ones_like(log_z.zero_())]
)
def test_a_jump_rule_may_be_short_of_digits_and_write_over_its_arguments(jump: Any) -> None:
    sampler = Sampler("mine", steps=3, jump=jump)
    assert is_drawn_from(sampler.draw(DENOISER, GUIDANCE, 0, NUM, seeded()), sampler.law(DENOISER, GUIDANCE, 0))


def is_refused(guidance: Guidance, sampler: Sampler) -> bool:
    """Whether both the law and the draws are."""
    for use in (sampler.law, lambda *given: sampler.draw(*given, NUM, seeded())):
        try:
            use(DENOISER, guidance, 0)
        except UserError:
            continue
        return False
    return True


@pytest.mark.parametrize("wrong", [1.7, -0.3, math.nan])
@pytest.mark.parametrize("last", [False, True])
def test_a_jump_rule_that_is_rarely_a_probability_is_refused_where_it_is_none(wrong: float, last: bool) -> None:
    def jump(log_z: Tensor, u: Tensor) -> Tensor:
        return torch.where((log_z > 0.01) & (log_z < 0.69) & ((u == 1) == last), wrong, u)

    assert is_refused(GUIDANCE, Sampler("mine", steps=3, jump=jump))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_kind_that_rarely_has_no_rate_is_refused_where_it_has_none(wrong: float) -> None:
    own = kind(lambda log_z: torch.where((log_z > 0.21) & (log_z < 0.69), wrong, log_z / 2))
    for sampler in (Sampler(), Sampler("tau_leaping", 3), Sampler(correction=Correction())):
        assert is_refused(Guidance(2.0, own), sampler)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, "shape", "type"])
def test_a_rule_that_rarely_has_no_rates_is_refused_where_it_has_none(wrong: Any) -> None:
    class Own(Rule):
        has_tilted = False

        def bind(self, denoiser: Any, target_class: int | None, table: Any) -> Callable[[Tensor], Tensor]:
            def log_rho(tokens: Tensor) -> Tensor:
                found = denoiser(tokens, None)
                odd = (tokens == torch.tensor([3, 1, 3])).all(dim=1)
                if isinstance(wrong, str) and odd.any():
                    return found[..., :-1] if wrong == "shape" else found.long()
                return found if isinstance(wrong, str) else found.masked_fill(odd[:, None, None], wrong)

            return log_rho

        log_tilted = CFG.log_tilted

    for sampler in (Sampler(), Sampler("tau_leaping", 3)):
        assert is_refused(Guidance(2.0, rule=Own()), sampler)


def test_a_denoiser_of_complex_numbers_is_refused() -> None:
    own = FunctionDenoiser(lambda tokens, classes: DENOISER(tokens, classes) * (1 + 0j), 3, 3, 2)
    with pytest.raises(UserError, match="complex"):
        terminal_law(own, GUIDANCE, 0)


def policy(answer: Callable[[Tensor, Tensor], Any]) -> Policy:
    class Own(Policy):
        def preference(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Any:
            return answer(log_z, coordinates)

    return Own()


PREFERENCES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "random scores": lambda log_z, i: (torch.rand_like(log_z), torch.zeros_like(log_z)),
    "random weights": lambda log_z, i: (None, torch.rand_like(log_z)),
    "a score that is NaN": lambda log_z, i: (torch.where(i == 1, math.nan, 0.0).expand_as(log_z), 0 * log_z),
    "a weight that is NaN": lambda log_z, i: (None, torch.where(i == 1, math.nan, 0.0).expand_as(log_z)),
    "a weight that is infinite": lambda log_z, i: (None, torch.where(i == 1, math.inf, 0.0).expand_as(log_z)),
    "by all states": lambda log_z, i: ((1 if log_z.numel() > 40 else -1) * i.double().expand_as(log_z), 0 * log_z),
    "by the place in the call": lambda log_z, i: (torch.arange(log_z.shape[-1]).expand_as(log_z), 0 * log_z),
    "by the number of coordinates": lambda log_z, i: (None, log_z.shape[-1] * i.double().expand_as(log_z)),
    "one score for each value": lambda log_z, i: (torch.zeros(*log_z.shape, 3), torch.zeros_like(log_z)),
    "one more axis": lambda log_z, i: (None, log_z[..., None]),
    "scores alone": lambda log_z, i: torch.zeros_like(log_z),
    "nothing": lambda log_z, i: None,
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_a_policy_that_is_no_distribution_is_refused(name: str) -> None:
    for use in (
        lambda own: terminal_law(DENOISER, GUIDANCE, 0, policy=own),
        lambda own: sample(DENOISER, GUIDANCE, 0, 5, policy=own, generator=seeded()),
        lambda own: Sampler("event_leaping", steps=2, policy=own).draw(DENOISER, GUIDANCE, 0, 5, seeded()),
    ):
        with pytest.raises(UserError):
            use(policy(PREFERENCES[name]))


@pytest.mark.parametrize(
    "answer",
    [
        lambda log_z, i: (i.expand_as(log_z), torch.zeros_like(log_z)),  # whole numbers
        lambda log_z, i: (None, -i),
        lambda log_z, i: (None, log_z.float()),
        lambda log_z, i: (log_z - log_z.amax(dim=-1, keepdim=True), torch.zeros_like(log_z)),  # NaN where all are -inf
        lambda log_z, i: (log_z.fill_(0), (i == 0).double().expand_as(log_z)),
    ],
)
def test_what_a_policy_prefers_is_what_is_drawn(answer: Any) -> None:
    own = policy(answer)
    law = terminal_law(DENOISER, GUIDANCE, 0, policy=own)
    assert abs(float(law.sum()) - 1) < 1e-12
    assert is_drawn_from(sample(DENOISER, GUIDANCE, 0, NUM, policy=own, generator=seeded()), law)


TERMS: dict[str, Callable[[float, int | None], Any]] = {
    "nothing": lambda w, z: None,
    "no terms": lambda w, z: [],
    "pairs": lambda w, z: [(1 + w, z)],
    "a power that is a tensor": lambda w, z: [Term(torch.tensor([1.0, 2.0]), z)],
    "random powers": lambda w, z: [Term(1 + float(torch.rand(())), z)],
}


@pytest.mark.parametrize("name", TERMS)
def test_terms_that_are_none_are_refused(name: str) -> None:
    rule = type("Own", (ProductRule,), {"terms": lambda self, w, z: TERMS[name](w, z)})()
    for use in (terminal_law, lambda *given: sample(*given, 5, generator=seeded())):
        with pytest.raises(UserError):
            use(DENOISER, Guidance(2.0, rule=rule), 0)


def kind(rate: Callable[[Tensor], Tensor], is_rho: bool = False) -> Kind:
    class Own(Kind):
        def log_rate(self, log_z: Tensor) -> Tensor:
            return rate(log_z)

    Own.is_rho = is_rho
    return Own()


KINDS: dict[str, Callable[[], Kind]] = {
    "a rate that depends on other coordinates": lambda: kind(
        lambda log_z: (log_z - log_z.logsumexp(dim=-1, keepdim=True)).nan_to_num(nan=-math.inf, neginf=-math.inf)
    ),
    "a rate that depends on all states": lambda: kind(
        lambda log_z: (log_z - log_z.max()).nan_to_num(nan=-math.inf, neginf=-math.inf)
    ),
    "short of digits": lambda: kind(torch.Tensor.float),
    "no tensor": lambda: kind(lambda log_z: 1.0),
    "a rate of nothing": lambda: kind(torch.zeros_like),
    "NaN": lambda: kind(lambda log_z: log_z * math.nan),
    "a rate that is not rho": lambda: kind(lambda log_z: log_z / 2, is_rho=True),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_whose_parts_do_not_go_together_is_refused(name: str) -> None:
    with pytest.raises(UserError):
        Guidance(2.0, KINDS[name]())


def test_a_kind_whose_parts_go_together_is_drawn_as_its_law_says() -> None:
    for a in (0.5, 1.0, 2.0):
        guidance = Guidance(2.0, kind(lambda log_z, a=a: a * log_z, is_rho=a == 1))
        x = sample(DENOISER, guidance, 0, NUM, generator=seeded())
        assert is_drawn_from(x, terminal_law(DENOISER, guidance, 0))


def test_a_kind_may_write_over_what_it_is_given() -> None:
    plain, over = (Guidance(2.0, kind(rate)) for rate in (lambda z: z / 2, lambda z: z.mul_(0.5)))
    torch.testing.assert_close(law_at(DENOISER, over, 0, 0.5), law_at(DENOISER, plain, 0, 0.5))
    for sampler in (Sampler("tau_leaping", 2), Sampler("event_leaping", 2)):
        torch.testing.assert_close(sampler.law(DENOISER, over, 0), sampler.law(DENOISER, plain, 0))


@pytest.mark.parametrize("a", [10, -10])
def test_a_power_of_z_that_float64_does_not_hold_loses_nothing(a: int) -> None:
    """The first coordinate has two values of the class that are as likely; after one of them Z is far larger."""
    by_class = [[[0.25, 0.25], [0.46875, 0.03125], [0, 0]], [[0.1, 0.1], [0.0125, 0.1875], [0.3, 0.3]]]
    pmfs = torch.nn.functional.pad(torch.tensor(by_class, dtype=torch.float64), (0, 1))
    target = TableMixture(pmfs, torch.tensor([0.5, 0.5], dtype=torch.float64))

    def rate(log_z: Tensor) -> Tensor:
        return torch.where(log_z == -math.inf, -math.inf, a * log_z)

    found = terminal_law(target.denoiser(), Guidance(300.0, kind(rate)), 0)
    by_policy = policy(lambda log_z, i: (None, a * log_z))
    torch.testing.assert_close(found, terminal_law(target.denoiser(), Guidance(300.0), 0, policy=by_policy))


def test_a_rule_without_a_name_goes_by_its_fields() -> None:
    class Half(ProductRule):
        def __init__(self, by: float) -> None:
            self.by = by

        def terms(self, w: float, target_class: int | None) -> list[Term]:
            return [Term(self.by, target_class)]

    names = {str(Half(by)) for by in (0.5, 0.25)} | {repr(Guidance(1.0, rule=Half(0.5)).rule)}
    assert len(names) == 2
