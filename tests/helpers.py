"""What several tests need: random mixtures, dense generators, the reference cases."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from mdlm_cfg import Guidance, TableMixture
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.steps import JUMPS

CASES = json.loads((Path(__file__).parent / "fixtures" / "laws.json").read_text())["cases"]


def case_target(case: dict) -> TableMixture:
    shape = [case["num_tokens"]] * case["dims"]
    pmfs = torch.tensor(case["class_pmfs"], dtype=torch.float64).reshape(-1, *shape)
    return TableMixture(pmfs, torch.tensor(case["class_weights"], dtype=torch.float64))


def case_id(case: dict) -> str:
    zeros = "zeros" if any(v == 0 for row in case["class_pmfs"] for v in row) else "full"
    return f"{case['guidance']}-D{case['dims']}-w{case['w']}-{zeros}"


def random_target(n: int, d: int, k: int = 2, seed: int = 0, zeros: float = 0.0) -> TableMixture:
    """K random classes on {0..N-1}^D; a share `zeros` of every class's states has probability 0."""
    g = torch.Generator().manual_seed(seed)
    pmfs = torch.rand(k, n**d, generator=g, dtype=torch.float64) ** 2
    dead = torch.rand(k, n**d, generator=g) < zeros
    dead[torch.arange(k), torch.randint(n**d, (k,), generator=g)] = False
    pmfs = pmfs.masked_fill(dead, 0.0)
    weights = torch.rand(k, generator=g, dtype=torch.float64) + 0.2
    return TableMixture((pmfs / pmfs.sum(1, keepdim=True)).reshape(k, *[n] * d), weights / weights.sum())


class Inconsistent:
    """A denoiser whose conditionals belong to no joint, as a network's do: random log-probs per partial state."""

    def __init__(self, n: int, d: int, k: int, seed: int = 0) -> None:
        self.num_tokens, self.num_dims, self.num_classes = n, d, k
        g = torch.Generator().manual_seed(seed)
        self.table = torch.randn(k + 1, (n + 1) ** d, d, n, generator=g, dtype=torch.float64).log_softmax(-1)

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        strides = (self.num_tokens + 1) ** torch.arange(self.num_dims - 1, -1, -1)
        classes = torch.full((len(tokens),), self.num_classes) if classes is None else classes
        return self.table[classes, (tokens * strides).sum(1)]


class Opaque:
    """Hides that a denoiser is a table, so that the route for any denoiser is taken."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.inner = denoiser
        self.num_tokens, self.num_dims = denoiser.num_tokens, denoiser.num_dims
        self.num_classes = denoiser.num_classes

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        return self.inner(tokens, classes)


def dense_rates(denoiser: Denoiser, guidance: Guidance, z: int) -> tuple[list[tuple[int, ...]], dict]:
    """All partial states, and {(state, i, v): rate} by looping: the slow truth."""
    n, d = denoiser.num_tokens, denoiser.num_dims
    states = list(product(range(n + 1), repeat=d))
    rates = {}
    for state in states:
        tokens = torch.tensor([state])
        cond = denoiser(tokens, torch.tensor([z]))[0].exp()
        uncond = denoiser(tokens, None)[0].exp()
        progress = sum(s != n for s in state) / (d - 1) if d > 1 else 1.0
        w = guidance.w(progress) if callable(guidance.w) else guidance.w
        for i in range(d):
            if state[i] != n:
                continue
            rho = [
                0.0 if c == 0 else math.exp((1 + w) * math.log(c) - w * math.log(u))
                for c, u in zip(cond[i].tolist(), uncond[i].tolist())
            ]
            total = sum(rho) if guidance.kind == "normalized" and sum(rho) > 0 else 1.0
            for v in range(n):
                rates[state, i, v] = rho[v] / total
    return states, rates


def dense_generator(denoiser: Denoiser, guidance: Guidance, z: int) -> Tensor:
    """The generator of the whole chain, ((N+1)^D, (N+1)^D), rows summing to 0."""
    states, rates = dense_rates(denoiser, guidance, z)
    index = {s: k for k, s in enumerate(states)}
    q = torch.zeros(len(states), len(states), dtype=torch.float64)
    for (state, i, v), rate in rates.items():
        q[index[state], index[(*state[:i], v, *state[i + 1 :])]] += rate
    return q - torch.diag(q.sum(dim=1))


def dense_step(denoiser: Denoiser, guidance: Guidance, z: int, sampler: str, u: float) -> Tensor:
    """The kernel of one parallel step, ((N+1)^D, (N+1)^D), by looping over coordinates' outcomes."""
    n, d = denoiser.num_tokens, denoiser.num_dims
    states, rates = dense_rates(denoiser, guidance, z)
    index = {s: k for k, s in enumerate(states)}
    kernel = torch.zeros(len(states), len(states), dtype=torch.float64)
    for state in states:
        options = []
        for i in range(d):
            if state[i] != n:
                options.append([(state[i], 1.0)])
                continue
            rho = [rates[state, i, v] for v in range(n)]
            total = sum(rho)
            z, step = torch.tensor([total, u], dtype=torch.float64)
            jump = float(JUMPS[sampler](z.log(), step))
            if total == 0:
                options.append([(n, 1.0)])
            else:
                options.append([(n, 1 - jump)] + [(v, jump * r / total) for v, r in enumerate(rho)])
        for outcome in product(*options):
            target = tuple(v for v, _ in outcome)
            kernel[index[state], index[target]] += math.prod(p for _, p in outcome)
    return kernel
