"""The guided rates out of every partial state, level by level, for any denoiser (theory, sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mdlm_cfg.chain.bound_rules import Refused
from mdlm_cfg.chain.checks import is_on_cpu, raise_where
from mdlm_cfg.chain.denoiser import Denoiser, check_class, device_of, name_class, name_state
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import Kind, log_rate_of
from mdlm_cfg.chain.lattice import Lattice, lattice_of, strides
from mdlm_cfg.chain.reductions import unrolled_logsumexp
from mdlm_cfg.chain.rules import geometric_mean, refuse_infinite
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.memory import memory_allowed

NEG_INF = float("-inf")
MAX_BATCH = 2**16  # partial states in one call of a denoiser
LOST = 1e-9  # of a law's mass: more than rounding at the largest strength
SMALL_LAW = 2**25  # bytes that are always available: querying the memory takes longer than a small law
MEMORY_SHARE = 0.7  # of the available memory, that a law may take


@runtime_checkable
class Telescoping(Protocol):
    """A denoiser whose conditionals are those of one joint, and that provides the joint's marginals."""

    def log_marginals(self, target_class: int | None) -> list[Tensor]:
        """log p(x_U | z) of every partial state by level, float64 (C(D, l), N^l); None is the whole mixture."""
        ...


@dataclass(frozen=True)
class LevelRates:
    """The guided jump rates out of every partial state of one level.

    Attributes:
        edges: one tensor (C(D, l+1), N^j, N, N^(l-j)) for every position j that the new coordinate can take among the
            unmasked ones (see `Lattice.split`): log rho_i(v | x_U) up to a constant of the state x_U.
        log_jump: added to an edge of state x_U and coordinate i, gives the log-probability that it is the next jump,
            (C(D, l), D - l, N^l), or with an axis of length 1 where it is the same for all coordinates.
        log_exit: log Lambda, (C(D, l), N^l); -inf where nothing can leave (states never visited).
        refused: the states without rates; a flow that arrives there is refused. None if there are none.
    """

    edges: list[Tensor]
    log_jump: Tensor
    log_exit: Tensor
    refused: Refused | None = None


@dataclass(frozen=True)
class LevelEdges:
    """Where the jumps of one level lead: log rho = edge - log_base(x_U).

    Attributes:
        edges: as in `LevelRates`. log_base: (C(D, l), N^l). refused: as in `LevelRates`.
    """

    edges: list[Tensor]
    log_base: Tensor
    refused: Refused | None = None


def partial_state_lattice(denoiser: Denoiser, target_class: int | None, states_kept: int = 0) -> Lattice:
    """The lattice of the partial states; refuses a class that does not exist, and one too large for memory."""
    check_class(target_class, denoiser.num_classes)
    lattice = lattice_of(denoiser.num_tokens, denoiser.num_dims, device_of(denoiser))
    refuse_if_too_large(lattice, states_kept)
    return lattice


