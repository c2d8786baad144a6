"""Unmasking policies and path weights: every path, order by order (theory, sections 10 and 11)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from mdlm_cfg.verify.oracle.chains import State

TIE = 1e-11  # part of the definition of an order, not rounding: scores this close are ties (docs/orders.md)
Rho = Callable[[State], dict[int, list[float]]]  # rho_i(v | x_U) of every masked coordinate


def preferences(policy: str, rho: dict[int, list[float]], order: Sequence[int] | None = None) -> dict[int, float]:
    """pi(i | x_U) of the masked coordinates.

    Args:
        policy: "rate", "uniform", "fixed_order" (also "fixed"), "confidence", "margin" or "entropy".
        order: of a fixed order; None is from left to right.
    """
    z = {i: sum(row) for i, row in rho.items()}
    if policy == "rate":
        return {i: z[i] / sum(z.values()) for i in rho}
    if policy == "uniform":
        return {i: 1 / len(rho) for i in rho}
    if policy in ("fixed", "fixed_order"):
        first = min(rho, key=order.index) if order is not None else min(rho)
        return {i: float(i == first) for i in rho}
    r = {i: sorted((v / z[i] for v in row), reverse=True) for i, row in rho.items()}
    scores: dict[str, Callable[[list[float]], float]] = {
        "confidence": lambda row: row[0],
        "margin": lambda row: row[0] - row[1],
        "entropy": lambda row: sum(v * math.log(v) for v in row if v > 0),
    }
    score = {i: scores[policy](row) for i, row in r.items()}
    best = [i for i in rho if score[i] >= max(score.values()) - TIE]
    return {i: float(i in best) / len(best) for i in rho}


def picks(
    policy: str, rho: dict[int, list[float]], k: int, order: Sequence[int] | None = None
) -> dict[tuple[int, ...], float]:
    """The probability of every set of k coordinates, drawn one by one without replacement, the state frozen."""
    chances: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(min(k, len(rho))):
        grown: dict[tuple[int, ...], float] = {}
        for chosen, chance in chances.items():
            left = {i: row for i, row in rho.items() if i not in chosen}
            for i, p in preferences(policy, left, order).items():
                key = tuple(sorted((*chosen, i)))
                grown[key] = grown.get(key, 0.0) + chance * p
        chances = grown
    return chances


def law_by_paths(
    rho_of: Rho,
    num_tokens: int,
    num_dims: int,
    policy: str,
    k: int = 1,
    order: Sequence[int] | None = None,
    start: State | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over all paths: the law, E[W; x] and E[W^2; x], (N,)*D each; W is defined for k = 1.

    Args:
        start: the partial state that the paths start in; None is all masked.
    """
    n = num_tokens
    d = num_dims
    flow: dict[State, tuple[float, ...]] = {start or (n,) * d: (1.0, 1.0, 1.0)}
    for _ in range(d):
        after: dict[State, tuple[float, ...]] = {}
        for state, masses in flow.items():
            if n not in state:
                after[state] = tuple(a + b for a, b in zip(after.get(state, (0.0,) * 3), masses))
                continue
            rho = rho_of(state)
            for chosen, chance in picks(policy, rho, k, order).items():
                if chance == 0:
                    continue
                totals = [sum(rho[i]) for i in chosen]
                for values in product(range(n), repeat=len(chosen)):
                    p = chance * math.prod(rho[i][v] / t for i, v, t in zip(chosen, values, totals))
                    if p == 0:
                        continue
                    child = list(state)
                    for i, v in zip(chosen, values):
                        child[i] = v
                    moved = [m * p * math.prod(totals) ** power for power, m in enumerate(masses)]
                    old = after.get(tuple(child), (0.0,) * 3)
                    after[tuple(child)] = tuple(a + b for a, b in zip(old, moved))
        flow = after
    law, first, second = (np.zeros([n] * d) for _ in range(3))
    for state, masses in flow.items():
        law[state], first[state], second[state] = masses
    return law, first, second
