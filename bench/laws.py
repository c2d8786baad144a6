"""Exact laws against the necessary memory traffic, scipy's action of a matrix exponential, and a network's calls.

On a GPU also against the same laws on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import comb

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import expm_multiply
from torch import Tensor

from bench.ratio import Figure, copying, in_turns
from mdlm_cfg import Guidance, TableMixture, law_at, terminal_law
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.laws import TabulatedDenoiser
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.support.machine import keep_freed_memory

GUIDANCE = Guidance(2.0)
LARGE = ((5, 9), (2, 16))
LARGER = (*LARGE, (5, 10))  # for a GPU
CPU = torch.device("cpu")
AGAINST_SCIPY = {(5, 5): 100.0, (100, 2): 300.0, (5, 6): 300.0}  # (N, D): goal of the terminal law
END = 20.0  # the clock time at which scipy's law is the terminal one to 1e-9
TIMES = torch.linspace(0.1, 3.0, 30, dtype=torch.float64)


def random_table(num_tokens: int, num_dims: int, device: torch.device = CPU) -> TableMixture:
    """Two random classes, on a device."""
    pmfs = torch.rand(2, *[num_tokens] * num_dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pmfs /= pmfs.flatten(1).sum(1).reshape(2, *[1] * num_dims)
    return TableMixture(pmfs.to(device), torch.tensor([0.5, 0.5], device=device))


def state_bytes(num_tokens: int, num_dims: int) -> float:
    """Bytes moved by any method that holds a weight and a flow for every partial state: both are written and read.

    In addition, the two tables are read and the law is written.
    """
    return 8.0 * (4 * (num_tokens + 1) ** num_dims + 3 * num_tokens**num_dims)


def edge_bytes(num_tokens: int, num_dims: int) -> float:
    """Bytes moved if every edge has a number: read once for Lambda, and once for the push."""
    d = num_dims
    n = num_tokens
    return 2.0 * 8 * sum(comb(d, level) * n**level * (d - level) * n for level in range(d))


def sparse_generator(denoiser: Denoiser, target_class: int) -> scipy.sparse.csr_matrix:
    """The transposed generator of the guided chain: d q / d tau = G q."""
    n = denoiser.num_tokens
    d = denoiser.num_dims
    tokens = torch.cartesian_prod(*[torch.arange(n + 1)] * d).reshape(-1, d)
    rates = GUIDANCE.log_rates(denoiser, tokens, target_class).exp()
    strides = (n + 1) ** torch.arange(d - 1, -1, -1)
    state, i, v = torch.nonzero(rates, as_tuple=True)
    child = state + (v - n) * strides[i]
    values = rates[state, i, v].numpy()
    num = len(tokens)
    inflow = scipy.sparse.csr_matrix((values, (child.numpy(), state.numpy())), shape=(num, num))
    return (inflow - scipy.sparse.diags(np.asarray(inflow.sum(axis=0)).ravel())).tocsr()


def law_figures(device: torch.device) -> Iterator[Figure]:
    """All figures on a device; its copying rate is measured in turns with the laws, because it varies."""
    copy, moved = copying(device)
    for n, d in LARGE if device == CPU else LARGER:
        law = partial(terminal_law, random_table(n, d, device).denoiser(), GUIDANCE, 0)
        took, copied = in_turns(law, copy)
        bandwidth = moved / copied
        what = f"terminal law, N = {n}, D = {d} ({(n + 1) ** d:.2g} partial states)"
        yield Figure(what, "memory traffic per state", took, state_bytes(n, d) / bandwidth, "lower", 3.0)
        yield Figure(what, "memory traffic per edge", took, edge_bytes(n, d) / bandwidth, "lower", 3.0)
        if device != CPU and (n, d) in LARGE:
            there = partial(terminal_law, random_table(n, d).denoiser(), GUIDANCE, 0)
            yield Figure(what, f"the same on {torch.get_num_threads()} cores", *in_turns(law, there, 3), "higher")
    if device == CPU:
        for (n, d), goal in AGAINST_SCIPY.items():
            yield from _against_scipy(n, d, goal)
    yield _learned(device)


def _problem(n: int, d: int) -> tuple[Denoiser, scipy.sparse.csr_matrix, np.ndarray]:
    """A table's denoiser, and for scipy its generator and the all-masked initial state."""
    denoiser = random_table(n, d).denoiser()
    start = np.zeros((n + 1) ** d)
    start[-1] = 1
    return denoiser, sparse_generator(denoiser, 0), start


