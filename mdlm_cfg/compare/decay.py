"""How fast the guided chain converges: TV against time and against w (theory, section 5).

Completed states only gain mass, so TV(q_tau, q_infinity) = P(some coordinate is still masked at tau). Its
logarithm is computed with relative accuracy (`mdlm_cfg.laws.survival`): a TV of 1e-200 is as exact as one of 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import linear_regression

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, name_state
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.compare.geometry import limit_visits
from mdlm_cfg.laws.push import push_log
from mdlm_cfg.laws.rates import LevelRates, level_rates, partial_state_lattice, refuse_lost
from mdlm_cfg.laws.survival import log_survival
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numbers import largest, named
from mdlm_cfg.support.numeric import number, numbers
from mdlm_cfg.targets.table import TableMixture

NEG_INF = float("-inf")
SAME = 1e-12  # conditionals with a log-ratio below this are equal: it is only rounding
NODES = 12  # of the contour, per time
LATEST = 1e300  # the latest clock time that is considered
BRACKETS = 50  # factors of 1e-12 by which a time may lie below its bound


@dataclass(frozen=True)
class Waiting:
    """A guided chain's rates, kept for many clock times.

    Attributes:
        lattice: of its partial states. rates: of every level. log_slowest: log of the smallest exit rate Lambda among
            the partial states that the chain ever visits.
    """

    lattice: Lattice
    rates: Sequence[LevelRates]
    log_slowest: float

    @property
    def slowest(self) -> float:
        """The smallest exit rate among the partial states that are visited; inf where it exceeds float64."""
        return math.exp(self.log_slowest) if self.log_slowest < 709 else math.inf

    def log_still_masked(self, taus: Sequence[float] | Tensor) -> Tensor:
        """ln P(some coordinate is still masked at tau), float64 (T,), <= 0, for clock times > 0."""
        return log_survival(self.lattice, self.rates, self.log_slowest, torch.as_tensor(taus, dtype=torch.float64))

    def time_to_tv(self, level: float) -> float:
        """The clock time at which TV(q_tau, q_infinity) has fallen to `level`, to 1e-9 relative, by Brent's method.

        0 where it is below the range of float64, and inf where it is above `LATEST`.
        """
        if not 0 < level < 1:
            raise UserError(f"a TV level must lie strictly between 0 and 1, got {level}")
        if self.slowest == math.inf:
            return 0.0  # below the range of float64
        # P(still masked) is at most that of D stages at the slowest rate, one after another
        bound = math.log(self.lattice.num_dims / level) * self.lattice.num_dims
        high = bound / self.slowest if self.slowest * LATEST > bound else LATEST
        if high == LATEST and self._above(high, level):
            return math.inf
        low = high
        for _ in range(BRACKETS):
            low *= 1e-12
            if self._above(low, level):
                break
        else:
            raise ArithmeticError(f"TV stays below {level} down to tau = {low:g}")
        from scipy.optimize import brentq  # takes a quarter of a second to import

        least = 9 * math.log(level)  # a floor, against infinite and steep values
        above_high = math.log(high) + 1e-3  # at the bound itself rounding decides
        root = brentq(lambda x: max(self._excess(math.exp(x), level), least), math.log(low), above_high, xtol=5e-10)
        return math.exp(root)

    def _above(self, tau: float, level: float) -> bool:
        return self._excess(tau, level) >= 0

    def _excess(self, tau: float, level: float) -> float:
        """ln P(some coordinate is still masked at tau) - ln level."""
        return float(self.log_still_masked([tau])[0]) - math.log(level)


def waiting(denoiser: Denoiser, guidance: Guidance, target_class: int | None, times: int = 1) -> Waiting:
    """The rates of a guided chain and its slowest exit, for up to `times` clock times together."""
    lattice = partial_state_lattice(denoiser, target_class, states_kept=4 * NODES * times)
    rates = list(level_rates(denoiser, guidance, target_class, lattice))
    log_flow = torch.zeros(1, 1, dtype=torch.float64)
    log_slowest = math.inf
    for level, r in enumerate(rates):
        log_slowest = min(log_slowest, float(r.log_exit[log_flow > NEG_INF].min()))
        log_flow = push_log(r, log_flow, lattice, level)
        refuse_lost(log_flow.exp().sum(), target_class)
    return Waiting(lattice, rates, log_slowest)


@checked
def log_still_masked(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, taus: Sequence[float] | Tensor
) -> Tensor:
    """ln P(some coordinate is still masked at tau) = ln TV(q_tau, q_infinity) (theory, section 5).

    Its relative accuracy does not depend on how small it is (`mdlm_cfg.laws.survival`).

    Args:
        taus: clock times > 0, (T,).

    Returns:
        float64 (T,), <= 0.
    """
    times = numbers("taus", taus, 0, inf).reshape(-1)
    return waiting(denoiser, guidance, target_class, len(times)).log_still_masked(times)


@checked
def time_to_tv(denoiser: Denoiser, guidance: Guidance, target_class: int | None, level: float) -> float:
    """The clock time at which TV(q_tau, q_infinity) has fallen to `level`, to 1e-9 relative, by Brent's method."""
    return waiting(denoiser, guidance, target_class).time_to_tv(level)


