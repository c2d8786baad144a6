"""The effect of guidance on a Bernoulli mixture, pixel by pixel and component by component.

In two dimensions guidance amplifies what is private to a class and suppresses what it shares with others. Here this is
examined in many: for pixels, whose values are private as far as they are likelier in the class than in the whole
mixture, and for components, which are distinct as far as their images identify the class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from mdlm_cfg.chain.masking import mask_uniform
from mdlm_cfg.compare.images import draw_counts
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.table import entropy_of

CERTAIN = 0.02  # pixels that are 0 or 1 with less than this probability of the other carry nothing
PRIVATE = math.log(1.5)  # log-ratio in nats from which a value is private to the class; below minus it, foreign
DIGITS = 12  # of log-ratios, gains and changes; further ones are rounding
GROUPS = ("private", "shared", "foreign")


@dataclass(frozen=True)
class PixelPicture:
    """How the probability of every pixel's values changes, against how private they are.

    Attributes:
        log_ratio: log p(x_i = v | z) / p(x_i = v) in nats, of M pairs (i, v), (M,).
        change: of P(x_i = v), guided less class, (M,).
        correlation: Pearson's correlation of the two.
        groups: mean change of private, shared and foreign values.
        private_error: the standard error, over samples, of the mean change of private values; NaN if there are none.
    """

    log_ratio: Tensor
    change: Tensor
    correlation: float
    groups: dict[str, float]
    private_error: float


@dataclass(frozen=True)
class ComponentPicture:
    """How the use of components changes, against how distinct they are; for C components of each of several classes.

    Attributes:
        log_gain: log usage / weight, smoothed by half a sample, (classes, C).
        rank_correlation: Spearman's correlation of log-gain and distinctness, both centred in each class.
        gain_in_errors: the sum over components of usage / weight times the centred ranks of distinctness, over its
            standard error by the choice of the samples; 0 on average where usage is the weight.
        in_use: how many components are in use, averaged over classes.
    """

    log_gain: Tensor
    rank_correlation: float
    gain_in_errors: float
    in_use: float


def pixel_log_ratios(target: BernoulliMixture, target_class: int) -> Tensor:
    """log p(x_i = v | z) / p(x_i = v) in nats, float64 (D, 2): how private to the class each value of a pixel is."""
    own = target.mean(target_class)
    whole = target.mean()
    return torch.stack([(-own).log1p() - (-whole).log1p(), own.log() - whole.log()], dim=1)


def uncertain_pixels(target: BernoulliMixture) -> Tensor:
    """Which pixels the whole mixture leaves open: bool (D,)."""
    whole = target.mean()
    return (whole >= CERTAIN) & (whole <= 1 - CERTAIN)


def pixel_picture(target: BernoulliMixture, classes: list[int], samples: Tensor) -> PixelPicture:
    """The change of pixels' means against log-ratios, of all classes together.

    Args:
        target: the mixture.
        classes: whose samples are given.
        samples: guided, (len(classes), n, D).
    """
    open_pixels = uncertain_pixels(target)
    ratios = []
    changes = []
    for k, mean in zip(classes, samples.double().mean(dim=1)):
        own = target.mean(k)[open_pixels]
        ratio = pixel_log_ratios(target, k)[open_pixels]
        change = mean[open_pixels] - own
        ratios.append(ratio.flatten())
        changes.append(torch.stack([-change, change], dim=1).flatten())
    log_ratio = torch.cat(ratios)
    change = torch.cat(changes)
    return PixelPicture(
        log_ratio,
        change,
        correlation(log_ratio, change),
        {name: float(change[inside].mean()) for name, inside in _groups(log_ratio).items()},
        _private_error(torch.stack(ratios), samples[..., open_pixels].double()),
    )


def _private_error(log_ratio: Tensor, samples: Tensor) -> float:
    """The standard error of the mean change of private values, NaN where there are none; of samples (K, n, M).

    Args:
        log_ratio: of both values of the pixels, (K, 2 M).
    """
    inside = log_ratio.unflatten(1, (-1, 2)) > PRIVATE
    ones = inside[..., 1].double() - inside[..., 0].double()  # a pixel of 1 adds to value 1, takes from value 0
    variances = (samples @ ones[..., None]).var(dim=1) / samples.shape[1]
    return float(variances.sum().sqrt() / inside.sum()) if inside.any() else math.nan


def _groups(log_ratio: Tensor) -> dict[str, Tensor]:
    private = log_ratio > PRIVATE
    foreign = log_ratio < -PRIVATE
    return dict(zip(GROUPS, (private, ~private & ~foreign, foreign)))


def component_shares(target: BernoulliMixture, x: Tensor, target_class: int) -> Tensor:
    """The posterior of a class's components for each image (n, D), and last whether it has none: float64 (n, C + 1).

    An image that is impossible under the class has no component. Rows sum to 1, and so do their means.
    """
    posterior = target.component_posterior(x.long(), target_class)
    none = posterior.isnan().any(dim=1, keepdim=True)
    return torch.cat([posterior.masked_fill(none, 0.0), none.double()], dim=1)


def component_usage(target: BernoulliMixture, x: Tensor, target_class: int, weights: Tensor | None = None) -> Tensor:
    """The mean of `component_shares` over images (n, D): float64 (C + 1,), the last one that of no component.

    Args:
        weights: of the images, (n,), summing to 1; None is equal ones.
    """
    return mean_shares(component_shares(target, x, target_class), weights)


def mean_shares(shares: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weighted mean of shares (n, C + 1), which sums to 1 but for the rounding of the weights."""
    if weights is None:
        return shares.mean(dim=0)
    usage = weights @ shares
    return usage / usage.sum()


