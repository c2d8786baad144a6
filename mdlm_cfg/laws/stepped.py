"""The exact law of a sampler's steps (theory, section 6): the sum over the steps that samplers draw from.

One step's kernel has (2N+1)^D nonzero entries: from a partial state x_U, every masked coordinate stays or takes one of
N values. It is applied to sets of unmasked coordinates of one size, many at a time, on the dense tensor (N+1,)*D.

A parallel step can land on a partial state that is impossible under the class. What happens there is the denoiser's
answer (docs/design.md, "The denoiser's contract"), here as in the sampler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end, is_on_cpu
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice, flat_index, strides
from mdlm_cfg.chain.steps import Step
from mdlm_cfg.laws.rates import MAX_BATCH, refuse_if_too_large, start
from mdlm_cfg.support.errors import UserError

NEG_INF = float("-inf")
MAX_ENTRIES = 1e9  # kernel entries of a step: beyond that a step takes minutes
GROUP = 2**20  # kernel entries made at a time, where the states of a single set have not more


@dataclass(frozen=True)
class FrozenRates:
    """The guided rates of all states with one of C sets U of unmasked coordinates, each of l.

    Attributes:
        num_sets: C.
        states: where these states lie in C order in the dense tensor (N+1,)*D, int64 (C * N^l,).
        masked: their masked coordinates, int64 (C * N^l, D - l).
        log_z: of those, (C * N^l, D - l). values: rho_i(v) / Z_i, (C * N^l, D - l, N).
    """

    num_sets: int
    states: Tensor
    masked: Tensor
    log_z: Tensor
    values: Tensor

    def places(self, num_tokens: int, num_dims: int) -> Tensor:
        """Where every outcome of a step lies in C order, int64 (C, N^l, (N+1)^(D-l)), in the order of `Step.moves`."""
        masked = self.masked.unflatten(0, (self.num_sets, -1))[:, 0]
        # how far from the mask to every value, and to the mask itself: (C, D - l, N + 1)
        device = masked.device
        far = torch.arange(num_tokens + 1, device=device) - num_tokens
        ways = strides(num_tokens + 1, num_dims, device)[masked][..., None] * far
        moved = ways[:, 0]
        for i in range(1, ways.shape[1]):
            moved = (moved[:, :, None] + ways[:, i, None]).flatten(1)
        return self.states.unflatten(0, (self.num_sets, -1))[:, :, None] + moved[:, None]


def frozen_rates(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[FrozenRates]:
    """The rates of every partial state with a mask, some sets of unmasked coordinates of one size at a time."""
    n, d = lattice.num_tokens, lattice.num_dims
    for level in range(d):
        tokens = lattice.tokens(level)
        log_rates = torch.cat([guidance.log_rates(denoiser, chunk, target_class) for chunk in tokens.split(MAX_BATCH)])
        masked = lattice.masked[level].repeat_interleave(n**level, dim=0)
        at_once = max(1, GROUP // (n**level * (n + 1) ** (d - level)))
        for first in range(0, comb(d, level), at_once):
            rows = slice(first * n**level, (first + at_once) * n**level)
            rates = log_rates[rows].gather(1, masked[rows, :, None].expand(-1, -1, n))
            log_z = rates.logsumexp(dim=-1)
            values = rates.softmax(dim=-1).masked_fill((log_z == NEG_INF)[..., None], 0.0)
            yield FrozenRates(
                min(at_once, comb(d, level) - first), flat_index(tokens[rows], n + 1), masked[rows], log_z, values
            )


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
        device = self.rates[0].log_z.device
        law = torch.zeros([self.num_tokens + 1] * self.num_dims, dtype=torch.float64, device=device)
        law[(-1,) * self.num_dims] = 1
        for step in steps:
            law = apply_step(law, self.rates, step)
        return law


@checked_at_the_end()
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
    flat = law.flatten()
    for r in rates:
        mass = flat[r.states]
        if is_on_cpu(mass) and not bool(mass.any()):  # steps of events leave whole levels empty
            continue
        spread = mass[:, None] * step.moves(r.log_z, r.values, r.masked)
        after.view(-1).index_add_(0, r.places(n, d).flatten(), spread.flatten())
    return after
