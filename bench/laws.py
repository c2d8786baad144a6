"""Exact laws against the memory that any method must move, and against scipy's action of a matrix exponential."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import comb

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import expm_multiply

from bench.ratio import Figure, in_turns, seconds
from mdlm_cfg import Guidance, TableMixture, law_at, terminal_law
from mdlm_cfg.chain.denoiser import Denoiser

GUIDANCE = Guidance(2.0)
LARGE = ((5, 9), (2, 16))
AGAINST_SCIPY = {(5, 5): 100.0, (100, 2): 300.0, (5, 6): 300.0}  # (N, D): goal of the terminal law
TIMES = torch.linspace(0.1, 3.0, 30, dtype=torch.float64)


def random_table(num_tokens: int, num_dims: int) -> TableMixture:
    """Two random classes."""
    pmfs = torch.rand(2, *[num_tokens] * num_dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return TableMixture(pmfs / pmfs.flatten(1).sum(1).reshape(2, *[1] * num_dims), torch.tensor([0.5, 0.5]))


def edge_bytes(num_tokens: int, num_dims: int) -> float:
    """Bytes that a terminal law must at least move: every edge read once for Lambda, and once for the push.

    Lambda(x_U) is needed before anything leaves x_U, and sums over every edge out of it; then every edge carries its
    share.
    """
    d, n = num_dims, num_tokens
    edges = sum(comb(d, level) * n**level * (d - level) * n for level in range(d))
    return 2 * 8 * edges


def sparse_generator(denoiser: Denoiser, target_class: int) -> scipy.sparse.csr_matrix:
    """The transposed generator of the guided chain: d q / d tau = G q."""
    n, d = denoiser.num_tokens, denoiser.num_dims
    tokens = torch.cartesian_prod(*[torch.arange(n + 1)] * d).reshape(-1, d)
    rates = GUIDANCE.log_rates(denoiser, tokens, target_class).exp()
    strides = (n + 1) ** torch.arange(d - 1, -1, -1)
    state, i, v = torch.nonzero(rates, as_tuple=True)
    child = state + (v - n) * strides[i]
    values = rates[state, i, v].numpy()
    num = len(tokens)
    inflow = scipy.sparse.csr_matrix((values, (child.numpy(), state.numpy())), shape=(num, num))
    return (inflow - scipy.sparse.diags(np.asarray(inflow.sum(axis=0)).ravel())).tocsr()


def _act(generator: scipy.sparse.csr_matrix, start: np.ndarray, taus: list[float]) -> None:
    for tau in taus:
        expm_multiply(tau * generator, start)


def law_figures(bandwidth: float) -> Iterator[Figure]:
    """Terminal laws against memory; terminal laws and laws in time against scipy on a ready-made generator."""
    for n, d in LARGE:
        denoiser = random_table(n, d).denoiser()
        took = seconds(partial(terminal_law, denoiser, GUIDANCE, 0), 3)
        what = f"terminal law, N = {n}, D = {d} ({(n + 1) ** d:.2g} partial states)"
        yield Figure(what, "moving every edge twice", took, edge_bytes(n, d) / bandwidth, "lower", 3.0)
    for (n, d), goal in AGAINST_SCIPY.items():
        denoiser = random_table(n, d).denoiser()
        generator, start = sparse_generator(denoiser, 0), np.zeros((n + 1) ** d)
        start[-1] = 1

        def theirs(
            taus: list[float], generator: scipy.sparse.csr_matrix = generator, start: np.ndarray = start
        ) -> None:
            for tau in taus:
                expm_multiply(tau * generator, start)

        size = f"N = {n}, D = {d}"
        yardstick = "scipy expm_multiply, ready-made generator, tau = 1"
        pair = in_turns(partial(terminal_law, denoiser, GUIDANCE, 0), partial(theirs, [1.0]))
        yield Figure(f"terminal law, {size}", yardstick, *pair, "higher", goal)
        pair = in_turns(partial(law_at, denoiser, GUIDANCE, 0, 1.0), partial(theirs, [1.0]))
        yield Figure(f"law at one time, {size}", yardstick, *pair, "higher", 1.0)
        pair = in_turns(partial(law_at, denoiser, GUIDANCE, 0, TIMES), partial(theirs, TIMES.tolist()), 3)
        yield Figure(f"law at 30 times, {size}", "the same at 30 times", *pair, "higher", 10.0)
