"""The information profile h(l), and the best step sizes under it (theory, section 22).

    h(l) = the mean over sets S of l coordinates and over i outside S of H(X_i | X_S).

Unmasking k coordinates in parallel after a of them, with exact conditionals, costs sum_{j<k} [h(a) - h(a + j)] nats of
KL, averaged over random orders (arXiv 2510.25544, arXiv 2511.04647). The law of the sampler itself has a smaller KL: it
is the mean over orders of the laws, and KL is convex. Guided by a strength s, the same step costs

    E KL(p_{z,w}(x_A | x_S) || prod_i r_i(.; s)) = k c(a; s) - sum_{j<k} h(a + j),

with c(a; s) the cross entropy of a guided conditional after a coordinates and h the profile of p_{z,w}. It is least at
the calibrated strength of level a, whatever k is, so one dynamic programme finds the best sizes and strengths together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end
from mdlm_cfg.chain.denoiser import Denoiser, check_class, conditionals
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.schedules import Schedule, event_counts, schedule_of
from mdlm_cfg.compare.calibration import given_class, minimise
from mdlm_cfg.compare.level_rows import by_state, exact_rows, sampled_rows
from mdlm_cfg.compare.levels import MaskedBatch, MaskedSamples
from mdlm_cfg.laws.terminal import tilted_law
from mdlm_cfg.support.arguments import Integers, Reals, checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.targets.table import TableMixture

ROUNDING = 1e-12  # of a sum, relative to its parts: sums that cannot be negative are so by less
EVEN = 1e-9  # nats, by which the most uneven steps must be cheaper: where h(l) is flat, rounding would choose


@dataclass(frozen=True)
class Measured:
    """A number in nats with its standard error, which is 0 where the number is exact."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class StepPlan:
    """Sizes of parallel steps, and what they are predicted to cost.

    Attributes:
        sizes: how many coordinates each step unmasks. strengths: w of each step; all 0 where nothing is guided.
        cost: KL averaged over random orders, in nats: an upper bound of the KL of the sampler's own law.
    """

    sizes: tuple[int, ...]
    strengths: tuple[float, ...]
    cost: Measured


