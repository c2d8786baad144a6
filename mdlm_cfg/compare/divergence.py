"""Kullback-Leibler divergences from guided laws whose probabilities may be too small for float64.

Under strong guidance a state of the class may have a probability such as e^-2000. A law in float64 is 0 there, although
the divergence from it is finite: the logarithm of the law is needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy, policy_of
from mdlm_cfg.compare.metrics import kl_divergence
from mdlm_cfg.laws.policy_transitions import level_choices
from mdlm_cfg.laws.push import push_log
from mdlm_cfg.laws.rates import MAX_BATCH, LevelRates, level_rates, partial_state_lattice
from mdlm_cfg.sampling.sampler import Sampler

NEG_INF = float("-inf")
LEAST_LOG = -600.0  # of the probability of a whole path, a product over its steps: float64 goes down to -708


def _is_too_small(p: Tensor, q: Tensor) -> bool:
    """Whether q, where p has mass, is somewhere below what float64 holds with all digits."""
    return bool(((p > 0) & (q < torch.finfo(torch.float64).smallest_normal)).any())


def divergence_from_chain(
    p: Tensor,
    q: Tensor,
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    policy: Policy | str | None = None,
) -> float:
    """KL(p || q) in nats of q, the `terminal_law` of a chain: inf only where p has mass outside the support of q."""
    if not _is_too_small(p, q):
        return kl_divergence(p, q)
    log_q = log_terminal_law(denoiser, guidance, target_class, policy)
    return max(float(torch.where(p > 0, p * (p.log() - log_q), 0.0).sum()), 0.0)  # rounding alone may be below 0


def divergence_from_sampler(
    p: Tensor, q: Tensor, sampler: Sampler, denoiser: Denoiser, guidance: Guidance, target_class: int | None
) -> float | None:
    """KL(p || q) in nats of q, the law of a sampler; None if that is a law of steps, too small for float64."""
    if sampler.exact_in_time:
        return divergence_from_chain(p, q, denoiser, guidance, target_class, sampler.policy)
    found = kl_divergence(p, q)
    if not _is_too_small(p, q):
        return found
    moves = 0 if sampler.correction is None else sampler.correction.moves * sampler.correction.size
    given = sampler.effective_guidance(guidance)
    least = (denoiser.num_dims + moves) * _least_log_choice(denoiser, given, target_class)
    return found if least > LEAST_LOG else None


@checked_at_the_end()
def log_terminal_law(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, policy: Policy | str | None = None
) -> Tensor:
    """ln of `mdlm_cfg.laws.terminal_law`, (N,)*D: of every probability, and -inf outside the support (theory, 10)."""
    lattice = partial_state_lattice(denoiser, target_class)
    flow = torch.zeros(1, 1, dtype=torch.float64, device=lattice.device)
    levels: Iterator[LevelRates]
    if policy is None:
        levels = level_rates(denoiser, guidance, target_class, lattice)
    else:
        made = policy_of(policy)
        levels = (one.rates() for one in level_choices(denoiser, guidance, target_class, made, lattice))
    for level, rates in enumerate(levels):
        flow = push_log(rates, flow, lattice, level)
    return flow.reshape([lattice.num_tokens] * lattice.num_dims)


@checked_at_the_end()
def _least_log_choice(denoiser: Denoiser, guidance: Guidance, target_class: int | None) -> float:
    """A lower bound for ln of the probability of a coordinate and its value at any step, where that is not 0."""
    lattice = partial_state_lattice(denoiser, target_class)
    rates_of = guidance.rates_anywhere(denoiser, target_class)
    least_value = largest_rate = 0.0
    for level in range(lattice.num_dims):
        for tokens in lattice.tokens(level).split(MAX_BATCH):
            log_rates, refused = rates_of(tokens)
            if refused is not None:  # a chain that has a law never reaches them
                log_rates = log_rates.masked_fill(refused.states[:, None, None], NEG_INF)
            log_z = log_rates.logsumexp(dim=-1, keepdim=True)
            able = log_z.isfinite()
            values = (log_rates - log_z)[able.expand_as(log_rates) & log_rates.isfinite()]
            least_value = min(least_value, float(values.amin())) if len(values) else least_value
            largest_rate = max(largest_rate, float(log_z[able].abs().amax())) if bool(able.any()) else largest_rate
    return least_value - 2 * largest_rate  # a rate relative to the largest of its state
