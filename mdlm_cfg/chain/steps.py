"""One step of a sampler, written once: drawn from by samplers, summed over by laws (theory, section 6).

Every parallel sampler is one step: freeze the state; each masked coordinate, independently, jumps with probability
J(Z_i, u) to a value drawn from rho_i / Z_i. They differ in J alone (`JUMPS`). An `EventStep` fixes the number of events
instead of the length; with one event it is the chain itself.

The unmasking event and the value are drawn separately and in float64: one float32 Gumbel-max over values and mask is
biased (arXiv 2409.02908).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import is_on_cpu
from mdlm_cfg.chain.policies import Policy, RatePolicy, log_first
from mdlm_cfg.chain.reductions import unrolled_logsumexp

NEG_INF = float("-inf")
JumpRule = Callable[[Tensor, Tensor], Tensor]  # (log Z, u) -> J, any shapes that broadcast


def tau_leaping(log_z: Tensor, u: Tensor) -> Tensor:
    """J = 1 - (1-u)^Z: the frozen rate, integrated over the step (the paper's sampler)."""
    return -torch.expm1(-_expected_jumps(log_z, u))


def euler(log_z: Tensor, u: Tensor) -> Tensor:
    """J = min(1, -Z ln(1-u)): the frozen rate times the step in the clock, clamped."""
    return _expected_jumps(log_z, u).clamp(max=1.0)


def d_cfg(log_z: Tensor, u: Tensor) -> Tensor:
    """J = uZ / (uZ + 1 - u): guidance of the transition probabilities (Schiff et al. 2024, "Simple guidance")."""
    return torch.sigmoid(log_z + u.log() - torch.log1p(-u))


def _expected_jumps(log_z: Tensor, u: Tensor) -> Tensor:
    """-Z ln(1-u), in logarithms: of a Z that underflows, at the step that has u = 1, it is infinite and not NaN."""
    return (log_z + (-torch.log1p(-u)).log()).exp()


JUMPS: dict[str, JumpRule] = {"tau_leaping": tau_leaping, "euler": euler, "d_cfg": d_cfg}


class Step(Protocol):
    """What a sampler does with a state, once the guided rates are known."""

    def draw(self, x: Tensor, log_rates: Tensor, generator: torch.Generator | None) -> Tensor:
        """The states after the step.

        Args:
            x: partial states, int64 (B, D).
            log_rates: of their masked coordinates, float64 (B, D, N); -inf elsewhere.
        """
        ...

    def moves(self, log_z: Tensor, values: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """The same step's kernel over the outcomes of the masked coordinates.

        Args:
            log_z: of the m masked coordinates, (S, m); -inf where one cannot move.
            values: rho_i(v) / Z_i, (S, m, N).
            coordinates: which of the D coordinates these m are, int64 (m,) or (S, m); None is all of them.

        Returns:
            (S, (N+1)^m), outcomes in C order with the mask last; every row sums to 1.
        """
        ...


@dataclass(frozen=True)
class TimeStep:
    """A step of a length: every masked coordinate jumps with probability J(Z_i, u), by the frozen rates.

    Args:
        jump: J. u: the fraction of the step, in (0, 1].
    """

    jump: JumpRule
    u: float

    def _probability(self, log_z: Tensor) -> Tensor:
        jump = self.jump(log_z, torch.full((), self.u, dtype=torch.float64, device=log_z.device))
        return jump.masked_fill(log_z == NEG_INF, 0.0)

    def draw(self, x: Tensor, log_rates: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `Step.draw`."""
        log_z = unrolled_logsumexp(log_rates, dim=-1)
        jump = uniform(x.shape, generator, x.device) < self._probability(log_z)
        return torch.where(jump, draw_values(log_rates, log_z, generator), x)

    def moves(self, log_z: Tensor, values: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """See `Step.moves`."""
        jump = self._probability(log_z)[..., None]
        factors = torch.cat([jump * values, 1 - jump], dim=-1)  # (S, m, N + 1)
        moves = factors.new_ones(len(factors), 1)
        for i in range(factors.shape[1]):
            moves = (moves[:, :, None] * factors[:, i, None, :]).flatten(1)
        return moves


@dataclass(frozen=True)
class EventStep:
    """A step of a number of events, by the frozen rates: coordinates as a policy prefers them, without replacement.

    By the rates themselves it is the order of the first `count` of independent exponential clocks of rates Z_i. Exact
    for count = 1.

    Args:
        count: coordinates to unmask; all of those left where there are fewer.
        policy: which coordinates.
    """

    count: int
    policy: Policy = field(default_factory=RatePolicy)

    def draw(self, x: Tensor, log_rates: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `Step.draw`."""
        log_z = unrolled_logsumexp(log_rates, dim=-1)
        tier, log_weight = self.policy.choice(
            log_z, lambda: _normalized(log_rates, log_z), torch.arange(x.shape[1], device=x.device)
        )
        clocks = uniform(x.shape, generator, x.device).neg().log1p().neg().log() - log_weight
        count = min(self.count, x.shape[1])
        if tier is None:
            chosen = clocks.topk(count, dim=1, largest=False).indices
        else:
            order = clocks.argsort(dim=1)
            chosen = order.gather(1, tier.gather(1, order).argsort(dim=1, stable=True))[:, :count]
        # what has nowhere to go stays as it is: coordinates that are unmasked already
        values = torch.where(log_z == NEG_INF, x, draw_values(log_rates, log_z, generator))
        return x.scatter(1, chosen, values.gather(1, chosen))

    def moves(self, log_z: Tensor, values: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """See `Step.moves`."""
        num_masked = log_z.shape[1]
        places = torch.arange(num_masked, device=log_z.device) if coordinates is None else coordinates
        tier, log_weight = self.policy.choice(log_z, values.log, places)
        stay = torch.zeros_like(values[:, :, :1])
        moving = torch.cat([values, stay], dim=-1)
        staying = torch.cat([torch.zeros_like(values), stay + 1], dim=-1)
        moves = moving.new_zeros(len(moving), (values.shape[-1] + 1) ** num_masked)
        for subset, chance in subset_chances(log_weight, min(self.count, num_masked), tier).items():
            term = chance[:, None]
            for i in range(num_masked):
                term = (term[:, :, None] * (moving if i in subset else staying)[:, i, None, :]).flatten(1)
            moves += term
        return moves


def subset_chances(log_weight: Tensor, count: int, tier: Tensor | None = None) -> dict[tuple[int, ...], Tensor]:
    """The probability of every set of `count` coordinates drawn one by one without replacement.

    P(A) = sum_{i in A} P(A - i) pi(i | all but A - i), from smaller sets to larger ones.

    Args:
        log_weight: (S, m), coordinates being drawn in proportion to exp of it. tier: int64 (S, m), lower first; None
            where no coordinate goes before another.

    Returns:
        for every subset of range(m) of size `count`, its probability (S,); and for smaller ones, after which nothing
        else has a weight.
    """
    m = log_weight.shape[1]
    chances: dict[tuple[int, ...], Tensor] = {(): torch.ones_like(log_weight[:, 0])}
    ended: dict[tuple[int, ...], Tensor] = {}
    for size in range(1, count + 1):
        grown = {subset: torch.zeros_like(log_weight[:, 0]) for subset in combinations(range(m), size)}
        for before, chance in chances.items():
            left = [k for k in range(m) if k not in before]
            nothing = (log_weight[:, left] == NEG_INF).all(dim=1)
            if not is_on_cpu(nothing) or bool(nothing.any()):
                ended[before] = chance * nothing
            first = log_first(None if tier is None else tier[:, left], log_weight[:, left]).exp()
            for place, i in enumerate(left):
                grown[tuple(sorted((*before, i)))] += chance * first[:, place]
        chances = grown
    return {**chances, **ended}


def _normalized(log_rates: Tensor, log_z: Tensor) -> Tensor:
    """log r_i(v) = log rho_i(v) - log Z_i, (B, D, N); -inf where nothing moves."""
    return log_rates - log_z.masked_fill(log_z == NEG_INF, 0.0)[..., None]


def draw_values(log_rates: Tensor, log_z: Tensor, generator: torch.Generator | None) -> Tensor:
    """A value v of every coordinate with probability rho_i(v) / Z_i, by inverting the cdf in float64.

    Args:
        log_rates: (B, D, N).
        log_z: (B, D), its logsumexp.

    Returns:
        int64 (B, D); any value at coordinates without any rate (unmasked ones), and the mask N where the rates are NaN,
        so that what is wrong stays visible.
    """
    cdf = (log_rates - log_z.masked_fill(log_z == NEG_INF, 0.0)[..., None]).exp().cumsum(dim=-1)
    drawn = uniform(log_z.shape, generator, log_z.device)[..., None] * cdf[..., -1:]
    # the first value whose cdf exceeds the draw: one of probability 0 never is
    values = (cdf <= drawn).sum(dim=-1).clamp(max=log_rates.shape[-1] - 1)
    return values.masked_fill(log_z.isnan(), log_rates.shape[-1])


def uniform(shape: torch.Size, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform draws on [0, 1), float64."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
