"""The exact terminal law of the guided chain, and the tilted law it is often believed to have (theory, 3 and 4)."""

from __future__ import annotations

import math
from functools import reduce

from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import points_at
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.chain.rules import geometric_mean, refuse_infinite
from mdlm_cfg.laws.joint import joint_chain
from mdlm_cfg.laws.push import visit_probabilities
from mdlm_cfg.laws.rates import partial_state_lattice, refuse_lost
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture


@checked
@checked_at_the_end()
def terminal_law(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, policy: Policy | str | None = None
) -> Tensor:
    """The exact law of fully unmasked states at the end of the guided chain (theory, section 4).

    For the exact denoiser of a mixture this is the exact solution (arXiv 2506.10971, Thms 3.1 and 3.2, and their
    generalisation to any dimension); for a trained network it is the network's own exact law: no sampling, no steps.

    Args:
        denoiser: conditionals on {0..N-1}^D; (N+1)^D partial states must fit into memory.
        guidance: strength (a number, or a function of progress) and kind.
        target_class: z in 0..K-1; None is no class: the whole mixture, whatever w is.
        policy: which coordinate comes next, one at a time (theory, section 10): "rate", "uniform", "fixed_order",
            "confidence", "margin", "entropy", or an object such as `FixedOrder(order)`. None is the kind's own; a
            policy replaces the order of the kind. Several at a time: `Sampler(...).law`.

    Returns:
        float64 (N,)*D, summing to 1.

    Raises:
        UserError: a class or a policy that does not exist, or more partial states than memory holds.
    """
    lattice = partial_state_lattice(denoiser, target_class)
    chain = joint_chain(denoiser, guidance, target_class) if policy is None else None
    if chain is not None:
        law = chain.terminal_law()
        refuse_lost(law.sum(), target_class)
        return law
    last = reduce(lambda _, flow: flow, visit_probabilities(denoiser, guidance, target_class, lattice, policy))
    return last.reshape([lattice.num_tokens] * lattice.num_dims)


@checked
def tilted_law(target: TableMixture, w: float | Guidance, target_class: int | None) -> Tensor:
    """The tilted distribution, proportional to T(x): p(x)^(-w) p(x|z)^(1+w), or another rule's (theory, 3 and 20).

    Guidance is often believed to sample it. The guided chain does so only for D = 1.

    Args:
        w: the strength of classifier-free guidance, or a guidance of one strength.

    Returns:
        float64 (N,)*D, summing to 1.

    Raises:
        UserError: a w that is not allowed, or above 0 with a class that lies outside the mixture; a rule that has no
            tilted distribution, or whose T is infinite somewhere, or 0 everywhere.
    """
    return _log_tilted(target, w, target_class).softmax(dim=0).reshape(target.pmf.shape)


def _log_tilted(target: TableMixture, w: float | Guidance, target_class: int | None) -> Tensor:
    """ln T of every state, (N^D,)."""
    guidance = w if isinstance(w, Guidance) else Guidance(w)
    n = target.num_tokens
    d = target.num_dims
    if not guidance.rule.telescopes:
        return _log_tilted_by_rule(target, guidance, target_class)
    log_t = geometric_mean(target.class_pmf(target_class).log(), target.pmf.log(), guidance.one_strength)
    largest = points_at(log_t.flatten().argmax(), n, d)  # the first infinite one, if there is any
    refuse_infinite(log_t.reshape(1, -1), largest[None], n, target_class, guidance.label)
    return log_t.flatten()


def _log_tilted_by_rule(target: TableMixture, guidance: Guidance, target_class: int | None) -> Tensor:
    """ln T of any rule that has a tilted distribution."""
    log_t = guidance.rule.log_tilted(target.denoiser(), guidance.one_strength, target_class)
    largest = points_at(log_t.argmax(), target.num_tokens, target.num_dims).tolist()
    if log_t.max() == math.inf:
        raise UserError(
            f"the rule {guidance.rule} has no tilted distribution: its T is infinite at {tuple(largest)}, where a "
            "distribution with a negative power is 0 and the others are not"
        )
    if log_t.max() == -math.inf:
        raise UserError(f"the rule {guidance.rule} has no tilted distribution: it leaves no possible state")
    return log_t
