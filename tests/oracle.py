"""The oracle: everything that the product computes, once more by brute force (theory, sections 3 to 6).

It stands alone: it asks a denoiser for log-probabilities and imports nothing that it judges. States are tuples, rates
are Python floats, sums run over all orders, kernels and generators are dense ((N+1)^D, (N+1)^D). Slow, and short enough
to be checked by eye.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise, permutations, product

import mpmath
import scipy.linalg
import torch
from torch import Tensor

State = tuple[int, ...]
Strength = float | Callable[[float], float]


class Chain:
    """The guided chain of a denoiser: its states, and the rate of every coordinate and value.

    Args:
        denoiser: asked one state at a time. w: a number, or a function of progress. kind: "rate" or "normalized".
        z: the class; None is no class, and no guidance.
    """

    def __init__(self, denoiser, w: Strength, kind: str, z: int | None) -> None:
        self.n, self.d = denoiser.num_tokens, denoiser.num_dims
        self.states: list[State] = list(product(range(self.n + 1), repeat=self.d))
        self.index = {state: k for k, state in enumerate(self.states)}
        self.start: State = (self.n,) * self.d
        self.finished: list[State] = list(product(range(self.n), repeat=self.d))
        label = denoiser.num_classes if z is None else z
        self.rates: dict[State, dict[int, list[float]]] = {}
        for state in self.states:
            tokens = torch.tensor([state])
            cond = denoiser(tokens, torch.tensor([label]))[0].double().exp().tolist()
            uncond = denoiser(tokens, torch.tensor([denoiser.num_classes]))[0].double().exp().tolist()
            done = sum(value != self.n for value in state)
            strength = w(done / (self.d - 1) if self.d > 1 else 1.0) if callable(w) else w
            masked = [i for i in range(self.d) if state[i] == self.n]
            strength = 0.0 if z is None else strength
            self.rates[state] = {i: guided(cond[i], uncond[i], strength, kind) for i in masked}

    def totals(self, state: State) -> dict[int, float]:
        """The total rate of every masked coordinate."""
        return {i: sum(rates) for i, rates in self.rates[state].items()}

    def terminal_by_orders(self) -> Tensor:
        """The terminal law: over every finished state and every order, the product of rate / Lambda."""
        law = torch.zeros([self.n] * self.d, dtype=torch.float64)
        for x in self.finished:
            for order in permutations(range(self.d)):
                state, chance = self.start, 1.0
                for i in order:
                    chance *= self.rates[state][i][x[i]] / (sum(self.totals(state).values()) or 1.0)
                    state = put(state, i, x[i])
                    if chance == 0:
                        break
                law[x] += chance
        return law

    def generator(self) -> Tensor:
        """The generator on all partial states; rows sum to 0."""
        q = torch.zeros(len(self.states), len(self.states), dtype=torch.float64)
        for state, rates in self.rates.items():
            for i, values in rates.items():
                for v, rate in enumerate(values):
                    q[self.index[state], self.index[put(state, i, v)]] += rate
        return q - torch.diag(q.sum(dim=1))

    def terminal_by_generator(self) -> Tensor:
        """The terminal law: where the jump chain of the generator is absorbed, by solving a linear system."""
        q = self.generator()
        exits = -q.diagonal()
        jumps = torch.where(exits[:, None] > 0, q / exits.where(exits > 0, 1.0)[:, None], 0.0)
        jumps.fill_diagonal_(0.0)
        start = torch.zeros(len(q), dtype=torch.float64)
        start[self.index[self.start]] = 1
        visits = torch.linalg.solve((torch.eye(len(q), dtype=torch.float64) - jumps).T, start)
        return self.dense(visits)[(slice(0, self.n),) * self.d]

    def law_at(self, tau: float) -> Tensor:
        """The law over partial states at clock time tau, (N+1,)*D: the matrix exponential (rates up to about 1e6)."""
        exponential = scipy.linalg.expm(tau * self.generator().numpy())  # torch's is right to 1e-11 only
        return self.dense(torch.from_numpy(exponential)[self.index[self.start]])

    def law_at_by_paths(self, tau: float) -> Tensor:
        """The same for any rates: over all paths, prod rate times the divided difference of exp(-tau x), 120 digits."""
        law = [mpmath.mpf(0)] * len(self.states)

        def follow(state: State, chance: mpmath.mpf, exits: list[mpmath.mpf]) -> None:
            exits = [*exits, self._exit(state) + len(exits) * mpmath.mpf(10) ** -25]  # no two are equal
            law[self.index[state]] += chance * divided_difference(exits, tau)
            for i, rates in self.rates[state].items():
                for v, rate in enumerate(rates):
                    if rate > 0:
                        follow(put(state, i, v), chance * rate, exits)

        with mpmath.workdps(120):
            follow(self.start, mpmath.mpf(1), [])
            return self.dense(torch.tensor([float(mass) for mass in law], dtype=torch.float64))

    def _exit(self, state: State) -> mpmath.mpf:
        return mpmath.fsum(rate for rates in self.rates[state].values() for rate in rates)

    def time_kernel(self, sampler: str, u: float) -> Tensor:
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

    def event_kernel(self, count: int) -> Tensor:
        """The kernel of `count` events by frozen rates: ordered draws without replacement, values independent."""
        kernel = self._empty()
        for state in self.states:
            totals = self.totals(state)
            able = [i for i, total in totals.items() if total > 0]
            for order in permutations(able, min(count, len(able))):
                chance, left = 1.0, sum(totals.values())
                for i in order:
                    chance *= totals[i] / left
                    left = sum(totals[k] for k in able if k not in order[: order.index(i) + 1])
                for values in product(range(self.n), repeat=len(order)):
                    after, weight = state, chance
                    for i, v in zip(order, values):
                        after, weight = put(after, i, v), weight * self.rates[state][i][v] / totals[i]
                    kernel[self.index[state], self.index[after]] += weight
        return kernel

    def law_after(self, kernels: Iterable[Tensor]) -> Tensor:
        """The law over partial states after the steps, (N+1,)*D."""
        law = torch.zeros(len(self.states), dtype=torch.float64)
        law[self.index[self.start]] = 1
        for kernel in kernels:
            law = law @ kernel
        return self.dense(law)

    def stepped(self, sampler: str, fractions: list[float]) -> Tensor:
        """The law after steps of these lengths, or event-leaping's with the numbers of events that they ask for."""
        if sampler == "event_leaping":
            return self.law_after([self.event_kernel(count) for count in event_counts(fractions, self.d)])
        return self.law_after([self.time_kernel(sampler, u) for u in fractions])

    def dense(self, law: Tensor) -> Tensor:
        """A vector over states as (N+1,)*D."""
        return law.reshape([self.n + 1] * self.d)

    def _empty(self) -> Tensor:
        return torch.zeros(len(self.states), len(self.states), dtype=torch.float64)


