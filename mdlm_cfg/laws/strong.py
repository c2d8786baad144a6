"""Rates under strong guidance, where w times the rounding of a log-ratio would be seen (theory, section 3).

log rho_i(v | x_U) = log p(v | x_U, z) + w log[r(x_U + {i=v}) / r(x_U)] with r = p(. | z) / p(.). What decides a jump
are the differences between values, and between coordinates: each is taken as the logarithm of a quotient of ratios
known to 32 digits, so that values that tie, or nearly, do so to 16 digits of their difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mdlm_cfg.chain.doubled import Double, best_of, divide, log_quotient
from mdlm_cfg.chain.guidance import Guidance, refuse_infinite
from mdlm_cfg.chain.lattice import Lattice

NEG_INF = float("-inf")
STRONG = 1e4  # from here on; below, what rounding leaves of a law is under 1e-11


@runtime_checkable
class Doubled(Protocol):
    """A denoiser of a joint whose marginals are known to 32 digits."""

    def doubled_marginals(self, target_class: int | None) -> list[Double]:
        """p(x_U | z) of every partial state by level, pairs of float64 (C(D, l), N^l); None is the whole mixture."""
        ...


def is_strong(guidance: Guidance, target_class: int | None, num_dims: int) -> bool:
    """Whether some step is guided so strongly that float64 ratios do not do."""
    return target_class is not None and max(guidance.table(num_dims)) > STRONG


def ratios(denoiser: Doubled, guidance: Guidance, target_class: int, lattice: Lattice) -> list[tuple[Tensor, Double]]:
    """log p(x_U | z) and r(x_U) of every partial state, by level; r is 0 where the class has nothing.

    Raises:
        UserError: r is infinite.
    """
    out = []
    whole = denoiser.doubled_marginals(None)
    for level, (own, all_) in enumerate(zip(denoiser.doubled_marginals(target_class), whole, strict=True)):
        infinite = torch.where((own[0] > 0) & (all_[0] == 0), torch.inf, 0.0).reshape(-1, 1)
        refuse_infinite(infinite, lattice.tokens(level), lattice.num_tokens, target_class, guidance.label)
        high, low = divide(own, all_)
        impossible = own[0] == 0
        out.append((own[0].log(), (high.masked_fill(impossible, 0.0), low.masked_fill(impossible, 0.0))))
    return out


def strong_edges(
    denoiser: Doubled, guidance: Guidance, target_class: int, lattice: Lattice
) -> Iterator[tuple[list[Tensor], Tensor, list[Double], Double]]:
    """For every level: edges relative to the best of their coordinate, log p(x_U | z), those bests, and r(x_U)."""
    known = ratios(denoiser, guidance, target_class, lattice)
    for level, w in enumerate(guidance.table(lattice.num_dims)):
        (log_here, r_here), (log_there, r_there) = known[level], known[level + 1]
        edges, bests = [], []
        for j in range(level + 1):
            r = lattice.split(r_there[0], level, j), lattice.split(r_there[1], level, j)
            best = best_of(r, dim=2)
            log_cond = lattice.split(log_there, level, j)
            edges.append((log_cond + w * log_quotient(r, best)).masked_fill(log_cond == NEG_INF, NEG_INF))
            bests.append(best)
        yield edges, log_here, bests, r_here
