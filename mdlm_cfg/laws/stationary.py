"""The stationary laws of a correction's moves, and how fast they are reached (theory, section 19)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end, read
from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.laws.corrections import CorrectionKernel, correction_kernel
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError

MAX_MOVES = 100_000  # of a power iteration
CLOSE = 1e-14  # TV to the limit at which a power iteration stops
NOISE = 5e-16  # TV by which rounding changes a law
FIRST_CHECK = 40  # vectors of the eigenvalue search before its first check
MAX_VECTORS = 800
MAX_ENTRIES = 2**26  # of all these vectors, 512 MiB
EXHAUSTED = 1e-12  # norm of a vector that is only rounding
RESIDUAL = 1e-6  # of an eigenpair, over the gap


class NotSettled(UserError):
    """Moves that mix too slowly for an iteration."""


@checked
@checked_at_the_end()
def stationary_law(denoiser: Denoiser, guidance: Guidance, target_class: int | None, correction: Correction) -> Tensor:
    """The law that a correction's moves leave invariant, by power iteration from the guided chain's own law.

    With exact conditionals it is the tilted law where `Correction.is_invariant` says so; where single changes do not
    connect the support, with every connected part having the mass that the chain gave it. For learned conditionals
    there is no law that it must equal.

    Args:
        correction: its number of moves does not matter. For a sequential scan, the law between two sweeps.

    Returns:
        float64 (N,)*D, summing to 1.

    Raises:
        UserError: as `correction_kernel`. NotSettled: after `MAX_MOVES` moves.
    """
    kernel = correction_kernel(denoiser, guidance, target_class, correction)
    law = terminal_law(denoiser, guidance, target_class)
    before = math.inf
    for _ in range(MAX_MOVES):
        after = kernel.sweep(law)
        after = after / after.sum()  # first: under strong guidance rounding loses as much mass in every move
        change = read((after - law).abs().sum()[None])[0] / 2
        law = after
        slowness = min(change / before, 1.0) if before > 0 else 0.0
        if change <= max(CLOSE * (1 - slowness), NOISE):  # the changes still to come are a geometric series
            return law
        before = change
    raise NotSettled(
        f"{correction} has not converged after {MAX_MOVES} moves (the last one changed the law by {before:.2g} in TV): "
        "it mixes too slowly for a power iteration; choose a larger size, with accept"
    )


@checked
@checked_at_the_end()
def spectral_gap(denoiser: Denoiser, guidance: Guidance, target_class: int | None, correction: Correction) -> float:
    """1 - |lambda_2| of one move (of one sweep, for a sequential scan): the rate at which it forgets where it began.

    By Arnoldi's method on differences of laws, which moves map to differences of laws: their largest eigenvalue in
    absolute value is the second of the moves. Laws are on the states in which the guided chain can end. The search
    ends when the eigenvalue's residual is small compared with the gap, or when its vectors span the whole space.

    Returns:
        At least 0; to about 1e-14 in absolute terms. 0 where the moves do not connect the states.

    Raises:
        UserError: as `correction_kernel`. NotSettled: if the search needs more than `MAX_VECTORS` vectors.
    """
    kernel = correction_kernel(denoiser, guidance, target_class, correction)
    first = terminal_law(denoiser, guidance, target_class)
    possible = (first.flatten() > 0).double()
    states = int(read(possible.sum()[None])[0])
    if states == 1:
        return 1.0
    limit = min(states - 1, MAX_VECTORS, max(MAX_ENTRIES // first.numel(), FIRST_CHECK))
    generator = torch.Generator(first.device).manual_seed(0)
    vector = torch.rand(first.numel(), generator=generator, dtype=torch.float64, device=first.device) * possible
    vector -= possible * vector.sum() / states
    basis = first.new_zeros(limit, first.numel())
    basis[0] = vector / vector.norm()
    hessenberg = first.new_zeros(limit, limit)
    next_check = FIRST_CHECK
    for k in range(limit):
        moved = _moved(kernel, basis[k].view(first.shape)).flatten()
        rest = moved - possible * moved.sum() / states
        for _ in range(2):  # twice, so that rounding leaves no part along the earlier vectors
            parts = basis[: k + 1] @ rest
            rest = rest - parts @ basis[: k + 1]
            hessenberg[: k + 1, k] += parts
        left = read(rest.norm()[None])[0]
        exhausted = left < EXHAUSTED or k + 1 == states - 1
        if exhausted or k + 1 in (next_check, limit):
            gap, residual = _gap_of(hessenberg[: k + 1, : k + 1].cpu(), left)
            if exhausted or residual < RESIDUAL * gap:
                return max(gap, 0.0)
            next_check += next_check // 2
        if k + 1 < limit:
            hessenberg[k + 1, k] = left
            basis[k + 1] = rest / left
    raise NotSettled(
        f"the spectral gap of {correction} was not found with {limit} vectors: it mixes too slowly on {states} states "
        "for this search; choose a larger size, with accept"
    )


def _moved(kernel: CorrectionKernel, difference: Tensor) -> Tensor:
    """The difference of two laws (N,)*D after a sweep: kernels take masses, which are at least 0."""
    return kernel.sweep(difference.clamp(min=0)) - kernel.sweep(difference.neg().clamp(min=0))


def _gap_of(hessenberg: Tensor, left: float) -> tuple[float, float]:
    """1 - |lambda| of the largest eigenvalue of a search's matrix, and the residual of its eigenpair."""
    values, vectors = torch.linalg.eig(hessenberg)
    largest = int(values.abs().argmax())
    vector = vectors[:, largest]
    return 1 - float(values[largest].abs()), left * float(vector[-1].abs() / vector.norm())