@dataclass(frozen=True)
class NeutralState:
    """A reachable partial state whose masked coordinates say no more about the class: Z_i = 1 for every w.

    Attributes:
        state: tokens (D,), N being the mask.
        probability: p(x_U | z), that the unguided chain passes through it.
        limit: the probability that the chain passes through it in the limit of infinite w.
    """

    state: tuple[int, ...]
    probability: float
    limit: float


@checked
def neutral_states(target: TableMixture, target_class: int, kind: Kind | str = "rate") -> list[NeutralState]:
    """The reachable partial states with masks whose exit rate guidance does not change, most probable first.

    There p(. | x_U) = p(. | x_U, z) for every masked coordinate (to a share of `SAME`, with the same support), so that
    Z_i = 1 for every w. The class need not be certain: where all classes are equal every state is neutral.

    Args:
        kind: the kind of guidance for `NeutralState.limit`.
    """
    denoiser = target.denoiser()
    lattice = partial_state_lattice(denoiser, target_class)
    probabilities = lattice.marginals(target.class_pmf(target_class))
    found = []
    for level, limit in enumerate(limit_visits(target, target_class, kind)[:-1]):
        reachable = probabilities[level].flatten() > 0
        tokens = lattice.tokens(level)[reachable]
        classes = torch.full((len(tokens),), target_class)
        cond = denoiser(tokens, classes)
        uncond = denoiser(tokens, None)
        neutral = ((cond == uncond) | ((cond - uncond).abs() < SAME)).all(dim=2).all(dim=1)
        columns = tokens, probabilities[level].flatten()[reachable], limit.flatten()[reachable]
        found += [NeutralState(tuple(t), p, q) for t, p, q in zip(*(column[neutral].tolist() for column in columns))]
    return sorted(found, key=lambda one: -one.probability)


def growth_in_w(neutral: Sequence[NeutralState]) -> str:
    """How -ln TV of a chain whose rates are rho grows with w: "exponential", "linear" or "bounded" (theory, section 5).

    Without neutral states it grows exponentially, as every exit rate does. If the chain visits neutral states in the
    limit of infinite w, it is bounded. Else their visit probability falls exponentially in w, and it grows linearly.
    """
    if not neutral:
        return "exponential"
    return "bounded" if any(one.limit > 0 for one in neutral) else "linear"


