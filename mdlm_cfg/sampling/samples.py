"""Samples of the guided chain, and the exact law of a sampler's steps, in one call each (theory, section 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy, policy_of
from mdlm_cfg.chain.schedules import Schedule, Steps
from mdlm_cfg.sampling.sampler import FIRST_HITTING, Sampler, as_sampler
from mdlm_cfg.support.arguments import Integers, checked
from mdlm_cfg.support.errors import UserError


@checked
def sample(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    num_samples: int,
    sampler: Sampler | str = FIRST_HITTING,
    steps: Steps | None = None,
    schedule: Schedule | str | None = None,
    *,
    policy: Policy | str | None = None,
    start: Integers | None = None,
    generator: torch.Generator | None = None,
    on_step: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Draw samples of one class from the guided reverse chain.

    Args:
        denoiser: the conditionals; exact or learned. The samples are drawn on its device.
        guidance: strength w (0 is conditional; gamma = 1 + w in other codebases) and kind.
        target_class: z in 0..K-1; None draws from the whole mixture, unguided.
        num_samples: n.
        sampler: a name ("first_hitting", "tau_leaping", "euler", "d_cfg", "event_leaping", "sampled_confidence",
            "threshold", "factor", "entropy_bound", "remdm"), or a `Sampler`, which has more options.
        steps: for all but first_hitting: the number of steps K, or your own grid of clock times from 0 to inf.
        schedule: the noise schedule of K steps, or its name; default linear, and cosine for event_leaping.
        policy: which coordinates come next (theory, section 10): "rate", "uniform", "fixed_order", "confidence",
            "margin", "entropy", or an object such as `FixedOrder(order)`; None is the order of the kind of guidance.
            For first_hitting and event_leaping.
        start: partial states to start from, int64 (D,) or (n, D), the mask being N; unmasked coordinates stay.
            Event steps on a schedule are planned for the state with the most masks. None is all masked.
        generator: the only source of randomness, on the denoiser's device; the same seed gives the same samples.
        on_step: called with the partial states (n, D) at the start and after every step: the trajectory.

    Returns:
        int64 (n, D), values 0..N-1: nothing is left masked. `Sampler.draw_weighted` gives their weights to
        the tilted law too.

    Raises:
        UserError: an unknown sampler, policy or class, a start that is no partial state, missing or superfluous steps,
            a grid that would leave masks, a denoiser that breaks its contract.
    """
    made = as_sampler(sampler, steps, schedule)
    if policy is not None:
        if made.policy is not None:
            raise UserError(f"{made.label} has its own policy: set it either when you make the sampler or here")
        made = replace(made, policy=policy_of(policy))
    return made.draw(denoiser, guidance, target_class, num_samples, generator, on_step=on_step, start=start)


@checked
def stepped_law(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    sampler: Sampler | str,
    steps: Steps | None = None,
    schedule: Schedule | str | None = None,
) -> Tensor:
    """The exact law of a sampler's steps over partial states (theory, section 6); also of a grid that ends early.

    Args:
        sampler, steps, schedule: as in `sample`; mass is left on masks if a grid ends before inf.

    Returns:
        float64 (N+1,)*D over partial states, index N of an axis being the mask; `[:N, ..., :N]` holds finished samples.

    Raises:
        UserError: an unknown sampler or class, or a kernel too large to apply.
    """
    made = as_sampler(sampler, steps, schedule)
    if made.name == FIRST_HITTING:
        raise UserError("first_hitting has no discretisation error: its distribution is terminal_law")
    if made.correction is not None:
        raise UserError(f"{made.label}: its law includes a correction of finished samples: use Sampler.law")
    if made.policy is not None:
        made.policy.check(denoiser.num_dims)
    return made.partial_law(denoiser, guidance, target_class)
