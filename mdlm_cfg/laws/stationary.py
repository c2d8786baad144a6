"""The stationary laws of a correction's moves, and how fast they are reached (theory, section 19)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end, read
from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.laws.corrections import correction_kernel
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError

MAX_MOVES = 100_000  # of a power iteration
CLOSE = 1e-14  # TV that a power iteration may still have to go
NOISE = 5e-16  # TV by which rounding changes a law
KRYLOV = 160  # vectors of the eigenvalue's search
EXHAUSTED = 1e-12  # of a vector that only rounding is left of


class NotSettled(UserError):
    """Moves that mix too slowly for a power iteration."""


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
        change = read((after - law).abs().sum()[None])[0] / 2
        law = after / after.sum()
        slowness = min(change / before, 1.0) if before > 0 else 0.0
        if change <= max(CLOSE * (1 - slowness), NOISE):  # what is still to come is a geometric series
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
    absolute value is the second of the moves. 0 where the support is not connected. The search has up to 160 vectors:
    with more states than that, a small gap of moves that mix slowly is an estimate (3^6 states, a peaked target: 3.1e-7
    for 1.5e-8).

    Raises:
        UserError: as `correction_kernel`.
    """
    kernel = correction_kernel(denoiser, guidance, target_class, correction)
    first = terminal_law(denoiser, guidance, target_class)
    shape = first.shape
    count = first.numel()
    if count == 1:
        return 1.0
    generator = torch.Generator(first.device).manual_seed(0)
    vector = torch.rand(count, generator=generator, dtype=torch.float64, device=first.device)
    vector -= vector.mean()
    basis = [vector / vector.norm()]
    steps = min(count - 1, KRYLOV)
    hessenberg = first.new_zeros(steps + 1, steps)
    for k in range(steps):
        vector = basis[k].view(shape)
        grown = (kernel.sweep(vector.clamp(min=0)) - kernel.sweep(vector.neg().clamp(min=0))).flatten()  # of masses
        grown = grown - grown.mean()
        for _ in range(2):  # twice, so that rounding leaves nothing of what is there already
            known = torch.stack(basis)
            parts = known @ grown
            grown = grown - parts @ known
            hessenberg[: k + 1, k] += parts
        left = read(grown.norm()[None])[0]
        if left < EXHAUSTED:  # the space is exhausted
            steps = k + 1
            break
        hessenberg[k + 1, k] = left
        basis.append(grown / left)
    return 1 - float(torch.linalg.eigvals(hessenberg[:steps, :steps].cpu()).abs().max())
