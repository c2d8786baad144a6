"""One step of a sampler, written once: drawn from by samplers, summed over by laws (theory, section 6).

Every parallel sampler is one step: freeze the state; each masked coordinate, independently, jumps with probability
J(Z_i, u) to a value drawn from rho_i / Z_i. They differ only in J (`JUMPS`). An `EventStep` fixes the number of events
instead of the length; with one event it is the chain itself.

The unmasking event and the value are drawn separately and in float64: one float32 Gumbel-max over values and mask is
biased (arXiv 2409.02908).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import raise_where
from mdlm_cfg.chain.policies import Policy, RatePolicy
from mdlm_cfg.chain.reductions import unrolled_logsumexp
from mdlm_cfg.chain.selections import Selection, Subset, uniform
from mdlm_cfg.support.instantiate import is_ours

NEG_INF = float("-inf")
JumpRule = Callable[[Tensor, Tensor], Tensor]  # (log Z, u) -> J, any shapes that broadcast
SHORT_OF_ONE = 1e-6  # how far below 1 a user-defined jump rule, perhaps in float32, may be at u = 1
OF_JUMPS = ("log_z", "u")  # arguments by which a user-defined function is recognised as one


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
    """-Z ln(1-u), by way of logarithms: at u = 1 it is infinite and not NaN, even if Z underflows."""
    return (log_z + (-torch.log1p(-u)).log()).exp()


JUMPS: dict[str, JumpRule] = {"tau_leaping": tau_leaping, "euler": euler, "d_cfg": d_cfg}
STAYS: dict[JumpRule, JumpRule] = {  # 1 - J with all its digits, even where J rounds to 1
    tau_leaping: lambda log_z, u: (-_expected_jumps(log_z, u)).exp(),
    d_cfg: lambda log_z, u: torch.sigmoid(torch.log1p(-u) - u.log() - log_z),
}


class Step(ABC):
    """A sampler's step from a state, given the guided rates: it may unmask, mask again and replace.

    A denoiser says nothing about unmasked coordinates, so their moves do not depend on the state: each moves
    independently, by one matrix (`unmasked_moves`). The moves of masked coordinates depend on their rates (`moves`).
    """

    @abstractmethod
    def draw(self, x: Tensor, log_rates: Tensor, generator: torch.Generator | None) -> Tensor:
        """The states after the step.

        Args:
            x: partial states, int64 (B, D).
            log_rates: of their masked coordinates, float64 (B, D, N); -inf elsewhere.
        """

    @abstractmethod
    def moves(self, log_z: Tensor, values: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """The same step's kernel over the outcomes of the masked coordinates.

        Args:
            log_z: of the m masked coordinates, (S, m); -inf where one cannot move.
            values: rho_i(v) / Z_i, (S, m, N).
            coordinates: which of the D coordinates these m are, int64 (m,) or (S, m); None is all of them.

        Returns:
            (S, (N+1)^m), outcomes in C order with the mask last; every row sums to 1.
        """

    def unmasked_moves(self, num_tokens: int, device: torch.device) -> Tensor | None:
        """The kernel of every coordinate that was unmasked before the step, independently of all others.

        Returns:
            float64 (N, N+1), from a value to a value or the mask; None if none of them moves: the step only unmasks.
        """
        return None

    @property
    def only_unmasks(self) -> bool:
        """Whether unmasked coordinates never change: laws then need one pass through the levels."""
        return self.unmasked_moves(1, torch.device("cpu")) is None


@dataclass(frozen=True)
class TimeStep(Step):
    """A step of fixed length: every masked coordinate jumps with probability J(Z_i, u), at the frozen rates.

    Args:
        jump: J. u: the fraction of the step, in (0, 1].
    """

    jump: JumpRule
    u: float

    def _probability(self, log_z: Tensor) -> Tensor:
        jump = self.jump(log_z.clone(), self._share(log_z)).double()  # it may write over its copy
        if not is_ours(self.jump):
            jump = self._checked(jump.expand_as(log_z), log_z)
        return jump.masked_fill(log_z == NEG_INF, 0.0)

    def _checked(self, jump: Tensor, log_z: Tensor) -> Tensor:
        """The probabilities of a user-defined jump rule; at u = 1 those just below 1 become 1, so that no mask is left.

        Raises:
            UserError: a value that is not a probability, which a law would use unnoticed.
        """

        def explain(row: int, z: Tensor, found: Tensor) -> str:
            return (
                f"the jump rule returns {float(found):g} for log Z = {float(z):g} and u = {self.u:g}: it must be a "
                "probability, from 0 to 1, and 1 at u = 1"
            )

        least = 1 - SHORT_OF_ONE if self.u == 1 else 0.0
        wrong = ~((jump >= least) & (jump <= 1)) & (log_z > NEG_INF)
        raise_where(wrong.flatten(), explain, log_z.flatten(), jump.flatten())
        return torch.ones_like(jump) if self.u == 1 else jump

    def _share(self, log_z: Tensor) -> Tensor:
        return torch.full((), self.u, dtype=torch.float64, device=log_z.device)

    def draw(self, x: Tensor, log_rates: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `Step.draw`."""
        log_z = unrolled_logsumexp(log_rates, dim=-1)
        jump = uniform(x.shape, generator, x.device) < self._probability(log_z)
        return torch.where(jump, draw_values(log_rates, log_z, generator), x)

    def moves(self, log_z: Tensor, values: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """See `Step.moves`."""
        jump = self._probability(log_z)
        stay = STAYS[self.jump](log_z, self._share(log_z)) if self.jump in STAYS else 1 - jump
        stay = stay.masked_fill(log_z == NEG_INF, 1.0)
        factors = torch.cat([jump[..., None] * values, stay[..., None]], dim=-1)  # (S, m, N + 1)
        moves = factors.new_ones(len(factors), 1)
        for i in range(factors.shape[1]):
            moves = (moves[:, :, None] * factors[:, i, None, :]).flatten(1)
        return moves


def share(log_z: Tensor, u: Tensor) -> Tensor:
    """J = u, whatever Z is: ancestral sampling by the normalised r_i."""
    return u.expand_as(log_z)


@dataclass(frozen=True)
class RemaskingStep(Step):
    """A step of ReMDM (arXiv 2503.00307; theory, section 18): it unmasks by r_i, and remasks coordinates.

    Args:
        u: the probability that a masked coordinate is unmasked, in [0, 1].
        remasked: sigma, the probability that a coordinate that was unmasked before the step is masked again.
    """

    u: float
    remasked: float

    def draw(self, x: Tensor, log_rates: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `Step.draw`."""
        mask_id = log_rates.shape[-1]
        after = TimeStep(share, self.u).draw(x, log_rates, generator)
        again = (uniform(x.shape, generator, x.device) < self.remasked) & (x != mask_id)
        return after.masked_fill(again, mask_id)

    def moves(self, log_z: Tensor, values: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """See `Step.moves`."""
        return TimeStep(share, self.u).moves(log_z, values, coordinates)

    def unmasked_moves(self, num_tokens: int, device: torch.device) -> Tensor | None:
        """See `Step.unmasked_moves`."""
        if self.remasked == 0:
            return None
        stay = torch.eye(num_tokens, dtype=torch.float64, device=device) * (1 - self.remasked)
        return torch.cat([stay, torch.full_like(stay[:, :1], self.remasked)], dim=1)


class SelectFirstStep(Step):
    """A step that selects coordinates, and then draws their values independently, by the frozen rates."""

    @abstractmethod
    def selection(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Selection:
        """Which coordinates are unmasked.

        Args:
            log_z: log Z_i, (..., m). log_r: gives log r_i(v), (..., m, N), when called. coordinates: which of the D
                coordinates these m are, int64, broadcasts to (..., m).
        """

    def draw(self, x: Tensor, log_rates: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `Step.draw`."""
        log_z = unrolled_logsumexp(log_rates, dim=-1)
        places = torch.arange(x.shape[1], device=x.device)
        selection = self.selection(log_z, lambda: normalized(log_rates, log_z), places)
        if isinstance(selection.count, int):  # only these values are needed
            chosen = selection.draw_places(generator)
            values = draw_values(log_rates, log_z, generator, chosen)
            able = selection.log_weight.gather(1, chosen) > NEG_INF
            return x.scatter(1, chosen, torch.where(able, values, x.gather(1, chosen)))
        chosen = selection.draw(generator)
        return torch.where(chosen | log_z.isnan(), draw_values(log_rates, log_z, generator), x)

    def moves(self, log_z: Tensor, values: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """See `Step.moves`."""
        num_masked, n = values.shape[1:]
        places = torch.arange(num_masked, device=log_z.device) if coordinates is None else coordinates
        moves = values.new_zeros(len(values), (n + 1) ** num_masked)
        for subset, chance in self.selection(log_z, values.log, places).chances().items():
            term = chance[:, None]
            for i in subset:
                term = (term[:, :, None] * values[:, i, None, :]).flatten(1)
            moves[:, outcomes(subset, num_masked, n, log_z.device)] += term
        return moves


@dataclass(frozen=True)
class EventStep(SelectFirstStep):
    """A step with a fixed number of events, at the frozen rates: a policy picks the coordinates, without replacement.

    With `RatePolicy` these are the first `count` of independent exponential clocks with rates Z_i. Exact for
    count = 1.

    Args:
        count: number of coordinates to unmask; all remaining ones if there are fewer.
        policy: picks the coordinates.
    """

    count: int
    policy: Policy = field(default_factory=RatePolicy)

    def selection(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Selection:
        """See `SelectFirstStep.selection`."""
        return Selection(self.count, *self.policy.choice(log_z, log_r, coordinates))


def outcomes(subset: Subset, num_masked: int, num_tokens: int, device: torch.device) -> Tensor:
    """The places in C order of all values of some masked coordinates, the others masked, int64 (N^|subset|,)."""
    base = num_tokens + 1
    found = torch.zeros(1, dtype=torch.int64, device=device)
    for i in range(num_masked):
        ways = torch.arange(num_tokens, device=device) if i in subset else found.new_full((1,), num_tokens)
        found = (found[:, None] * base + ways).flatten()
    return found


def normalized(log_rates: Tensor, log_z: Tensor) -> Tensor:
    """log r_i(v) = log rho_i(v) - log Z_i, (B, D, N); -inf where nothing moves."""
    return log_rates - log_z.masked_fill(log_z == NEG_INF, 0.0)[..., None]


def draw_values(
    log_rates: Tensor, log_z: Tensor, generator: torch.Generator | None, places: Tensor | None = None
) -> Tensor:
    """A value v of every coordinate with probability rho_i(v) / Z_i, by inverting the cdf in float64.

    Args:
        log_rates: (B, D, N).
        log_z: (B, D), its logsumexp.
        places: coordinates to draw, int64 (B, k), with the same values as if all were drawn; None is all.

    Returns:
        int64 (B, D), or (B, k); any value at coordinates without any rate (unmasked ones), and the mask N where the
        rates are NaN, so that the error stays visible.
    """
    u = uniform(log_z.shape, generator, log_z.device)
    if places is not None:
        u = u.gather(1, places)
        log_z = log_z.gather(1, places)
        log_rates = log_rates.gather(1, places[..., None].expand(-1, -1, log_rates.shape[-1]))
    cdf = (log_rates - log_z[..., None]).exp_().cumsum(dim=-1)
    drawn = u[..., None] * cdf[..., -1:]
    # the first value whose cdf exceeds the draw, else the last: a value of probability 0 is never drawn
    values = (cdf[..., :-1] <= drawn).sum(dim=-1)
    return values.masked_fill_(log_z.isnan(), log_rates.shape[-1])
