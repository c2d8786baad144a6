"""The tilted law of a known mixture from samples of the class itself, in any dimension (theory, section 11).

    p_{z,w}(x) is proportional to p(x)^(-w) p(x|z)^(1+w) = p(x|z) (p(x|z) / p(x))^w:

samples of the class, weighted by (p_z / p)^w = (p(z|x) / p(z))^w, are samples of the tilted law, and the mean weight is
its normaliser. No chain is run; the weights are at most p(z)^(-w), and nearly equal where images identify their class.
"""

from __future__ import annotations

import math

import torch

from mdlm_cfg.chain.denoiser import check_class
from mdlm_cfg.sampling.smc import Weighted
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.posterior import posterior_of

NUM_GROUPS = 20  # independent, for the normaliser's error


@checked
def tilted_reference(
    target: BernoulliMixture, w: float, target_class: int, num_samples: int, generator: torch.Generator | None = None
) -> Weighted:
    """Weighted samples of the tilted law p_{z,w}, drawn from the class.

    Args:
        target: known exactly, with a class z of positive weight.
        w: guidance strength.
        target_class: z.
        num_samples: n, a multiple of 20.

    Returns:
        `Weighted`, its weights (p_z / p)^w: `log_normalizer` estimates ln sum_x p(x)^(-w) p(x|z)^(1+w), without bias in
        its exponential.

    Raises:
        UserError: an unknown class, a class of weight 0, or a number of samples that the groups do not divide.
    """
    check_reference(num_samples)
    check_positive_class(target, target_class)
    x, _ = target.sample(num_samples, generator, target_class)
    log_weights = w * (posterior_of(target)(x)[:, target_class] - math.log(target.class_weights[target_class]))
    return Weighted(x, log_weights, NUM_GROUPS)


def check_reference(num_samples: int) -> None:
    """Raise UserError unless the number of samples is a multiple of `NUM_GROUPS`."""
    if whole_number("num_samples", num_samples) % NUM_GROUPS:
        raise UserError(f"a reference of {num_samples} samples is not allowed: take a multiple of {NUM_GROUPS}")


def check_positive_class(target: BernoulliMixture, target_class: int) -> None:
    """Raise UserError for a class that the mixture never takes: it has no tilted law."""
    check_class(target_class, target.num_classes)
    if not float(target.class_weights[target_class]) > 0:
        raise UserError(
            f"class {target_class} has weight 0 in the mixture, so there is no tilted law for it: choose another "
            "target_class"
        )