@dataclass(frozen=True)
class InformationProfile:
    """Entropies of one more coordinate, by the number l = 0, ..., D - 1 of known ones.

    Attributes:
        entropies: h(l) in nats, float64 (D,): exact, or a network's cross entropy on data.
        cross_entropies: c(l) of the conditionals that the steps use, (D,): equal to `entropies` unless they are guided.
        strengths: w_l that c(l) is for, (D,).
        covariance: of the estimates h(l), (D, D): 0 where they are exact.
    """

    entropies: Tensor
    cross_entropies: Tensor
    strengths: Tensor
    covariance: Tensor

    @property
    def num_dims(self) -> int:
        """D."""
        return len(self.entropies)

    @property
    def standard_errors(self) -> Tensor:
        """The standard errors of h(l), (D,)."""
        return self.covariance.diagonal().clamp(min=0).sqrt()

    @property
    def total_entropy(self) -> Measured:
        """H(X) = sum over l of h(l); the NELBO of a network."""
        return self._combined(torch.ones_like(self.entropies))

    @property
    def total_correlation(self) -> Measured:
        """sum_i H(X_i) - H(X) = D h(0) - sum over l of h(l): the cost of one step."""
        weights = -torch.ones_like(self.entropies)
        weights[0] += self.num_dims
        return self._combined(weights)

    @property
    def dual_total_correlation(self) -> Measured:
        """H(X) - sum_i H(X_i | all others) = sum over l of h(l) - D h(D - 1)."""
        weights = torch.ones_like(self.entropies)
        weights[-1] -= self.num_dims
        return self._combined(weights)

    @checked
    def plan(self, sizes: Sequence[int]) -> StepPlan:
        """The plan with steps of the given sizes.

        Raises:
            UserError: sizes below 1, or that do not sum to D.
        """
        d = self.num_dims
        if not sizes or min(sizes) < 1 or sum(sizes) != d:
            raise UserError(f"step sizes {list(sizes)} must be at least 1 each and sum to D = {d}")
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        per_step = torch.zeros_like(self.entropies).index_put_((torch.tensor(starts),), torch.tensor(sizes).double())
        c = self.cross_entropies
        h = self.entropies
        value = _from_zero(per_step @ c - h.sum(), per_step @ c.abs() + h.abs().sum())
        cost = Measured(float(value), self._combined(per_step - 1).standard_error)
        return StepPlan(tuple(sizes), tuple(float(self.strengths[a]) for a in starts), cost)

    @checked
    def scheduled(self, steps: int, schedule: Schedule | str = "linear") -> StepPlan:
        """K steps on a noise schedule: "linear" (steps of equal size), "cosine" or "exponential".

        There are fewer steps where the schedule unmasks everything sooner.
        """
        return self.plan(event_counts(steps, self.num_dims, schedule_of(schedule)))

    @checked
    def best(self, steps: int) -> StepPlan:
        """The cheapest K steps of all, by dynamic programming in O(D^2 K); the most even of those that cost the same.

        Args:
            steps: K, 1..D.

        Raises:
            UserError: K is out of range, or every list of steps costs infinitely much.
        """
        d = self.num_dims
        if not bool(self.cross_entropies.isfinite().all()):
            raise UserError(
                "the denoiser gives probability 0 to values that are possible, so that all steps cost infinitely much: "
                "there are no best steps; give a denoiser that allows every value of the class"
            )
        steps = whole_number("steps", steps, 1, d)
        size = torch.arange(d + 1).double()
        costs = self.step_costs() + EVEN * ((size - size[:, None]) / d).square()
        least = torch.full((d + 1,), math.inf, dtype=torch.float64)
        come_from = []
        least[0] = 0
        for _ in range(steps):
            least, before = (least[:, None] + costs).min(dim=0)
            come_from.append(before)
        ends = [d]
        for before in reversed(come_from):
            ends.append(int(before[ends[-1]]))
        return self.plan([end - start for end, start in pairwise(ends)][::-1])

    def decreasing(self) -> InformationProfile:
        """The nearest profile that never rises, by least squares; itself where it is exact.

        The h(l) of a distribution never rises, and the best steps of an estimate that does would follow its noise.
        """
        if not bool(self.covariance.any()):
            return self
        from scipy.optimize import isotonic_regression  # takes a quarter of a second to import

        rising = (isotonic_regression(-part).x for part in (self.entropies, self.cross_entropies))
        entropies, cross_entropies = (torch.from_numpy(-fit) for fit in rising)
        return replace(self, entropies=entropies, cross_entropies=cross_entropies)

    def step_costs(self) -> Tensor:
        """The cost of the step from a to b unmasked coordinates, float64 (D + 1, D + 1); inf unless a < b."""
        d = self.num_dims
        known = torch.cat([self.entropies.new_zeros(1), self.entropies.cumsum(0)])
        after = torch.arange(d + 1)
        each = torch.cat([self.cross_entropies, self.cross_entropies.new_zeros(1)])
        whole = (after - after[:, None]) * each[:, None]
        costs = _from_zero(whole - (known - known[:, None]), whole.abs() + known.abs().amax())
        return costs.masked_fill(after <= after[:, None], math.inf)

    def _combined(self, weights: Tensor) -> Measured:
        """sum over l of weights_l h(l), which is not below 0 where h is that of a distribution."""
        variance = float(weights @ self.covariance @ weights)
        value = _from_zero(weights @ self.entropies, weights.abs() @ self.entropies.abs())
        return Measured(float(value), math.sqrt(max(variance, 0.0)))


def _from_zero(totals: Tensor, sizes: Tensor) -> Tensor:
    """Sums of parts of these sizes: 0 where they are below it by no more than rounding."""
    return totals.masked_fill((totals < 0) & (totals > -ROUNDING * sizes), 0.0)


