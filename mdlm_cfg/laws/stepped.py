"""The exact law of a sampler's steps (theory, section 6): the sum over the steps that samplers draw from.

The kernel of a step that only unmasks has (2N+1)^D nonzero entries: from a partial state x_U, every masked coordinate
stays or takes one of N values. It is applied to sets of unmasked coordinates of one size, many at a time, on the dense
tensor (N+1,)*D. A step that also remasks moves the coordinates that were unmasked before it by their own matrix, axis
by axis, on the outcomes indexed by origin, (2N+1,)*D (theory, section 18).

A parallel step can land on a partial state that is impossible under the class. What happens there is defined by the
denoiser (docs/design.md, "The denoiser's contract"), here as in the sampler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.chain.bound_rules import Refused
from mdlm_cfg.chain.checks import checked_at_the_end, is_on_cpu
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice, flat_index, points_at, strides
from mdlm_cfg.chain.steps import Step
from mdlm_cfg.laws.rates import in_batches, partial_state_lattice, refuse_beyond_memory, refuse_if_too_large
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError

NEG_INF = float("-inf")
MAX_ENTRIES = 1e9  # kernel entries of a step: beyond that a step takes minutes
GROUP = 2**20  # kernel entries made at a time, or those of a single set if they are more


@dataclass(frozen=True)
class FrozenRates:
    """The guided rates of all states with one of C sets U of unmasked coordinates, each of l.

    Attributes:
        num_sets: C.
        states: where these states lie in C order in the dense tensor (N+1,)*D, int64 (C * N^l,).
        masked: their masked coordinates, int64 (C * N^l, D - l).
        log_z: of those, (C * N^l, D - l). values: rho_i(v) / Z_i, (C * N^l, D - l, N).
        refused: the states without rates, at which no mass may arrive; None if there are none.
    """

    num_sets: int
    states: Tensor
    masked: Tensor
    log_z: Tensor
    values: Tensor
    refused: Refused | None = None

    def mass_of(self, law: Tensor) -> Tensor:
        """The mass of a law, (N+1)^D flat, in these states, (C * N^l,).

        Raises:
            UserError: a state without rates has mass.
        """
        mass = law[self.states]
        if self.refused is not None:
            self.refused.where(mass > 0)
        return mass

    def places(self, num_tokens: int, num_dims: int) -> Tensor:
        """Where every outcome of a step lies in C order, int64 (C, N^l, (N+1)^(D-l)), in the order of `Step.moves`."""
        masked = self.masked.unflatten(0, (self.num_sets, -1))[:, 0]
        # the distance from the mask to every value, and to the mask itself
        ways = torch.arange(num_tokens + 1, device=masked.device) - num_tokens
        moved = offsets(masked, ways, num_tokens + 1, num_dims)
        return self.states.unflatten(0, (self.num_sets, -1))[:, :, None] + moved[:, None]

    def places_by_origin(self, num_tokens: int, num_dims: int) -> Tensor:
        """The same in (2N+1,)*D, whose axes hold the old values, the new values, and the mask."""
        base = 2 * num_tokens + 1
        tokens = points_at(self.states, num_tokens + 1, num_dims)
        before = flat_index(tokens.masked_fill(tokens == num_tokens, 0), base)
        masked = self.masked.unflatten(0, (self.num_sets, -1))[:, 0]
        ways = torch.arange(num_tokens + 1, device=masked.device) + num_tokens
        moved = offsets(masked, ways, base, num_dims)
        return before.unflatten(0, (self.num_sets, -1))[:, :, None] + moved[:, None]


def offsets(coordinates: Tensor, ways: Tensor, base: int, num_dims: int) -> Tensor:
    """What some coordinates add to a place in C order, for all combinations of their values.

    Args:
        coordinates: int64 (C, q). ways: int64 (R,), with values on an axis of `base`.

    Returns:
        int64 (C, R^q).
    """
    far = strides(base, num_dims, coordinates.device)[coordinates][..., None] * ways
    found = torch.zeros(len(coordinates), 1, dtype=torch.int64, device=coordinates.device)
    for i in range(far.shape[1]):
        found = (found[:, :, None] + far[:, i, None]).flatten(1)
    return found


def frozen_rates(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[FrozenRates]:
    """The rates of every partial state with a mask, some sets of unmasked coordinates of one size at a time."""
    n = lattice.num_tokens
    d = lattice.num_dims
    log_rates_of = guidance.rates_anywhere(denoiser, target_class)
    for level in range(d):
        tokens = lattice.tokens(level)
        log_rates, refused = in_batches(log_rates_of, tokens)
        masked = lattice.masked[level].repeat_interleave(n**level, dim=0)
        at_once = max(1, GROUP // (n**level * (n + 1) ** (d - level)))
        for first in range(0, comb(d, level), at_once):
            rows = slice(first * n**level, (first + at_once) * n**level)
            rates = log_rates[rows].gather(1, masked[rows, :, None].expand(-1, -1, n))
            log_z = rates.logsumexp(dim=-1)
            values = rates.softmax(dim=-1).masked_fill((log_z == NEG_INF)[..., None], 0.0)
            yield FrozenRates(
                min(at_once, comb(d, level) - first),
                flat_index(tokens[rows], n + 1),
                masked[rows],
                log_z,
                values,
                None if refused is None else refused.at(rows),
            )


@dataclass(frozen=True)
class FrozenChain:
    """A guided chain's rates at every partial state: all that the steps of any sampler need.

    Attributes:
        num_tokens: N. num_dims: D. guidance: whose rates these are. rates: for every set of unmasked coordinates.
    """

    num_tokens: int
    num_dims: int
    guidance: Guidance
    rates: Sequence[FrozenRates]

    @checked_at_the_end()
    def law_after(self, steps: Sequence[Step]) -> Tensor:
        """The exact law after the steps, started from all masked: float64 (N+1,)*D, index N being the mask.

        Raises:
            UserError: a remasking step on more states than memory holds.
        """
        law = self._start()
        for step in steps:
            law = apply_step(law, self.rates, step)
        return law

    @checked_at_the_end()
    def law_at_end(self, step: Step) -> tuple[Tensor, Tensor]:
        """The exact law after one step is repeated until nothing moves, and the expected number of steps.

        The step only unmasks, and always unmasks something: every state is left at once, so the law passes through the
        levels once (theory, section 17).

        Returns:
            (law as `law_after`; the expected number of steps of a sample, ()).
        """
        law = self._start()
        n = self.num_tokens
        d = self.num_dims
        flat = law.view(-1)
        visited = law.new_zeros(())
        for r in self.rates:
            mass = r.mass_of(flat)
            visited = visited + mass.sum()
            spread = mass[:, None] * step.moves(r.log_z, r.values, r.masked)
            flat.index_fill_(0, r.states, 0.0)
            flat.index_add_(0, r.places(n, d).flatten(), spread.flatten())
        return law, visited

    def _start(self) -> Tensor:
        """All mass on the state that is all masked."""
        device = self.rates[0].log_z.device
        law = torch.zeros([self.num_tokens + 1] * self.num_dims, dtype=torch.float64, device=device)
        law[(-1,) * self.num_dims] = 1
        return law


@checked
@checked_at_the_end()
def freeze(denoiser: Denoiser, guidance: Guidance, target_class: int | None) -> FrozenChain:
    """The rates of a chain at every partial state, computed once (theory, section 6).

    Raises:
        UserError: an unknown class, or a kernel too large to apply.
    """
    lattice = partial_state_lattice(denoiser, target_class)
    n = lattice.num_tokens
    d = lattice.num_dims
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
    """The law after one step, (N+1,)*D: every state's mass spread over its moves.

    Raises:
        UserError: a remasking step on more states, indexed by origin, than memory holds.
    """
    n = law.shape[0] - 1
    d = law.ndim
    again = step.unmasked_moves(n, law.device)
    if again is not None:
        return _apply_remasking(law, rates, step, again)
    after = torch.zeros_like(law)
    after[(slice(0, n),) * d] = law[(slice(0, n),) * d]
    for r, spread in _spread(law, rates, step):
        after.view(-1).index_add_(0, r.places(n, d).flatten(), spread.flatten())
    return after


def _spread(law: Tensor, rates: Sequence[FrozenRates], step: Step) -> Iterator[tuple[FrozenRates, Tensor]]:
    """The mass of every state with a mask, spread over the outcomes of its masked coordinates."""
    flat = law.flatten()
    for r in rates:
        mass = r.mass_of(flat)
        if is_on_cpu(mass) and not bool(mass.any()):  # steps of events leave whole levels empty
            continue
        yield r, mass[:, None] * step.moves(r.log_z, r.values, r.masked)


def _apply_remasking(law: Tensor, rates: Sequence[FrozenRates], step: Step, again: Tensor) -> Tensor:
    """`apply_step` where coordinates that were unmasked move too.

    Every entry of the masked coordinates' kernel has a place of its own in a tensor (2N+1,)*D, whose axes separate old
    values from new ones. The old values then move, axis by axis.

    Args:
        again: the kernel of an unmasked coordinate, (N, N+1).
    """
    n = law.shape[0] - 1
    d = law.ndim
    refuse_remasking(n, d)
    by_origin = law.new_zeros([2 * n + 1] * d)
    by_origin[(slice(0, n),) * d] = law[(slice(0, n),) * d]
    for r, spread in _spread(law, rates, step):
        by_origin.view(-1).index_copy_(0, r.places_by_origin(n, d).flatten(), spread.flatten())
    kernel = torch.cat([again, torch.eye(n + 1, dtype=again.dtype, device=again.device)])
    for _ in range(d):  # the first axis is moved, and becomes the last
        by_origin = by_origin.reshape(2 * n + 1, -1).T @ kernel
    return by_origin.reshape(law.shape)


def refuse_remasking(num_tokens: int, num_dims: int) -> None:
    """Raise UserError if the outcomes of a remasking step, indexed by origin, do not fit into memory."""
    needed = 3 * 8 * kernel_entries(num_tokens, num_dims)
    what = f"the law of a step that masks again on ({num_tokens}+1)^{num_dims} partial states"
    refuse_beyond_memory(needed, what, "compare samples instead")