def components_in_use(usage: Tensor) -> float:
    """How many components a usage (C + 1,) has: exp of its entropy over the images that have one; 0 where none has."""
    of_components = usage[:-1]
    used = float(of_components.sum())
    return math.exp(entropy_of(of_components / used)) if used else 0.0


def distinctness(
    target: BernoulliMixture, target_class: int, num: int, generator: torch.Generator | None = None
) -> Tensor:
    """How reliably partial images of each component identify the class: E log p(x | z) / p(x) in nats, float64 (C,).

    The mean is over partial images of every size, the number of their pixels uniform on 0..D-1. Where classes hardly
    overlap, whole images reach the maximum, log 1 / p(z), for every component, though guidance acts long before an
    image is whole.

    Args:
        target: the mixture.
        target_class: z.
        num: images per component.
        generator: draws images and masks.
    """
    p = target.component_probabilities(target_class).repeat_interleave(num, dim=0)
    x = (torch.rand(p.shape, generator=generator, dtype=torch.float64) < p).long()
    counts = draw_counts(target.num_components, num, target.num_dims, generator).flatten()
    x = mask_uniform(x, counts, target.num_tokens, generator)
    log_ratio = target.log_prob(x, torch.full((len(x),), target_class)) - target.log_prob(x)
    return log_ratio.reshape(target.num_components, num).mean(dim=1)


def component_picture(
    target: BernoulliMixture, classes: list[int], samples: Tensor, distinct: Tensor
) -> ComponentPicture:
    """The gain of components against their distinctness.

    Args:
        target: the mixture.
        classes: those of the rows below.
        samples: guided, (len(classes), n, D).
        distinct: their `distinctness`, (len(classes), C).
    """
    from scipy.stats import rankdata  # takes most of a second to import

    weights = torch.stack([target.weights(k) for k in classes])
    usages = [component_usage(target, x, k) for x, k in zip(samples, classes)]
    num = samples.shape[1]
    log_gain = ((num * torch.stack(usages)[:, :-1] + 0.5) / (num * weights + 0.5)).log()
    centred = (v - v.mean(dim=1, keepdim=True) for v in (log_gain, distinct))
    gain, ranks = (torch.from_numpy(rankdata(v.flatten().round(decimals=DIGITS))) for v in centred)
    return ComponentPicture(
        log_gain,
        correlation(gain, ranks),
        _gain_in_errors(target, classes, samples, ranks.reshape(weights.shape)),
        fmean(map(components_in_use, usages)),
    )


def _gain_in_errors(target: BernoulliMixture, classes: list[int], samples: Tensor, ranks: Tensor) -> float:
    """See `ComponentPicture`; ranks are (len(classes), C)."""
    total = variance = 0.0
    for k, x, own in zip(classes, samples, ranks):
        weights = target.weights(k)
        scores = torch.where(weights > 0, (own - own.mean()) / weights, 0.0)
        of_samples = component_shares(target, x, k)[:, :-1] @ scores
        total += float(of_samples.mean())
        variance += float(of_samples.var()) / len(x)
    return total / math.sqrt(variance) if variance > 0 else math.nan


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two vectors; NaN where one is constant up to rounding."""
    a = a - a.mean()
    b = b - b.mean()
    if min(float(v.abs().max()) for v in (a, b)) < 10**-DIGITS:
        return math.nan
    return float(a @ b / (a.norm() * b.norm()))
