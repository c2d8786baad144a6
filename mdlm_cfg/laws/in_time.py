"""The law at a clock time, as an inverse Laplace transform of the push (theory, section 5).

The resolvent of a chain that only unmasks is the visit law with every state's weight multiplied by
Lambda / (s + Lambda): the law at a time is one contour integral of it. No ODE, and nothing gets stiff as w grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.lattice import Lattice
from mdlm_cfg.laws.push import push
from mdlm_cfg.laws.rates import LevelRates, level_rates, memory_limit, refuse_lost, start
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.support.errors import UserError

CONTOUR_NODES = 24  # of which half are conjugates; the contour's own error is e^(-1.36 * 24) = 7e-15


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
        UserError: a negative tau, a class that does not exist, a denoiser that leaves a state nowhere to go, or more
            partial states than memory holds.
    """
    taus = torch.as_tensor(tau, dtype=torch.float64)
    if bool((taus < 0).any() | taus.isnan().any()):
        raise UserError(f"clock time tau = {taus.tolist()} must not be negative")
    lattice = start(denoiser, target_class, states_kept=2 * CONTOUR_NODES)
    flat, n, d = taus.reshape(-1), lattice.num_tokens, lattice.num_dims
    laws = torch.zeros(len(flat), *[n + 1] * d, dtype=torch.float64)
    for law, time in zip(laws, flat.tolist()):
        if time == 0:
            law[(n,) * d] = 1
        elif time == math.inf:
            law[(slice(0, n),) * d] = terminal_law(denoiser, guidance, target_class)
    between = ((flat > 0) & flat.isfinite()).nonzero().squeeze(1)
    if len(between):
        rates = list(level_rates(denoiser, guidance, target_class, lattice))  # shared by all times
        for chosen in between.split(_times_at_once(lattice)):
            laws[chosen] = _laws_between(rates, lattice, flat[chosen])
    refuse_lost(laws.flatten(1).sum(dim=1), target_class)
    return laws.reshape(*taus.shape, *laws.shape[1:])


def _times_at_once(lattice: Lattice) -> int:
    """How many clock times are pushed together: as many as fill a small part of the memory."""
    return max(1, int(0.1 * memory_limit() / (16 * CONTOUR_NODES * lattice.num_states)))


def _laws_between(rates: Sequence[LevelRates], lattice: Lattice, taus: Tensor) -> Tensor:
    """The laws at clock times 0 < tau < inf, (T,): (T, N+1, ..., N+1)."""
    pairs = [talbot(tau) for tau in taus.tolist()]
    nodes, weights = torch.cat([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
    flow = torch.ones(len(nodes), 1, 1, dtype=torch.complex128)
    levels = []
    for level, r in enumerate(rates):
        holding = (-r.log_exit).exp()  # 1 / Lambda; inf where nothing leaves, which is never visited
        holding = holding.masked_fill(holding.isinf(), 0.0)
        stay = flow / (1 + nodes[:, None, None] * holding)
        levels.append(_integral(weights, stay) * holding)
        flow = push(r, stay, lattice, level)
    levels.append(_integral(weights / nodes.reshape(weights.shape), flow))
    return lattice.to_dense(levels).clamp_(min=0)  # quadrature leaves some 1e-14 below 0


def _integral(weights: Tensor, values: Tensor) -> Tensor:
    """Re sum_k c_k f(s_k): (T, C, S) from weights (T, nodes) and values (T * nodes, C, S)."""
    return torch.einsum("tk,tkcs->tcs", weights, values.unflatten(0, weights.shape)).real


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
