"""Distances and moments of laws on {0..N-1}^D, and of samples with their noise floor (theory, section 8).

Laws are float64 tensors (N,)*D, compared on the device where they are, with one wait for each number;
intervals are drawn on the CPU. (torchmetrics' TotalVariation is the smoothness of an image, not this distance.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.checks import raise_where
from mdlm_cfg.chain.lattice import flat_index
from mdlm_cfg.support.arguments import Integers, Reals, checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number

SQUARED_ROUNDING = 1e-24  # what a rounding of 1e-12 leaves of a covariance that is 0
TIED = 1e-3  # nats; closer classes count as equally probable (they are to 1 in 4000): float32 rounds by less
CHANCE = 0.05  # probability that the extremes of several equal sets are reported to differ


@checked
def total_variation(p: Reals, q: Reals) -> float:
    """TV(p, q) = 1/2 sum |p - q|, in [0, 1]; NaN if a law holds NaN or infinity."""
    _check_same_shape(p, q)
    found = 0.5 * float((p - q.to(p.device)).abs().sum())
    return min(found, 1.0) if found < math.inf else math.nan  # rounding alone may exceed 1


@checked
def kl_divergence(p: Reals, q: Reals) -> float:
    """KL(p || q) = sum p ln(p / q) in nats, at least 0; inf if p has mass where q has none; NaN where one holds NaN.

    From a law of guidance, which may be too small for float64: `mdlm_cfg.compare.divergence.divergence_from_chain`.
    """
    _check_same_shape(p, q)
    no_mass = (p <= 0) & ~q.isnan()  # NaN must not be left out
    return max(float(torch.where(no_mass, 0.0, p * (p.log() - q.log())).sum()), 0.0)  # rounding alone may be below 0


@checked
def histogram(x: Integers, num_tokens: int, weights: Reals | None = None) -> Tensor:
    """The empirical law of samples, float64 (N,)*D, from int64 (n, D).

    Args:
        weights: of the samples, float64 (n,), finite, not negative and not all 0; None is one each.

    Raises:
        UserError: no samples, a value outside 0..N-1, such as the mask, which would be counted in another cell; or
            invalid weights.
    """

    def explain(row: int, sample: Tensor, weight: Tensor) -> str:
        for value in sample.tolist():
            if not 0 <= value < num_tokens:
                return f"samples hold the value {value}, and must hold 0 to {num_tokens - 1}: {num_tokens} is the mask"
        only = "only " if weight == 0 else ""
        return f"weights hold {only}{float(weight):g}: they must be finite, not negative and not all 0"

    if x.ndim != 2 or not len(x) or (weights is not None and weights.shape != x.shape[:1]):
        shapes = [tuple(one.shape) for one in (x, weights) if one is not None]
        raise UserError(
            f"samples, and weights, have shapes {shapes}, and must have (n, D), and (n,), with n at least 1"
        )
    each = torch.ones(len(x), dtype=torch.float64, device=x.device) if weights is None else weights.double()
    total = each.sum()
    is_weight = (each >= 0) & (each < math.inf) & (total != 0)
    raise_where(((x < 0) | (x >= num_tokens)).any(dim=1) | ~is_weight, explain, x, each)
    num_dims = x.shape[1]
    counts = each.new_zeros(num_tokens**num_dims)
    counts.scatter_add_(0, flat_index(x.long(), num_tokens), each)
    return (counts / total).reshape([num_tokens] * num_dims)


def _check_same_shape(p: Tensor, q: Tensor) -> None:
    if p.shape != q.shape:
        raise UserError(
            f"laws have the shapes {tuple(p.shape)} and {tuple(q.shape)}: only laws of the same shape can be compared"
        )


def mean_and_covariance(law: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of a law, in units of the values 0..N-1."""
    num_dims = law.ndim
    n = law.shape[0]
    values = torch.arange(n, dtype=torch.float64, device=law.device)
    marginals = torch.stack([_marginal(law, (i,)) for i in range(num_dims)])
    mean = marginals @ values
    covariance = values.new_empty(num_dims, num_dims)
    for i in range(num_dims):
        covariance[i, i] = marginals[i] @ (values - mean[i]) ** 2
        for j in range(i):
            pair = _marginal(law, (j, i))
            covariance[i, j] = covariance[j, i] = (values - mean[j]) @ pair @ (values - mean[i])
    return mean, covariance


