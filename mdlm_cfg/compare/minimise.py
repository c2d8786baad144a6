"""Local minimisation without gradients, for functions with kinks and jumps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FLAT = 1e-12  # values this close, relative to 1, are equal


def nelder_mead(value: Callable[[Tensor], float], start: Tensor, size: float, max_values: int) -> Tensor:
    """The best point that a Nelder-Mead simplex finds, with coefficients that fit the dimension.

    Gao, Han, "Implementing the Nelder-Mead simplex algorithm with adaptive parameters" (2012). The simplex is built
    anew around the best point, smaller each time, until that no longer helps: at a kink it may collapse early.

    Args:
        value: of a point (D,), to be made small; inf where it is not allowed.
        start: (D,). size: of the first simplex. max_values: how often `value` may be asked for.

    Returns:
        (D,), never worse than `start`.
    """
    best = start
    least = value(start)
    asked = 1
    while asked < max_values and size > 1e-7:
        before = least
        found, found_value, used = _simplex(value, best, least, size, max_values - asked)
        asked += used
        if found_value < least - FLAT:
            best = found
            least = found_value
        if least > before - 1e-4 * abs(before):
            size /= 8
    return best


def _simplex(
    value: Callable[[Tensor], float], start: Tensor, at_start: float, size: float, max_values: int
) -> tuple[Tensor, float, int]:
    """One run from a simplex around a point: the best point, its value, and how many values were asked for."""
    d = len(start)
    reach = 1 + 2 / max(d, 2), 0.75 - 1 / (2 * max(d, 2)), 1 - 1 / max(d, 2)  # to expand, contract and shrink
    expand, contract, shrink = reach
    points = [(at_start, start)]
    for i in range(d):
        point = start.clone()
        point[i] += size if point[i] < 0 or i % 2 == 0 else -size
        points.append((value(point), point))
    asked = d
    while asked < max_values:
        points.sort(key=lambda pair: pair[0])
        (least, best) = points[0]
        (largest, worst) = points[-1]
        if largest - least <= FLAT * abs(least) + 1e-15:
            break
        centre = torch.stack([point for _, point in points[:-1]]).mean(dim=0)
        away = centre - worst
        reflected = centre + away
        new = value(reflected), reflected
        asked += 1
        if new[0] < least:
            further = centre + expand * away
            candidate = value(further), further
            asked += 1
            points[-1] = min(new, candidate, key=lambda pair: pair[0])
        elif new[0] < points[-2][0]:
            points[-1] = new
        else:
            nearer = centre + (contract if new[0] < largest else -contract) * away
            candidate = value(nearer), nearer
            asked += 1
            if candidate[0] < min(new[0], largest):
                points[-1] = candidate
            else:
                moved = [best + shrink * (point - best) for _, point in points[1:]]
                points[1:] = [(value(point), point) for point in moved]
                asked += d
    return points[0][1], points[0][0], asked
