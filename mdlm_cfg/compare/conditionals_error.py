"""The error of learned conditionals if the mixture has exact ones: the NELBO minus the exact one, in nats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.masking import mask_uniform
from mdlm_cfg.compare.images import draw_counts
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.hmm import HiddenMarkovMixture

BATCH = 500  # partial states per call of the denoisers


@dataclass(frozen=True)
class ConditionalsError:
    """The error of a denoiser's conditionals, in nats per image or sequence, with standard errors over these.

    Attributes:
        nelbo: the denoiser's; exact_nelbo: that of the exact one, with the same masks.
        conditionals_error: nelbo - exact_nelbo, with its standard error: most noise is common to both and cancels.
        conditionals_kl: the same expectation with less noise, the cross entropy replaced by the KL divergence from the
            exact conditionals; never negative.
        entropy: mean -log p(x | z) of the same images, which exact_nelbo estimates.

    A denoiser that gives probability 0 to possible values has an infinite error, without a standard error; nor has the
    error on one example.
    """

    nelbo: float
    exact_nelbo: float
    conditionals_error: float
    conditionals_error_se: float | None
    conditionals_kl: float
    conditionals_kl_se: float | None
    entropy: float
    num_examples: int
    num_draws: int


def conditionals_error(
    target: BernoulliMixture | HiddenMarkovMixture,
    denoiser: Denoiser,
    x: Tensor,
    classes: Tensor | None,
    num_draws: int = 4,
    generator: torch.Generator | None = None,
) -> ConditionalsError:
    """The NELBO of a denoiser minus that of the exact one, on the same images with the same masks (theory, section 9).

    Args:
        target: the mixture that the images or sequences are drawn from (otherwise `conditionals_kl` is meaningless).
        denoiser: the learned one.
        x: int64 (n, D).
        classes: int64 (n,); None judges the null class.
        num_draws: masks per image, stratified in their number.
        generator: draws the masks.
    """
    null = torch.full((len(x),), target.num_classes)
    labels = null if classes is None else classes
    exact = target.denoiser()
    parts = []
    size = max(1, BATCH // num_draws)
    for part, part_labels in zip(x.split(size), labels.split(size)):
        counts = draw_counts(len(part), num_draws, target.num_dims, generator).flatten()
        clean, drawn = (v.repeat_interleave(num_draws, dim=0) for v in (part, part_labels))
        tokens = mask_uniform(clean, counts, target.num_tokens, generator)
        masked = (tokens == target.num_tokens)[..., None]  # a denoiser's output for the others is arbitrary
        log_p, log_q = (torch.where(masked, d(tokens, drawn), 0.0) for d in (exact, denoiser))
        kl = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum(dim=(1, 2))
        kl = kl.clamp(min=0)  # rounding alone may be below 0
        own, ideal = (-v.gather(2, clean[..., None]).sum(dim=(1, 2)) for v in (log_q, log_p))
        costs = torch.stack([own, ideal, kl]) * (target.num_dims / counts)
        parts.append(costs.reshape(3, -1, num_draws).mean(dim=2))
    nelbo, exact_nelbo, kl = torch.cat(parts, dim=1)
    entropy = -target.log_prob(x, labels)
    return ConditionalsError(
        float(nelbo.mean()),
        float(exact_nelbo.mean()),
        *_mean_and_error(nelbo - exact_nelbo),
        *_mean_and_error(kl),
        float(entropy.mean()),
        len(x),
        num_draws,
    )


def _mean_and_error(values: Tensor) -> tuple[float, float | None]:
    mean = float(values.mean())
    known = len(values) > 1 and math.isfinite(mean)
    return mean, float(values.std() / len(values) ** 0.5) if known else None
