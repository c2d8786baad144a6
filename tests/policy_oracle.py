"""Policies by brute force: every path, order by order, in plain Python (theory, sections 10 and 11)."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from mdlm_cfg import Guidance
from mdlm_cfg.chain.denoiser import Denoiser

TIE = 1e-12


def rho_of(denoiser: Denoiser, guidance: Guidance, z: int, state: tuple[int, ...]) -> dict[int, list[float]]:
    """rho_i(v | x_U) of every masked coordinate, in numbers."""
    n, d = denoiser.num_tokens, len(state)
    w = guidance.table(d)[sum(s != n for s in state)]
    tokens = torch.tensor([state])
    cond, uncond = denoiser(tokens, torch.tensor([z]))[0].exp(), denoiser(tokens, None)[0].exp()
    return {
        i: [0.0 if c == 0 else c ** (1 + w) * u**-w for c, u in zip(cond[i].tolist(), uncond[i].tolist())]
        for i in range(d)
        if state[i] == n
    }


def preferences(policy: str, rho: dict[int, list[float]], order: list[int] | None = None) -> dict[int, float]:
    """pi(i | x_U) of the masked coordinates."""
    z = {i: sum(row) for i, row in rho.items()}
    if policy == "rate":
        return {i: z[i] / sum(z.values()) for i in rho}
    if policy == "uniform":
        return {i: 1 / len(rho) for i in rho}
    if policy == "fixed":
        first = min(rho, key=order.index)
        return {i: float(i == first) for i in rho}
    r = {i: sorted((v / z[i] for v in row), reverse=True) for i, row in rho.items()}
    scores = {
        "confidence": lambda row: row[0],
        "margin": lambda row: row[0] - row[1],
        "entropy": lambda row: sum(v * math.log(v) for v in row if v > 0),
    }
    score = {i: scores[policy](row) for i, row in r.items()}
    best = [i for i in rho if score[i] >= max(score.values()) - TIE]
    return {i: float(i in best) / len(best) for i in rho}


def picks(policy: str, rho: dict[int, list[float]], k: int, order: list[int] | None) -> dict[tuple[int, ...], float]:
    """The probability of every set of k coordinates, drawn one by one without replacement, the state frozen."""
    chances = {(): 1.0}
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
    denoiser: Denoiser, guidance: Guidance, z: int, policy: str, k: int = 1, order: list[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over all paths: the law, E[W; x] and E[W^2; x], float64 (N,)*D each; W is for k = 1."""
    n, d = denoiser.num_tokens, denoiser.num_dims
    flow = {(n,) * d: (1.0, 1.0, 1.0)}
    for _ in range(d):
        after: dict[tuple[int, ...], tuple[float, ...]] = {}
        for state, masses in flow.items():
            if n not in state:
                after[state] = tuple(a + b for a, b in zip(after.get(state, (0.0,) * 3), masses))
                continue
            rho = rho_of(denoiser, guidance, z, state)
            for chosen, chance in picks(policy, rho, k, order).items():
                for values in product(range(n), repeat=len(chosen)):
                    totals = [sum(rho[i]) for i in chosen]
                    p = chance * math.prod(rho[i][v] / t for i, v, t in zip(chosen, values, totals))
                    child = list(state)
                    for i, v in zip(chosen, values):
                        child[i] = v
                    moved = [m * p * math.prod(totals) ** power for power, m in enumerate(masses)]
                    old = after.get(tuple(child), (0.0,) * 3)
                    after[tuple(child)] = tuple(a + b for a, b in zip(old, moved))
        flow = after
    laws = torch.zeros(3, *[n] * d, dtype=torch.float64)
    for state, masses in flow.items():
        laws[(slice(None), *state)] = torch.tensor(masses, dtype=torch.float64)
    return laws[0], laws[1], laws[2]