@checked
def exact_information_profile(
    target: TableMixture, target_class: int | None, w: float = 0.0, denoiser: Denoiser | None = None
) -> InformationProfile:
    """The profile of the tilted law p_{z,w}, exactly, with the calibrated strengths that guide towards it.

    Args:
        target: the known distribution, on few dimensions.
        target_class: z; None is the whole mixture.
        w: strength of the tilted law; 0 is the class itself, without guidance.
        denoiser: the denoiser that the steps use; None is the exact one. The cost of steps includes its error.

    Raises:
        UserError: a class that does not exist, or a w that is not allowed.
    """
    w = Guidance(w).constant
    d = target.num_dims
    law = tilted_law(target, w, target_class)
    levels = target.denoiser().lattice.marginals(law)
    mean_entropies = torch.stack([-torch.special.xlogy(p, p).sum() / len(p) for p in levels])
    entropies = mean_entropies.diff()
    exact = torch.zeros(d, d, dtype=torch.float64)
    unguided = target_class is None or w == 0
    strengths = torch.full((d,), 0.0 if unguided else w, dtype=torch.float64)
    if unguided and denoiser is None:
        return InformationProfile(entropies, entropies, strengths, exact)
    rows = exact_rows(target, w, target_class, denoiser, guided=not unguided)
    strengths = strengths if unguided else minimise(rows, strengths)
    return InformationProfile(entropies, rows.cross_entropies(strengths), strengths, exact)


@checked
@checked_at_the_end()
def information_profile(
    denoiser: Denoiser,
    target_class: int | None,
    samples: Integers,
    log_weights: Reals | None = None,
    generator: torch.Generator | None = None,
    *,
    masks: int = 1,
    guided: bool = False,
) -> InformationProfile:
    """The profile of a denoiser on data: its cross entropy by number of known coordinates, in one pass.

    The cost of steps is then their excess over unmasking one coordinate at a time with the same conditionals.

    Args:
        denoiser: exact or learned; evaluated on n * masks partial states.
        target_class: z; None is no class.
        samples: int64 (n, D), held-out data. log_weights: (n,), up to a constant; None is equal weights.
        generator: draws levels and masks.
        masks: how many partial states are made of each sample, 1..D.
        guided: whether the conditionals are guided by the calibrated strengths, fitted to the same samples.

    Raises:
        UserError: as `calibrate`; guided without a class.
    """
    check_class(target_class, denoiser.num_classes)
    masked = MaskedSamples(denoiser, samples, log_weights, generator, masks)
    strengths = masked.weights.new_zeros(denoiser.num_dims)
    if not guided:
        found = [_cross_entropies(denoiser, target_class, batch) for batch in masked.batches()]
        costs, levels = (torch.cat(part) for part in zip(*found))
        return _estimated(masked, costs, levels, strengths)
    target_class = given_class(target_class)
    rows = sampled_rows(masked, target_class)
    strengths = minimise(rows, strengths)
    return _estimated(masked, *by_state(rows, rows.each_cross_entropy(strengths), masked), strengths)


def _cross_entropies(denoiser: Denoiser, target_class: int | None, batch: MaskedBatch) -> tuple[Tensor, Tensor]:
    """The mean over masked coordinates of -log p(x_i | x_S, z) of every partial state, and its level: (B,) each."""
    log_probs = conditionals(denoiser, batch.tokens, target_class)
    own = log_probs.gather(2, batch.clean[..., None]).squeeze(2)
    masked = batch.tokens == denoiser.num_tokens
    return -torch.where(masked, own, 0.0).sum(dim=1) / masked.sum(dim=1), batch.level


def _estimated(samples: MaskedSamples, costs: Tensor, levels: Tensor, strengths: Tensor) -> InformationProfile:
    """The profile from the cross entropies of partial states, on the host."""
    means, covariance = samples.level_means(costs, levels)
    return InformationProfile(means, means, strengths.cpu(), covariance)
