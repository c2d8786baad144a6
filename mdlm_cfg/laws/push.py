"""The push: mass moves from masked to less masked states, level by level (theory, section 4).

It moves a flow F with F(all masked) = 1 and

    F(x_U + {i=v}) += F(x_U) * g(x_U) * rate_i(v | x_U) / Lambda(x_U),

with g = 1 for the probability that x_U is ever visited, and g = Lambda / (s + Lambda) for the Laplace transform of the
law in time (`mdlm_cfg.laws.in_time`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.policies import Policy, policy_of
from mdlm_cfg.laws.policy_transitions import level_choices
from mdlm_cfg.laws.rates import LevelRates, level_rates, partial_state_lattice, refuse_lost
from mdlm_cfg.support.arguments import checked

NEG_INF = float("-inf")
SMALL = 2**15  # numbers up to which calls cost more than memory


def push(rates: LevelRates, flow: Tensor, lattice: Lattice, level: int) -> Tensor:
    """The flow into level l + 1 from the flow out of level l: sum over parents of flow * rho / Lambda.

    Args:
        flow: (..., C(D, l), N^l), real or complex.

    Returns:
        (..., C(D, l+1), N^(l+1)).

    Raises:
        UserError: a flow that arrives at a state without rates.
    """
    if rates.refused is not None:
        rates.refused.where((flow != 0).flatten(0, -3).any(dim=0) if flow.ndim > 2 else flow > 0)
    parents = lattice.parents[level]
    lead = flow.shape[:-2]
    children = flow.new_zeros(*lead, len(parents), lattice.num_tokens ** (level + 1))
    for j, edge in enumerate(rates.edges):
        shape = edge.shape[0], edge.shape[1], edge.shape[3]
        rows = parents[:, j] if rates.log_jump.shape[1] == 1 else lattice.rows[level][j]
        log_jump = rates.log_jump.flatten(0, 1).index_select(0, rows).view(shape)
        inflow = flow.index_select(flow.ndim - 2, parents[:, j]).view(*lead, *shape)
        into = children.view(*lead, *edge.shape)
        if children.numel() <= SMALL:
            into.addcmul_((edge + log_jump[:, :, None]).exp_().to(flow.dtype), inflow[..., None, :])
            continue
        for v in range(lattice.num_tokens):  # not at once: that would broadcast over a short inner axis
            jump = (edge[:, :, v] + log_jump).exp_()
            into[..., v, :].addcmul_(jump.to(flow.dtype), inflow)
    return children


def push_log(rates: LevelRates, log_flow: Tensor, lattice: Lattice, level: int) -> Tensor:
    """`push` in logarithms, for flows that are weights and span more than float64 does (theory, section 11).

    Args:
        log_flow: (C(D, l), N^l).

    Returns:
        (C(D, l+1), N^(l+1)).
    """
    if rates.refused is not None:
        rates.refused.where(log_flow > NEG_INF)
    parents = lattice.parents[level]
    every_jump = rates.log_jump.expand(-1, lattice.num_dims - level, -1).flatten(0, 1)
    into: list[Tensor] = []
    for j, edge in enumerate(rates.edges):
        shape = edge.shape[0], edge.shape[1], 1, edge.shape[3]
        log_jump = every_jump.index_select(0, lattice.rows[level][j]).view(shape)
        inflow = log_flow.index_select(0, parents[:, j]).view(shape)
        into.append((edge + log_jump + inflow).reshape(len(parents), -1))
    return torch.stack(into).logsumexp(dim=0)


def visit_probabilities(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    lattice: Lattice,
    policy: Policy | str | None = None,
) -> Iterator[Tensor]:
    """The visit law of levels 0, 1, ..., D, one at a time: each float64 (C(D, l), N^l), summing to 1.

    Args:
        policy: which coordinate comes next (theory, section 10); None is the kind's own.
    """
    flow = torch.ones(1, 1, dtype=torch.float64, device=lattice.device)
    yield flow
    if policy is None:
        each = level_rates(denoiser, guidance, target_class, lattice)
    else:
        made = policy_of(policy)
        each = (choices.rates() for choices in level_choices(denoiser, guidance, target_class, made, lattice))
    for level, rates in enumerate(each):
        flow = push(rates, flow, lattice, level)
        refuse_lost(flow.sum(), target_class)
        yield flow


@checked
@checked_at_the_end()
def visit_law(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, policy: Policy | str | None = None
) -> list[Tensor]:
    """The probability that the guided chain ever visits each partial state (theory, sections 4 and 10).

    Returns:
        levels: float64 (C(D, l), N^l) for l = 0..D; every level sums to 1, and the last is the terminal law.
    """
    lattice = partial_state_lattice(denoiser, target_class, states_kept=1)
    return list(visit_probabilities(denoiser, guidance, target_class, lattice, policy))