def _marginal(law: Tensor, keep: tuple[int, ...]) -> Tensor:
    drop = [i for i in range(law.ndim) if i not in keep]
    return law.sum(dim=drop) if drop else law


@checked
def expected_sampling_tv(law: Tensor, num_samples: int) -> float:
    """E TV(law, histogram of n independent samples) = sum_x E|B(n, q) - nq| / 2n, exactly (theory, section 8).

    E|B(n, q) - nq| is 2 n q (1 - q) P(B(n - 1, q) = floor(nq)) (De Moivre); for n q large it is sqrt(2nq(1-q)/pi), the
    theory's approximation.
    """
    return float(_expected_deviations(law.cpu(), whole_number("num_samples", num_samples)).sum())


def expected_share_tv(shares: Tensor, weights: Tensor, num_samples: int) -> float:
    """E TV of the mean shares of n independent samples to the mean shares q of their law.

    For shares of 0 or 1 it is `expected_sampling_tv` of q. Others, such as probabilities of hidden components, vary
    less: the deviation of each q is that of a count, times the ratio of the two standard deviations.

    Args:
        shares: of examples of the law, (B, C), each row summing to 1.
        weights: of the examples, (B,), summing to 1.
    """
    q = weights @ shares
    variance = weights @ (shares - q).square()
    of_counts = (q * (1 - q)).clamp(min=0)
    ratio = torch.where(of_counts > 0, variance / of_counts, 0.0).clamp(max=1).sqrt()
    return float((_expected_deviations(q, whole_number("num_samples", num_samples)) * ratio).sum())


def _expected_deviations(law: Tensor, num_samples: int) -> Tensor:
    """E|B(n, q) - nq| / 2n of every cell."""
    from scipy.stats import binom  # takes most of a second to import

    q = law.clamp(0, 1)  # rounding alone may exceed 1
    at = binom.pmf((num_samples * q).floor(), num_samples - 1, q)
    return q * (1 - q) * torch.from_numpy(np.asarray(at))


@dataclass(frozen=True)
class Estimate:
    """A statistic of samples with a bootstrap interval (quantiles 2.5% and 97.5%)."""

    value: float
    low: float
    high: float


