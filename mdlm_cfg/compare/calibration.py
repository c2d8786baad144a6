"""Calibrated strengths: the best strength for every number of unmasked coordinates, by a convex fit (theory 21).

Let S be a uniformly drawn set of l coordinates, i a uniformly drawn other one, and x ~ p_{z,w}. The strength

    w_l = argmin_s E[-ln r_i(x_i | x_S; s)],    r_i(v; s) proportional to p(v | x_S, z) (p(v | x_S, z) / p(v | x_S))^s,

minimises a convex function of one number, because r is an exponential family in s. The sum over levels of its minima,
less the entropies of the ideal conditionals, is the divergence of the ideal chain's paths from the guided chain's in
uniform order, which bounds KL(p_{z,w} || terminal law).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end, is_on_cpu
from mdlm_cfg.chain.denoiser import Denoiser, check_class
from mdlm_cfg.chain.guidance import MAX_STRENGTH, Guidance
from mdlm_cfg.chain.guidance_schedules import PerCount
from mdlm_cfg.chain.kinds import KINDS, Kind
from mdlm_cfg.compare.level_rows import LevelRows, by_state, exact_rows, sampled_rows
from mdlm_cfg.compare.levels import MaskedSamples, level_sums
from mdlm_cfg.support.arguments import Integers, Reals, checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import number, whole_number
from mdlm_cfg.targets.table import TableMixture

MIN_STRENGTH = -1.0
ITERATIONS = 100  # of Newton's method; far fewer are needed, and bisection alone ends within them
SETTLED = 1e-12  # smaller relative steps are only rounding, and are not taken


@dataclass(frozen=True)
class Calibration:
    """Strengths fitted to data.

    Attributes:
        strengths: w_0, ..., w_{D-1}, one for each number of unmasked coordinates.
        standard_errors: of the strengths, over the samples and the prior; inf where neither determines a strength.
    """

    strengths: tuple[float, ...]
    standard_errors: tuple[float, ...]

    def guidance(self, kind: Kind | str = KINDS["rate"]) -> Guidance:
        """The guidance of these strengths."""
        return Guidance(PerCount(self.strengths), kind)  # type: ignore[arg-type]


def minimise(rows: LevelRows, start: Tensor, pull: float = 0.0) -> Tensor:
    """The strengths that minimise the cross entropy of every level, (D,): Newton's method inside a bracket.

    The derivative rises in s. A step that leaves the bracket is replaced by bisection in the logarithm of s + 2. Levels
    on which every strength does equally well, or none better than `start`, keep it; where the minimum lies outside
    [-1, `MAX_STRENGTH`] the nearer end is returned.

    Args:
        start: (D,), within the bracket.
        pull: added to every level's cross entropy is pull (s - start)^2 / 2.
    """
    d = len(start)
    low = torch.full_like(start, MIN_STRENGTH)
    high = torch.full_like(start, MAX_STRENGTH)
    s = start
    moving = rows.informative(d) & (level_sums(rows.weight * rows.slopes(start)[0], rows.level, d) != 0)
    for end in (MIN_STRENGTH, MAX_STRENGTH):
        at_end = torch.full_like(start, end)
        slope = level_sums(rows.weight * rows.slopes(at_end)[0], rows.level, d) + pull * (at_end - start)
        outside = moving & ((slope >= 0) if end == MIN_STRENGTH else (slope <= 0))
        s = torch.where(outside, at_end, s)
        moving = moving & ~outside
    for _ in range(ITERATIONS):
        each = rows.slopes(s)
        slope, curvature = (level_sums(rows.weight * part, rows.level, d) for part in each)
        slope = slope + pull * (s - start)
        curvature = curvature + pull
        low = torch.where(slope < 0, s, low)
        high = torch.where(slope > 0, s, high)
        newton = s - slope / curvature
        middle = ((low + 2).log() + (high + 2).log()).mul(0.5).exp() - 2
        inside = newton.isfinite() & (newton >= low) & (newton <= high)
        new = torch.where(moving & (slope != 0), torch.where(inside, newton, middle), s)
        done = (new - s).abs() <= SETTLED * (1 + s.abs())
        s = torch.where(done, s, new)
        if is_on_cpu(s) and bool(done.all()):
            break
    return s


@checked
def calibrated_strengths(
    target: TableMixture, w: float, target_class: int, denoiser: Denoiser | None = None
) -> list[float]:
    """The exact calibrated strengths w_0, ..., w_{D-1} towards the tilted law of strength w (theory, section 21).

    The last one of exact conditionals is w: with one coordinate masked the guided conditionals are those of the tilted
    law.

    Args:
        target: the known distribution, on few dimensions.
        w: strength of the tilted law.
        target_class: z.
        denoiser: the denoiser whose conditionals are guided; None is the exact one.

    Returns:
        D strengths, for `Guidance(strengths, kind)`; w itself where a level's strength makes no difference.

    Raises:
        UserError: a class that does not exist, or a w that is not allowed.
    """
    given_class(target_class)
    w = Guidance(w).constant
    rows = exact_rows(target, w, target_class, denoiser)
    found: list[float] = minimise(rows, torch.full((target.num_dims,), w, dtype=torch.float64)).tolist()
    return found if denoiser is not None else [*found[:-1], w]


def given_class(target_class: int | None) -> int:
    """The class to guide to; raises UserError for None."""
    if target_class is None:
        raise UserError("no class was given to guide to: give a target_class")
    return target_class


@checked
@checked_at_the_end()
def calibrate(
    denoiser: Denoiser,
    target_class: int,
    samples: Integers,
    log_weights: Reals | None = None,
    generator: torch.Generator | None = None,
    *,
    masks: int = 1,
    groups: int | None = None,
    centre: float = 0.0,
    spread: float = float("inf"),
) -> Calibration:
    """Calibrated strengths from samples of the target distribution, in one pass (theory, section 21).

    Samples of the tilted law p_{z,w} are samples of the class with log-weights w ln p(z | x). With data of the class
    and no weights (w = 0), a positive strength means that the denoiser's class-conditional probabilities are too flat.

    Args:
        denoiser: exact or learned; evaluated on n * masks partial states, for both conditionals.
        target_class: z.
        samples: int64 (n, D). log_weights: (n,), up to a constant; None is equal weights.
        generator: draws levels and masks.
        masks: how many partial states are made of each sample, 1..D, each with another number of unmasked coordinates.
        groups: number of groups of neighbouring levels, 1..D, that share a strength; None
            is D. With few samples, the strengths of single levels follow the noise.
        centre, spread: mean and standard deviation of a Gaussian prior of every strength, to which every partial state
            adds the mean log-likelihood of its masked coordinates. Levels where class and mixture hardly differ
            then stay near the centre. An infinite spread is no prior.

    Returns:
        `Calibration`. The strength is the centre where a level's strength makes no difference.

    Raises:
        UserError: a class that does not exist, samples or weights that do not fit, too few samples, a sample to which
            the denoiser gives probability 0, or a number of groups, a centre or a spread out of range.
    """
    given_class(target_class)
    check_class(target_class, denoiser.num_classes)
    d = denoiser.num_dims
    groups = whole_number("groups", d if groups is None else groups, 1, d)
    masked = MaskedSamples(denoiser, samples, log_weights, generator, masks)
    rows = sampled_rows(masked, target_class)
    spread = number("spread", spread, 0, inf, above=True)
    shared = replace(rows, level=group_of(rows.level, groups, d))
    states = masks / (d * float(masked.weights.square().sum()))  # effective number at a level, whose weights sum to 1
    pull = 1 / states / spread / spread
    strengths = minimise(shared, rows.weight.new_full((groups,), Guidance(centre).constant), pull)
    errors = standard_errors(shared, strengths, len(masked.x), masks, pull, spread)
    each = group_of(torch.arange(d), groups, d).tolist()
    return Calibration(tuple(strengths[each].tolist()), tuple(errors[each].tolist()))


def group_of(level: Tensor, groups: int, num_dims: int) -> Tensor:
    """The group of each level, where 0, ..., D - 1 are divided into groups of equal size, up to one: int64."""
    return level * groups // num_dims


@dataclass(frozen=True)
class Gain:
    """How much more one list of strengths costs than another, by level, on samples that neither was fitted to.

    Attributes:
        before, after: the cross entropies of both, float64 (D,) in nats; their sums are NELBOs.
        covariance: of the estimates of before - after, (D, D).
    """

    before: Tensor
    after: Tensor
    covariance: Tensor

    def of(self, levels: slice = slice(None)) -> tuple[float | None, float]:
        """The gain over some levels, the sum of before - after, and its standard error, in nats.

        None where both sums are infinite: the conditionals give probability 0 to possible values at every strength.
        """
        before = self.before[levels]
        after = self.after[levels]
        variance = float(self.covariance[levels, levels].sum())
        known = not bool((before.sum() == inf) & (after.sum() == inf))
        return float((before - after).sum()) if known else None, max(variance, 0.0) ** 0.5


@checked
def exact_gain(
    target: TableMixture,
    w: float,
    target_class: int,
    denoiser: Denoiser | None = None,
    *,
    before: Sequence[float],
    after: Sequence[float],
) -> Gain:
    """What the strengths `after` gain over the strengths `before`, D of each, on the tilted law of strength w, exactly.

    Raises:
        UserError: as `exact_rows`.
    """
    before, after = (PerCount(strengths).of(target.num_dims) for strengths in (before, after))
    rows = exact_rows(target, w, target_class, denoiser)
    first, second = (rows.cross_entropies(rows.weight.new_tensor(strengths)) for strengths in (before, after))
    return Gain(first, second, torch.zeros(target.num_dims, target.num_dims, dtype=torch.float64))


@checked
@checked_at_the_end()
def held_out_gain(
    samples: MaskedSamples, target_class: int, *, before: Sequence[float], after: Sequence[float]
) -> Gain:
    """What the strengths `after` gain over the strengths `before`, D of each, on samples; see `calibrate`.

    Raises:
        UserError: as `calibrate`.
    """
    before, after = (PerCount(strengths).of(samples.denoiser.num_dims) for strengths in (before, after))
    rows = sampled_rows(samples, target_class)
    costs = [rows.each_cross_entropy(rows.weight.new_tensor(strengths)) for strengths in (before, after)]
    found = [by_state(rows, each, samples) for each in (*costs, costs[0] - costs[1])]
    means = [samples.level_means(*one) for one in found]
    return Gain(means[0][0], means[1][0], means[2][1])


def standard_errors(
    rows: LevelRows, strengths: Tensor, num_samples: int, masks: int = 1, pull: float = 0.0, spread: float = inf
) -> Tensor:
    """The standard errors of fitted strengths, (D,): the root of (sum (W g)^2 + (pull spread)^2) / (sum W h + pull)^2.

    g is the first derivative of a sample's cross entropy at the optimum, and h the second, as for every M-estimator
    (Huber 1967). The partial states of a sample are not independent: those of a level are added before the square
    (Liang and Zeger 1986). The prior holds a strength s at its centre c, an error of pull (s - c) / (sum W h + pull)
    whose mean square over the prior is the second term: without evidence, the standard error is the prior's deviation.
    inf where the optimum is an end of the bracket, or every strength does equally well and there is no prior.

    Args:
        rows: whose levels may be groups of levels. masks: partial states of each sample, in the order of the samples.
        pull: see `minimise`. spread: the prior's standard deviation; infinite where pull is 0.
    """
    first, second = rows.slopes(strengths)
    d = len(strengths)
    place = rows.state // masks * d + rows.level
    of_samples = first.new_zeros(num_samples * d).index_add_(0, place, rows.weight * first).view(num_samples, d)
    of_data = of_samples.square().sum(dim=0) * (num_samples / max(num_samples - 1, 1))
    of_prior = pull * spread if pull else 0.0
    found = (of_data + of_prior * of_prior).sqrt() / (level_sums(rows.weight * second, rows.level, d) + pull)
    at_end = (strengths == MIN_STRENGTH) | (strengths == MAX_STRENGTH)
    return found.masked_fill(at_end | ~found.isfinite(), float("inf"))
