"""The chain under a policy, level by level: which coordinate is next, and its value (theory, sections 10 and 11)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mdlm_cfg.chain.bound_rules import Refused
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.policies import KindPolicy, Policy, policy_of
from mdlm_cfg.chain.reductions import unrolled_logsumexp
from mdlm_cfg.laws.rates import LevelRates, by_coordinate, level_edges

NEG_INF = float("-inf")


@dataclass(frozen=True)
class LevelChoices:
    """The choices at every partial state of one level.

    Attributes:
        edges: log rho_i(v | x_U) + log_base(x_U), as in `LevelRates`.
        log_base: (C(D, l), N^l).
        log_z: log Z_i of the masked coordinates, (C(D, l), D - l, N^l).
        log_pi: log of the policy's pi(i | x_U), the same shape.
        refused: as in `LevelRates`.
    """

    edges: list[Tensor]
    log_base: Tensor
    log_z: Tensor
    log_pi: Tensor
    refused: Refused | None = None

    def rates(self, power: int = 0) -> LevelRates:
        """The rates to push: pi_i(x_U) r_i(v | x_U) Z_i^power.

        Args:
            power: 0 for the law; 1, 2 and 3 for the first moments of the weights W (theory, section 11).
        """
        log_jump = self.log_pi + (power - 1) * self.log_z - self.log_base[:, None]
        # nothing leaves, and every edge is -inf
        log_jump = log_jump.masked_fill(self.log_z == NEG_INF, 0.0)
        return LevelRates(self.edges, log_jump, torch.zeros_like(self.log_base), self.refused)

    def log_values(self, lattice: Lattice, level: int) -> Tensor:
        """log r_i(v | x_U) of the masked coordinates, (C(D, l), N^l, D - l, N)."""
        return _log_values(self.edges, self.log_base, self.log_z, lattice, level)


def policy_or_own(policy: Policy | str | None, guidance: Guidance) -> Policy:
    """A policy, given as itself or by its name; for None, the default order of the kind of guidance."""
    return KindPolicy(guidance.kind) if policy is None else policy_of(policy)


def level_choices(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, policy: Policy, lattice: Lattice
) -> Iterator[LevelChoices]:
    """The choices of levels 0, 1, ..., D - 1, one level at a time (theory, section 10)."""
    policy.check(lattice.num_dims)
    for level, one in enumerate(level_edges(denoiser, guidance, target_class, lattice)):
        edges = one.edges
        log_base = one.log_base
        log_z = by_coordinate([unrolled_logsumexp(edge, dim=2) for edge in edges], lattice, level) - log_base[:, None]
        log_r = partial(_log_values, edges, log_base, log_z, lattice, level)  # only for a policy that calls it
        log_pi = policy.log_choice(log_z.transpose(1, 2), log_r, masked_coordinates(lattice, level))
        yield LevelChoices(edges, log_base, log_z, log_pi.transpose(1, 2).contiguous(), one.refused)


def masked_coordinates(lattice: Lattice, level: int) -> Tensor:
    """The masked coordinates of every subset of one level, int64 (C(D, l), 1, D - l)."""
    return lattice.masked[level][:, None]


def _log_values(edges: list[Tensor], log_base: Tensor, log_z: Tensor, lattice: Lattice, level: int) -> Tensor:
    """log r_i(v | x_U) = edge - log_base - log Z, assembled from the edges: (C, N^l, D - l, N)."""
    rows = [by_coordinate([edge[:, :, v] for edge in edges], lattice, level) for v in range(lattice.num_tokens)]
    total = log_z + log_base[:, None]
    return (torch.stack(rows, dim=-1) - total.masked_fill(total == NEG_INF, 0.0)[..., None]).transpose(1, 2)
