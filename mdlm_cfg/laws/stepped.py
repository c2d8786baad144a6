"""The exact law of a K-step sampler (theory, section 6): the sum over the step that a sampler draws from.

One step's kernel has (2N+1)^D nonzero entries: from a partial state x_U, every masked coordinate stays or takes one of
N values. It is applied subset by subset of unmasked coordinates, on the dense tensor (N+1,)*D.

A parallel step can land on a partial state that is impossible under the class. What happens there is the denoiser's
answer (docs/design.md, "The denoiser's contract"), here as in the sampler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.schedules import Schedule, event_counts, step_fractions
from mdlm_cfg.laws.push import MAX_BATCH, refuse_if_too_large, start
from mdlm_cfg.sampling.sampler import JUMP_PROBABILITIES, Steps, check_sampler
from mdlm_cfg.support.errors import UserError

NEG_INF = float("-inf")
MAX_ENTRIES = 1e9  # kernel entries of a step: beyond that a step takes minutes


@dataclass(frozen=True)
class FrozenRates:
    """The guided rates of all states with one set U of unmasked coordinates.

    Attributes:
        index: where these states lie in the dense tensor (N+1,)*D.
        unmasked, masked: the coordinates in U, and the others.
        log_z: (N^l, D - l). values: rho_i(v) / Z_i, (N^l, D - l, N).
    """

    index: tuple[slice | int, ...]
    unmasked: tuple[int, ...]
    masked: tuple[int, ...]
    log_z: Tensor
    values: Tensor


def frozen_rates(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[FrozenRates]:
    """The rates of every partial state with a mask, one set of unmasked coordinates at a time."""
    n, d = lattice.num_tokens, lattice.num_dims
    for level in range(d):
        chunks = lattice.tokens(level).split(MAX_BATCH)
        log_rates = torch.cat([guidance.log_rates(denoiser, chunk, target_class) for chunk in chunks])
        log_rates = log_rates.reshape(comb(d, level), n**level, d, n)
        for subset, rows in zip(lattice.subsets[level], log_rates):
            masked = tuple(i for i in range(d) if i not in subset)
            rates = rows[:, list(masked)]
            log_z = rates.logsumexp(dim=-1)
            values = (rates - log_z.masked_fill(log_z == NEG_INF, 0.0)[..., None]).exp()
            index = tuple(slice(0, n) if i in subset else n for i in range(d))
            yield FrozenRates(index, subset, masked, log_z, values)


def stepped_law(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    sampler: str,
    steps: Steps,
    schedule: Schedule | None = None,
) -> Tensor:
    """The exact law of K steps of a parallel sampler (theory, section 6).

    Args:
        sampler: "tau_leaping", "euler", "d_cfg" or "event_leaping"; for kind "normalized" every jump probability is u.
        steps: the number of steps K, or your own grid of clock times from 0 (mass is left on masks if it ends early).
        schedule: the noise schedule of the K steps; default linear, and cosine for event_leaping.

    Returns:
        float64 (N+1,)*D over partial states, index N of an axis being the mask; `[:N, ..., :N]` holds finished samples.

    Raises:
        UserError: an unknown sampler or class, or a kernel too large to apply.
    """
    check_sampler(sampler, steps)
    if sampler == "first_hitting":
        raise UserError("first_hitting makes no time error: its law is terminal_law")
    lattice, target_class = start(denoiser, target_class)
    refuse_if_too_large(lattice, states_kept=4 * lattice.num_tokens * lattice.num_dims)
    entries = (2 * lattice.num_tokens + 1) ** lattice.num_dims
    if entries > MAX_ENTRIES:
        raise UserError(
            f"a step on ({lattice.num_tokens}+1)^{lattice.num_dims} partial states has {entries:.3g} kernel entries, "
            f"more than {MAX_ENTRIES:.0g}; compare samples instead"
        )
    rates = list(frozen_rates(denoiser, guidance, target_class, lattice))
    law = torch.zeros([lattice.num_tokens + 1] * lattice.num_dims, dtype=torch.float64)
    law[(-1,) * lattice.num_dims] = 1
    if sampler == "event_leaping":
        for count in event_counts(steps, lattice.num_dims, schedule):
            law = apply_step(law, rates, [event_moves(r, count) for r in rates])
        return law
    for u in step_fractions(steps, schedule):
        jumps = [JUMP_PROBABILITIES[sampler](r.log_z, u) for r in rates]
        law = apply_step(law, rates, [independent_moves(r, jump) for r, jump in zip(rates, jumps)])
    return law


def apply_step(law: Tensor, rates: list[FrozenRates], moves: list[Tensor]) -> Tensor:
    """The law after one step: every state's mass spread over its moves.

    Args:
        law: (N+1,)*D.
        moves: for every `FrozenRates`, the kernel rows (N^l, (N+1)^(D-l)) over the masked coordinates' outcomes.
    """
    n, d = law.shape[0] - 1, law.ndim
    after = torch.zeros_like(law)
    after[(slice(0, n),) * d] = law[(slice(0, n),) * d]
    for r, move in zip(rates, moves):
        mass = law[r.index].reshape(-1, 1)
        spread = (mass * move).reshape([n] * len(r.unmasked) + [n + 1] * len(r.masked))
        order = (*r.unmasked, *r.masked)  # the axes of `spread`, to be put into coordinate order
        spread = spread.permute([order.index(i) for i in range(d)])
        after[tuple(slice(0, n) if i in r.unmasked else slice(None) for i in range(d))] += spread
    return after


def independent_moves(rates: FrozenRates, jump: Tensor) -> Tensor:
    """Each masked coordinate independently jumps with probability J to v ~ rho/Z: rows (N^l, (N+1)^(D-l))."""
    jump = jump.masked_fill(rates.log_z == NEG_INF, 0.0)[..., None]
    factors = torch.cat([jump * rates.values, 1 - jump], dim=-1)  # (N^l, D - l, N + 1)
    moves = factors.new_ones(len(factors), 1)
    for i in range(factors.shape[1]):
        moves = (moves[:, :, None] * factors[:, i, None, :]).flatten(1)
    return moves


def event_moves(rates: FrozenRates, count: int) -> Tensor:
    """`count` masked coordinates, drawn by Z without replacement, jump to v ~ rho/Z: rows (N^l, (N+1)^(D-l))."""
    num_masked = len(rates.masked)
    count = min(count, num_masked)
    chances = subset_chances(rates.log_z, count)
    stay = torch.zeros_like(rates.values[:, :, :1])
    moving = torch.cat([rates.values, stay], dim=-1)
    staying = torch.cat([torch.zeros_like(rates.values), stay + 1], dim=-1)
    moves = moving.new_zeros(len(moving), (rates.values.shape[-1] + 1) ** num_masked)
    for subset, chance in chances.items():
        term = chance[:, None]
        for i in range(num_masked):
            term = (term[:, :, None] * (moving if i in subset else staying)[:, i, None, :]).flatten(1)
        moves += term
    return moves


def subset_chances(log_z: Tensor, count: int) -> dict[tuple[int, ...], Tensor]:
    """The probability of every set of `count` coordinates drawn one by one in proportion to Z, without replacement.

    P(A) = sum_{i in A} P(A - i) Z_i / sum_{k not in A - i} Z_k, from smaller sets to larger ones.

    Args:
        log_z: (S, m).

    Returns:
        for every subset of range(m) of size `count`, its probability (S,).
    """
    m = log_z.shape[1]
    chances: dict[tuple[int, ...], Tensor] = {(): torch.ones_like(log_z[:, 0])}
    for size in range(1, count + 1):
        grown: dict[tuple[int, ...], Tensor] = {}
        for subset in combinations(range(m), size):
            total = torch.zeros_like(log_z[:, 0])
            for i in subset:
                before = tuple(k for k in subset if k != i)
                left = [k for k in range(m) if k not in before]
                pick = log_z[:, i] - log_z[:, left].logsumexp(dim=1)
                total += chances[before] * torch.where(log_z[:, i] == NEG_INF, 0.0, pick.exp())
            grown[subset] = total
        chances = grown
    return chances
