"""The exact law of a correction's moves (theory, section 19).

As a kernel on finished states a move is pi' = mean over S of pi(x_{S^c}) q_S(x_S | x_{S^c}), with q_S the terminal law
of the slice in which the coordinates S are free (section 13). All q_S are computed once, from sets of one coordinate to
larger ones; a move is then a sum and a product for every S.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from mdlm_cfg.chain.bound_rules import Refused
from mdlm_cfg.chain.checks import checked_at_the_end
from mdlm_cfg.chain.corrections import Correction, log_own_value
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance, effective_guidance
from mdlm_cfg.chain.lattice import Lattice, flat_index, points_at
from mdlm_cfg.chain.policies import tiers
from mdlm_cfg.chain.selections import Selection, Subset
from mdlm_cfg.laws.arrivals import Arrivals
from mdlm_cfg.laws.rates import in_batches, partial_state_lattice, refuse_beyond_memory
from mdlm_cfg.laws.refills import Choice, Refill, accepted_refills, fills_of, missing
from mdlm_cfg.laws.weights import check_weights
from mdlm_cfg.support.arguments import checked

NEG_INF = float("-inf")


@dataclass(frozen=True)
class CorrectionKernel:
    """A correction's moves as a map of laws.

    Attributes:
        correction: whose moves. refills: of every set of coordinates; for a sequential scan, those of a sweep in order.
        arrivals: refuses laws whose moves arrive at a state without rates.
    """

    correction: Correction
    refills: tuple[Refill, ...]
    arrivals: Arrivals

    def move(self, law: Tensor, number: int = 0) -> Tensor:
        """The law (N,)*D after move `number` (from 0).

        Raises:
            UserError: the move arrives at a state without rates.
        """
        if self.correction.scan == "sequential":
            return self._refilled(self.refills[number % len(self.refills)], law)
        self.arrivals.check_sets(law)
        found = self._refilled(self.refills[0], law)
        for refill in self.refills[1:]:
            found += self._refilled(refill, law)
        return found

    def _refilled(self, refill: Refill, law: Tensor) -> Tensor:
        if self.arrivals.refused:
            self.arrivals.check_refill(refill.subset, law * refill.chance)
        return refill.push(law)

    def after(self, law: Tensor) -> Tensor:
        """The law after all moves of the correction."""
        for number in range(self.correction.moves):
            law = self.move(law, number)
        return law

    def sweep(self, law: Tensor) -> Tensor:
        """The law after one move, or, for a sequential scan, after one full cycle."""
        for number in range(len(self.refills) if self.correction.scan == "sequential" else 1):
            law = self.move(law, number)
        return law


@checked
@checked_at_the_end()
def correction_kernel(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, correction: Correction
) -> CorrectionKernel:
    """Everything that the moves of a correction need, computed once.

    The denoiser is called only on the partial states with at most `size` masks.

    Raises:
        UserError: a size above D; with accept, a guidance without a tilted law (a schedule, a temperature, a top-p); or
            more states than memory holds.
    """
    lattice = partial_state_lattice(denoiser, target_class)
    n = lattice.num_tokens
    d = lattice.num_dims
    size = correction.size
    correction.check(d)
    if correction.accept:
        check_weights(guidance)
    refuse_if_too_large(lattice, correction)
    choices: dict[Subset, Choice] = {}
    refused: dict[Subset, Refused] = {}
    for masks in range(1, size + 1):
        for subset, choice, without in _choices(denoiser, guidance, target_class, correction, lattice, masks):
            choices[subset] = choice
            if without is not None:
                refused[subset] = without
    arrivals = Arrivals(correction, choices if refused else {}, refused)
    sets, chances = _sets(correction, lattice, choices)
    if correction.accept:
        return CorrectionKernel(correction, tuple(accepted_refills(sets, chances, choices, n, d)), arrivals)
    fills = fills_of(choices, size, parallel=correction.parallel)
    refills = []
    for subset, chance in zip(sets, chances):
        fill = fills[subset].view([n] * d)
        refills.append(Refill(subset, chance, missing(fill.sum(dim=subset, keepdim=True)), fill, None))
    return CorrectionKernel(correction, tuple(refills), arrivals)


def refuse_if_too_large(lattice: Lattice, correction: Correction) -> None:
    """Raise UserError, before anything is computed, if the moves would not fit into memory."""
    d = lattice.num_dims
    size = correction.size
    if correction.accept:
        kept = 5 * math.comb(d, size) * math.factorial(size)
    else:
        kept = 3 * sum(math.comb(d, masks) * masks for masks in range(1, size + 1))
    needed = 8 * kept * lattice.num_tokens**d
    what = f"the exact law of {correction} on {lattice.num_tokens}^{d} states"
    refuse_beyond_memory(needed, what, "use fewer values, dimensions or coordinates a move, or samples")


def _choices(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    correction: Correction,
    lattice: Lattice,
    masks: int,
) -> Iterator[tuple[Subset, Choice, Refused | None]]:
    """The next transition of the chain, for every set of `masks` coordinates, and where it has no rates."""
    n = lattice.num_tokens
    d = lattice.num_dims
    level = d - masks
    policy = correction.order_of(guidance)
    log_rates_of = effective_guidance(guidance, policy).rates_anywhere(denoiser, target_class)
    log_rates, refused = in_batches(log_rates_of, lattice.tokens(level))
    log_rates = log_rates.view(-1, n**level, d, n)
    points = points_at(torch.arange(n**d, device=lattice.device), n, d)
    for row, unmasked in enumerate(lattice.subsets[level]):
        subset = tuple(i for i in range(d) if i not in unmasked)
        places = lattice.masked[level][row]
        own = log_rates[row].index_select(1, places)  # (N^l, m, N)
        log_z = own.logsumexp(dim=-1)
        log_r = own - log_z.masked_fill(log_z == NEG_INF, 0.0)[..., None]
        pi = policy.log_choice(log_z, log_r.clone, places).exp()
        context = flat_index(points.index_select(1, lattice.coordinates[level][row]), n)
        values = points.index_select(1, places)
        choice = Choice(pi[context].T, log_own_value(own[context], values).T, log_z[context].T)
        yield subset, choice, None if refused is None else refused.at(row * n**level + context)


def _sets(
    correction: Correction, lattice: Lattice, choices: dict[Subset, Choice]
) -> tuple[list[Subset], list[float | Tensor]]:
    """The sets of coordinates that moves mask, and their probabilities."""
    n = lattice.num_tokens
    d = lattice.num_dims
    size = correction.size
    if correction.scan == "sequential":
        sweep = d // math.gcd(d, size)
        return [tuple(sorted((k * size + j) % d for j in range(size))) for k in range(sweep)], [1.0] * sweep
    sets = list(combinations(range(d), size))
    if correction.scan == "random":
        return sets, [1 / len(sets)] * len(sets)
    confidence = torch.stack([choices[i,].log_value[0] for i in range(d)], dim=1)
    found = Selection(size, tiers(-confidence), torch.zeros_like(confidence)).chances()
    return sets, [found[subset].view([n] * d) for subset in sets]
