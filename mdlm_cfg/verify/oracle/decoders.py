"""Decoders that draw values first, remasking samplers and correctors, by plain sums (theory, sections 16 to 19).

A kernel is a function from a partial state to the probabilities of the next ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise, permutations, product

import numpy as np

from mdlm_cfg.verify.oracle.chains import State, put
from mdlm_cfg.verify.oracle.policies import TIE, Rho, preferences

Kernel = Callable[[State], dict[State, float]]


def chosen_by_score(scores: dict[int, float], count: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """The `count` coordinates with the largest scores, ties shared equally: every set with its probability."""
    ordered = sorted(scores.values(), reverse=True)
    last = ordered[min(count, len(ordered)) - 1]
    sure = [i for i in scores if scores[i] > last + TIE]
    tied = [i for i in scores if abs(scores[i] - last) <= TIE]
    sets = list(combinations(tied, min(count, len(ordered)) - len(sure)))
    for more in sets:
        yield (*sure, *more), 1 / len(sets)


def normalized(rho: dict[int, list[float]]) -> dict[int, list[float]]:
    """r_i(v) = rho_i(v) / Z_i of every masked coordinate."""
    return {i: [v / sum(row) for v in row] for i, row in rho.items()}


def drawing_first(
    rho_of: Rho, num_tokens: int, selections: Callable[[dict[int, float]], Iterator[tuple[tuple[int, ...], float]]]
) -> Kernel:
    """Draw a value for every masked coordinate, and keep those that `selections` picks from their probabilities."""

    def kernel(state: State) -> dict[State, float]:
        r = normalized(rho_of(state))
        after: dict[State, float] = {}
        for values in product(range(num_tokens), repeat=len(r)):
            drawn = dict(zip(r, values))
            chance = math.prod(r[i][v] for i, v in drawn.items())
            if chance == 0:
                continue
            for kept, share in selections({i: r[i][v] for i, v in drawn.items()}):
                child = tuple(drawn[i] if i in kept else value for i, value in enumerate(state))
                after[child] = after.get(child, 0.0) + chance * share
        return after

    return kernel


def sampled_confidence(rho_of: Rho, num_tokens: int, count: int) -> Kernel:
    """Keep the `count` drawn values with the largest probabilities (MaskGIT, LLaDA)."""
    return drawing_first(rho_of, num_tokens, lambda c: chosen_by_score(c, count))


def threshold(rho_of: Rho, num_tokens: int, tau: float) -> Kernel:
    """Keep every drawn value of probability at least tau, and always the most probable one (Fast-dLLM)."""

    def selections(c: dict[int, float]) -> Iterator[tuple[tuple[int, ...], float]]:
        above = tuple(i for i in c if c[i] >= tau - TIE)
        yield from [(above, 1.0)] if above else chosen_by_score(c, 1)

    return drawing_first(rho_of, num_tokens, selections)


def factor(rho_of: Rho, num_tokens: int, bound: float) -> Kernel:
    """Keep the n drawn values with the largest probabilities, n the largest with (n + 1)(1 - c_(n)) < bound."""

    def selections(c: dict[int, float]) -> Iterator[tuple[tuple[int, ...], float]]:
        ordered = sorted(c.values(), reverse=True)
        counts = [n for n in range(1, len(c) + 1) if (n + 1) * (1 - ordered[n - 1]) < bound]
        yield from chosen_by_score(c, max(counts, default=1))

    return drawing_first(rho_of, num_tokens, selections)


def entropy_bound(rho_of: Rho, num_tokens: int, gamma: float) -> Kernel:
    """Unmask as many coordinates in order of rising entropy as keep sum H - max H <= gamma (EB-Sampler)."""

    def kernel(state: State) -> dict[State, float]:
        r = normalized(rho_of(state))
        entropies = {i: -sum(v * math.log(v) for v in row if v > 0) for i, row in r.items()}
        ordered = sorted(entropies.values())
        counts = [n for n in range(1, len(r) + 1) if sum(ordered[: n - 1]) <= gamma + TIE]
        after: dict[State, float] = {}
        for kept, share in chosen_by_score({i: -h for i, h in entropies.items()}, max(counts)):
            for values in product(range(num_tokens), repeat=len(kept)):
                drawn = dict(zip(kept, values))
                child = tuple(drawn.get(i, value) for i, value in enumerate(state))
                chance = share * math.prod(r[i][v] for i, v in drawn.items())
                after[child] = after.get(child, 0.0) + chance
        return after

    return kernel


def remasking(rho_of: Rho, num_tokens: int, before: float, now: float, sigma: float) -> Kernel:
    """One step of ReMDM, from the share `before` of unmasked coordinates to `now`, remasking with `sigma`."""

    def kernel(state: State) -> dict[State, float]:
        r = normalized(rho_of(state))
        unmask = (now - (1 - sigma) * before) / (1 - before)
        options = []
        for i, value in enumerate(state):
            if value != num_tokens:
                options.append([(num_tokens, sigma), (value, 1 - sigma)])
            else:
                options.append([(num_tokens, 1 - unmask), *[(v, unmask * p) for v, p in enumerate(r[i])]])
        after: dict[State, float] = {}
        for outcome in product(*options):
            child = tuple(value for value, _ in outcome)
            after[child] = after.get(child, 0.0) + math.prod(chance for _, chance in outcome)
        return after

    return kernel


def remdm_kernels(rho_of: Rho, num_tokens: int, alphas: Sequence[float], rule: str, eta: float = 0.0) -> list[Kernel]:
    """The steps of ReMDM from each share of unmasked coordinates to the next.

    Args:
        alphas: from (nearly) 0 to 1.
        rule: "cap" (min(eta, sigma_max)), "rescale" (eta sigma_max) or "forward_backward".
    """
    kernels = []
    for before, now in pairwise(alphas):
        most = min(1.0, (1 - now) / before) if before > 0 else 1.0
        forward_backward = (now - before) / before if before > 0 else 0.0
        wanted = {"cap": eta, "rescale": eta * most, "forward_backward": forward_backward}[rule]
        kernels.append(remasking(rho_of, num_tokens, before, now, min(wanted, most)))
    return kernels


def law_after(start: State, kernels: Sequence[Kernel]) -> dict[State, float]:
    """The law over partial states after the steps."""
    law = {start: 1.0}
    for kernel in kernels:
        after: dict[State, float] = {}
        for state, mass in law.items():
            for child, chance in kernel(state).items():
                after[child] = after.get(child, 0.0) + mass * chance
        law = after
    return law


def decoded(num_tokens: int, num_dims: int, kernel: Kernel) -> tuple[np.ndarray, float]:
    """The terminal law of a decoder, (N,)*D, and the expected number of its steps."""
    law = {(num_tokens,) * num_dims: 1.0}
    calls = 0.0
    while any(num_tokens in state for state in law):
        open_states = {state: mass for state, mass in law.items() if num_tokens in state}
        after = {state: mass for state, mass in law.items() if num_tokens not in state}
        calls += sum(open_states.values())
        for state, mass in open_states.items():
            for child, chance in kernel(state).items():
                after[child] = after.get(child, 0.0) + mass * chance
        law = after
    return to_dense(law, num_tokens, num_dims), calls


def to_dense(law: dict[State, float], num_tokens: int, num_dims: int) -> np.ndarray:
    """Finished states as (N,)*D; those with masks are left out."""
    dense = np.zeros([num_tokens] * num_dims)
    for state, mass in law.items():
        if num_tokens not in state:
            dense[state] += mass
    return dense


def correction_matrix(refill: Callable[[State], np.ndarray], num_tokens: int, num_dims: int, size: int) -> np.ndarray:
    """The kernel on N^D of one correction move: mask `size` uniformly chosen coordinates and refill them.

    Args:
        refill: the terminal law (N,)*D of the guided chain that starts in a partial state.
    """
    states = list(product(range(num_tokens), repeat=num_dims))
    kernel = np.zeros((len(states), len(states)))
    sets = list(combinations(range(num_dims), size))
    for row, x in enumerate(states):
        for chosen in sets:
            state = tuple(num_tokens if i in chosen else value for i, value in enumerate(x))
            kernel[row] += refill(state).flatten() / len(sets)
    return kernel


def at_once(rho_of: Rho, num_tokens: int, num_dims: int) -> Callable[[State], np.ndarray]:
    """The law (N,)*D of a state whose masked coordinates are filled independently, from one call."""

    def refill(state: State) -> np.ndarray:
        r = normalized(rho_of(state))
        law = {
            tuple(dict(zip(r, values)).get(i, value) for i, value in enumerate(state)): math.prod(
                r[i][v] for i, v in zip(r, values)
            )
            for values in product(range(num_tokens), repeat=len(r))
        }
        return to_dense(law, num_tokens, num_dims)

    return refill


def fills(rho_of: Rho, policy: str, state: State, values: dict[int, int]) -> Iterator[tuple[float, float, float]]:
    """Every order in which masked coordinates get given values.

    Returns:
        the probability of the order given the values, that of the order and the values, and the product W of the Z_i.
    """
    for order in permutations(values):
        here = state
        forced = 1.0
        drawn = 1.0
        weight = 1.0
        for i in order:
            rho = rho_of(here)
            chance = preferences(policy, rho)[i]
            total = sum(rho[i])
            forced *= chance
            drawn *= chance * rho[i][values[i]] / total
            weight *= total
            here = put(here, i, values[i])
        yield forced, drawn, weight


def accepted_correction_matrix(rho_of: Rho, num_tokens: int, num_dims: int, size: int, policy: str) -> np.ndarray:
    """The kernel on N^D of one correction move with accept and reject: accepted with min(1, W_new / W_old).

    States that the guided chain does not reach stay unchanged.
    """
    states = list(product(range(num_tokens), repeat=num_dims))
    index = {x: row for row, x in enumerate(states)}
    kernel = np.zeros((len(states), len(states)))
    sets = list(combinations(range(num_dims), size))
    for x, chosen in product(states, sets):
        state = tuple(num_tokens if i in chosen else value for i, value in enumerate(x))
        if any(sum(row) == 0 for row in rho_of(state).values()):
            kernel[index[x], index[x]] += 1 / len(sets)
            continue
        old = [(forced, w) for forced, drawn, w in fills(rho_of, policy, state, {i: x[i] for i in chosen}) if drawn > 0]
        for values in product(range(num_tokens), repeat=size):
            new = dict(zip(chosen, values))
            child = tuple(new.get(i, value) for i, value in enumerate(x))
            for _, drawn, weight in fills(rho_of, policy, state, new):
                if drawn == 0:
                    continue
                moved = sum(forced * min(1.0, weight / w) for forced, w in old) if old else 1.0
                kernel[index[x], index[child]] += drawn * moved / len(sets)
                kernel[index[x], index[x]] += drawn * (1 - moved) / len(sets)
    return kernel
