"""The guided chain, its generator and the kernels of its steps, as dense matrices over all partial states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, permutations, product

import numpy as np

State = tuple[int, ...]
Rows = Sequence[Sequence[float]]  # D rows of N probabilities
Ask = Callable[[State], tuple[Rows, Rows]]  # the conditionals of a partial state, of the class and of the mixture
Strength = float | Sequence[float] | Callable[[float], float]


class Chain:
    """The guided chain of some conditionals: its states, and the rate of every coordinate and value.

    Args:
        ask: gives both conditionals of a partial state, whose mask is N; rows of unmasked coordinates are ignored.
        w: a number, one number for each number of unmasked coordinates, or a function of progress.
        kind: "rate" or "normalized".
    """

    def __init__(self, ask: Ask, num_tokens: int, num_dims: int, w: Strength, kind: str) -> None:
        self.n = num_tokens
        self.d = num_dims
        self.states: list[State] = list(product(range(self.n + 1), repeat=self.d))
        self.index = {state: k for k, state in enumerate(self.states)}
        self.start: State = (self.n,) * self.d
        self.finished: list[State] = list(product(range(self.n), repeat=self.d))
        self.rates: dict[State, dict[int, list[float]]] = {}
        for state in self.states:
            cond, uncond = ask(state)
            strength = strength_at(w, sum(value != self.n for value in state), self.d)
            masked = [i for i in range(self.d) if state[i] == self.n]
            self.rates[state] = {i: guided(cond[i], uncond[i], strength, kind) for i in masked}

    def totals(self, state: State) -> dict[int, float]:
        """The total rate of every masked coordinate."""
        return {i: sum(rates) for i, rates in self.rates[state].items()}

    def terminal_by_orders(self) -> np.ndarray:
        """The terminal law: for every finished state, the sum over orders of the product of rate / Lambda."""
        law = np.zeros([self.n] * self.d)
        for x in self.finished:
            for order in permutations(range(self.d)):
                state = self.start
                chance = 1.0
                for i in order:
                    chance *= self.rates[state][i][x[i]] / (sum(self.totals(state).values()) or 1.0)
                    state = put(state, i, x[i])
                    if chance == 0:
                        break
                law[x] += chance
        return law

    def generator(self) -> np.ndarray:
        """The generator on all partial states; rows sum to 0."""
        q = self._empty()
        for state, rates in self.rates.items():
            for i, values in rates.items():
                for v, rate in enumerate(values):
                    q[self.index[state], self.index[put(state, i, v)]] += rate
        return q - np.diag(q.sum(axis=1))

    def visits(self) -> np.ndarray:
        """The probability of visiting each state, (N+1,)*D: from the generator's jump chain, by a linear system."""
        q = self.generator()
        exits = -np.diag(q)
        jumps = np.where(exits[:, None] > 0, q / np.where(exits > 0, exits, 1.0)[:, None], 0.0)
        np.fill_diagonal(jumps, 0.0)
        start = np.zeros(len(q))
        start[self.index[self.start]] = 1
        return self.dense(np.linalg.solve((np.eye(len(q)) - jumps).T, start))

    def terminal_by_generator(self) -> np.ndarray:
        """The terminal law: the visit probabilities of finished states."""
        return self.visits()[(slice(0, self.n),) * self.d]

    def law_at(self, tau: float) -> np.ndarray:
        """The law over partial states at clock time tau, (N+1,)*D, for rates up to about 1e6.

        By uniformisation: exp(h Q) = sum_j Poisson(j; h c) (1 + Q / c)^j, in which no number is negative, and squaring.
        """
        q = self.generator()
        fastest = float(-np.diag(q).min())
        squarings = max(0, math.ceil(math.log2(max(fastest * tau, 1.0))))
        mean = fastest * tau / 2**squarings
        jump = np.eye(len(q)) + q / (fastest or 1.0)
        power = np.eye(len(q))
        kernel = np.zeros_like(q)
        weight = math.exp(-mean)
        for j in range(30):
            kernel = kernel + weight * power
            power = power @ jump
            weight = weight * mean / (j + 1)
        for _ in range(squarings):
            kernel = kernel @ kernel
        return self.dense(kernel[self.index[self.start]])

    def time_kernel(self, sampler: str, u: float) -> np.ndarray:
        """The kernel of one step of length u: every masked coordinate jumps with J(Z, u), independently."""
        kernel = self._empty()
        for state in self.states:
            options = []
            for i, value in enumerate(state):
                rates = self.rates[state].get(i, [])
                total = sum(rates)
                if value != self.n or total == 0:
                    options.append([(value, 1.0)])
                    continue
                jump = jump_probability(sampler, total, u)
                options.append([(self.n, 1 - jump), *[(v, jump * rate / total) for v, rate in enumerate(rates)]])
            for outcome in product(*options):
                after = tuple(value for value, _ in outcome)
                kernel[self.index[state], self.index[after]] += math.prod(chance for _, chance in outcome)
        return kernel

    def event_kernel(self, count: int) -> np.ndarray:
        """The kernel of `count` events with frozen rates: ordered draws without replacement, independent values."""
        kernel = self._empty()
        for state in self.states:
            totals = self.totals(state)
            able = [i for i, total in totals.items() if total > 0]
            for order in permutations(able, min(count, len(able))):
                chance = 1.0
                left = sum(totals.values())
                for i in order:
                    chance *= totals[i] / left
                    left = sum(totals[k] for k in able if k not in order[: order.index(i) + 1])
                for values in product(range(self.n), repeat=len(order)):
                    after = state
                    weight = chance
                    for i, v in zip(order, values):
                        after = put(after, i, v)
                        weight = weight * self.rates[state][i][v] / totals[i]
                    kernel[self.index[state], self.index[after]] += weight
        return kernel

    def law_after(self, kernels: Iterable[np.ndarray]) -> np.ndarray:
        """The law over partial states after the steps, (N+1,)*D."""
        law = np.zeros(len(self.states))
        law[self.index[self.start]] = 1
        for kernel in kernels:
            law = law @ kernel
        return self.dense(law)

    def stepped(self, sampler: str, fractions: list[float]) -> np.ndarray:
        """The law after steps of these lengths, or of event-leaping with the corresponding numbers of events."""
        if sampler == "event_leaping":
            return self.law_after([self.event_kernel(count) for count in event_counts(fractions, self.d)])
        return self.law_after([self.time_kernel(sampler, u) for u in fractions])

    def dense(self, law: np.ndarray) -> np.ndarray:
        """A vector over states as (N+1,)*D."""
        return law.reshape([self.n + 1] * self.d)

    def _empty(self) -> np.ndarray:
        return np.zeros((len(self.states), len(self.states)))


