"""Exact laws of the guided chain over (partial) states, for any denoiser (theory, sections 3 to 5).

Everything is pushed from masked to less masked states, level by level in the number of unmasked coordinates
(`mdlm_cfg.chain.lattice`). What moves is a flow F with F(all masked) = 1 and

    F(x_U + {i=v}) += F(x_U) * g(x_U) * rho_i(v | x_U) / Lambda(x_U),

with g = 1 for the probability that x_U is ever visited, and g = Lambda / (s + Lambda) for the Laplace transform of the
law in time, from which the law at a clock time is one contour integral: no ODE, and nothing gets stiff as w grows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance, geometric_mean
from mdlm_cfg.chain.lattice import Lattice, sum_short
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableDenoiser, TableMixture, check_class

NEG_INF = float("-inf")
MAX_BATCH = 2**16  # partial states a denoiser is asked for at a time
MAX_LOG_RANGE = 600.0  # of T within a level: sums of exp(log T) then neither overflow nor lose a term to underflow
CONTOUR_NODES = 24  # of which half are conjugates; the contour's own error is e^(-1.36 * 24) = 7e-15


@dataclass(frozen=True)
class LevelRates:
    """The guided jump rates out of every partial state of one level.

    Attributes:
        edges: one tensor (C(D, l+1), N^j, N, N^(l-j)) for every position j that the new coordinate can take among the
            unmasked ones (see `Lattice.split`): log rho_i(v | x_U) up to a constant of the state x_U.
        log_jump: what to add to an edge of state x_U and coordinate i for the log-probability that it is the next jump,
            (C(D, l), D - l, N^l), or with an axis of length 1 where it is the same for all coordinates.
        log_exit: log Lambda, (C(D, l), N^l); -inf where nothing can leave (states never visited).
    """

    edges: list[Tensor]
    log_jump: Tensor
    log_exit: Tensor


def level_rates(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[LevelRates]:
    """The rates of levels 0, 1, ..., D - 1, one level at a time (theory, section 3)."""
    if isinstance(denoiser, TableDenoiser):
        source = _table_edges(denoiser, guidance, target_class, lattice)
    else:
        source = _denoiser_edges(denoiser, guidance, target_class, lattice)
    for level, (edges, log_base) in enumerate(source):
        yield rates_from_edges(edges, log_base, guidance.kind, lattice, level)


def rates_from_edges(edges: list[Tensor], log_base: Tensor, kind: str, lattice: Lattice, level: int) -> LevelRates:
    """The rates of one level from its edges, where log rho = edge - log_base(x_U) (theory, section 3)."""
    num_masked = lattice.num_dims - level
    log_sum = by_coordinate([_logsumexp(edge, dim=2) for edge in edges], lattice, level)
    if kind == "normalized":
        log_z = torch.zeros_like(log_sum).masked_fill_(log_sum == NEG_INF, NEG_INF)
        log_exit = _logsumexp(log_z, dim=1)
        log_jump = -log_sum - math.log(num_masked)
    else:
        log_z = log_sum.sub_(log_base[:, None])
        log_exit = _logsumexp(log_z, dim=1)
        log_jump = (-log_base - log_exit)[:, None]
    log_jump.masked_fill_(log_jump == math.inf, 0.0)  # nothing leaves: every edge is -inf
    return LevelRates(edges, log_jump, log_exit)


def by_coordinate(values: list[Tensor], lattice: Lattice, level: int) -> Tensor:
    """Values per child subset and position j (its j-th coordinate being new), as (C(D, l), D - l, N^l) by parent."""
    table = values[0].new_empty(comb(lattice.num_dims, level), lattice.num_dims - level, lattice.num_tokens**level)
    for rows, value in zip(lattice.rows[level], values):
        table.view(-1, table.shape[2]).index_copy_(0, rows, value.flatten(1))
    return table


def _logsumexp(log_values: Tensor, dim: int) -> Tensor:
    """logsumexp over a short inner axis, value by value: reductions and broadcasts over it would run in tiny loops."""
    values = log_values.unbind(dim=dim)
    top = values[0].clone()
    for value in values[1:]:
        torch.maximum(top, value, out=top)
    top.masked_fill_(top == NEG_INF, 0.0)
    total = (values[0] - top).exp_()
    for value in values[1:]:
        total += (value - top).exp_()
    return total.log_().add_(top)


def _table_edges(
    denoiser: TableDenoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Edges of a table: rho telescopes within a step, so the guided mean is taken per state and not per edge.

    With T(x_U) = p(x_U)^(-w) p(x_U|z)^(1+w): log rho_i(v | x_U) = log T(x_U + {i=v}) - log T(x_U), and the edges are
    views of T one level on. The chain never visits a state with T = 0; its edges are -inf.
    """
    log_cond, log_uncond = _log_marginals(denoiser, target_class)
    for level in range(lattice.num_dims):
        w = guidance.strength(level, lattice.num_dims)
        here, there = (geometric_mean(log_cond[m], log_uncond[m], w) for m in (level, level + 1))
        here.masked_fill_(here == NEG_INF, 0.0)  # its children are impossible too
        yield [lattice.split(there, level, j) for j in range(level + 1)], here


