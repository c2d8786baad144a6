"""How far n samples are from the tilted law on average: weighted ones, and those of the chain (theory, section 11).

The share of a cell among n samples, weighted or not, is normal for large n: with mean q(x), the law the samples have,
and variance v(x) / n. The distance to another law p is then half the sum of the means of folded normals,

    E TV = 1/2 sum_x E |N(q(x) - p(x), v(x) / n)|.

Unweighted, v = q (1 - q). With weights W, normalised by their own sum, v = E [W^2 (1_x - q)^2] / (E W)^2. Where a few
samples carry the weight n must be larger still: until then rare ones make the variance, and the true mean is lower.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdlm_cfg.laws.weights import TiltedWeights
from mdlm_cfg.support.arguments import checked

PER_DECADE = 8  # numbers of samples tried, of which one is the first that pays
MOST_DECADES = 12


def expected_tv(law: Tensor, reference: Tensor, num_samples: float) -> float:
    """E TV(reference, histogram of n samples of `law`) for n large; the laws are float64 (N,)*D."""
    return _mean_distance(law, law * (1 - law), reference, num_samples)


@checked
def expected_weighted_tv(weights: TiltedWeights, reference: Tensor, num_samples: float) -> float:
    """E TV(reference, weighted histogram of n samples of the chain) for n large.

    Args:
        weights: of the chain that is sampled.
        reference: float64 (N,)*D: the tilted law, most often.
    """
    q = weights.law
    return _mean_distance(q, (weights.squares * (1 - 2 * q) + q**2) / weights.ess, reference, num_samples)


@checked
def break_even_samples(weights: TiltedWeights, law: Tensor, reference: Tensor) -> int | None:
    """From about how many samples on weighted ones are nearer to the reference than unweighted ones (n large).

    The chain's samples stop at TV(law, reference); weighted ones go on to TV(weights.law, reference), which is 0 for
    exact conditionals and the tilted law, and start further away the fewer are effective.

    Args:
        weights: of the chain. law: of the chain, as it is.

    Returns:
        n, on a grid of 8 a decade; None where weights do not pay with 10^12 samples either.
    """
    paid = None
    for step in reversed(range(MOST_DECADES * PER_DECADE + 1)):
        n = 10 ** (step / PER_DECADE)
        if expected_weighted_tv(weights, reference, n) >= expected_tv(law, reference, n) * (1 - 1e-9):
            break
        paid = math.ceil(n)
    return paid


def _mean_distance(mean: Tensor, variance: Tensor, reference: Tensor, num_samples: float) -> float:
    """Half the sum over cells of the mean of |N(mean - reference, variance / n)|."""
    bias = (mean - reference).abs()
    deviation = (variance.clamp(min=0) / num_samples).sqrt()
    ratio = torch.where(deviation > 0, bias / deviation, math.inf)
    spread = deviation * math.sqrt(2 / math.pi) * (-(ratio**2) / 2).exp()
    return 0.5 * float((spread + bias * torch.erf(ratio / math.sqrt(2))).sum())
