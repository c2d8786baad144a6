"""Distributions as tables, and their properties by plain sums over all states."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, permutations, product

import numpy as np

from mdlm_cfg.verify.oracle.chains import Ask, Rows, State, guided, put


def marginal(pmf: np.ndarray, state: State) -> float:
    """p(x_U): the sum over all values of the masked coordinates."""
    n = pmf.shape[0]
    return float(pmf[tuple(slice(None) if value == n else value for value in state)].sum())


def conditional_rows(pmfs: list[np.ndarray], state: State) -> Rows:
    """p(x_i = v | x_U) of every masked coordinate, from the first pmf with p(x_U) > 0; else uniform."""
    n = pmfs[0].shape[0]
    d = pmfs[0].ndim
    for pmf in pmfs:
        if (total := marginal(pmf, state)) > 0:
            rows = [[marginal(pmf, put(state, i, v)) / total for v in range(n)] for i in range(d)]
            return [row if state[i] == n else [0.0] * n for i, row in enumerate(rows)]
    return [[1 / n] * n for _ in range(d)]


def table_conditionals(class_pmfs: np.ndarray, class_weights: np.ndarray, z: int | None) -> Ask:
    """Both conditionals of a table (K, N, ..., N): of the class, or for None of the mixture twice; and of the mixture.

    Where a partial state has probability 0 in the class, the mixture's are used, and where also in the mixture, uniform
    ones.
    """
    whole = np.tensordot(class_weights, class_pmfs, axes=1)
    first = [whole] if z is None else [class_pmfs[z], whole]
    return lambda state: (conditional_rows(first, state), conditional_rows([whole], state))


def random_table(
    rng: np.random.Generator, num_tokens: int, num_dims: int, num_classes: int, zeros: float
) -> tuple[np.ndarray, np.ndarray]:
    """Random class pmfs (K, N, ..., N) and weights (K,); a share `zeros` of the states of each class is impossible."""
    pmfs = rng.random((num_classes, num_tokens**num_dims)) ** 2 + 1e-3
    impossible = rng.random(pmfs.shape) < zeros
    impossible[np.arange(num_classes), rng.integers(pmfs.shape[1], size=num_classes)] = False
    pmfs = np.where(impossible, 0.0, pmfs)
    weights = rng.random(num_classes) + 0.2
    shape = (num_classes, *[num_tokens] * num_dims)
    return (pmfs / pmfs.sum(axis=1, keepdims=True)).reshape(shape), weights / weights.sum()


def hidden_markov_table(initial: np.ndarray, transition: np.ndarray, emission: np.ndarray, num_dims: int) -> np.ndarray:
    """The pmf (N,)*D of one hidden Markov model: a sum over all hidden paths."""
    hidden, n = emission.shape
    pmf = np.zeros([n] * num_dims)
    for x in product(range(n), repeat=num_dims):
        for path in product(range(hidden), repeat=num_dims):
            chance = initial[path[0]] * emission[path[0], x[0]]
            for i in range(1, num_dims):
                chance *= transition[path[i - 1], path[i]] * emission[path[i], x[i]]
            pmf[x] += chance
    return pmf


def bernoulli_table(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The pmf (2,)*D of a mixture of product Bernoullis, (C, D) with weights (C,)."""
    num_dims = probabilities.shape[1]
    pmf = np.zeros([2] * num_dims)
    for x in product(range(2), repeat=num_dims):
        on = np.array(x)
        pmf[x] = float((weights * np.where(on == 1, probabilities, 1 - probabilities).prod(axis=1)).sum())
    return pmf


def nll(pmf: np.ndarray, law: np.ndarray) -> float:
    """-E ln law(x) over x ~ pmf."""
    return -sum(p * math.log(q) for p, q in zip(pmf.flatten().tolist(), law.flatten().tolist()) if p > 0)


def nelbo(rows_of: Callable[[State], Rows], pmf: np.ndarray) -> float:
    """-E of the mean over all D! orders of ln prod p_theta(x_i | coordinates before i in the order)."""
    n = pmf.shape[0]
    d = pmf.ndim
    known: dict[State, Rows] = {}
    total = 0.0
    orders = list(permutations(range(d)))
    for x in product(range(n), repeat=d):
        if pmf[x] == 0:
            continue
        for order in orders:
            state: State = (n,) * d
            for i in order:
                if state not in known:
                    known[state] = rows_of(state)
                total -= float(pmf[x]) * math.log(known[state][i][x[i]]) / len(orders)
                state = put(state, i, x[i])
    return total


def entropy(pmf: np.ndarray, subset: tuple[int, ...]) -> float:
    """The entropy in nats of the marginal of some coordinates."""
    rest = tuple(i for i in range(pmf.ndim) if i not in subset)
    return -sum(v * math.log(v) for v in pmf.sum(axis=rest).flatten().tolist() if v > 0)


def profile(pmf: np.ndarray) -> list[float]:
    """h(l): the mean over sets S of l coordinates and i outside S of H(X_i | X_S)."""
    d = pmf.ndim
    found = []
    for level in range(d):
        pairs = [(s, i) for s in combinations(range(d), level) for i in range(d) if i not in s]
        found.append(sum(entropy(pmf, (*s, i)) - entropy(pmf, s) for s, i in pairs) / len(pairs))
    return found


def calibration_slope(ask: Ask, target: np.ndarray, level: int, s: float) -> float:
    """The derivative in s of E[-ln r_i(x_i | x_S; s)], |S| = level, x ~ target (theory, section 21)."""
    n = target.shape[0]
    d = target.ndim
    total = 0.0
    sets = list(combinations(range(d), level))
    for subset in sets:
        for values in product(range(n), repeat=level):
            state: State = (n,) * d
            for i, v in zip(subset, values):
                state = put(state, i, v)
            mass = marginal(target, state)
            if mass == 0:
                continue
            cond, uncond = ask(state)
            for i in set(range(d)) - set(subset):
                ratio = [math.log(c / u) if c > 0 else 0.0 for c, u in zip(cond[i], uncond[i])]
                r = guided(cond[i], uncond[i], s, "normalized")
                ideal = [marginal(target, put(state, i, v)) for v in range(n)]
                total += sum((mass * a - b) * c for a, b, c in zip(r, ideal, ratio)) / (d - level)
    return total / len(sets)


def path_divergence(
    ask: Ask, target: np.ndarray, w: float, prefer: Callable[[dict[int, list[float]]], dict[int, float]]
) -> float:
    """KL of the ideal chain's paths from the guided chain's, both in the guided chain's order (theory, section 11)."""
    n = target.shape[0]
    d = target.ndim
    flow = {(n,) * d: 1.0}
    total = 0.0
    for _ in range(d):
        after: dict[State, float] = {}
        for state, mass in flow.items():
            cond, uncond = ask(state)
            rho = {i: guided(cond[i], uncond[i], w, "rate") for i in range(d) if state[i] == n}
            ideal = conditional_rows([target], state)
            for i, chance in prefer(rho).items():
                r = [value / sum(rho[i]) for value in rho[i]]
                for v in range(n):
                    if (p := ideal[i][v]) > 0 and chance > 0:
                        total += mass * chance * p * math.log(p / r[v])
                        child = put(state, i, v)
                        after[child] = after.get(child, 0.0) + mass * chance * p
        flow = after
    return total
