"""The exact law of a sampler's steps (theory, section 6): the sum over the steps that samplers draw from.

One step's kernel has (2N+1)^D nonzero entries: from a partial state x_U, every masked coordinate stays or takes one of
N values. It is applied subset by subset of unmasked coordinates, on the dense tensor (N+1,)*D.

A parallel step can land on a partial state that is impossible under the class. What happens there is the denoiser's
answer (docs/design.md, "The denoiser's contract"), here as in the sampler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.steps import Step
from mdlm_cfg.laws.rates import MAX_BATCH, refuse_if_too_large, start
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
            values = rates.softmax(dim=-1).masked_fill((log_z == NEG_INF)[..., None], 0.0)
            index = tuple(slice(0, n) if i in subset else n for i in range(d))
            yield FrozenRates(index, subset, masked, log_z, values)


@dataclass(frozen=True)
class FrozenChain:
    """A guided chain's rates at every partial state: what every step of every sampler is made of.

    Attributes:
        num_tokens: N. num_dims: D. guidance: whose rates. rates: of every set of unmasked coordinates.
    """

    num_tokens: int
    num_dims: int
    guidance: Guidance
    rates: Sequence[FrozenRates]

    def law_after(self, steps: Sequence[Step]) -> Tensor:
        """The exact law after the steps, started from all masked: float64 (N+1,)*D, index N being the mask."""
        law = torch.zeros([self.num_tokens + 1] * self.num_dims, dtype=torch.float64)
        law[(-1,) * self.num_dims] = 1
        for step in steps:
            law = apply_step(law, self.rates, step)
        return law


def freeze(denoiser: Denoiser, guidance: Guidance, target_class: int | None) -> FrozenChain:
    """The rates of a chain at every partial state, asked for once (theory, section 6).

    Raises:
        UserError: an unknown class, or a kernel too large to apply.
    """
    lattice = start(denoiser, target_class)
    n, d = lattice.num_tokens, lattice.num_dims
    refuse_if_too_large(lattice, states_kept=4 * n * d)
    if kernel_entries(n, d) > MAX_ENTRIES:
        raise UserError(
            f"a step on ({n}+1)^{d} partial states has {kernel_entries(n, d):.3g} kernel entries, "
            f"more than {MAX_ENTRIES:.0g}; compare samples instead"
        )
    return FrozenChain(n, d, guidance, list(frozen_rates(denoiser, guidance, target_class, lattice)))


def kernel_entries(num_tokens: int, num_dims: int) -> int:
    """The nonzero entries of one step's kernel: (2N+1)^D."""
    return (2 * num_tokens + 1) ** num_dims


def apply_step(law: Tensor, rates: Sequence[FrozenRates], step: Step) -> Tensor:
    """The law after one step, (N+1,)*D: every state's mass spread over its moves."""
    n, d = law.shape[0] - 1, law.ndim
    after = torch.zeros_like(law)
    after[(slice(0, n),) * d] = law[(slice(0, n),) * d]
    for r in rates:
        mass = law[r.index].reshape(-1, 1)
        spread = (mass * step.moves(r.log_z, r.values, r.masked)).reshape(
            [n] * len(r.unmasked) + [n + 1] * len(r.masked)
        )
        order = (*r.unmasked, *r.masked)  # the axes of `spread`, to be put into coordinate order
        spread = spread.permute([order.index(i) for i in range(d)])
        after[tuple(slice(0, n) if i in r.unmasked else slice(None) for i in range(d))] += spread
    return after
