"""The tilted law as the weighted law of the chain, and the cost of the weights (theory, section 11).

The probability of a path of any policy is prod pi(i | x_U) rho_i(v) / Z_i, and prod rho telescopes to T(x): a path that
is weighted by W = the product of the Z_i of the coordinates it unmasked has the law p_{z,w}, and E W = sum_x T(x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end, read
from mdlm_cfg.chain.denoiser import Denoiser, name_class
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.chain.rules import no_tilted
from mdlm_cfg.laws.policy_transitions import level_choices, policy_or_own
from mdlm_cfg.laws.push import push_log
from mdlm_cfg.laws.rates import partial_state_lattice
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError


@dataclass(frozen=True)
class TiltedWeights:
    """The exact effect of weighting every finished sample by W.

    Attributes:
        law: of the weighted samples, float64 (N,)*D: the tilted law for consistent conditionals; else the
            order-averaged tilted law, in proportion to the sum over orders of prod pi rho.
        log_normalizer: ln E W, in nats.
        log_second_moment: ln E W^2.
    """

    law: Tensor
    log_normalizer: float
    log_second_moment: float

    @property
    def ess(self) -> float:
        """The relative effective sample size (E W)^2 / E W^2, in (0, 1]: the share of the samples that is effective."""
        return math.exp(min(2 * self.log_normalizer - self.log_second_moment, 0.0))


@checked
@checked_at_the_end()
def tilted_weights(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, policy: Policy | str | None = None
) -> TiltedWeights:
    """The weighted law of a one-at-a-time sampler, its normaliser and its effective sample size (theory, section 11).

    Args:
        denoiser: exact or learned, on few dimensions.
        policy: which coordinate comes next; None is the kind's own.

    Raises:
        UserError: a class or a policy that does not exist, or more partial states than memory holds; a w that is a
            schedule; values with a temperature or a top-p; or a chain that always ends with masks. If it ends without
            masks only sometimes, the law is that of those ends, and the others have W = 0.
    """
    check_weights(guidance)
    lattice = partial_state_lattice(denoiser, target_class, states_kept=2)
    first = second = torch.zeros(1, 1, dtype=torch.float64, device=lattice.device)
    made = policy_or_own(policy, guidance)
    for level, choices in enumerate(level_choices(denoiser, guidance, target_class, made, lattice)):
        first = push_log(choices.rates(power=1), first, lattice, level)
        second = push_log(choices.rates(power=2), second, lattice, level)
    shape = [lattice.num_tokens] * lattice.num_dims
    law = first.flatten().softmax(dim=0).reshape(shape)
    log_moments = read(torch.stack([flow.logsumexp(dim=(0, 1)) for flow in (first, second)]))
    if log_moments[0] == -math.inf:
        raise UserError(
            f"w = {guidance.label} under {name_class(target_class)} leaves no finished state that the chain can reach, "
            "so its weights have no law: guide towards states that all conditionals allow"
        )
    return TiltedWeights(law, *log_moments)


def log_weights_of_step(before: Tensor, after: Tensor, log_rates: Tensor) -> Tensor:
    """ln of the product of the Z_i of the coordinates unmasked in a step, float64 (B,): the step's part of ln W.

    Args:
        before, after: int64 (B, D), partial states. log_rates: of `before`, (B, D, N).
    """
    return torch.where(after != before, log_rates.logsumexp(dim=-1), 0.0).sum(dim=1)


def check_weights(guidance: Guidance) -> None:
    """Raise UserError unless weights lead to a tilted law: one w, a rule with a T, and no temperature or top-p."""
    _ = guidance.one_strength
    if not guidance.rule.has_tilted:
        raise no_tilted(guidance.rule)
    if guidance.filters:
        raise UserError(
            f"weights have no tilted law under temperature = {guidance.temperature:g}, top_p = {guidance.top_p:g}: "
            "leave both at 1"
        )