def level_rates(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[LevelRates]:
    """The rates of levels 0, 1, ..., D - 1, one level at a time (theory, section 3)."""
    for level, edges in enumerate(level_edges(denoiser, guidance, target_class, lattice)):
        yield rates_from_edges(edges, guidance.kind, lattice, level)


def level_edges(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[LevelEdges]:
    """The edges of levels 0, 1, ..., D - 1."""
    if isinstance(denoiser, Telescoping) and guidance.telescopes:
        return _telescoped_edges(denoiser, guidance, target_class, lattice)
    return _evaluated_edges(denoiser, guidance, target_class, lattice)


def rates_from_edges(given: LevelEdges, kind: Kind, lattice: Lattice, level: int) -> LevelRates:
    """The rates of one level from its edges (theory, section 3).

    Jumps are computed from edges alone, so that a large base does not cost them digits.
    """
    log_base = given.log_base
    own = by_coordinate([unrolled_logsumexp(edge, dim=2) for edge in given.edges], lattice, level)
    if kind.is_rho:  # the rate is Z itself, and the base a common factor
        log_total = unrolled_logsumexp(own, dim=1)
        # the same for every coordinate
        log_exit = log_total - log_base
        log_jump = -log_total[:, None]
    else:
        log_rate = log_rate_of(kind, own - log_base[:, None])
        log_exit = unrolled_logsumexp(log_rate, dim=1)
        log_jump = log_rate - own - log_exit[:, None]
    # nothing leaves, and every edge is -inf
    log_jump.masked_fill_(log_jump.isposinf() | log_jump.isnan(), 0.0)
    return LevelRates(given.edges, log_jump, log_exit, given.refused)


def by_coordinate(values: list[Tensor], lattice: Lattice, level: int) -> Tensor:
    """Values per child subset and position j (its j-th coordinate being new), as (C(D, l), D - l, N^l) by parent."""
    table = values[0].new_empty(comb(lattice.num_dims, level), lattice.num_dims - level, lattice.num_tokens**level)
    for rows, value in zip(lattice.rows[level], values):
        table.view(-1, table.shape[2]).index_copy_(0, rows, value.flatten(1))
    return table


def _telescoped_edges(
    denoiser: Telescoping, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[LevelEdges]:
    """Edges as views of log T of the next level. The chain never visits a state with T = 0; its edges are -inf.

    T(x_U) = p(x_U)^(-w) p(x_U|z)^(1+w), and log rho_i(v | x_U) = log T(x_U + {i=v}) - log T(x_U): rho telescopes within
    a step, so the guided mean is taken per state and not per edge (theory, section 4).
    """
    log_uncond = denoiser.log_marginals(None)
    log_cond = log_uncond if target_class is None else denoiser.log_marginals(target_class)
    previous: tuple[float, Tensor] | None = None
    for level, w in enumerate(guidance.table(lattice.num_dims)):
        if previous is not None and previous[0] == w:
            here = previous[1]
        else:
            here = geometric_mean(log_cond[level], log_uncond[level], w)
        there = geometric_mean(log_cond[level + 1], log_uncond[level + 1], w)
        if not is_on_cpu(there) or bool(torch.isposinf(there.max())):
            refuse_infinite(
                there.reshape(-1, 1), lattice.tokens(level + 1), lattice.num_tokens, target_class, guidance.label
            )
        base = here.masked_fill(here == NEG_INF, 0.0)  # its children are impossible too
        yield LevelEdges([lattice.split(there, level, j) for j in range(level + 1)], base)
        previous = (w, there)


def _evaluated_edges(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Iterator[LevelEdges]:
    """Edges of any denoiser, evaluated once for every partial state and both conditionals."""
    n = lattice.num_tokens
    d = lattice.num_dims
    log_rho_of = guidance.rho_anywhere(denoiser, target_class)
    for level in range(d):
        log_rho, refused = in_batches(log_rho_of, lattice.tokens(level))
        log_rho = log_rho.reshape(comb(d, level), n**level, d, n)
        parents = lattice.parents[level]
        children = lattice.coordinates[level + 1]
        rows = [log_rho[parents[:, j], :, children[:, j]] for j in range(level + 1)]  # (C, N^l, N) each
        edges = [row.reshape(len(parents), n**j, n ** (level - j), n).transpose(2, 3) for j, row in enumerate(rows)]
        yield LevelEdges(edges, log_rho.new_zeros(comb(d, level), n**level), refused)


def in_batches(
    rates_of: Callable[[Tensor], tuple[Tensor, Refused | None]], tokens: Tensor
) -> tuple[Tensor, Refused | None]:
    """`Guidance.rho_anywhere` or `rates_anywhere` of many partial states."""
    parts = tokens.split(MAX_BATCH)
    answers = [rates_of(part) for part in parts]
    log_rho = torch.cat([answer for answer, _ in answers])
    refused = [one for _, one in answers if one is not None]
    if not refused:
        return log_rho, None
    states = [
        torch.zeros(len(part), dtype=torch.bool, device=part.device) if one is None else one.states
        for part, (_, one) in zip(parts, answers)
    ]
    return log_rho, Refused(torch.cat(states), tokens, refused[0].explain)


def refuse_lost(mass: Tensor, target_class: int | None) -> None:
    """Raise UserError unless a law has kept its mass: mass that reaches a state without exits is lost.

    Args:
        mass: the sum of a law, or of several.
    """

    def explain(row: int, left: Tensor) -> str:
        return (
            f"the guided chain under {name_class(target_class)} ends in states with masks with probability "
            f"{1 - float(left):.3g}: the denoiser gives them no possible value, or your policy gives no coordinate "
            "a weight"
        )

    if is_on_cpu(mass) and all(abs(one - 1) < LOST for one in mass.reshape(-1).tolist()):
        return
    raise_where(~((mass.reshape(-1) - 1).abs() < LOST), explain, mass.reshape(-1))


def refuse_dead_ends(log_rho: Tensor, refused: Refused | None, tokens: Tensor, num_tokens: int, rule: object) -> None:
    """Raise UserError where the chain reaches a state without rates, or one with masks and without exits.

    The states that it reaches in any order, one coordinate at a time, follow from the supports alone.

    Args:
        log_rho: of every state, (S, D, N). refused: those without rates.
        tokens: partial states, int64 (S, D): all of them in C order, or only the all-masked state.
        num_tokens: N.
        rule: for the message.
    """
    num_dims = tokens.shape[1]
    masked = tokens == num_tokens
    possible = (log_rho > NEG_INF) & masked[..., None]
    if refused is not None:
        possible &= ~refused.states[:, None, None]
    reached = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    reached[-1] = True
    if len(tokens) > 1:
        jumps = torch.arange(num_tokens, device=tokens.device) - num_tokens
        moves = strides(num_tokens + 1, num_dims, tokens.device)[:, None] * jumps
        for _ in range(num_dims):
            states, coordinates, values = (possible & reached[:, None, None]).nonzero(as_tuple=True)
            reached[states + moves[coordinates, values]] = True
    if refused is not None:
        refused.where(reached)
    stuck = (reached & masked.any(dim=1) & ~possible.flatten(1).any(dim=1)).nonzero()
    if len(stuck):
        state = name_state(tokens[stuck[-1, 0]].tolist(), num_tokens)
        raise UserError(
            f"the rule {rule} leaves no possible value in the partial state {state}, which the chain reaches: the "
            "conditionals with positive powers have no value in common there; compose classes that overlap"
        )


def refuse_if_too_large(lattice: Lattice, states_kept: int = 0) -> None:
    """Raise UserError, before anything is allocated, if the push over all partial states would not fit.

    Args:
        states_kept: float64 numbers kept per partial state beside the marginals of both conditionals.
    """
    n = lattice.num_tokens
    d = lattice.num_dims
    edges = max(comb(d, level) * (d - level) * n ** (level + 1) for level in range(d))
    needed = 8 * ((4 + states_kept) * lattice.num_states + 4 * edges)
    what = f"an exact law on ({n}+1)^{d} = {lattice.num_states:.3g} partial states"
    refuse_beyond_memory(needed, what, "use fewer values or dimensions, or samples")


def refuse_beyond_memory(needed: float, what: str, instead: str) -> None:
    """Raise UserError if a computation needs more bytes than a law may take."""
    if needed > SMALL_LAW and needed > memory_limit():
        raise UserError(
            f"{what} needs about {needed / 2**30:.3g} GiB, more than the {memory_limit() / 2**30:.3g} GiB allowed "
            f"here; {instead}"
        )


def memory_limit() -> float:
    """Bytes that a law may take: 70% of what this process may have."""
    return MEMORY_SHARE * memory_allowed()
