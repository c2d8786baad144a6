"""Where a network is wrong: state by state, and which of its two conditionals is to blame (theory, section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, by_label, check_query, conditionals, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.chain.rules import CFG, ProductRule
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.targets.table import TableMixture


class MixedDenoiser:
    """One denoiser for the classes, another for the null class: it shows how much of the error each of them causes.

    A learned class conditional is positive everywhere; where an exact mixture is 0, a guided rate that divides by it
    would be infinite. There the class conditional is restricted to the mixture's support, and renormalised.

    Args:
        restricted: whether rates divide by the mixture while 0, 1, ..., D - 1 coordinates are unmasked
            (`divides_by_mixture`); elsewhere the class is left as it is. None: always.
    """

    def __init__(
        self, conditional: Denoiser, unconditional: Denoiser, restricted: Sequence[bool] | None = None
    ) -> None:
        self.restricted = (True,) * conditional.num_dims if restricted is None else restricted
        self.conditional = conditional
        self.unconditional = unconditional
        self.num_tokens = conditional.num_tokens
        self.num_dims = conditional.num_dims
        self.num_classes = conditional.num_classes
        self.num_known = getattr(conditional, "num_known", 0)  # of a slice
        self.device = device_of(conditional)

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `mdlm_cfg.chain.denoiser.Denoiser`."""
        check_query(self, tokens, classes)
        if classes is None:
            return self.unconditional(tokens, None)
        return by_label(tokens, classes, self.num_classes + 1, self._of_label)

    def _of_label(self, tokens: Tensor, k: int) -> Tensor:
        if k == self.num_classes:
            return self.unconditional(tokens, None)
        log_probs = self.conditional(tokens, tokens.new_full((len(tokens),), k))
        if not any(self.restricted):
            return log_probs
        num_unmasked = (tokens != self.num_tokens).sum(dim=1)
        restricted = torch.tensor([*self.restricted, False], device=tokens.device)[num_unmasked]
        outside = (self.unconditional(tokens, None) == -torch.inf) & restricted[:, None, None]
        if not bool((outside & (log_probs > -torch.inf)).any()):
            return log_probs
        inside = log_probs.masked_fill(outside, -torch.inf)
        return inside - inside.logsumexp(dim=-1, keepdim=True)


def divides_by_mixture(guidance: Guidance, num_dims: int, target_class: int | None) -> list[bool]:
    """Whether guided rates hold the mixture's conditional to a negative power, by the number of unmasked coordinates.

    Under `CFG` they do where w > 0. Rules that leave the mixture out, or evaluate it at another partial state, as
    `AdaptiveCFG`, do not; of a user-defined rule that is no `ProductRule` it is not known, and taken to be False.
    """
    rule = guidance.rule
    if isinstance(rule, CFG):
        return [w > 0 for w in guidance.table(num_dims)]
    if not isinstance(rule, ProductRule):
        return [False] * num_dims
    terms = [rule.checked_terms(w, target_class) for w in guidance.table(num_dims)]
    return [any(t.power < 0 and t.target_class is t.denoiser is None for t in at_level) for at_level in terms]


@dataclass(frozen=True)
class StateError:
    """How wrong a network is at one partial state.

    Attributes:
        state: tokens (D,), the mask being N. visits: the probability that the exact guided chain passes through it.
        kl: sum over masked coordinates of KL(exact || network) in nats, of the class and of the null class.
    """

    state: tuple[int, ...]
    visits: float
    kl_conditional: float
    kl_unconditional: float


@checked
def conditionals_error_by_state(
    target: TableMixture,
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int,
    most: int = 20,
    policy: Policy | None = None,
) -> tuple[list[StateError], list[tuple[float, float]]]:
    """Which partial states a network gets wrong, weighted by the visits of the exact guided chain.

    Returns:
        the `most` states with the largest visits * (KL of class + KL of null), worst first; and per number of unmasked
        coordinates the sums of visits * KL of the class and of the null class, in nats.
    """
    exact = target.denoiser()
    lattice = Lattice(target.num_tokens, target.num_dims)
    worst: list[StateError] = []
    by_level = []
    for level, visits in enumerate(visit_law(exact, guidance, target_class, policy)[:-1]):
        visits = visits.flatten()
        tokens = lattice.tokens(level)[visits > 0]
        visits = visits[visits > 0]
        classes = torch.full((len(tokens),), target_class)
        masked = tokens == lattice.num_tokens
        errors = [_masked_kl(exact(tokens, c), conditionals(denoiser, tokens, c), masked) for c in (classes, None)]
        by_level.append((float(visits @ errors[0]), float(visits @ errors[1])))
        top = (visits * (errors[0] + errors[1])).topk(min(most, len(tokens))).indices
        worst += [
            StateError(tuple(tokens[i].tolist()), float(visits[i]), float(errors[0][i]), float(errors[1][i]))
            for i in top
        ]
    worst.sort(key=lambda s: -s.visits * (s.kl_conditional + s.kl_unconditional))
    return worst[:most], by_level


def _masked_kl(log_p: Tensor, log_q: Tensor, masked: Tensor) -> Tensor:
    """sum over masked coordinates of KL(p_i || q_i), (B,)."""
    difference = torch.where(masked[..., None] & (log_p > -torch.inf), log_p - log_q, 0.0)
    return (log_p.exp() * difference).sum(dim=(1, 2)).clamp(min=0)  # rounding alone may be below 0