def _against_scipy(n: int, d: int, goal: float) -> Iterator[Figure]:
    """The exact solution of one table, against a ready-made sparse generator."""
    denoiser, generator, start = _problem(n, d)

    def theirs(taus: Sequence[float]) -> None:
        for tau in taus:
            expm_multiply(tau * generator, start)

    size = f"N = {n}, D = {d}"
    theirs_is = "scipy expm_multiply, ready-made generator"
    terminal = partial(terminal_law, denoiser, GUIDANCE, 0)
    end = f"{theirs_is}, tau = {END:g}: TV {_left(generator, start, n, d, terminal()):.0e}"
    yield Figure(f"terminal law, {size}", end, *in_turns(terminal, partial(theirs, [END])), "higher", goal)
    pair = in_turns(terminal, partial(theirs, [1.0]))
    yield Figure(f"terminal law, {size}", f"{theirs_is}, to tau = 1 only", *pair, "higher")
    pair = in_turns(partial(law_at, denoiser, GUIDANCE, 0, 1.0), partial(theirs, [1.0]))
    yield Figure(f"law at one time, {size}", f"{theirs_is}, tau = 1", *pair, "higher", 1.0)
    pair = in_turns(partial(law_at, denoiser, GUIDANCE, 0, TIMES), partial(theirs, TIMES.tolist()), 3)
    yield Figure(f"law at 30 times, {size}", "the same at 30 times", *pair, "higher", 10.0)


def _left(generator: scipy.sparse.csr_matrix, start: np.ndarray, n: int, d: int, law: Tensor) -> float:
    """TV of scipy's law at `END` to the terminal law: the error due to the finite time."""
    found = torch.from_numpy(expm_multiply(END * generator, start)).reshape([n + 1] * d)
    found[(slice(0, n),) * d] -= law
    return 0.5 * float(found.abs().sum())


def _learned(device: torch.device) -> Figure:
    """A network's law from all partial states and two labels, against bare calls on as many rows."""
    net = GridTransformer(2, (2, 4), 10, width=64, depth=2, num_heads=4).eval().to(device)
    denoiser = NetDenoiser(net)
    n = 2
    d = 8
    table = TabulatedDenoiser(denoiser)
    rows = 2 * (table.num_states - n**d)
    tokens = torch.full((denoiser.batch_size, d), n, device=device)
    classes = torch.zeros(denoiser.batch_size, dtype=torch.int64, device=device)

    def alone() -> None:
        with torch.inference_mode():
            for begun in range(0, rows, denoiser.batch_size):
                net(tokens[: rows - begun], classes[: rows - begun])

    pair = in_turns(lambda: terminal_law(TabulatedDenoiser(denoiser), GUIDANCE, 0), alone)
    what = f"law of a network, {table.num_states} partial states: its calls and the push"
    return Figure(what, "its calls alone on as many rows", *pair, "lower", 1.25)


def small_laws() -> None:
    """Small terminal laws in CPU time on one thread, which is little affected by other work."""
    for (n, d), goal in AGAINST_SCIPY.items():
        denoiser, generator, start = _problem(n, d)
        ours_is = partial(terminal_law, denoiser, GUIDANCE, 0)
        theirs_is = partial(expm_multiply, END * generator, start)
        runs = [(_cpu(ours_is, 10), _cpu(theirs_is)) for _ in range(10)][1:]
        ours, theirs = (float(np.median(times)) for times in zip(*runs))
        print(f"| {n} | {d} | {1e3 * ours:.2f} | {1e3 * theirs:.1f} | {theirs / ours:.0f} | {goal:g} |", flush=True)


def large_laws() -> None:
    """Large terminal laws and a memory copy in turns, in CPU time on one thread."""
    copy, moved = copying(CPU)
    for n, d in LARGE:
        law = partial(terminal_law, random_table(n, d).denoiser(), GUIDANCE, 0)
        runs = [(_cpu(law), _cpu(copy)) for _ in range(8)][1:]
        took, copied = (float(np.median(times)) for times in zip(*runs))
        rate = moved / copied
        print(f"| {n} | {d} | {took:.3f} | {rate / 1e9:.1f} | {took * rate / edge_bytes(n, d):.1f} |", flush=True)


def _cpu(work: Callable[[], object], times: int = 1) -> float:
    """CPU seconds per run."""
    begun = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begun) / times


if __name__ == "__main__":  # python -m bench.laws
    keep_freed_memory()
    torch.set_num_threads(1)
    small_laws()
    large_laws()
