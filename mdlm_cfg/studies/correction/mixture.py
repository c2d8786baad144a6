"""The tilted law of a Bernoulli mixture, sampled: corrected and uncorrected samples beside an exact reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.metrics import expected_sampling_tv, total_variation
from mdlm_cfg.sampling.reference import log_class_posterior, tilted_reference
from mdlm_cfg.sampling.smc import Weighted, sequential_monte_carlo
from mdlm_cfg.studies.correction.mixture_findings import ClassCorrection, MixtureCorrection, SetRow
from mdlm_cfg.studies.correction.options import Options
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import check_sampled
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture

SHOWN = 10  # images of a set


def correct_mixture(
    data: Any,
    denoiser: Denoiser | None,
    plan: Plan,
    options: Options,
    progress: Callable[[str], None] | None = None,
    keep: Keep = keep_nothing,
) -> MixtureCorrection:
    """Guided samples, the same weighted, and those of sequential Monte Carlo, beside samples of the class, weighted.

    Args:
        data: with a `BernoulliMixture` as target, set up.
        denoiser: the learned one; None is the target's own.
        plan: guidances of one number w each, first_hitting with any policy; n samples per class, strength and set.
    """
    target: BernoulliMixture = data.target
    check_sampled(plan, (target.num_tokens, target.num_dims, target.num_classes), denoiser)
    judged: Denoiser = target.denoiser() if denoiser is None else denoiser
    classes = classes_of(plan, target)
    say = Pieces([1] * (2 * len(plan.guidances) * len(classes)), progress)
    found = []
    for guidance in plan.guidances:
        for z in classes:
            head = f"class {z}, w = {guidance.label}: {plan.num_samples:,} samples of {target.num_dims} steps"
            say(f"{head}, guided")
            asked = (guidance.key(target.num_dims), plan.sampler.key, plan.num_samples, plan.seed, z)
            guided, log_weights = keep(("weighted", *asked), partial(_guided, judged, guidance, z, plan))
            say(f"{head}, resampled on the way")
            how = (options.threshold, options.num_groups)
            again = keep(("resampled", *asked, *how), partial(_resampled, judged, guidance, z, plan, options))
            weighted, resampled = Weighted(guided, log_weights, options.num_groups), Weighted(*again)
            found.append(_compare(target, guidance, z, plan, options, weighted, resampled))
    name = "exact" if denoiser is None else "learned"
    return MixtureCorrection(plan, options, data.name, tuple(data.grid_shape), name, found)


def _guided(denoiser: Denoiser, guidance: Guidance, target_class: int, plan: Plan) -> tuple[Tensor, Tensor]:
    """Samples and their log-weights."""
    generator = plan.generator("weighted samples", guidance, target_class, num_dims=denoiser.num_dims)
    return plan.sampler.draw_weighted(denoiser, guidance, target_class, plan.num_samples, generator)


def _resampled(
    denoiser: Denoiser, guidance: Guidance, target_class: int, plan: Plan, options: Options
) -> tuple[Any, ...]:
    """Those of sequential Monte Carlo, as what `Weighted` is made of."""
    generator = plan.generator("resampled samples", guidance, target_class, num_dims=denoiser.num_dims)
    found = sequential_monte_carlo(
        denoiser, guidance, target_class, plan.num_samples, policy=plan.sampler.policy, threshold=options.threshold,
        num_groups=options.num_groups, generator=generator,
    )  # fmt: skip
    return astuple(found)


def classes_of(plan: Plan, target: BernoulliMixture) -> list[int]:
    """The plan's classes; all for None."""
    return list(range(target.num_classes)) if plan.classes is None else list(plan.classes)


def _compare(
    target: BernoulliMixture,
    guidance: Guidance,
    target_class: int,
    plan: Plan,
    options: Options,
    weighted: Weighted,
    resampled: Weighted,
) -> ClassCorrection:
    z = target_class
    reference = tilted_reference(
        target,
        guidance.constant,
        z,
        options.num_reference,
        plan.generator("reference", guidance, z, num_dims=target.num_dims),
    )
    own, _ = target.sample(plan.num_samples, generator_for("class samples", plan.seed, z), z)
    sets = {
        "reference": reference,
        "class": _even(own),
        "guided": _even(weighted.x),
        "weighted": weighted,
        "resampled": resampled,
    }
    seen = {name: _seen(target, found, z, plan.seed) for name, found in sets.items()}
    usage, mean = seen["reference"].usage, _mean(reference)
    rows = {
        name: replace(
            row,
            usage_tv=total_variation(row.usage, usage),
            mean_rms=float((_mean(sets[name]) - mean).square().mean().sqrt()),
        )
        for name, row in seen.items()
    }
    floor = expected_sampling_tv(usage, plan.num_samples)
    return ClassCorrection(guidance, z, reference, weighted, resampled, rows, floor)


def _even(x: Tensor) -> Weighted:
    """Samples that all weigh the same."""
    return Weighted(x, torch.zeros(len(x), dtype=torch.float64), 1)


def _mean(found: Weighted) -> Tensor:
    """The pixels' weighted means, (D,)."""
    return found.weights.cpu() @ found.x.cpu().double()


def _seen(target: BernoulliMixture, found: Weighted, target_class: int, seed: int) -> SetRow:
    """A set as the exact mixture sees it; distances are still 0."""
    x, weights = found.x.cpu(), found.weights.cpu()
    usage = weights @ target.component_posterior(x, target_class).nan_to_num(0.0)  # NaN: impossible under the class
    posterior = float(weights @ log_class_posterior(target, x, target_class).exp())
    shown = torch.multinomial(weights, SHOWN, replacement=True, generator=generator_for("shown", seed, target_class))
    return SetRow(usage / usage.sum(), 0.0, posterior, 0.0, x[shown].to(torch.uint8))
