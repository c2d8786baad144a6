"""The best strengths found, w_0, ..., w_{D-1}: one for each number of unmasked coordinates (theory, section 12).

The push is differentiable in them, and its exact gradient is followed (L-BFGS) from several starts. TV has kinks, and
the law under a policy that picks the best coordinate has jumps: there random starts are added, and the best ends are
improved by a derivative-free search. No method guarantees the global minimum, so the result is the best found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from mdlm_cfg.chain.bound_rules import Refused
from mdlm_cfg.chain.denoiser import Denoiser, check_class, conditionals_under, name_state
from mdlm_cfg.chain.guidance import MAX_STRENGTH, Guidance
from mdlm_cfg.chain.guidance_schedules import PerCount
from mdlm_cfg.chain.kinds import KINDS, Kind, kind_of
from mdlm_cfg.chain.lattice import Lattice, flat_index, strides
from mdlm_cfg.chain.policies import FixedOrder, KindPolicy, Policy, RatePolicy, Uniform, policy_of
from mdlm_cfg.chain.rules import of_infinite_strength
from mdlm_cfg.compare.calibration import calibrated_strengths
from mdlm_cfg.compare.divergence import divergence_from_chain
from mdlm_cfg.laws.policy_transitions import masked_coordinates
from mdlm_cfg.laws.rates import MAX_BATCH, partial_state_lattice
from mdlm_cfg.laws.terminal import tilted_law
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.numeric import number, numbers
from mdlm_cfg.targets.table import TableMixture

NEG_INF = float("-inf")
LEAST = 1e-300  # a probability that stands for 0 in functions to minimise
Objective = Callable[[Tensor], Tensor]  # a law, (N,)*D -> a number, the smaller the better
ITERATIONS = 200
LARGE = 100.0  # the strength of one level in some starts
RANDOM_STARTS = 12  # of objectives with kinks or jumps
WITHOUT_JUMPS = (KindPolicy, RatePolicy, Uniform, FixedOrder)  # policies whose order changes smoothly with w
POLISHED = 2  # ends of descents from which a derivative-free search continues
SIMPLEX = 0.2  # the initial size of its simplex
VALUES = 500  # function values that it may use per dimension
NUDGE = 1e-7  # strengths this close must do as well: a policy's order may jump between them
ROUNDING = 1e-12  # of an objective: values that differ by less are equally good
EQUAL = 1e-3  # strengths closer than this are equal: the accuracy of a descent
FLAT = 1e-12  # values of a search this close are equal


@dataclass(frozen=True)
class _Level:
    """The states of one level, and their children.

    Attributes:
        states: their place among all (N+1)^D, (S,). children: the place of x_U + {i=v}, (S, m, N).
        log_cond: log p(v | x_U, z), (S, m, N). log_ratio: log p(v | x_U, z) - log p(v | x_U), 0 where impossible.
        coordinates: the m masked ones of every state, (S, m).
        refused: the states in which the class has probability where the mixture has none; None if there are none.
    """

    states: Tensor
    children: Tensor
    log_cond: Tensor
    log_ratio: Tensor
    coordinates: Tensor
    refused: Refused | None


class DifferentiablePush:
    """The terminal law of any denoiser as a differentiable function of w_0, ..., w_{D-1}.

    Args:
        denoiser: evaluated once for every partial state and both conditionals.
        target_class: z.
        policy: which coordinate comes next. Under one that picks the best, the law is piecewise differentiable.
    """

    def __init__(self, denoiser: Denoiser, target_class: int, policy: Policy) -> None:
        lattice = partial_state_lattice(denoiser, target_class, states_kept=4 * denoiser.num_tokens * denoiser.num_dims)
        policy.check(lattice.num_dims)
        self.lattice = lattice
        self.policy = policy
        self.levels = [_level(denoiser, target_class, lattice, level) for level in range(lattice.num_dims)]

    def __call__(self, w: Tensor) -> Tensor:
        """The terminal law, float64 (N,)*D, of strengths (D,)."""
        n = self.lattice.num_tokens
        d = self.lattice.num_dims
        flow = torch.zeros(self.lattice.num_states, dtype=torch.float64)
        flow[-1] = 1  # all masked comes last in C order
        for strength, here in zip(w, self.levels):
            if here.refused is not None:
                here.refused.where(flow[here.states] > 0)
            log_rho = here.log_cond + strength * here.log_ratio
            log_z = log_rho.logsumexp(dim=-1)
            log_r = log_rho - log_z[..., None]
            log_pi = self.policy.log_choice(log_z, partial(torch.clone, log_r), here.coordinates)
            moved = flow[here.states][:, None, None] * (log_pi[..., None] + log_r).exp()
            flow = flow.index_add(0, here.children.flatten(), moved.flatten())
        return flow.reshape([n + 1] * d)[(slice(0, n),) * d]


def _level(denoiser: Denoiser, target_class: int, lattice: Lattice, level: int) -> _Level:
    """The states of one level, with both conditionals."""
    n = lattice.num_tokens
    d = lattice.num_dims
    tokens = lattice.tokens(level)
    masked = masked_coordinates(lattice, level).expand(-1, n**level, -1).flatten(0, 1)  # (S, m)
    pick = masked[..., None].expand(-1, -1, n)
    parts = [conditionals_under(denoiser, chunk, (target_class, None)) for chunk in tokens.split(MAX_BATCH // 2)]
    log_cond, log_uncond = (answers.gather(1, pick) for answers in torch.cat(parts, dim=1))
    infinite = (log_cond > NEG_INF) & (log_uncond == NEG_INF)
    ratio = torch.where((log_cond > NEG_INF) & ~infinite, log_cond - log_uncond, 0.0)

    def explain(row: int, state: Tensor) -> str:
        return of_infinite_strength("w > 0", name_state(state.tolist(), n), target_class)

    refused = Refused(infinite.flatten(1).any(dim=1), tokens, explain) if bool(infinite.any()) else None
    states = flat_index(tokens, n + 1)
    moves = (torch.arange(n) - n) * strides(n + 1, d)[masked][..., None]
    return _Level(states, states[:, None, None] + moves, log_cond, ratio, masked, refused)


@dataclass(frozen=True)
class BestSchedule:
    """The best strengths found, and the law that they lead to.

    Attributes:
        strengths: w_0, ..., w_{D-1}.
        kind, policy: those of the chain that they were found for.
        value: the objective there. constant_value: the objective of the constant w.
        law: the terminal law there, float64 (N,)*D.
    """

    strengths: PerCount
    kind: Kind
    policy: Policy | None
    value: float
    constant_value: float
    law: Tensor

    @property
    def guidance(self) -> Guidance:
        """The guidance of this schedule."""
        return Guidance(self.strengths, self.kind)


def rises(strengths: Sequence[float]) -> bool:
    """Whether every strength is at least the one before, and the last more than the first."""
    return all(b >= a - EQUAL for a, b in pairwise(strengths)) and strengths[-1] > strengths[0] + EQUAL


def kl_to(reference: Tensor) -> Objective:
    """KL(reference || law), in nats; a probability of 0 counts as `LEAST`, so that it can be minimised."""
    inside = reference > 0
    p = reference[inside]
    return lambda law: (p * (p.log() - law[inside].clamp(min=LEAST).log())).sum()


def tv_to(reference: Tensor) -> Objective:
    """TV(reference, law)."""
    return lambda law: 0.5 * (reference - law).abs().sum()


@dataclass(frozen=True)
class TradeOff:
    """-E ln p(z | x) - entropy_weight * H(law), in nats.

    Called, it is a function to minimise: probabilities of 0 count as `LEAST`.

    Attributes:
        log_posterior: ln p(z | x), float64 (N,)*D; -inf where the class has no probability.
    """

    log_posterior: Tensor
    entropy_weight: float

    def __call__(self, law: Tensor) -> Tensor:
        log_posterior = self.log_posterior.clamp(min=math.log(LEAST))
        return (law * (self.entropy_weight * law.clamp(min=LEAST).log() - log_posterior)).sum()

    def value(self, law: Tensor) -> float:
        """Its exact value: infinite where the law has states that the class does not have."""
        p = law[law > 0]
        return float((p * (self.entropy_weight * p.log() - self.log_posterior[law > 0])).sum())


@checked
def trade_off(target: TableMixture, target_class: int, entropy_weight: float) -> TradeOff:
    """-E ln p(z | x) - entropy_weight * H(law), in nats: samples that are certain of their class, and diverse."""
    check_class(target_class, target.num_classes)
    entropy_weight = number("entropy_weight", entropy_weight)
    joint = target.class_weights[target_class] * target.class_pmf(target_class)
    log_posterior = torch.where(joint > 0, joint.log() - target.pmf.log(), NEG_INF)
    return TradeOff(log_posterior, entropy_weight)


@checked
def best_schedule(
    target: TableMixture,
    w: float,
    target_class: int,
    objective: str | Objective = "kl",
    *,
    kind: Kind | str = KINDS["rate"],
    policy: Policy | str | None = None,
    denoiser: Denoiser | None = None,
    more_starts: Sequence[Sequence[float]] = (),
) -> BestSchedule:
    """The best strengths found, per number of unmasked coordinates, to bring the chain near a tilted law.

    They are never worse than the constant w or the calibrated strengths, unless an infinitesimal change of these, which
    changes the order of unmasking, is worse still. Where the strength of a level makes no difference it is w.

    Args:
        target: the known distribution, on few dimensions.
        w: strength of the tilted law.
        objective: "kl", KL(p_{z,w} || law); "tv"; or a differentiable function of the law, such as `trade_off(...)`.
        kind, policy: those of the chain; policy None is the kind's own order.
        denoiser: the denoiser of the chain, such as a learned one; default the exact one.
        more_starts: further strengths (D each) to descend from, such as the best ones of another denoiser; the result
            is never worse than any start.

    Raises:
        UserError: an unknown objective, kind, policy or class; a w that is not allowed.
    """
    made = None if policy is None else policy_of(policy)
    push = DifferentiablePush(denoiser or target.denoiser(), target_class, made or KindPolicy(kind_of(kind)))
    reference = tilted_law(target, w, target_class)
    goal = objective_of(objective, reference)
    starts = [*_starts(target, w, target_class), *(numbers("a strength of more_starts", one) for one in more_starts)]
    constant = starts[0]
    if objective == "tv":  # not smooth at its minimum: start from that of KL too
        smooth = kl_to(reference)
        starts.append(min((_descend(push, smooth, w0) for w0 in starts), key=lambda v: float(smooth(push(v)))))

    def value(strengths: Tensor) -> float:
        with torch.no_grad():
            return float(goal(push(strengths)))

    may_jump = made is not None and not isinstance(made, WITHOUT_JUMPS)
    nudges = (0.0, -NUDGE, NUDGE) if may_jump else (0.0,)

    def steady(strengths: Tensor) -> float:
        """The largest value nearby: at strengths where a policy's order jumps, rounding would decide the value."""
        return max(value(_allowed(strengths + nudge)) for nudge in nudges)

    if objective == "kl" and not may_jump:
        ends = [_descend(push, goal, w0) for w0 in starts]
    else:
        starts += _random_starts(w, target.num_dims)
        ends = sorted((_descend(push, goal, w0) for w0 in starts), key=steady)
        ends += [nelder_mead(steady, end, SIMPLEX, VALUES * target.num_dims) for end in ends[:POLISHED]]
    best = _best_of([*starts, *ends], steady)
    if value(best) > value(constant):
        best = constant
    with torch.no_grad():
        laws = [push(best), push(constant)]
    values = [goal.value(law) if isinstance(goal, TradeOff) else float(goal(law)) for law in laws]
    if objective == "kl":  # in the descent it is finite everywhere
        chains = [Guidance(PerCount(strengths.tolist()), kind_of(kind)) for strengths in (best, constant)]
        guided = denoiser or target.denoiser()
        values = [
            divergence_from_chain(reference, law, guided, chain, target_class, made) for law, chain in zip(laws, chains)
        ]
    return BestSchedule(PerCount(best.tolist()), kind_of(kind), made, values[0], values[1], laws[0])


