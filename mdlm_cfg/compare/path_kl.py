"""The ideal guided conditionals, and where a rule of guidance departs from them (theory, section 11).

The chain that ends in the tilted law without weights uses the conditionals of the tilted table. A rule of guidance
is compared with it state by state: the divergence of the paths is a sum over partial states,

    KL(ideal paths || guided paths) = sum over x_U of visits(x_U) sum_i pi(i | x_U) KL(ideal_i || r_i),

with the visits of the ideal chain under the rule's own policy pi; it bounds KL(p_{z,w} || terminal law).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.laws.policy_transitions import LevelChoices, level_choices, policy_or_own
from mdlm_cfg.laws.push import push
from mdlm_cfg.laws.rates import partial_state_lattice
from mdlm_cfg.laws.terminal import tilted_law
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.targets.table import TableDenoiser, TableMixture

NEG_INF = float("-inf")


@checked
def ideal_denoiser(target: TableMixture, w: float | Guidance, target_class: int) -> TableDenoiser:
    """The conditionals of p_{z,w} itself, of one class (0): unguided, they end in the tilted law.

    Raises:
        UserError: a class that does not exist, a w that is not allowed, or a rule without a tilted distribution.
    """
    return TableMixture(tilted_law(target, w, target_class)[None], torch.ones(1)).denoiser()


@dataclass(frozen=True)
class StateKL:
    """How far a rule of guidance is from the ideal at one partial state.

    Attributes:
        state: tokens (D,), the mask being N. visits: the probability that the ideal chain passes through it.
        kl: sum_i pi(i | x_U) KL(ideal_i || r_i), in nats.
    """

    state: tuple[int, ...]
    visits: float
    kl: float


@dataclass(frozen=True)
class PathKL:
    """Where and how early a rule of guidance departs from the ideal.

    Attributes:
        by_level: per number of unmasked coordinates 0..D-1, the sum of visits * kl in nats.
        states: the states with the largest visits * kl, worst first.
    """

    by_level: tuple[float, ...]
    states: tuple[StateKL, ...]

    @property
    def total(self) -> float:
        """KL(ideal paths || guided paths) in nats: at least KL(p_{z,w} || terminal law)."""
        return sum(self.by_level)


@checked
def path_kl(
    target: TableMixture,
    guidance: Guidance,
    target_class: int,
    policy: Policy | str | None = None,
    *,
    w: float | None = None,
    denoiser: Denoiser | None = None,
    most: int = 20,
) -> PathKL:
    """How far guidance is from the ideal guided conditionals, by level of unmasking and by state.

    Args:
        guidance: the rule; its strength may be a schedule where `w` is given.
        policy: which coordinate comes next; None is the kind's own.
        w: the strength of the tilted law; default that of the guidance.
        denoiser: the denoiser that is guided; default the exact one.
        most: the number of states listed.

    Raises:
        UserError: as `terminal_law`.
    """
    most = whole_number("most", most, 0)
    ideal = ideal_denoiser(target, guidance if w is None else replace(guidance, w=w), target_class)
    rule = denoiser or target.denoiser()
    made = policy_or_own(policy, guidance)
    lattice = partial_state_lattice(rule, target_class, states_kept=2 * target.num_dims)
    flow = torch.ones(1, 1, dtype=torch.float64)
    by_level = []
    states = []
    levels = zip(
        level_choices(ideal, Guidance(0.0), 0, made, lattice),
        level_choices(rule, guidance, target_class, made, lattice),
    )
    for level, (best, guided) in enumerate(levels):
        kl = _level_kl(best, guided, lattice, level)
        weighted = torch.where(flow > 0, flow * kl, 0.0).flatten()
        by_level.append(float(weighted.sum()))
        tokens = lattice.tokens(level)
        for row in weighted.topk(min(most, len(weighted))).indices.tolist():
            visits = float(flow.flatten()[row])
            divergence = float(kl.flatten()[row])
            if visits > 0:
                states.append(StateKL(tuple(tokens[row].tolist()), visits, divergence))
        mixed = LevelChoices(best.edges, best.log_base, best.log_z, guided.log_pi, guided.refused)
        flow = push(mixed.rates(), flow, lattice, level)
    states.sort(key=lambda s: -s.visits * s.kl)
    return PathKL(tuple(by_level), tuple(states[:most]))


def _level_kl(best: LevelChoices, guided: LevelChoices, lattice: Lattice, level: int) -> Tensor:
    """sum_i pi(i | x_U) KL(ideal_i || r_i) of every state of a level, (C, N^l); pi is the guided chain's."""
    log_p, log_q = (choices.log_values(lattice, level) for choices in (best, guided))
    terms = torch.where(log_p > NEG_INF, log_p.exp() * (log_p - log_q), 0.0).sum(dim=-1)
    terms.clamp_(min=0)  # rounding alone may be below 0
    return torch.where(guided.log_pi > NEG_INF, guided.log_pi.exp() * terms.transpose(1, 2), 0.0).sum(dim=1)