def put(state: State, i: int, v: int) -> State:
    """The state with coordinate i set to v."""
    return (*state[:i], v, *state[i + 1 :])


def strength_at(w: Strength, num_unmasked: int, num_dims: int) -> float:
    """w when `num_unmasked` of the coordinates are unmasked."""
    if callable(w):
        return w(num_unmasked / (num_dims - 1) if num_dims > 1 else 1.0)
    if isinstance(w, Sequence):
        return w[min(num_unmasked, num_dims - 1)]
    return w


def guided(cond: Sequence[float], uncond: Sequence[float], w: float, kind: str) -> list[float]:
    """p^(-w) p_z^(1+w) of every value, 0 where the class has probability 0; divided by its sum for "normalized"."""
    pairs = zip(cond, uncond, strict=True)
    rho = [0.0 if c == 0 else math.exp((1 + w) * math.log(c) - (w * math.log(u) if w else 0)) for c, u in pairs]
    if kind == "rate":
        return rho
    if kind != "normalized":
        raise ValueError(kind)
    total = sum(rho)
    return [r / total for r in rho] if total > 0 else rho


def jump_probability(sampler: str, z: float, u: float) -> float:
    """J(Z, u) of a parallel sampler (theory, section 6)."""
    if u == 1:
        return 1.0
    return {
        "tau_leaping": 1 - (1 - u) ** z,
        "euler": min(1.0, -z * math.log(1 - u)),
        "d_cfg": u * z / (u * z + 1 - u),
    }[sampler]


def alpha(schedule: str, t: float) -> float:
    """The chance that a coordinate is clean at noise time t."""
    return {"linear": 1 - t, "cosine": 1 - math.sin(math.pi * t / 2), "exponential": math.exp(-t)}[schedule]


def fractions(schedule: str, steps: int, horizon: float = 1.0) -> list[float]:
    """The share of the masked coordinates that each of equal steps in noise time unmasks, from T to 0."""
    out = []
    for k in range(steps):
        t = horizon * (1 - k / steps)
        s = horizon * (1 - (k + 1) / steps)
        out.append(1.0 if k == steps - 1 else (alpha(schedule, s) - alpha(schedule, t)) / (1 - alpha(schedule, t)))
    return out


def grid_fractions(taus: list[float]) -> list[float]:
    """The same for a grid of clock times."""
    return [1 - math.exp(a - b) for a, b in pairwise(taus)]


def event_counts(shares: list[float], d: int) -> list[int]:
    """The number of events of each step: its share of the remaining coordinates, at least one, until none is left.

    It is rounded, with halves to the even number, after the share's own rounding error is removed.
    """
    counts: list[int] = []
    for share in shares:
        left = d - sum(counts)
        if left > 0:
            counts.append(min(left, max(1, round(round(left * share, 9)))))
    return counts


def tilted(pmf: np.ndarray, class_pmf: np.ndarray, w: float) -> np.ndarray:
    """p^(-w) p_z^(1+w), normalised, cell by cell."""
    return np.array(guided(class_pmf.flatten().tolist(), pmf.flatten().tolist(), w, "normalized")).reshape(pmf.shape)
