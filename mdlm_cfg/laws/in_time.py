"""The law at a clock time, as an inverse Laplace transform of the push (theory, section 5).

The resolvent of a chain that only unmasks is the visit law with every state's weight multiplied by
Lambda / (s + Lambda): the law at a time is one contour integral of it. No ODE, and nothing gets stiff as w grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.checks import checked_at_the_end
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.laws.joint import joint_chain
from mdlm_cfg.laws.push import push
from mdlm_cfg.laws.rates import LevelRates, level_rates, memory_limit, partial_state_lattice, refuse_lost
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.numeric import numbers

CONTOUR_NODES = 24  # of which half are conjugates; the contour's own error is e^(-1.36 * 24) = 7e-15
PARABOLA_DIGITS = 32.6  # -ln of the error of the contour that several times share: 7e-15
LONGEST = 1e300  # of s / Lambda: beyond it rates are too slow for float64
NEG_INF = float("-inf")
MAX_SPREAD = 10.0  # of clock times that share a contour, as a ratio: the number of nodes grows with its root


@checked
@checked_at_the_end()
def law_at(
    denoiser: Denoiser,
    guidance: Guidance,
    target_class: int | None,
    tau: float | Sequence[float] | Tensor,
) -> Tensor:
    """The exact law over partial states at clock time tau (theory, section 5).

    The resolvent of a chain that only unmasks is the push with g = Lambda / (s + Lambda), and every eigenvalue is
    -Lambda, real and not positive: the inverse Laplace transform on Talbot's contour (Trefethen, Weideman, Schmelzer,
    "Talbot quadratures and rational approximations", 2006) converges geometrically whatever the rates are.

    Args:
        tau: one clock time >= 0 or many; inf is the terminal law. At noise time t of a schedule: `schedule.tau(t)`.

    Returns:
        float64 (N+1,)*D, index N of an axis being the mask; with a leading axis if tau has one.

    Raises:
        UserError: a negative tau, a class that does not exist, a denoiser that gives a state no possible value, or more
            partial states than memory holds.
    """
    numbers("clock time tau", tau, 0, math.inf)
    times = np.asarray(tau.cpu() if isinstance(tau, Tensor) else tau, dtype=np.float64)
    lattice = partial_state_lattice(denoiser, target_class, states_kept=2 * CONTOUR_NODES)
    flat = times.ravel()
    n = lattice.num_tokens
    d = lattice.num_dims
    device = lattice.device
    laws = torch.zeros(flat.size, *[n + 1] * d, dtype=torch.float64, device=device)
    for law, time in zip(laws, flat.tolist()):
        if time == 0:
            law[(n,) * d] = 1
        elif time == math.inf:
            law[(slice(0, n),) * d] = terminal_law(denoiser, guidance, target_class)
    between = np.flatnonzero((flat > 0) & np.isfinite(flat))
    if between.size:
        most = CONTOUR_NODES // 2
        if between.size > 1:  # querying the memory takes longer than a small law
            most = max(most, int(0.1 * memory_limit() / (48 * lattice.num_states)))
        # on the device before anything is computed there: a later copy would wait for it
        placed = [
            (nodes.to(device, non_blocking=True), weights.to(device, non_blocking=True), chosen)
            for nodes, weights, chosen in contours(flat[between], most)
        ]
        laws_between = _inversion(denoiser, guidance, target_class, lattice)  # shared by all times
        for nodes, weights, chosen in placed:
            for place, law in zip(between[chosen].tolist(), laws_between(nodes, weights)):
                laws[place] = law
    refuse_lost(laws.flatten(1).sum(dim=1), target_class)
    return laws.reshape(*times.shape, *laws.shape[1:])


def _inversion(
    denoiser: Denoiser, guidance: Guidance, target_class: int | None, lattice: Lattice
) -> Callable[[Tensor, Tensor], Tensor]:
    """The function from nodes (K,) and weights (T, K) of a contour to laws (T, N+1, ..., N+1)."""
    chain = joint_chain(denoiser, guidance, target_class)
    if chain is not None:
        return chain.laws_between
    return partial(_laws_between, list(level_rates(denoiser, guidance, target_class, lattice)), lattice)


def holding_times(log_exit: Tensor, nodes: Tensor) -> Tensor:
    """1 / Lambda of every state, at most `LONGEST` over the largest node.

    A state with a longer one is not left at the times of these nodes, and s / Lambda stays finite. 0 in states without
    exits, which are never visited.

    Args:
        log_exit: log Lambda, any shape. nodes: s, complex.
    """
    longest = math.log(LONGEST) - nodes.abs().amax().log().clamp(min=0)
    return torch.minimum(-log_exit, longest).exp_().masked_fill_(log_exit == NEG_INF, 0.0)


def _laws_between(levels: Sequence[LevelRates], lattice: Lattice, nodes: Tensor, weights: Tensor) -> Tensor:
    """The laws at clock times 0 < tau < inf: (T, N+1, ..., N+1).

    The push is real, so that real and imaginary parts are pushed side by side.

    Args:
        nodes: (K,) complex. weights: (T, K) complex.
    """
    mixing = torch.cat([weights.real, -weights.imag], dim=1)  # Re sum_k c_k f(s_k), of parts side by side
    real, imag, size = (part[:, None, None] for part in (nodes.real, nodes.imag, nodes.abs()))
    flow = torch.cat([torch.ones_like(real), torch.zeros_like(real)])
    found = []
    for level, rates in enumerate(levels):
        holding = holding_times(rates.log_exit, nodes)
        scale = 1 + size * holding  # unscaled squares would overflow
        # flow / (1 + s / Lambda), whose real and imaginary parts are a and b
        a = (1 + real * holding) / scale
        b = imag * holding / scale
        norm = (a * a + b * b) * scale
        a /= norm
        b /= norm
        x, y = flow.chunk(2)
        stay = torch.cat([torch.addcmul(x * a, y, b), torch.addcmul(y * a, x, b, value=-1)])
        found.append((mixing @ stay.flatten(1)).view(-1, *holding.shape) * holding)
        flow = push(rates, stay, lattice, level)
    ended = weights / nodes
    mixing = torch.cat([ended.real, -ended.imag], dim=1)
    found.append((mixing @ flow.flatten(1)).view(-1, *flow.shape[1:]))
    return lattice.to_dense(found).clamp_(min=0)  # quadrature leaves some 1e-14 below 0


def contours(taus: Tensor | np.ndarray, most_nodes: int) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Nodes s_k (K,) and weights c_k (T, K) of contours, each with the indices of its T times, for all times.

    Many times that are not far apart share one contour; few have one each.

    Args:
        taus: float64, positive and finite. most_nodes: how many to push together; at least half of `CONTOUR_NODES`.
    """
    taus = torch.as_tensor(taus)
    order = taus.argsort()
    alone = CONTOUR_NODES // 2
    while len(order):
        within = order[taus[order] <= MAX_SPREAD * taus[order[0]]]
        nodes, weights = parabola(taus[within])
        if len(nodes) > min(alone * len(within), most_nodes):
            within = within[: most_nodes // alone]
            pairs = [talbot(tau) for tau in taus[within].tolist()]
            nodes = torch.cat([pair[0] for pair in pairs])
            weights = torch.block_diag(*(pair[1][None] for pair in pairs))
        yield nodes, weights, within.tolist()
        order = order[len(within) :]


def parabola(taus: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes (K,) and weights (T, K) of one contour for several times: s(u) = mu (i u + 1)^2 at midpoints u_k.

    Weideman, Trefethen, "Parabolic and hyperbolic contours for computing the Bromwich integral" (2007): with times in
    [t_0, Lambda t_0], h = sqrt(8 Lambda + 1) / K and mu = pi K / (4 sqrt(8 Lambda + 1) Lambda t_0) the error is
    e^(-2 pi K / sqrt(8 Lambda + 1)); conjugate nodes folded.
    """
    last = float(taus.max())
    root = math.sqrt(8 * last / float(taus.min()) + 1)
    count = math.ceil(PARABOLA_DIGITS * root / (2 * math.pi))
    step = root / count
    mu = math.pi * count / (4 * root * last)
    u = torch.complex(torch.ones(count, dtype=torch.float64), (torch.arange(count, dtype=torch.float64) + 0.5) * step)
    nodes = mu * u * u
    return nodes, (2 * step * mu / math.pi) * (taus[:, None] * nodes).exp() * u


def talbot(tau: float, num_nodes: int = CONTOUR_NODES) -> tuple[Tensor, Tensor]:
    """Nodes s_k and weights c_k with f(tau) = Re sum_k c_k f^(s_k) for a Laplace transform f^ singular on (-inf, 0].

    Trefethen, Weideman, Schmelzer (2006), eq. for the modified Talbot contour; conjugate nodes folded.
    """
    theta = (torch.arange(num_nodes // 2, dtype=torch.float64) * 2 + 1) * (math.pi / num_nodes)
    angle = 0.6407 * theta
    z = num_nodes * torch.complex(0.5017 * theta / angle.tan() - 0.6122, 0.2645 * theta)
    dz = num_nodes * torch.complex(
        0.5017 / angle.tan() - 0.5017 * 0.6407 * theta / angle.sin() ** 2, torch.full_like(theta, 0.2645)
    )
    return z / tau, 2 * z.exp() * dz / (1j * num_nodes * tau)
