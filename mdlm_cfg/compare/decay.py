"""How fast the guided chain converges: TV against time and against w (theory, section 5).

Completed states only gain mass, so TV(q_tau, q_infinity) = P(some coordinate is still masked at tau). It is computed in
logarithms, relative to exp(-Lambda_min tau): a TV of 1e-200 is as exact as one of 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.laws.push import level_rates, push, start, talbot
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture

NEG_INF = float("-inf")
SAME = 1e-9  # conditionals closer than this are the same: the class is certain


def log_still_masked(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    taus: Sequence[float] | Tensor,
    slowest: float | None = None,
) -> Tensor:
    """ln P(some coordinate is still masked at tau) = ln TV(q_tau, q_infinity) (theory, section 5).

    The Laplace transform of that probability has its poles at -Lambda(x_U) of partial states only. Shifted by the
    smallest of those that are reached, the contour integral keeps its relative accuracy however small the result is.

    Args:
        taus: clock times > 0, (T,).
        slowest: `slowest_exit` of the same chain, where it is known already.

    Returns:
        float64 (T,), <= 0.
    """
    taus = torch.as_tensor(taus, dtype=torch.float64)
    lattice, target_class = start(denoiser, target_class, states_kept=2 * 12 * len(taus))
    if slowest is None:
        slowest = slowest_exit(denoiser, guidance, target_class)
    pairs = [talbot(tau) for tau in taus.tolist()]
    nodes, weights = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
    flow = torch.ones(len(nodes), 1, 1, dtype=torch.complex128)
    total = torch.zeros(len(nodes), dtype=torch.complex128)
    for level, rates in enumerate(level_rates(denoiser, guidance, target_class, lattice)):
        never_left = rates.log_exit == NEG_INF
        holding = (-rates.log_exit).exp().masked_fill(never_left, 0.0)
        stay = flow / (1 + (nodes[:, None, None] - slowest) * holding)
        total += (stay * holding).sum(dim=(1, 2))
        if level < lattice.num_dims - 1:
            flow = push(rates, stay, lattice, level)
    masked = (weights * total).real.reshape(len(taus), -1).sum(dim=1)
    return (masked.clamp(min=1e-300).log() - slowest * taus).clamp(max=0.0)


def slowest_exit(denoiser: Denoiser, guidance: Guidance, target_class: int | None) -> float:
    """The smallest total exit rate Lambda among the partial states that the chain ever visits."""
    lattice, target_class = start(denoiser, target_class)
    flow, slowest = torch.ones(1, 1, dtype=torch.float64), math.inf
    for level, rates in enumerate(level_rates(denoiser, guidance, target_class, lattice)):
        reached = flow > 0
        slowest = min(slowest, float(rates.log_exit[reached].min().exp()))
        flow = push(rates, flow, lattice, level)
    return slowest


@dataclass(frozen=True)
class Certain:
    """A reachable partial state in which the class is already certain: Z_i = 1 for every w.

    Attributes:
        state: tokens (D,), N being the mask.
        probability: p(x_U | z), that the unguided chain passes through it.
    """

    state: tuple[int, ...]
    probability: float


def certain_states(target: TableMixture, target_class: int) -> list[Certain]:
    """The reachable partial states whose masked coordinates guidance cannot speed up, most probable first.

    There p(. | x_U) = p(. | x_U, z) for every masked coordinate, so Z_i = 1 whatever w is. If there is one, -ln TV
    stops growing exponentially in w; if there is none, the decay of TV is double-exponential in w (theory, section 5).
    """
    denoiser = target.denoiser()
    lattice, _ = start(denoiser, target_class)
    found = []
    for level in range(lattice.num_dims):
        tokens = lattice.tokens(level)
        visited = lattice.marginals(target.class_pmf(target_class))[level].flatten()
        tokens, visited = tokens[visited > 0], visited[visited > 0]
        classes = torch.full((len(tokens),), target_class)
        cond, uncond = denoiser(tokens, classes).exp(), denoiser(tokens, None).exp()
        certain = (cond - uncond).abs().amax(dim=(1, 2)) < SAME
        found += [Certain(tuple(t), p) for t, p in zip(tokens[certain].tolist(), visited[certain].tolist())]
    return sorted(found, key=lambda c: -c.probability)


@dataclass(frozen=True)
class Decay:
    """TV against time for a list of w.

    Attributes:
        strengths: w, (W,). taus: clock times, (T,). log_tv: ln TV, (W, T).
        certain: the states at which the decay saturates; empty for a double-exponential decay.
        fit_tau: the clock time of the fit. fit_slope: d ln(-ln TV) / dw there, over each half of the strengths: a
            double-exponential decay keeps its slope, a saturated one loses it.
        time_to_5_percent: tau at which TV = 0.05, (W,).
    """

    strengths: list[float]
    taus: Tensor
    log_tv: Tensor
    certain: list[Certain]
    fit_tau: float
    fit_slope: tuple[float, float]
    time_to_5_percent: list[float]

    @property
    def statement(self) -> str:
        """What kind of decay it is, in one sentence."""
        if not self.certain:
            return (
                "TV decays double-exponentially in w: no reachable partial state is certain of its class, so every "
                "exit rate grows exponentially."
            )
        state = ", ".join("mask" if v == max(self.certain[0].state) else str(v) for v in self.certain[0].state)
        return (
            f"The decay saturates: in {len(self.certain)} reachable partial states the class is already certain, "
            f"guidance cannot speed up the rest; the likeliest is ({state}), p(x_U | z) = "
            f"{self.certain[0].probability:.3g}."
        )


def tv_decay(
    target: TableMixture,
    target_class: int,
    strengths: Sequence[float],
    taus: Sequence[float] | Tensor,
    kind: str = "rate",
    fit_tau: float = 0.5,
    denoiser: Denoiser | None = None,
) -> Decay:
    """P(still masked) against the clock for a list of w, its fit in w, and what limits it (theory, section 5).

    Args:
        denoiser: whose chain; default the target's exact one.
        fit_tau: where ln(-ln TV) is fitted against w by least squares.
    """
    denoiser = denoiser or target.denoiser()
    taus = torch.as_tensor(taus, dtype=torch.float64)
    guidances = [Guidance(w, kind) for w in strengths]
    log_tv = torch.stack([log_still_masked(denoiser, g, target_class, taus) for g in guidances])
    at_fit = [float(log_still_masked(denoiser, g, target_class, [fit_tau])[0]) for g in guidances]
    half = max(2, (len(strengths) + 1) // 2)
    slopes = tuple(
        _slope(list(strengths)[part], [math.log(-v) for v in at_fit[part]])
        for part in (slice(half), slice(-half, None))
    )
    times = [time_to_tv(denoiser, g, target_class, 0.05) for g in guidances]
    certain = certain_states(target, target_class) if kind == "rate" else []
    return Decay(list(strengths), taus, log_tv, certain, fit_tau, (slopes[0], slopes[1]), times)


def _slope(x: list[float], y: list[float]) -> float:
    """The least-squares slope of y against x; nan for fewer than two points."""
    if len(x) < 2:
        return math.nan
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def time_to_tv(denoiser: Denoiser, guidance: Guidance, target_class: int | None, level: float) -> float:
    """The clock time at which TV(q_tau, q_infinity) has come down to `level`, by bisection to 1e-9 relative."""
    if not 0 < level < 1:
        raise UserError(f"a TV level must lie strictly between 0 and 1, got {level}")
    goal = math.log(level)
    slowest = slowest_exit(denoiser, guidance, target_class)

    def above(tau: float) -> bool:
        return float(log_still_masked(denoiser, guidance, target_class, [tau], slowest)[0]) >= goal

    # P(still masked) is at most that of D stages at the slowest rate, one after another
    high = math.log(denoiser.num_dims / level) * denoiser.num_dims / slowest
    low = high * 1e-12
    while not above(low):
        low *= 1e-12
    for _ in range(60):
        if high / low < 1 + 1e-9:
            break
        middle = math.sqrt(low * high)
        low, high = (middle, high) if above(middle) else (low, middle)
    return math.sqrt(low * high)