def _log_marginals(denoiser: TableDenoiser, target_class: int | None) -> tuple[list[Tensor], list[Tensor]]:
    """log p(x_U | z) and log p(x_U), by level; the same lists for no class."""
    log_uncond = denoiser.log_marginals(None)
    return log_uncond if target_class is None else denoiser.log_marginals(target_class), log_uncond


def _denoiser_edges(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Edges of any denoiser, asked once for every partial state and both conditionals."""
    n, d = lattice.num_tokens, lattice.num_dims
    plain = Guidance(guidance.w)  # `level_rates` normalises, for tables and denoisers alike
    for level in range(d):
        chunks = lattice.tokens(level).split(MAX_BATCH)
        log_rho = torch.cat([plain.log_rates(denoiser, chunk, target_class) for chunk in chunks])
        log_rho = log_rho.reshape(comb(d, level), n**level, d, n)
        parents, children = lattice.parents[level], torch.tensor(lattice.subsets[level + 1])
        rows = [log_rho[parents[:, j], :, children[:, j]] for j in range(level + 1)]  # (C, N^l, N) each
        edges = [row.reshape(len(parents), n**j, n ** (level - j), n).transpose(2, 3) for j, row in enumerate(rows)]
        yield edges, log_rho.new_zeros(comb(d, level), n**level)


def push(rates: LevelRates, flow: Tensor, lattice: Lattice, level: int) -> Tensor:
    """The flow into level l + 1 from the flow out of level l: sum over parents of flow * rho / Lambda.

    Args:
        flow: (..., C(D, l), N^l), real or complex.

    Returns:
        (..., C(D, l+1), N^(l+1)).
    """
    parents, lead = lattice.parents[level], flow.shape[:-2]
    children = flow.new_zeros(*lead, len(parents), lattice.num_tokens ** (level + 1))
    for j, edge in enumerate(rates.edges):
        shape = edge.shape[0], edge.shape[1], edge.shape[3]
        rows = parents[:, j] if rates.log_jump.shape[1] == 1 else lattice.rows[level][j]
        log_jump = rates.log_jump.flatten(0, 1).index_select(0, rows).view(shape)
        inflow = flow.index_select(flow.ndim - 2, parents[:, j]).view(*lead, *shape)
        into = children.view(*lead, *edge.shape)
        for v in range(lattice.num_tokens):  # not at once: that would broadcast over a short inner axis
            jump = (edge[:, :, v] + log_jump).exp_()
            into[..., v, :].addcmul_(jump.to(flow.dtype), inflow)
    return children


def flows(denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice) -> Iterator[Tensor]:
    """The visit law of levels 0, 1, ..., D, one at a time: each float64 (C(D, l), N^l), summing to 1."""
    flow = torch.ones(1, 1, dtype=torch.float64)
    yield flow
    weights = table_weights(denoiser, guidance, target_class, lattice) if isinstance(denoiser, TableDenoiser) else None
    if weights is not None:
        for level, weight in enumerate(weights):
            flow = push_weights(weight, flow, guidance.kind, lattice, level)
            yield flow
        return
    for level, rates in enumerate(level_rates(denoiser, guidance, target_class, lattice)):
        flow = push(rates, flow, lattice, level)
        yield flow


def table_weights(
    denoiser: TableDenoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> list[Tensor] | None:
    """T of levels 1, ..., D as numbers, each level up to a factor of its own; None where they do not fit float64.

    See `_table_edges`: all that a chain of a table needs but its times, since rho_i(v | x_U) is T(x_U + {i=v}) up to
    a factor of x_U.
    """
    log_cond, log_uncond = _log_marginals(denoiser, target_class)
    weights = []
    for level in range(lattice.num_dims):
        w = guidance.strength(level, lattice.num_dims)
        log_t = geometric_mean(log_cond[level + 1], log_uncond[level + 1], w)
        top = log_t.max()
        if top - log_t.masked_fill(log_t == NEG_INF, math.inf).min() > MAX_LOG_RANGE:
            return None
        weights.append(log_t.sub_(top).exp_())
    return weights


def push_weights(weights: Tensor, flow: Tensor, kind: str, lattice: Lattice, level: int) -> Tensor:
    """`push` for a table, without a logarithm: the flow into level l + 1 by the weights T of its states.

    With M_i(x_U) the sum of T(x_U + {i=v}) over v: F(x_U + {i=v}) += F(x_U) T(x_U + {i=v}) / sum_k M_k(x_U), and for
    kind "normalized" F(x_U) T(x_U + {i=v}) / (M_i(x_U) (D - l)).

    Args:
        weights: (C(D, l+1), N^(l+1)), not negative. flow: (C(D, l), N^l).

    Returns:
        (C(D, l+1), N^(l+1)).
    """
    n, parents = lattice.num_tokens, lattice.parents[level]
    sums = [sum_short(lattice.split(weights, level, j), dim=2) for j in range(level + 1)]
    totals = by_coordinate(sums, lattice, level)
    if kind == "normalized":
        share, rows = (flow[:, None] / totals.mul_(lattice.num_dims - level)).flatten(0, 1), lattice.rows[level]
    else:
        share, rows = flow / totals.sum(dim=1), list(parents.T)
    share.masked_fill_(~share.isfinite(), 0.0)  # nothing leaves, and nothing came
    children = torch.zeros_like(weights)
    for j in range(level + 1):
        inflow = share.index_select(0, rows[j]).view(len(parents), n**j, n ** (level - j))
        into = lattice.split(children, level, j)
        for v in range(n):  # not at once: that would broadcast over a short inner axis
            into[:, :, v] += inflow
    return children.mul_(weights)


def visit_law(denoiser: Denoiser, guidance: Guidance, target_class: int | None) -> list[Tensor]:
    """The probability that the guided chain ever visits each partial state (theory, section 4).

    Returns:
        levels: float64 (C(D, l), N^l) for l = 0..D; every level sums to 1, and the last is the terminal law.
    """
    lattice, target_class = start(denoiser, target_class, states_kept=1)
    return list(flows(denoiser, guidance, target_class, lattice))


def terminal_law(denoiser: Denoiser, guidance: Guidance, target_class: int | None) -> Tensor:
    """The exact law of fully unmasked states at the end of the guided chain (theory, section 4).

    For the exact denoiser of a mixture this is the exact solution (arXiv 2506.10971, Thms 3.1 and 3.2, and their
    continuation to any dimension); for a trained network it is the network's own exact law: no sampling, no steps.

    Args:
        denoiser: conditionals on {0..N-1}^D; (N+1)^D partial states must fit into memory.
        guidance: strength (a number, or a function of progress) and kind.
        target_class: z in 0..K-1; None is no class: the whole mixture, whatever w is.

    Returns:
        float64 (N,)*D, summing to 1.

    Raises:
        UserError: a class that does not exist, or more partial states than memory holds.
    """
    lattice, target_class = start(denoiser, target_class)
    last = reduce(lambda _, flow: flow, flows(denoiser, guidance, target_class, lattice))
    return last.reshape([lattice.num_tokens] * lattice.num_dims)


def law_at(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    tau: float | Sequence[float] | Tensor,
) -> Tensor:
    """The exact law over partial states at clock time tau (theory, section 5).

    The resolvent of a chain that only unmasks is the push with g = Lambda / (s + Lambda), and every eigenvalue is
    -Lambda, real and not positive: the inverse Laplace transform on Talbot's contour (Trefethen, Weideman, Schmelzer,
    "Talbot quadratures and rational approximations", 2006) converges geometrically whatever the rates are.

    Args:
        tau: one clock time >= 0 or many; inf is the terminal law. At noise time t of a schedule: `schedule.tau(t)`.

    Returns:
        float64 (N+1,)*D, index N of an axis being the mask; with a leading axis if tau has one.

    Raises:
        UserError: a negative tau, a class that does not exist, or more partial states than memory holds.
    """
    taus = torch.as_tensor(tau, dtype=torch.float64)
    if bool((taus < 0).any() | taus.isnan().any()):
        raise UserError(f"clock time tau = {taus.tolist()} must not be negative")
    laws = [_law_at_one(denoiser, guidance, target_class, t) for t in taus.reshape(-1).tolist()]
    return torch.stack(laws) if taus.ndim else laws[0]


def _law_at_one(denoiser: Denoiser, guidance: Guidance, target_class: int | None, tau: float) -> Tensor:
    lattice, target_class = start(denoiser, target_class, states_kept=2 * CONTOUR_NODES)
    if tau in (0, math.inf):
        dense = torch.zeros([lattice.num_tokens + 1] * lattice.num_dims, dtype=torch.float64)
        if tau == 0:
            dense[(-1,) * lattice.num_dims] = 1
        else:
            dense[(slice(0, -1),) * lattice.num_dims] = terminal_law(denoiser, guidance, target_class)
        return dense
    nodes, weights = talbot(tau)
    flow = torch.ones(len(nodes), 1, 1, dtype=torch.complex128)
    levels = []
    for level, rates in enumerate(level_rates(denoiser, guidance, target_class, lattice)):
        holding = (-rates.log_exit).exp()  # 1 / Lambda; inf where nothing leaves, which is never visited
        holding = holding.masked_fill(holding.isinf(), 0.0)
        stay = flow / (1 + nodes[:, None, None] * holding)
        levels.append(torch.einsum("k,kcn->cn", weights, stay * holding).real)
        flow = push(rates, stay, lattice, level)
    levels.append(torch.einsum("k,kcn->cn", weights / nodes, flow).real)
    return lattice.to_dense(levels).clamp_(min=0)  # quadrature leaves some 1e-14 below 0


def talbot(tau: float, num_nodes: int = CONTOUR_NODES) -> tuple[Tensor, Tensor]:
    """Nodes s_k and weights c_k with f(tau) = Re sum_k c_k f^(s_k) for a Laplace transform f^ singular on (-inf, 0].

    Trefethen, Weideman, Schmelzer (2006), eq. for the modified Talbot contour; conjugate nodes folded.
    """
    theta = (torch.arange(num_nodes // 2, dtype=torch.float64) * 2 + 1) * (math.pi / num_nodes)
    angle = 0.6407 * theta
    z = num_nodes * torch.complex(0.5017 * theta / angle.tan() - 0.6122, 0.2645 * theta)
    dz = num_nodes * torch.complex(
        0.5017 / angle.tan() - 0.5017 * 0.6407 * theta / angle.sin() ** 2, torch.full_like(theta, 0.2645)
    )
    return z / tau, 2 * z.exp() * dz / (1j * num_nodes * tau)


def tilted_law(target: TableMixture, w: float, target_class: int | None) -> Tensor:
    """The tilted distribution p_{z,w}(x) proportional to p(x)^(-w) p(x|z)^(1+w) (theory, section 3).

    What guidance is often believed to sample. The guided chain does so for D = 1 only.

    Returns:
        float64 (N,)*D, summing to 1.
    """
    w = Guidance(w).strength(0, 1)
    log_t = geometric_mean(target.class_pmf(target_class).log(), target.pmf.log(), w)
    return log_t.flatten().softmax(dim=0).reshape(log_t.shape)


def start(denoiser: Denoiser, target_class: int | None, states_kept: int = 0) -> tuple[Lattice, int | None]:
    """The lattice of the partial states, and the class; refuses what does not exist or does not fit."""
    if target_class is not None:
        check_class(target_class, denoiser.num_classes)
    lattice = Lattice(denoiser.num_tokens, denoiser.num_dims)
    refuse_if_too_large(lattice, states_kept)
    return lattice, target_class


def refuse_if_too_large(lattice: Lattice, states_kept: int = 0) -> None:
    """Raise UserError, before anything is allocated, if the push over all partial states would not fit.

    Args:
        states_kept: float64 numbers kept per partial state beside the marginals of both conditionals.
    """
    n, d = lattice.num_tokens, lattice.num_dims
    edges = max(comb(d, level) * (d - level) * n ** (level + 1) for level in range(d))
    needed = 8 * ((4 + states_kept) * lattice.num_states + 4 * edges)
    if needed > memory_limit():
        raise UserError(
            f"an exact law on ({n}+1)^{d} = {lattice.num_states:.3g} partial states needs about "
            f"{needed / 2**30:.3g} GiB, more than the {memory_limit() / 2**30:.3g} GiB allowed here; "
            "use fewer values or dimensions, or samples"
        )


def memory_limit() -> float:
    """Bytes that a law may take: 70% of this machine's memory."""
    return 0.7 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