@dataclass(frozen=True)
class Decay:
    """TV against time for a list of w.

    Attributes:
        kind: of guidance. strengths: w, (W,). taus: clock times, (T,). log_tv: ln TV, (W, T).
        neutral: the reachable neutral states; empty where there are none, or the rate is no power of Z_i above 0.
        fit_tau: the clock time of the fit. fit_slope: d ln(-ln TV) / dw there, over each half of the strengths: a
            double-exponential decay keeps its slope, any other one loses it.
        time_to_5_percent: tau at which TV = 0.05, (W,).
    """

    kind: Kind
    strengths: list[float]
    taus: Tensor
    log_tv: Tensor
    neutral: list[NeutralState]
    fit_tau: float
    fit_slope: tuple[float, float]
    time_to_5_percent: list[float]
    num_tokens: int

    @property
    def growth(self) -> str | None:
        """How -ln TV grows with w (`growth_in_w`): "bounded" where w does not guide time, None where it is unknown."""
        power = self.kind.power()
        if power is None:
            return None
        return growth_in_w(self.neutral) if power else "bounded"

    @property
    def statement(self) -> str:
        """How TV decays in w, and at which partial states it is slowest."""
        growth = self.growth
        if growth is None:
            return f"How TV decays with w is not known for the kind {self.kind}: its rate is not a power of Z."
        if not self.kind.power():
            return f"TV does not depend on w: guidance of the kind {self.kind} changes no unmasking rate."
        if growth == "exponential":
            return (
                "TV decays double-exponentially in w: no reachable partial state is neutral, so every exit rate grows "
                "exponentially."
            )
        if growth == "linear":
            return (
                "-ln TV grows linearly in w: the probability that the chain visits a neutral partial state, where "
                "guidance changes nothing, falls exponentially in w. The largest p(x_U | z) of such states is "
                f"{self._largest(lambda one: one.probability)}; their number is {len(self.neutral)}."
            )
        visited = sum(one.limit > 0 for one in self.neutral)
        return (
            f"The decay saturates: in the limit of infinite w the chain still visits {visited} of {len(self.neutral)} "
            "neutral partial states, where guidance changes nothing. The largest of their probabilities is "
            f"{self._largest(lambda one: one.limit)}."
        )

    def _largest(self, of: Callable[[NeutralState], float]) -> str:
        """The largest number of a neutral state, and the states that have it."""
        most = largest(self.neutral, of)
        return f"{of(most[0]):.3g}, of {named([name_state(list(one.state), self.num_tokens) for one in most])}"


@checked
def tv_decay(
    target: TableMixture,
    target_class: int,
    guidances: Sequence[Guidance],
    taus: Sequence[float] | Tensor,
    fit_tau: float = 0.5,
    denoiser: Denoiser | None = None,
) -> Decay:
    """P(still masked) against the clock for a list of w, its fit in w, and what limits it (theory, section 5).

    Args:
        guidances: all of one kind, each with one number w.
        fit_tau: where ln(-ln TV) is fitted against w by least squares.
        denoiser: the denoiser of the chain; default the target's exact one.

    Raises:
        UserError: guidances of several kinds.
    """
    kinds = {guidance.kind for guidance in guidances}
    if len(kinds) != 1:
        raise UserError(
            f"the decay in w is computed for one kind of guidance, not for {', '.join(map(str, kinds)) or 'none'}"
        )
    kind = kinds.pop()
    fit_tau = number("fit_tau", fit_tau, 0, above=True)
    taus = numbers("taus", taus, 0, inf).reshape(-1)
    log_tv = []
    at_fit = []
    times = []
    for guidance in guidances:
        chain = waiting(denoiser or target.denoiser(), guidance, target_class, len(taus))
        log_tv.append(chain.log_still_masked(taus))
        at_fit.append(float(chain.log_still_masked([fit_tau])[0]))
        times.append(chain.time_to_tv(0.05))
    strengths = [guidance.constant for guidance in guidances]
    half = max(2, (len(strengths) + 1) // 2)
    slopes = [
        _slope(strengths[part], [math.log(-v) for v in at_fit[part]]) for part in (slice(half), slice(-half, None))
    ]
    neutral = neutral_states(target, target_class, kind) if kind.power() else []
    return Decay(
        kind,
        strengths,
        taus,
        torch.stack(log_tv),
        neutral,
        fit_tau,
        (slopes[0], slopes[1]),
        times,
        target.num_tokens,
    )


def _slope(x: list[float], y: list[float]) -> float:
    """The least-squares slope of y against x; nan for fewer than two points."""
    return linear_regression(x, y).slope if len(x) > 1 else math.nan
