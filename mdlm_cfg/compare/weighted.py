"""The mean distance of n samples to the tilted law, weighted and as the chain draws them (theory, section 11).

The share of a cell among n samples, weighted or not, has the mean q(x), the law the samples have, and for large n the
variance v(x) / n. Unweighted, v = q (1 - q); with weights W, normalised by their own sum, v = E [W^2 (1_x - q)^2] /
(E W)^2. It is taken to be that of as many unweighted samples as have this variance, m(x) = n q (1 - q) / v, so that

    E TV = 1/2 sum_x E |B(m, q) / m - p|

to another law p. Without weights this is exact; with weights it is an approximation, too large where few of the samples
carry most of the second moment: `TiltedWeights.heavy` says which share of them does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdlm_cfg.chain.lattice import flat_index
from mdlm_cfg.compare.metrics import histogram, mean_deviations, total_variation
from mdlm_cfg.laws.weights import TiltedWeights
from mdlm_cfg.sampling.smc import Weighted
from mdlm_cfg.support.arguments import checked

PER_DECADE = 8  # numbers of samples tried, of which one is the first that pays
MOST_DECADES = 12
MOST_SPREAD = 1e4  # a binomial with a larger variance is normal


def expected_tv(law: Tensor, reference: Tensor, num_samples: float) -> float:
    """E TV(reference, histogram of n samples of `law`); the laws are float64 (N,)*D, and n need not be whole."""
    return _mean_distance(law, law * (1 - law), reference, num_samples)


@checked
def expected_weighted_tv(weights: TiltedWeights, reference: Tensor, num_samples: float) -> float:
    """E TV(reference, weighted histogram of n samples of the chain), approximately.

    In trials with random tables it was within 10% wherever n * weights.heavy was at least 100.

    Args:
        weights: of the chain that is sampled.
        reference: float64 (N,)*D: the tilted law, most often.
    """
    q = weights.law
    return _mean_distance(q, (weights.squares * (1 - 2 * q) + q**2) / weights.ess, reference, num_samples)


def weighted_tv(drawn: Weighted, reference: Tensor) -> tuple[float, float]:
    """The TV of weighted samples to a law (N,)*D, and its standard error by their groups, to first order.

    The error is too large, by up to two thirds, where the samples follow the law, and about right elsewhere.
    """
    num_tokens = reference.shape[0]
    law = histogram(drawn.x, num_tokens, drawn.weights)
    signs = (law - reference.to(law.device)).sign().flatten()[flat_index(drawn.x, num_tokens)]
    return total_variation(law, reference), drawn.error_of(signs / 2)


@checked
def break_even_samples(weights: TiltedWeights, law: Tensor, reference: Tensor) -> int | None:
    """The number of samples from which weighted ones are nearer to the reference than unweighted ones (for large n).

    The chain's samples stop at TV(law, reference); weighted ones go on to TV(weights.law, reference), which is 0 for
    exact conditionals and the tilted law, and start further away the fewer are effective.

    Args:
        weights: those of the chain. law: the unweighted law of the chain.

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
    """Half the sum over cells of E |share - reference|, where the shares have this mean, and this variance over n."""
    from scipy.stats import foldnorm  # takes most of a second to import

    q, v, p = (law.flatten().cpu() for law in (mean, variance, reference))
    is_random = (q > 0) & (q < 1) & (v > 0)
    sure = (q - p).abs()[~is_random].sum()
    q, v, p = (law[is_random] for law in (q, v, p))
    m = (num_samples * q * (1 - q) / v).clamp(min=1)
    is_normal = m * q * (1 - q) > MOST_SPREAD
    spread = (v / num_samples).sqrt()
    found = torch.from_numpy(foldnorm.mean((q - p).abs() / spread, scale=spread))
    few = m.floor()[~is_normal]
    low, high = (mean_deviations(q[~is_normal], p[~is_normal], whole) for whole in (few, few + 1))
    found[~is_normal] = torch.lerp(low, high, m[~is_normal] - few)
    return 0.5 * float(sure + found.sum())
