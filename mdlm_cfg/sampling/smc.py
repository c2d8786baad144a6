"""Sequential Monte Carlo to the tilted law: weights, and resampling where they get uneven (theory, section 11).

The weight of every particle is the product of the Z_i of the coordinates that it has unmasked. Particles live in
independent groups; where a group's effective sample size falls below a threshold its particles are resampled
(systematically) and share the group's mean weight from then on. Weighted means of any function stay unbiased up to the
normaliser, and so does the normaliser itself, the mean of the weights (Del Moral 2004, prop. 7.4.1); the groups give
its standard error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end, read
from mdlm_cfg.chain.denoiser import Denoiser, check_class
from mdlm_cfg.chain.guidance import Guidance, effective_guidance
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.chain.steps import EventStep, uniform
from mdlm_cfg.laws.policy_transitions import policy_or_own
from mdlm_cfg.laws.weights import check_weights, log_weights_of_step
from mdlm_cfg.sampling.starts import refuse_stuck, starts
from mdlm_cfg.support.arguments import Integers, checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import number, whole_number


@dataclass(frozen=True)
class Weighted:
    """Weighted samples of the tilted law.

    Attributes:
        x: int64 (n, D).
        log_weights: float64 (n,); the mean of their exponentials estimates sum_x T(x), without bias.
        num_groups: the number of independent groups, each of n / num_groups consecutive samples.
        num_resampled: how many groups were resampled at each of the steps.
        ess_on_the_way: the groups' mean relative effective sample size at each of the steps, before any resampling.
    """

    x: Tensor
    log_weights: Tensor
    num_groups: int
    num_resampled: tuple[int, ...] = ()
    ess_on_the_way: tuple[float, ...] = ()

    @property
    def weights(self) -> Tensor:
        """Normalised, (n,), summing to 1."""
        return self.log_weights.softmax(dim=0)

    @property
    def log_normalizer(self) -> float:
        """The logarithm of the estimate of E W = sum_x T(x), in nats."""
        return float(self.log_weights.logsumexp(dim=0)) - math.log(len(self.x))

    @property
    def relative_error(self) -> float:
        """The standard error of the normaliser over its estimate, from the spread of the groups."""
        groups = self.log_weights.view(self.num_groups, -1).logsumexp(dim=1).softmax(dim=0) * self.num_groups
        return float(groups.std(correction=1)) / math.sqrt(self.num_groups)

    def error_of(self, values: Tensor) -> float:
        """The standard error of the weighted mean of values (n,), from the spread of the groups, to first order."""
        of_groups = self.weights.view(self.num_groups, -1)
        mean = self.weights @ values
        parts = (of_groups * (values.view(self.num_groups, -1) - mean)).sum(dim=1)
        return math.sqrt(float(parts.square().sum()) * self.num_groups / (self.num_groups - 1))

    @property
    def ess(self) -> float:
        """The relative effective sample size of the final weights, in (0, 1]."""
        return float(group_ess(self.log_weights[None]))


def even_of(x: Tensor, num_groups: int) -> Weighted:
    """Samples (n, D) of equal weight."""
    return Weighted(x, torch.zeros(len(x), dtype=torch.float64, device=x.device), num_groups)


@checked
@checked_at_the_end()
def sequential_monte_carlo(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    num_samples: int,
    *,
    policy: Policy | str | None = None,
    threshold: float = 0.5,
    num_groups: int = 10,
    start: Integers | None = None,
    generator: torch.Generator | None = None,
) -> Weighted:
    """Samples of the tilted law, weighted and resampled on the way (theory, section 11).

    Args:
        guidance: its w must be a number.
        num_samples: n, a multiple of `num_groups`.
        policy: which coordinate comes next, one at a time; None is the kind's own.
        threshold: a group is resampled when its relative effective sample size is below this; 0 means never.
        num_groups: independent groups, at least 2: they give the normaliser's error.
        start: as in `sample`.

    Raises:
        UserError: as `sample`; a threshold outside [0, 1]; a number of samples that groups do not divide.
    """
    check_class(target_class, denoiser.num_classes)
    check_weights(guidance)
    num_groups = check_groups(num_samples, num_groups, threshold)
    made = policy_or_own(policy, guidance)
    made.check(denoiser.num_dims)
    x, most, _ = starts(denoiser, num_samples, start)
    step = EventStep(1, made)
    log_rates_of = effective_guidance(guidance, made).rates_of(denoiser, target_class)
    log_weights = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    resampled = []
    ess = []
    for _ in range(most):
        before = x
        log_rates = log_rates_of(x)
        x = step.draw(before, log_rates, generator)
        refuse_stuck(before, x, denoiser.num_tokens, "sequential Monte Carlo")  # resampling would hide some of them
        log_weights += log_weights_of_step(before, x, log_rates)
        ess.append(group_ess(log_weights.view(num_groups, -1)).mean())
        rows, log_weights, uneven = resample(log_weights.view(num_groups, -1), threshold, generator)
        x = x[rows]
        log_weights = log_weights.flatten()
        resampled.append(uneven)
    found = read(torch.stack([*resampled, *ess]).double()) if resampled else []
    counts = (int(count) for count in found[:most])
    on_the_way = tuple(found[most:])
    return Weighted(x, log_weights, num_groups, tuple(counts), on_the_way)


def check_groups(num_samples: int, num_groups: int, threshold: float) -> int:
    """The number of groups.

    Raises:
        UserError: the samples do not divide into groups of equal size, or a threshold outside [0, 1].
    """
    number("threshold", threshold, 0, 1)
    num_groups = whole_number("num_groups", num_groups, 2)
    if whole_number("num_samples", num_samples) % num_groups:
        raise UserError(
            f"{num_samples} samples in {num_groups} groups: each group must have the same whole number of samples, so "
            f"give a multiple of {num_groups}, such as {num_groups * -(-num_samples // num_groups)}"
        )
    return num_groups


def group_ess(log_weights: Tensor) -> Tensor:
    """The relative effective sample size of every group, (groups,) in (0, 1], from log-weights (groups, m)."""
    found = 1 / (log_weights.shape[1] * log_weights.softmax(dim=1).square().sum(dim=1))
    return found.clamp(max=1)  # rounding alone may be above it


def resample(
    log_weights: Tensor, threshold: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Systematic resampling of the groups whose relative effective sample size is below a threshold.

    Of a group of m, particle i is kept the number of times that its share of the cumulated weights holds points of the
    grid (0, 1, ..., m - 1) / m + U / m with one uniform U (Kitagawa 1996).

    Args:
        log_weights: (groups, m).

    Returns:
        rows: int64 (groups * m,), the particle that takes each place. log_weights: (groups, m), a resampled group's
        mean weight everywhere. uneven: how many groups were resampled, int64 ().
    """
    groups, m = log_weights.shape
    total = log_weights.logsumexp(dim=1, keepdim=True)
    share = (log_weights - total).exp()
    uneven = group_ess(log_weights)[:, None] < threshold
    offsets = uniform(torch.Size([groups, 1]), generator, log_weights.device)
    grid = (torch.arange(m, device=log_weights.device) + offsets) / m
    cdf = share.cumsum(dim=1)
    drawn = torch.searchsorted(cdf / cdf[:, -1:], grid, right=True).clamp_(max=m - 1)
    places = torch.arange(m, device=log_weights.device).expand(groups, m)
    rows = torch.where(uneven, drawn, places) + m * torch.arange(groups, device=log_weights.device)[:, None]
    return rows.flatten(), torch.where(uneven, total - math.log(m), log_weights), uneven.sum()
