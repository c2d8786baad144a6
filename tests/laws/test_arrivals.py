"""A state without rates is refused where a chain arrives with positive probability, and nowhere else."""

import math
from itertools import product

import pytest
import torch
from helpers import Inconsistent, random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, law_at, terminal_law
from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG
from mdlm_cfg.chain.product_rules import Negative
from mdlm_cfg.chain.rules import CFG, Rule
from mdlm_cfg.compare.decay import log_still_masked
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.support.errors import UserError

N = 2
D = 3
MASK = N
SEEDS = (0, 3, 7, 11)  # where some states have an infinite rate, and no path meets one


def marginal(p: dict, state: tuple) -> float:
    return math.fsum(mass for x, mass in p.items() if all(s in (MASK, v) for s, v in zip(state, x)))


def put(state: tuple, i: int, v: int) -> tuple:
    return (*state[:i], v, *state[i + 1 :])


def conditional(p: dict, state: tuple, i: int) -> list[float]:
    """Uniform where the state is impossible: only ever asked of the mixture at states that the class allows."""
    total = marginal(p, state)
    return [marginal(p, put(state, i, v)) / total for v in range(N)] if total else [1 / N] * N


def a_cfg_law(target: TableMixture, w: float, k: int, z: int, order: tuple | None = None) -> dict | None:
    """The law of A-CFG by following every path, or None where one meets an infinite rate."""
    points = list(product(range(N), repeat=D))
    of_class = {x: float(target.class_pmfs[z][x]) for x in points}
    mixture = {x: float(target.pmf[x]) for x in points}
    flow = {(MASK,) * D: 1.0}
    for _ in range(D):
        after: dict = {}
        for state, mass in flow.items():
            known = [i for i in range(D) if state[i] != MASK]
            confidence = {i: conditional(of_class, put(state, i, MASK), i)[state[i]] for i in known}
            again = sorted(known, key=lambda i: (round(confidence[i], 9), i))[:k]
            less = state
            for i in again:
                less = put(less, i, MASK)
            rates = {}
            for i in (i for i in range(D) if state[i] == MASK):
                for v, (c, u) in enumerate(zip(conditional(of_class, state, i), conditional(mixture, less, i))):
                    if c > 0 and u == 0:
                        return None
                    if c > 0:
                        rates[i, v] = c ** (1 + w) * u ** (-w)
            if order is not None:
                first = next(i for i in order if state[i] == MASK)
                rates = {(i, v): rate for (i, v), rate in rates.items() if i == first}
            total = sum(rates.values())
            for (i, v), rate in rates.items():
                there = put(state, i, v)
                after[there] = after.get(there, 0.0) + mass * rate / total
        flow = after
    return flow


@pytest.mark.parametrize("order", [None, "fixed_order"])
def test_a_cfg_of_sparse_tables_is_that_of_every_path(order: str | None) -> None:
    for seed in SEEDS:
        target = random_target(N, D, seed=seed, zeros=0.6)
        expected = a_cfg_law(target, 2.0, 1, 0, None if order is None else tuple(range(D)))
        assert expected is not None  # the mixture allows what its classes do
        found = terminal_law(target.denoiser(), Guidance(2.0, rule=AdaptiveCFG(k=1)), 0, order)
        for x in product(range(N), repeat=D):
            assert float(found[x]) == pytest.approx(expected.get(x, 0.0), abs=1e-13)


class Patched(Rule):
    """Another rule with random numbers in the states without rates: where a chain arrives, they change its law."""

    def __init__(self, rule: Rule, seed: int) -> None:
        self.has_tilted = rule.has_tilted
        self.rule = rule
        self.seed = seed

    def bind(self, denoiser, target_class, table):
        own = self.rule.bind(denoiser, target_class, table)
        other = torch.randn((N + 1) ** D, D, N, generator=torch.Generator().manual_seed(self.seed)).double()

        def log_rho(tokens):
            found = own(tokens)
            wrong = ((found.isposinf() | found.isnan()) & (tokens == MASK)[..., None]).flatten(1).any(dim=1)
            places = (tokens * torch.tensor([(N + 1) ** k for k in range(D)])).sum(dim=1)
            return torch.where(wrong[:, None, None], other[places], found)

        return log_rho

    def log_tilted(self, denoiser, w, target_class):
        raise AssertionError


class Careless(Rule):
    """An own rule that divides 0 by 0."""

    has_tilted = False

    def bind(self, denoiser, target_class, table):
        def log_rho(tokens):
            labels = [torch.full((len(tokens),), k) for k in (target_class, denoiser.num_classes)]
            cond, uncond = (denoiser(tokens, k).exp() for k in labels)
            return (cond * cond / uncond).log()

        return log_rho

    def log_tilted(self, denoiser, w, target_class):
        raise AssertionError


def sparse(seed: int) -> Inconsistent:
    """Conditionals of no joint, of which some are 0: of class 0 more than of the mixture and of class 1."""
    made = Inconsistent(N, D, 2, seed)
    g = torch.Generator().manual_seed(seed)
    zero = torch.rand(made.table.shape[:-1], generator=g) < torch.tensor([0.6, 0.1, 0.1])[:, None, None]
    value = torch.randint(N, zero.shape, generator=g)
    made.table[zero] = torch.nn.functional.one_hot(value, N).double().log()[zero]
    return made


def moved(moves: str):
    return lambda g, d: Sampler("first_hitting", correction=f"correction({moves})").law(d, g, 0)


ACCEPTED = "corrected, where accepted"
LAWS = {
    "one at a time": lambda g, d: terminal_law(d, g, 0),
    "in time": lambda g, d: law_at(d, g, 0, tau=[0.3, 1.0]),
    "still masked": lambda g, d: log_still_masked(d, g, 0, [0.5]).exp(),
    "visits": lambda g, d: torch.cat([level.flatten() for level in visit_law(d, g, 0)]),
    "in order": lambda g, d: terminal_law(d, g, 0, "fixed_order"),
    "confident first": lambda g, d: terminal_law(d, g, 0, "confidence"),
    "steps": lambda g, d: Sampler("tau_leaping", steps=2).law(d, g, 0),
    "two at a time": lambda g, d: Sampler("sampled_confidence", events=2).law(d, g, 0),
    "in order, corrected": lambda g, d: Sampler(
        "first_hitting", policy="fixed_order", correction="correction(size=2, moves=2, policy=fixed_order)"
    ).law(d, g, 0),
    "corrected": moved("size=2, moves=2"),
    "corrected at once": moved("size=2, moves=2, parallel"),
    ACCEPTED: moved("size=2, moves=2, accept"),
    "corrected by confidence": moved("size=1, moves=2, scan=lowest_confidence"),
}
RULES = (CFG(), AdaptiveCFG(k=1), Negative(1), Careless())


@pytest.mark.parametrize("law", LAWS)
def test_laws_are_refused_where_what_has_no_rates_would_change_them(law: str) -> None:
    changed = []
    rules = [rule for rule in RULES if rule.has_tilted] if law == ACCEPTED else RULES
    for seed, rule in product(range(5), rules):
        denoiser = sparse(seed)
        first, second = (LAWS[law](Guidance(1.0, rule=Patched(rule, k)), denoiser) for k in (0, 1))
        changed.append(not torch.allclose(first, second, rtol=1e-9, atol=1e-15))
        guidance = Guidance(1.0, rule=rule)
        if changed[-1]:
            with pytest.raises(UserError):
                LAWS[law](guidance, denoiser)
        else:
            assert torch.allclose(LAWS[law](guidance, denoiser), first, rtol=1e-9, atol=1e-15)
    assert {False, True} == set(changed)
