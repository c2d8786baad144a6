"""Local minimisation without gradients, for functions with kinks and jumps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FLAT = 1e-12  # values this close are equal


def nelder_mead(value: Callable[[Tensor], float], start: Tensor, size: float, max_values: int) -> Tensor:
    """The best point that scipy's Nelder-Mead finds, with coefficients that fit the dimension.

    At a kink a simplex may collapse early. So another one is built around the best point, and a smaller one where that
    does not help.

    Args:
        value: of a point (D,), to be made small; inf where it is not allowed.
        start: float64 (D,). size: of the first simplex. max_values: how often `value` may be asked for.

    Returns:
        (D,), never worse than `start`.
    """
    from scipy.optimize import minimize  # takes a quarter of a second to import

    d = len(start)
    options = {"adaptive": d > 1, "fatol": FLAT, "xatol": torch.inf}  # in one dimension they would shrink it to a point
    best = start
    least = value(start)
    asked = 1
    while asked < max_values and size > 1e-7:
        simplex = torch.cat([best[None], best + size * torch.eye(d, dtype=best.dtype)]).numpy()
        limits = {"initial_simplex": simplex, "maxfev": max_values - asked}
        found = minimize(lambda x: value(torch.from_numpy(x)), best, method="Nelder-Mead", options=options | limits)
        asked += found.nfev
        if found.fun > least - 1e-4 * abs(least):
            size /= 8
        if found.fun < least:
            best = torch.from_numpy(found.x)
            least = found.fun
    return best
