"""Sums, products and quotients to 32 digits, as pairs of float64 (Dekker 1971; Knuth, TAOCP 2, 4.2.2).

At guidance strength w a log-ratio's error is multiplied by w: at w = 1e8 a rounding of 1e-16 is one of 1e-8 in the law
wherever two values tie. A pair (high, low) stands for high + low, with |low| below half a unit of high's last place.
"""

from __future__ import annotations

import torch
from torch import Tensor

Double = tuple[Tensor, Tensor]
SPLITTER = 2.0**27 + 1  # Veltkamp: cuts 53 bits into 26 and 27


def two_sum(a: Tensor, b: Tensor) -> Double:
    """a + b, exactly."""
    total = a + b
    moved = total - a
    return total, (a - (total - moved)) + (b - moved)


def two_product(a: Tensor, b: Tensor) -> Double:
    """a * b, exactly (for results above 1e-280)."""
    product = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(a: Tensor) -> Double:
    scaled = SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high


def add(a: Double, b: Double) -> Double:
    """a + b."""
    high, low = two_sum(a[0], b[0])
    return two_sum(high, low + a[1] + b[1])


def total(a: Double, dim: int) -> Double:
    """The sum over an axis."""
    parts = list(zip(a[0].unbind(dim), a[1].unbind(dim)))
    found = parts[0]
    for part in parts[1:]:
        found = add(found, part)
    return found


def times(a: Double, factor: Tensor) -> Double:
    """a times plain numbers."""
    high, low = two_product(a[0], factor)
    return two_sum(high, low + a[1] * factor)


def divide(a: Double, b: Double) -> Double:
    """a / b; NaN where b is 0."""
    quotient = a[0] / b[0]
    product, error = two_product(quotient, b[0])
    rest = ((a[0] - product) - error) + a[1] - quotient * b[1]
    return two_sum(quotient, rest / b[0])


def best_of(a: Double, dim: int) -> Double:
    """The largest of an axis, which stays with one entry (of those whose high parts tie, the first)."""
    high, place = a[0].max(dim=dim, keepdim=True)
    return high, a[1].gather(dim, place)


def log_quotient(a: Double, b: Double) -> Tensor:
    """log(a / b) as float64, to 16 digits of itself where a is near b: log1p of a difference that is exact."""
    return torch.log1p(((a[0] - b[0]) + (a[1] - b[1])) / b[0])
