"""Pairs of float64 against exact fractions: 32 digits where one float64 has 16."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from torch import Tensor

from mdlm_cfg.chain.doubled import Double, add, best_of, divide, log_quotient, times, total, two_product, two_sum

DIGITS = Fraction(1, 2**100)  # relative


def numbers(seed: int, n: int = 200) -> Tensor:
    """Of either sign and of sizes from 1e-5 to 1e5."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=g, dtype=torch.float64) * 10 ** (10 * torch.rand(n, generator=g).double() - 5)


def pairs(seed: int, n: int = 200) -> Double:
    high = numbers(seed, n)
    return two_sum(high, high * 2.0**-54 * torch.rand(n, generator=torch.Generator().manual_seed(seed)).double())


def exact(a: Double) -> list[Fraction]:
    return [Fraction(high) + Fraction(low) for high, low in zip(a[0].flatten().tolist(), a[1].flatten().tolist())]


def close(found: Double, expected: list[Fraction], scale: list[Fraction] | None = None) -> bool:
    """To 2^-100 of the result, or of what was added up; and normalised: the low part below half a unit of the high."""
    tidy = bool(((found[0] + found[1]) == found[0]).all())
    wanted = zip(exact(found), expected, scale or expected, strict=True)
    return tidy and all(abs(f - e) <= DIGITS * abs(s) for f, e, s in wanted)


def test_sums_and_products_of_two_numbers_are_exact() -> None:
    a, b = numbers(0), numbers(1)
    fractions = [(Fraction(x), Fraction(y)) for x, y in zip(a.tolist(), b.tolist())]
    assert exact(two_sum(a, b)) == [x + y for x, y in fractions]
    assert exact(two_product(a, b)) == [x * y for x, y in fractions]
    assert float(two_sum(a, b)[1].abs().max()) > 0 and float(two_product(a, b)[1].abs().max()) > 0
    tiny = torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0**-80], dtype=torch.float64)
    assert two_sum(*tiny) == tiny == two_sum(*reversed(tiny))


def test_sums_of_pairs() -> None:
    a, b = pairs(2), pairs(3)
    sizes = [abs(x) + abs(y) for x, y in zip(exact(a), exact(b))]
    assert close(add(a, b), [x + y for x, y in zip(exact(a), exact(b))], sizes)


def test_the_sum_over_an_axis() -> None:
    a = tuple(part.view(4, 10, 5) for part in pairs(4))
    for dim in range(3):
        found = total(a, dim)
        rows = [torch.tensor([]), *[p.movedim(dim, -1).flatten(0, 1) for p in a]][1:]
        expected = [sum(exact((high, low)), Fraction(0)) for high, low in zip(*rows)]
        sizes = [sum(map(abs, exact((high, low))), Fraction(0)) * 4 for high, low in zip(*rows)]
        assert found[0].shape == a[0].sum(dim).shape and close(found, expected, sizes)
    assert exact(total(a, 0)) != exact((a[0].sum(0), a[1].sum(0)))  # what plain sums would give


def test_products_with_plain_numbers_and_quotients() -> None:
    a, b, factor = pairs(5), pairs(6), numbers(7)
    assert close(times(a, factor), [x * Fraction(f) for x, f in zip(exact(a), factor.tolist())])
    assert close(divide(a, b), [x / y for x, y in zip(exact(a), exact(b))])
    zero = torch.zeros(1, dtype=torch.float64)
    assert math.isnan(float(divide((zero, zero), (zero, zero))[1]))


def test_the_best_of_an_axis_brings_its_low_part() -> None:
    high = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 4.0]], dtype=torch.float64)
    low = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=torch.float64)
    assert [part.tolist() for part in best_of((high, low), 1)] == [[[3.0], [5.0]], [[0.2], [0.4]]]
    assert [part.tolist() for part in best_of((high, low), 0)] == [[[5.0, 5.0, 4.0]], [[0.4, 0.5, 0.6]]]


@pytest.mark.parametrize("apart", [1e-3, 1e-12, 1e-20])
def test_logarithms_of_quotients_near_one_have_their_digits(apart: float) -> None:
    b = tuple(part.abs() * (1 if k == 0 else 0) + part * k for k, part in enumerate(pairs(8)))
    shift = torch.full_like(b[0], apart)
    a = add(b, two_product(b[0], shift))
    for found, x, y in zip(log_quotient(a, b).tolist(), exact(a), exact(b), strict=True):
        with mpmath.workdps(60):
            wanted = float(
                mpmath.log(mpmath.mpf(x.numerator) * y.denominator / (mpmath.mpf(x.denominator) * y.numerator))
            )
        assert math.isclose(found, wanted, rel_tol=1e-11 if apart > 1e-15 else 1e-10)
    assert log_quotient(b, b).abs().max() == 0
