"""Samples masked at every level, the number l of unmasked coordinates, in one pass over them (theory, sections 21, 22).

An expectation is estimated for each level l: a uniformly drawn set S of l coordinates is kept, the others are masked,
and a denoiser gives the conditionals of the masked ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from mdlm_cfg.chain.checks import raise_where
from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.masking import device_of_generator, mask_uniform
from mdlm_cfg.support.arguments import Integers, Reals, check_fields
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number

MAX_ROWS = 4096  # partial states per call of a denoiser
FEW = 100  # partial states, from fewer of which a variance is not known
LEAST = 2  # partial states of a level: one has no standard error
MAX_SAMPLES = 1024  # whose influence on every level is held at a time


@dataclass(frozen=True)
class MaskedBatch:
    """Partial states made of samples.

    Attributes:
        tokens, clean: int64 (B, D), the partial states and the samples that they were made of.
        level: how many coordinates of each are unmasked, int64 (B,). sample: the number of the sample, int64 (B,).
        state: the number of the partial state among all, int64 (B,).
    """

    tokens: Tensor
    clean: Tensor
    level: Tensor
    sample: Tensor
    state: Tensor


def drawn_levels(num: int, num_dims: int, masks: int, generator: torch.Generator | None = None) -> Tensor:
    """The levels of the masks of every sample, int64 (num, masks), values 0..D-1.

    A sample's levels differ from one another, and the counts of all levels differ by at most one.
    """
    device = device_of_generator(generator)
    place = torch.randperm(num, generator=generator, device=device)[:, None] * masks
    return (place + torch.arange(masks, device=device)) % num_dims


@dataclass(frozen=True)
class MaskedSamples:
    """Samples for a denoiser, and how partial states are made of them.

    Attributes:
        x: int64 (n, D). log_weights: (n,), up to a constant; None is equal weights.
        generator: draws levels and masks.
        masks: how many partial states are made of each sample, 1..D, each with another number of unmasked coordinates.
    """

    denoiser: Denoiser
    x: Integers
    log_weights: Reals | None = None
    generator: torch.Generator | None = None
    masks: int = 1

    def __post_init__(self) -> None:
        check_fields(self, "denoiser", "x", "log_weights", "generator")
        object.__setattr__(self, "masks", whole_number("masks", self.masks, 1, self.denoiser.num_dims))

    @property
    def num_states(self) -> int:
        """How many partial states there are."""
        return len(self.x) * self.masks

    @cached_property
    def weights(self) -> Tensor:
        """Weights of the samples that sum to 1, float64 (n,) on the denoiser's device.

        Raises:
            UserError: samples of another shape or with masks, too few of them, or invalid weights.
        """
        _check_samples(self.denoiser, self.x, self.masks)
        return _normalised(self.log_weights, len(self.x), device_of(self.denoiser))

    def batches(self) -> Iterator[MaskedBatch]:
        """Every sample, masked at the levels that `drawn_levels` gives it, in batches on the denoiser's device."""
        device = device_of(self.denoiser)
        d = self.denoiser.num_dims
        levels = drawn_levels(len(self.x), d, self.masks, self.generator).flatten().to(device)
        x = self.x.to(device)
        for state in torch.arange(len(levels), device=device).split(MAX_ROWS):
            sample = state // self.masks
            level = levels[state]
            clean = x[sample]
            tokens = mask_uniform(clean, d - level, self.denoiser.num_tokens, self.generator)
            yield MaskedBatch(tokens, clean, level, sample, state)

    def level_means(self, values: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """See `level_means`: of one value and level of each partial state, (n * masks,) each; on the host."""
        return level_means(values.cpu(), levels.cpu(), self.weights.cpu(), self.masks, self.denoiser.num_dims)


def _check_samples(denoiser: Denoiser, samples: Tensor, masks: int) -> None:
    n = denoiser.num_tokens
    d = denoiser.num_dims
    if samples.ndim != 2 or samples.shape[1] != d:
        raise UserError(f"samples have shape {tuple(samples.shape)}, and must have shape (n, {d})")
    if not bool(((samples >= 0) & (samples < n)).all()):
        raise UserError(f"samples must hold values 0..{n - 1}, and no masks")
    if len(samples) * masks < LEAST * d:
        raise UserError(
            f"{len(samples)} samples with {masks} mask(s) each are not enough for {d} levels: there must be at least "
            f"{LEAST} partial states of each level, so give at least {-(-LEAST * d // masks)} samples or more masks"
        )


def _normalised(log_weights: Tensor | None, num: int, device: torch.device) -> Tensor:
    if log_weights is None:
        return torch.full((num,), 1 / num, dtype=torch.float64, device=device)
    weights = log_weights.to(device, torch.float64)
    if weights.shape != (num,) or bool((weights.isnan() | weights.isposinf()).any()):
        raise UserError(
            f"log_weights have shape {tuple(weights.shape)}, and must be {num} numbers that are finite or -inf"
        )
    if not bool(weights.isfinite().any()):
        raise UserError("every sample has weight 0: at least one log-weight must be finite")
    return weights.softmax(dim=0)


def level_sums(values: Tensor, level: Tensor, num_dims: int) -> Tensor:
    """The sum of the values of each level, float64 (D,) from (R,) and the rows' levels, int64 (R,)."""
    return values.new_zeros(num_dims).index_add_(0, level, values)


def level_totals(weight: Tensor, level: Tensor, num_dims: int) -> Tensor:
    """`level_sums` of weights, which must be positive.

    Raises:
        UserError: a level none of whose partial states has a positive weight.
    """
    totals = level_sums(weight, level, num_dims)

    def explain(row: int) -> str:
        return (
            f"every partial state with {row} of {num_dims} coordinates unmasked comes from a sample of weight 0: give "
            "more samples, or more masks per sample"
        )

    raise_where(totals == 0, explain)
    return totals


def level_means(values: Tensor, levels: Tensor, weights: Tensor, masks: int, num_dims: int) -> tuple[Tensor, Tensor]:
    """Weighted means of each level, (D,), and their covariance over the samples, (D, D).

    The variance of n equal weights is divided by n - 1 and not by n. That of a level with few partial states is at
    least its neighbours' (`_pooled`): values such as -ln p are rarely large, and a few states may hold no large one.

    Args:
        values, levels: of the n * masks partial states. weights: of the n samples.
    """
    each = weights.repeat_interleave(masks)
    totals = level_totals(each, levels, num_dims)
    means = level_sums(each * values, levels, num_dims) / totals
    share = each / totals[levels]
    concentration = level_sums(share.square(), levels, num_dims)  # 1 / n for n equal weights
    rest = 1 - concentration
    unbiased = torch.where(rest > 0, 1 / rest, 1.0).sqrt()
    influence = unbiased[levels] * share * (values - means[levels])
    covariance = torch.zeros(num_dims, num_dims, dtype=torch.float64)
    for part, place in zip(influence.view(-1, masks).split(MAX_SAMPLES), levels.view(-1, masks).split(MAX_SAMPLES)):
        by_level = part.new_zeros(len(part), num_dims).scatter_(1, place, part)  # a sample's levels differ
        covariance += by_level.T @ by_level
    own = covariance.diagonal()
    own.copy_(_pooled(own, float((1 / concentration).mean())))
    return means, covariance


def _pooled(variances: Tensor, states: float) -> Tensor:
    """Variances of the means of all levels, (D,), each at least the mean of its neighbours'.

    The mean is over neighbours that have `FEW` partial states together. A state of level l is a mean over D - l
    coordinates, so variances are averaged after multiplication by D - l. Level 0, whose states are all one, keeps its
    own.

    Args:
        states: the effective number of partial states of a level.
    """
    half = math.ceil(FEW / states) // 2
    masked = torch.arange(len(variances), 0, -1, dtype=torch.float64)
    scaled = (variances * masked)[None]
    means = avg_pool1d(scaled, 2 * half + 1, stride=1, padding=half, count_include_pad=False)[0] / masked
    means[0] = variances[0]
    return torch.maximum(variances, means)