def divided_difference(exits: list[mpmath.mpf], tau: float) -> mpmath.mpf:
    """sum_i exp(-tau x_i) / prod_{j != i} (x_j - x_i): the chance, over the rates, of having left all but the last."""
    terms = []
    for i, x in enumerate(exits):
        others = [y - x for j, y in enumerate(exits) if j != i]
        terms.append(mpmath.exp(-tau * x) / mpmath.fprod(others))
    return mpmath.fsum(terms)


def put(state: State, i: int, v: int) -> State:
    """The state with coordinate i at v."""
    return (*state[:i], v, *state[i + 1 :])


def guided(cond: list[float], uncond: list[float], w: float, kind: str) -> list[float]:
    """p^(-w) p_z^(1+w) of every value, 0 where the class has nothing; over its sum for "normalized"."""
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
        t, s = horizon * (1 - k / steps), horizon * (1 - (k + 1) / steps)
        out.append(1.0 if k == steps - 1 else (alpha(schedule, s) - alpha(schedule, t)) / (1 - alpha(schedule, t)))
    return out


def grid_fractions(taus: list[float]) -> list[float]:
    """The same for a grid of clock times."""
    return [1 - math.exp(a - b) for a, b in pairwise(taus)]


def event_counts(shares: list[float], d: int) -> list[int]:
    """How many events each step makes: the share of what is left, rounded, at least one, until none is left."""
    counts = []
    for share in shares:
        left = d - sum(counts)
        if left > 0:
            counts.append(min(left, max(1, round(left * share))))
    return counts


def tilted(pmf: Tensor, class_pmf: Tensor, w: float) -> Tensor:
    """p^(-w) p_z^(1+w), normalised, cell by cell."""
    rho = guided(class_pmf.flatten().tolist(), pmf.flatten().tolist(), w, "normalized")
    return torch.tensor(rho, dtype=torch.float64).reshape(pmf.shape)
