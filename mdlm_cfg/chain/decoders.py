"""Decoders that draw first and select afterwards, and adaptive ones (theory, sections 16 and 17).

A policy (`mdlm_cfg.chain.policies`) selects a coordinate by its whole distribution r_i, and then draws its value. The
decoders in use do the opposite: they draw a candidate y_i ~ r_i for every masked coordinate, look at the probability
c_i = r_i(y_i) of the *drawn* value, and keep some of the candidates; the others stay masked. Keeping what turned out
probable sharpens the law, also with exact conditionals, without guidance and one coordinate at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from mdlm_cfg.chain.policies import TIE, Blocks, Policy, Uniform, tiers
from mdlm_cfg.chain.reductions import unrolled_logsumexp
from mdlm_cfg.chain.selections import Selection
from mdlm_cfg.chain.steps import SelectFirstStep, Step, draw_values, normalized, outcomes
from mdlm_cfg.support.errors import UserError

NEG_INF = float("-inf")


class Keeping(ABC):
    """Which of the drawn candidates are kept."""

    @abstractmethod
    def selection(self, log_c: Tensor) -> Selection:
        """Which candidates are kept, from the log-probability ln c_i of every drawn value.

        Args:
            log_c: (..., m) in nats; -inf where a coordinate is not a candidate.
        """


@dataclass(frozen=True)
class MostConfident(Keeping):
    """The k candidates with the largest c_i; ties are broken at random.

    Args:
        count: k; all candidates if there are fewer.
        temperature: t of Gumbel noise: the k largest of ln c_i + t G_i, which is the same as drawing them one by one,
            without replacement, in proportion to c_i^(1/t). 0 is no noise.
    """

    count: int
    temperature: float = 0.0

    def selection(self, log_c: Tensor) -> Selection:
        """See `Keeping.selection`."""
        if self.temperature:
            return Selection(self.count, None, log_c / self.temperature)
        able = log_c > NEG_INF
        return Selection(able.sum(dim=-1).clamp(max=self.count), tiers(log_c), _equal(able))


@dataclass(frozen=True)
class AboveThreshold(Keeping):
    """Every candidate with c_i >= threshold, and always the most probable one (Fast-dLLM, arXiv 2505.22618)."""

    threshold: float

    def selection(self, log_c: Tensor) -> Selection:
        """See `Keeping.selection`."""
        able = log_c > NEG_INF
        above = (log_c >= log(self.threshold) - TIE) & able
        count = torch.minimum(above.sum(dim=-1).clamp(min=1), able.sum(dim=-1))
        return Selection(count, tiers(log_c), _equal(able))


@dataclass(frozen=True)
class ByFactor(Keeping):
    """The n most probable candidates, n the largest with (n + 1)(1 - c_(n)) < factor, at least 1 (arXiv 2505.22618).

    c_(n) is the n-th largest. The left side grows with n, so this n is also one less than the first that fails.
    """

    factor: float

    def selection(self, log_c: Tensor) -> Selection:
        """See `Keeping.selection`."""
        able = log_c > NEG_INF
        ranked = log_c.sort(dim=-1, descending=True).values.exp()
        number = torch.arange(2, ranked.shape[-1] + 2, device=log_c.device)
        within = number * (1 - ranked) < self.factor - TIE
        count = torch.minimum(within.sum(dim=-1).clamp(min=1), able.sum(dim=-1))
        return Selection(count, tiers(log_c), _equal(able))


@dataclass(frozen=True)
class DrawFirstStep(Step):
    """A step that draws a candidate for every masked coordinate, and keeps some (theory, section 16).

        kernel(x_U -> x_U + {A = y_A}) = sum over joint draws y of prod_i r_i(y_i) P(A is kept | c(y)).

    Args:
        keeping: which are kept.
        blocks: candidates are those of the first block with a mask, as in LLaDA's semi-autoregressive decoding; None is
            one block.
    """

    keeping: Keeping
    blocks: Blocks | None = None

    def draw(self, x: Tensor, log_rates: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `Step.draw`."""
        log_z = unrolled_logsumexp(log_rates, dim=-1)
        drawn = draw_values(log_rates, log_z, generator)
        log_r = normalized(log_rates, log_z)
        log_c = log_r.gather(-1, drawn.clamp(max=log_r.shape[-1] - 1)[..., None]).squeeze(-1)
        candidate = candidates(self.blocks, log_z, torch.arange(x.shape[1], device=x.device))
        kept = self.keeping.selection(log_c.masked_fill(~candidate, NEG_INF)).draw(generator)
        return torch.where(kept | log_z.isnan(), drawn, x)

    def moves(self, log_z: Tensor, values: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """See `Step.moves`."""
        states, m, n = values.shape
        device = values.device
        places = torch.arange(m, device=device) if coordinates is None else coordinates
        candidate = candidates(self.blocks, log_z, places)
        # a coordinate that cannot move is drawn uniformly: its draws sum to 1 and change nothing
        able = (log_z > NEG_INF)[..., None]
        drawn = torch.where(able, values, 1.0 / n)
        chance = values.new_ones(states, 1)
        log_c = values.new_zeros(states, 1, 0)
        for i in range(m):  # all joint draws of the m coordinates, in C order
            own = values[:, i].log().masked_fill(~candidate[:, i, None], NEG_INF)
            chance = (chance[:, :, None] * drawn[:, i, None, :]).flatten(1)
            before = log_c[:, :, None].expand(-1, -1, n, -1)
            own = own[:, None, :, None].expand(-1, log_c.shape[1], -1, -1)
            log_c = torch.cat([before, own], dim=-1).flatten(1, 2)
        chances = self.keeping.selection(log_c.flatten(0, 1)).chances()
        moves = values.new_zeros(states, (n + 1) ** m)
        for subset, kept in chances.items():
            mass = (chance * kept.view(states, -1)).view(states, *[n] * m)
            summed = [1 + i for i in range(m) if i not in subset]
            mass = mass.sum(dim=summed) if summed else mass
            moves[:, outcomes(subset, m, n, device)] += mass.reshape(states, -1)
        return moves


@dataclass(frozen=True)
class EntropyBoundStep(SelectFirstStep):
    """Coordinates by rising entropy H_i of r_i, the longest prefix with sum H - max H <= gamma (EB-Sampler,
    arXiv 2505.24857); then their values, independently.

    The bound is on the mutual information of the values of one step, where the r_i are conditionals of one joint;
    guided r_i are not, and then nothing is bounded. Of the paper's orders this is the one by entropy.

    Args:
        gamma: in nats, at least 0; at 0, one coordinate at a time together with all whose values are certain.
        blocks: as in `DrawFirstStep`.
    """

    gamma: float
    blocks: Blocks | None = None

    def selection(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Selection:
        """See `SelectFirstStep.selection`."""
        candidate = candidates(self.blocks, log_z, coordinates)
        log_values = log_r()
        entropy = -(log_values.exp() * log_values.clamp(min=-1e300)).sum(dim=-1)
        ranked = entropy.masked_fill(~candidate, float("inf")).sort(dim=-1).values
        before = ranked.cumsum(dim=-1) - ranked  # the sum without the largest of the prefix
        within = (before <= self.gamma + TIE) & (ranked < float("inf"))
        return Selection(within.sum(dim=-1), tiers((-entropy).masked_fill(~candidate, NEG_INF)), _equal(candidate))


def candidates(blocks: Blocks | None, log_z: Tensor, coordinates: Tensor) -> Tensor:
    """The coordinates that may be unmasked now, bool (..., m): those of the first block that has any.

    Args:
        log_z: (..., m); -inf where a coordinate cannot move. coordinates: as in `Policy.preference`.
    """
    able = log_z > NEG_INF
    if blocks is None:
        return able
    tier, _ = blocks.choice(log_z, lambda: log_z[..., None], coordinates)
    assert tier is not None  # blocks come one after another
    return able & (tier == tier.amin(dim=-1, keepdim=True))


def as_blocks(policy: Policy | None, name: str) -> Blocks | None:
    """The blocks of a decoder that has an order of its own within them.

    Raises:
        UserError: any other policy.
    """
    if policy is None or (isinstance(policy, Blocks) and policy.within == Uniform()):
        return policy
    raise UserError(
        f"{name} takes no policy {policy}: it chooses the coordinates itself and takes only blocks, such as "
        "policy=blocks(0,1|2,3)"
    )


def _equal(able: Tensor) -> Tensor:
    """Equal log-weights of all coordinates that can be taken: 0, and -inf elsewhere."""
    return torch.zeros_like(able, dtype=torch.float64).masked_fill(~able, NEG_INF)
