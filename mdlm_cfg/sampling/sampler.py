"""Samplers of the guided chain (theory, section 6).

Every parallel sampler is one step: freeze the state; each masked coordinate, independently, jumps with probability
J(Z_i, u) to a value drawn from rho_i / Z_i. They differ in J alone (`JUMP_PROBABILITIES`), and the law of K steps
(`mdlm_cfg.laws.stepped`) sums over the same step. `first_hitting` simulates the chain itself, without discretisation
error; `event_leaping` fixes the number of events of a step instead of its length.

The unmasking event and the value are drawn separately and in float64: one float32 Gumbel-max over values and mask is
biased (arXiv 2409.02908).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.masking import all_masked
from mdlm_cfg.chain.schedules import Schedule, event_counts, step_fractions
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import check_class

Steps = int | Sequence[float] | Tensor


def tau_leaping(log_z: Tensor, u: Tensor) -> Tensor:
    """J = 1 - (1-u)^Z: the frozen rate, integrated over the step (the paper's sampler)."""
    return -torch.expm1(log_z.exp() * torch.log1p(-u))


def euler(log_z: Tensor, u: Tensor) -> Tensor:
    """J = min(1, -Z ln(1-u)): the frozen rate times the step in the clock, clamped."""
    return (-log_z.exp() * torch.log1p(-u)).clamp(max=1.0)


def d_cfg(log_z: Tensor, u: Tensor) -> Tensor:
    """J = uZ / (uZ + 1 - u): guidance of the transition probabilities (Schiff et al. 2024, "Simple guidance")."""
    return torch.sigmoid(log_z + u.log() - torch.log1p(-u))


JUMP_PROBABILITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tau_leaping": tau_leaping,
    "euler": euler,
    "d_cfg": d_cfg,
}
SAMPLERS = ("first_hitting", *JUMP_PROBABILITIES, "event_leaping")


def sample(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    num_samples: int,
    sampler: str = "first_hitting",
    steps: Steps | None = None,
    schedule: Schedule | None = None,
    generator: torch.Generator | None = None,
    on_step: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Draw samples of one class from the guided reverse chain.

    Args:
        denoiser: the conditionals; exact or learned.
        guidance: strength w (0 is conditional; gamma = 1 + w in other codes) and kind.
        target_class: z in 0..K-1; None draws from the whole mixture, unguided.
        num_samples: n.
        sampler: "first_hitting" (exact in time; D denoiser calls per conditional), "tau_leaping", "euler", "d_cfg" or
            "event_leaping" (K calls).
        steps: for all but first_hitting: the number of steps K, or your own grid of clock times from 0 to inf.
        schedule: the noise schedule of K steps; default linear, and cosine for event_leaping.
        generator: the only source of randomness; the same seed gives the same samples.
        on_step: called with the partial states (n, D) at the start and after every step: the trajectory.

    Returns:
        int64 (n, D), values 0..N-1: nothing is left masked.

    Raises:
        UserError: an unknown sampler or class, missing or useless steps, a grid that would leave masks.
    """
    check_sampler(sampler, steps)
    if target_class is not None:
        check_class(target_class, denoiser.num_classes)
    x = all_masked(num_samples, denoiser.num_dims, denoiser.num_tokens)
    watch = on_step or (lambda _: None)
    watch(x)
    if sampler in ("first_hitting", "event_leaping"):
        counts = [1] * denoiser.num_dims
        if sampler == "event_leaping":
            counts = event_counts(steps, denoiser.num_dims, schedule)
        for count in counts:
            x = leap_events(x, guidance.log_rates(denoiser, x, target_class), count, generator)
            watch(x)
        return x
    fractions = step_fractions(steps, schedule)
    if fractions[-1] != 1:
        raise UserError("a grid of clock times must end at inf to sample: before that, masks are left")
    for u in fractions:
        x = leap_time(x, guidance.log_rates(denoiser, x, target_class), JUMP_PROBABILITIES[sampler], u, generator)
        watch(x)
    return x


def check_sampler(sampler: str, steps: Steps | None) -> None:
    """Raise UserError for an unknown sampler, or steps for one that makes none."""
    if sampler not in SAMPLERS:
        raise UserError(f"sampler {sampler!r} is unknown; choose one of {', '.join(SAMPLERS)}")
    if sampler == "first_hitting" and steps is not None:
        raise UserError("first_hitting takes no steps: it makes one step per coordinate, and no time error")


def num_rows(num: int, num_dims: int, guidance: Guidance, sampler: str, steps: Steps | None) -> int:
    """How many rows (partial state, label) the denoiser is asked for by `sample`: its cost, for estimates of time.

    Both conditionals of every sample at every step, or the one where w is 0.
    """
    calls = num_dims if steps is None else steps if isinstance(steps, int) else len(steps) - 1
    if sampler == "event_leaping":
        calls = min(calls, num_dims)
    guided = sum(guidance.strength(k, num_dims) != 0 for k in range(num_dims)) / num_dims
    return round(num * calls * (1 + guided))


def leap_time(
    x: Tensor,
    log_rates: Tensor,
    jump_probability: Callable[[Tensor, Tensor], Tensor],
    u: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """One parallel step: every masked coordinate jumps with probability J(Z_i, u), by the frozen rates."""
    log_z = log_rates.logsumexp(dim=-1)
    jump = torch.rand(x.shape, generator=generator, dtype=torch.float64) < jump_probability(log_z, u)
    values = draw_values(log_rates, log_z, generator)
    return torch.where(jump & (log_z > float("-inf")), values, x)


def leap_events(x: Tensor, log_rates: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """The next `count` events by the frozen rates: coordinates in proportion to Z_i, without replacement.

    The order of the first `count` of independent exponential clocks of rates Z_i: exact for count = 1.
    """
    log_z = log_rates.logsumexp(dim=-1)
    clocks = torch.rand(x.shape, generator=generator, dtype=torch.float64).neg().log1p().neg().log() - log_z
    chosen = clocks.topk(count, dim=1, largest=False).indices
    values = draw_values(log_rates, log_z, generator)
    return x.scatter(1, chosen, values.gather(1, chosen))


def draw_values(log_rates: Tensor, log_z: Tensor, generator: torch.Generator | None) -> Tensor:
    """A value v of every coordinate with probability rho_i(v) / Z_i, by inverting the cdf in float64.

    Args:
        log_rates: (B, D, N).
        log_z: (B, D), its logsumexp.

    Returns:
        int64 (B, D); 0 at coordinates without any rate (unmasked ones).
    """
    cdf = (log_rates - log_z.masked_fill(log_z == float("-inf"), 0.0)[..., None]).exp().cumsum(dim=-1)
    uniform = torch.rand(log_z.shape, generator=generator, dtype=torch.float64)[..., None] * cdf[..., -1:]
    # the first value whose cdf exceeds the draw: one of probability 0 never is
    return (cdf <= uniform).sum(dim=-1).clamp(max=log_rates.shape[-1] - 1)
