"""The probability that a guided chain is not finished at a clock time, with relative accuracy (theory, section 5).

A path of the chain with exit rates Lambda_0, ..., Lambda_{D-1} is unfinished at tau with the survival probability of a
sum of exponential times. It lies between e^(-b tau) and a polynomial in tau times that, where b is the smallest of the
rates. An inverse Laplace transform shifted by b gives this probability to 14 digits, however small it
is. One shift does not suffice for all paths where slow states are rarely visited: the paths are therefore split by
their smallest rate, and those with a rate in one interval are summed by their own transform. All terms are positive,
so nothing cancels between intervals.

The paths of one interval are those of the chain conditioned on taking one of them (Doob's h-transform), which is again
a chain: its transitions are those of the guided chain times a ratio of probabilities, taken in logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.reductions import unrolled_logsumexp
from mdlm_cfg.laws.in_time import holding_times, talbot
from mdlm_cfg.laws.push import push
from mdlm_cfg.laws.rates import LevelRates, by_coordinate

NEG_INF = float("-inf")
WIDTH = 6.0  # of an interval of rates, times tau: a transform then loses at most a factor e^6 of its 14 digits
RELATIVE_WIDTH = 1e-13  # of an interval of rates at least: rates are known no better
SURE = 1e-3  # of e^(-b tau): from here on a transform keeps 11 digits
NEGLIGIBLE = 30.0  # a share below e^-30 is left out


@dataclass(frozen=True)
class Conditioned:
    """The chain conditioned on paths whose smallest exit rate lies in one interval.

    Two copies of its states tell paths that have met a rate of the interval from paths that have yet to.

    Attributes:
        log_stays: for levels 0, ..., D, log P(no rate below the interval from here on), (C(D, l), N^l).
        log_meets: log P(the same, and at least one rate of the interval), the same shapes.
        meets: for levels 0, ..., D - 1, whether the state's own rate is in the interval, the same shapes.
    """

    log_stays: list[Tensor]
    log_meets: list[Tensor]
    meets: list[Tensor]


def log_survival(lattice: Lattice, rates: Sequence[LevelRates], log_slowest: float, taus: Tensor) -> Tensor:
    """ln P(some coordinate is still masked at tau), float64 (T,), at most 0.

    Args:
        lattice: the lattice of the partial states.
        rates: the rates of levels 0, ..., D - 1.
        log_slowest: log of the smallest exit rate of the states that are visited.
        taus: clock times > 0, float64 (T,).
    """
    if not len(taus):
        return taus
    every = _conditioned(lattice, rates, log_slowest, math.inf)
    scaled = _scaled_survival(lattice, rates, every, log_slowest, taus)
    found = scaled.clamp(min=SURE).log() - _exp(log_slowest) * taus
    for k in (~(scaled >= SURE)).nonzero().flatten().tolist():
        found[k] = _summed_over_intervals(lattice, rates, log_slowest, float(taus[k]))
    return found.clamp(max=0.0)


def _summed_over_intervals(lattice: Lattice, rates: Sequence[LevelRates], log_low: float, tau: float) -> float:
    """ln P(some coordinate is still masked), from the slowest paths on until the others are negligible."""
    exits = torch.cat([r.log_exit.flatten() for r in rates])
    total = NEG_INF
    while log_low < math.inf and _log_erlang_tail(lattice.num_dims, _exp(log_low) * tau) > total - NEGLIGIBLE:
        low = _exp(log_low)
        log_high = max(math.log(low + WIDTH / tau), log_low + RELATIVE_WIDTH)
        part = _conditioned(lattice, rates, log_low, log_high)
        log_chance = float(part.log_meets[0])
        if log_chance > NEG_INF:
            scaled = _scaled_survival(lattice, rates, part, log_low, torch.tensor([tau], dtype=torch.float64))
            total = float(np.logaddexp(total, log_chance + float(scaled.clamp(min=1e-300).log()) - low * tau))
        log_low = float(torch.where(exits >= log_high, exits, math.inf).min())
    return total


def _conditioned(lattice: Lattice, rates: Sequence[LevelRates], log_low: float, log_high: float) -> Conditioned:
    """The paths with their smallest exit rate in [low, high), by a recursion from finished states back."""
    log_stays = [rates[0].log_exit.new_zeros(1, lattice.num_tokens**lattice.num_dims)]
    log_meets = [torch.full_like(log_stays[0], NEG_INF)]
    meets: list[Tensor] = []
    for level in reversed(range(lattice.num_dims)):
        log_exit = rates[level].log_exit
        too_slow = log_exit < log_low
        inside = log_exit < log_high
        stays, later = (_expected(rates[level], log_next[0], lattice, level) for log_next in (log_stays, log_meets))
        log_stays.insert(0, stays.masked_fill(too_slow, NEG_INF))
        log_meets.insert(0, torch.where(inside, stays, later).masked_fill(too_slow, NEG_INF))
        meets.insert(0, inside)
    return Conditioned(log_stays, log_meets, meets)


def _expected(rates: LevelRates, log_next: Tensor, lattice: Lattice, level: int) -> Tensor:
    """log of the mean over the next state of exp(log_next), for every state of a level, (C(D, l), N^l)."""
    own = [unrolled_logsumexp(edge + lattice.split(log_next, level, j), dim=2) for j, edge in enumerate(rates.edges)]
    return unrolled_logsumexp(by_coordinate(own, lattice, level) + rates.log_jump, dim=1)


def _scaled_survival(
    lattice: Lattice, rates: Sequence[LevelRates], chain: Conditioned, log_low: float, taus: Tensor
) -> Tensor:
    """e^(b tau) P(some coordinate is still masked at tau) of a conditioned chain with b = e^log_low, float64 (T,)."""
    pairs = [talbot(tau) for tau in taus.tolist()]
    nodes = torch.cat([p[0] for p in pairs])[:, None, None]
    weights = torch.cat([p[1] for p in pairs])
    before = torch.ones(len(weights), 1, 1, dtype=torch.complex128)  # the copy of paths that have yet to meet a rate
    after = torch.zeros_like(before)
    total = torch.zeros_like(weights)
    for level, r in enumerate(rates):
        meets = chain.meets[level]
        after = after + before.masked_fill(~meets, 0.0)
        before = before.masked_fill(meets, 0.0)
        nothing_leaves = r.log_exit == NEG_INF
        holding = holding_times(r.log_exit, nodes)
        # Lambda / (s - b + Lambda); 1 - b / Lambda keeps its digits where Lambda is near b
        leave = 1 / (nodes * holding - torch.expm1(log_low - r.log_exit).masked_fill(nothing_leaves, -1.0))
        after = after * leave
        before = before * leave
        total += ((after + before) * holding).sum(dim=(1, 2))
        if level < lattice.num_dims - 1:
            after = push(_reweighted(r, chain.log_stays, lattice, level), after, lattice, level)
            if bool(before.any()):
                before = push(_reweighted(r, chain.log_meets, lattice, level), before, lattice, level)
            else:
                before = torch.zeros_like(after)
    return (weights * total).real.reshape(len(taus), -1).sum(dim=1)


def _reweighted(rates: LevelRates, log_chance: list[Tensor], lattice: Lattice, level: int) -> LevelRates:
    """The transitions out of a level, multiplied by exp(log_chance) there and divided by it here."""
    edges = [edge + lattice.split(log_chance[level + 1], level, j) for j, edge in enumerate(rates.edges)]
    here = log_chance[level].masked_fill(log_chance[level] == NEG_INF, 0.0)  # never visited: its flow is 0
    return LevelRates(edges, rates.log_jump - here[:, None], rates.log_exit)


def _log_erlang_tail(num_stages: int, rate_times_tau: float) -> float:
    """ln P(a sum of D exponential times of one rate exceeds tau): it bounds every path with larger rates."""
    if rate_times_tau == math.inf:
        return NEG_INF
    if rate_times_tau == 0:
        return 0.0
    terms = [j * math.log(rate_times_tau) - math.lgamma(j + 1) for j in range(num_stages)]
    return float(np.logaddexp.reduce(terms)) - rate_times_tau


def _exp(value: float) -> float:
    """exp, inf where it exceeds float64."""
    return math.exp(value) if value < 709 else math.inf