def _best_of(found: Sequence[Tensor], value: Callable[[Tensor], float]) -> Tensor:
    """The best strengths, each replaced by that of the first list if this is as good: else rounding would decide."""
    constant, *_ = found
    best = min(map(_allowed, found), key=value)
    least = value(best)
    enough = least + ROUNDING * max(1.0, abs(least))
    if value(constant) <= enough:
        return constant
    for level in range(len(best)):
        other = best.clone()
        other[level] = constant[level]
        best = other if value(other) <= enough else best
    return best


def _starts(target: TableMixture, w: float, target_class: int) -> list[Tensor]:
    """The constant w first; rising from 0 and from a third of it; the class itself; the calibrated strengths; and the
    constant w with one large strength, since there may be another minimum."""
    constant = torch.full((target.num_dims,), float(w), dtype=torch.float64)
    rising = torch.linspace(0, 1, target.num_dims, dtype=torch.float64)
    calibrated = torch.tensor(calibrated_strengths(target, w, target_class), dtype=torch.float64)
    one_large = [constant.where(rising != place, LARGE) for place in rising]
    return [
        constant,
        constant * rising,
        constant * (0.3 + 0.7 * rising),
        torch.zeros_like(constant),
        calibrated,
        *one_large,
    ]


def _random_starts(w: float, num_dims: int) -> list[Tensor]:
    """Strengths between -1 and 2 |w| + 2, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(RANDOM_STARTS, num_dims, generator=generator, dtype=torch.float64)
    return list(spread * (2 * abs(w) + 3) - 1)


def _allowed(strengths: Tensor) -> Tensor:
    """The nearest strengths that guidance may have."""
    return strengths.clamp(min=-1, max=MAX_STRENGTH)


def objective_of(objective: str | Objective, reference: Tensor) -> Objective:
    """The objective of a name, for laws that should be near `reference`; a function of the law is returned unchanged.

    Raises:
        UserError: an unknown name.
    """
    if callable(objective):
        return objective
    if objective not in ("kl", "tv"):
        raise UserError(f"objective {shown(objective)} is unknown; choose kl or tv, or give a function of the law")
    return kl_to(reference) if objective == "kl" else tv_to(reference)


def _descend(push: DifferentiablePush, goal: Objective, w: Tensor) -> Tensor:
    """A local minimum by L-BFGS in s with w = s^2 - 1, which keeps w >= -1 and reaches it."""
    root = (w + 1).clamp(min=1e-2).sqrt().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [root], max_iter=ITERATIONS, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = goal(push(root**2 - 1))
        value.backward()
        return value

    optimizer.step(closure)
    end = (root.detach() ** 2 - 1).clamp(max=MAX_STRENGTH)
    return end if bool(end.isfinite().all()) else w


def nelder_mead(value: Callable[[Tensor], float], start: Tensor, size: float, max_values: int) -> Tensor:
    """The best point that scipy's Nelder-Mead finds, with coefficients that fit the dimension.

    At a kink a simplex may collapse early, so another one is built around the best point, and a smaller one if that
    does not help.

    Args:
        value: of a point (D,), to be minimised; inf where it is not allowed.
        start: float64 (D,). size: of the first simplex. max_values: how often `value` may be called.

    Returns:
        (D,), never worse than `start`.
    """
    from scipy.optimize import minimize  # takes a quarter of a second to import

    d = len(start)
    options = {"adaptive": d > 1, "fatol": FLAT, "xatol": torch.inf}  # in one dimension they would shrink it to a point
    best = start
    least = value(start)
    used = 1
    while used < max_values and size > 1e-7:
        simplex = torch.cat([best[None], best + size * torch.eye(d, dtype=best.dtype)]).numpy()
        limits = {"initial_simplex": simplex, "maxfev": max_values - used}
        found = minimize(lambda x: value(torch.from_numpy(x)), best, method="Nelder-Mead", options=options | limits)
        used += found.nfev
        if found.fun > least - 1e-4 * abs(least):
            size /= 8
        if found.fun < least:
            best = torch.from_numpy(found.x)
            least = found.fun
    return best