def sampled_tv(law: Tensor, x: Tensor, num_resamples: int = 200, generator: torch.Generator | None = None) -> Estimate:
    """TV between a law and samples, with the interval of its sampling distribution.

    Resampling n points from n adds the noise of a TV a second time; the interval is therefore that of the statistic
    re-centred: value + (resampled - mean of resampled).
    """
    empirical = histogram(x, law.shape[0]).cpu()
    law = law.cpu()
    value = total_variation(law, empirical)
    # only cells that were seen can be drawn again; the others contribute a constant, which centring removes
    seen = empirical.flatten() > 0
    counts = multinomial_counts(empirical.flatten()[seen], len(x), num_resamples, generator)
    resampled = 0.5 * (counts / len(x) - law.flatten()[seen]).abs().sum(dim=1)
    centred = resampled - resampled.mean() + value
    low, high = torch.quantile(centred, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def least_tv(law: Tensor, x: Tensor) -> float:
    """A lower bound on the TV between a law and the one that samples follow, which holds in 39 of 40 cases.

    The TV is the largest q(A) - p(A) of any event A. Each half of the samples chooses an event, the states that it has
    more often than the law p, and the other half measures it without bias. The standard deviation of the mean of both
    is at most 1 / sqrt(2n). (The TV of the samples less their noise is no such bound, since it is noisy itself.)
    """
    if len(x) < 2:
        return 0.0
    first, second = (histogram(half, law.shape[0]).cpu() - law.cpu() for half in (x[::2], x[1::2]))
    found = (float(first[second > 0].sum()) + float(second[first > 0].sum())) / 2
    return max(0.0, found - NormalDist().inv_cdf(0.975) / math.sqrt(2 * len(x)))


def most_tv(found: Estimate, num_samples: int) -> float:
    """An upper bound on the TV between a law and the one that n samples follow, from their `sampled_tv`, at most 1.

    Resampling repeats what was seen: if no sample left the law's most probable states, its interval has no width. As in
    Wilson's interval the error is that of the TV at the bound and not of the TV that was seen, z^2 / 2n +
    sqrt((z^2 / 2n)^2 + (high - value)^2); for k rare events it is Wilson's interval of a share, 3.84 / n if k = 0.
    """
    least = NormalDist().inv_cdf(0.975) ** 2 / (2 * num_samples)
    return min(1.0, found.value + least + math.hypot(least, found.high - found.value))


def multinomial_counts(p: Tensor, num_trials: int, num_draws: int, generator: torch.Generator | None = None) -> Tensor:
    """Counts of independent multinomials of `num_trials` each, float64 (num_draws, cells).

    Cell by cell as binomials of the trials left, so that no array has the size of the trials.
    """
    support = (p > 0).nonzero().squeeze(1)
    q = p[support]
    tail = q.flip(0).cumsum(0).flip(0)
    counts = torch.zeros(num_draws, len(p), dtype=torch.float64)
    left = torch.full((num_draws,), float(num_trials), dtype=torch.float64)
    for cell, share in zip(support.tolist(), (q / tail).clamp(max=1.0)):
        counts[:, cell] = torch.binomial(left, share.expand_as(left), generator=generator)
        left = left - counts[:, cell]
    return counts


def relative_difference(a: Tensor, b: Tensor) -> dict[str, float]:
    """|a - b| relative to |b|, in the Frobenius and the spectral norm (Euclidean for vectors); 0 where a is b.

    Also where they differ only by rounding, as covariances of laws of one point do.
    """
    orders: dict[str, Any] = {"euclidean": 2} if a.ndim == 1 else {"frobenius": "fro", "spectral": 2}
    norm = torch.linalg.vector_norm if a.ndim == 1 else torch.linalg.matrix_norm
    gaps = {name: norm(a - b, ord=order) for name, order in orders.items()}
    return {
        name: float(torch.where(gap <= SQUARED_ROUNDING, 0.0, gap / norm(b, ord=orders[name])))
        for name, gap in gaps.items()
    }


def tv_error(num_samples: int) -> float:
    """The most that the standard deviation of a TV of n independent samples to a law can be: 1 / (2 sqrt n).

    One sample changes the TV by at most 1 / n (bounded differences). The same holds for shares of hidden components,
    of which a sample has probabilities.
    """
    return 0.5 / math.sqrt(num_samples)


def sure_of(num: int) -> float:
    """The number of standard errors by which any two of `num` equal sets differ in at most 1 of 20 reports."""
    return NormalDist().inv_cdf(1 - CHANCE / max(2, num * (num - 1)))


def student(sure: float, num: int) -> float:
    """The number of standard errors, estimated from `num` values, that is as sure as `sure` known ones: Student's t.

    For 2 known ones it is 14 from 2 values, 2.6 from 6, and 2.1 from 30. One value has no standard error.
    """
    from scipy.stats import t  # takes most of a second to import

    return float(t.ppf(NormalDist().cdf(sure), max(1, num - 1)))


def difference_of_shares(a: float, n: int, b: float, m: int) -> tuple[float, float]:
    """The difference of two shares, a of n and b of m, and its standard error, for a test whether they differ.

    Each with one more success and one more failure (Agresti and Caffo 2000): the error of a share of 0 or 1 would be 0
    otherwise, and two of three against none of three a clear difference.
    """
    shares = [((share * count + 1) / (count + 2), count + 2) for share, count in ((a, n), (b, m))]
    return shares[0][0] - shares[1][0], math.sqrt(sum(share * (1 - share) / count for share, count in shares))


def recognised(log_probs: Tensor, classes: Tensor | int) -> Tensor:
    """Whether the class of each example is its most probable one, float64 (n,); one of k tied classes counts 1 / k.

    Args:
        log_probs: of every class, in nats up to a constant of each example, (n, K). Where all are -inf none is.
        classes: the class of each example, int64 (n,), or of all.
    """
    most = log_probs.amax(dim=1, keepdim=True)
    tied = (most > -math.inf) & ((log_probs == most) | (most - log_probs < TIED))
    own = tied[torch.arange(len(tied), device=tied.device), classes]
    return own.double() / tied.sum(dim=1).clamp(min=1)


def sign_beyond(difference: float, chance: float) -> int:
    """1 where a difference is larger than chance makes it, -1 where its negative is, else 0."""
    return (difference > chance) - (difference < -chance)
