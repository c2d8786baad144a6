"""The shipped toys are what their formulas say."""

from __future__ import annotations

from itertools import permutations
from math import exp

import pytest
import torch

from mdlm_cfg import Guidance, terminal_law, tilted_law
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.targets.toys import toy_4d_chain


@pytest.mark.parametrize("z", [0, 1])
def test_the_chain_has_its_formulas_ratios(z: int) -> None:
    p = toy_4d_chain().class_pmf(z)

    def weight(*x: int) -> float:
        sign = 1 - 2 * z
        fields = sum(0.1 * (i + 1) * sign * (v - 1) for i, v in enumerate(x))
        return exp(fields + sum(0.4 * (i + 1) for i in range(3) if x[i] == (x[i + 1] + z) % 3))

    total = sum(weight(*x.tolist()) for x in torch.cartesian_prod(*[torch.arange(3)] * 4))
    for x in ((0, 0, 0, 0), (2, 1, 0, 2), (1, 1, 2, 2), (0, 2, 1, 1)):
        assert float(p[x]) == pytest.approx(weight(*x) / total)


def test_no_two_coordinates_of_the_chain_are_alike_and_orders_of_unmasking_differ() -> None:
    target = toy_4d_chain()
    for order in permutations(range(4)):
        if order != (0, 1, 2, 3):
            assert total_variation(target.class_pmf(0), target.class_pmf(0).permute(order)) > 0.01
    tilted = tilted_law(target, 2.0, 0)
    ends = [
        total_variation(terminal_law(target.denoiser(), Guidance(2.0), 0, policy), tilted)
        for policy in ("rate", "uniform", "fixed_order", "confidence", "entropy")
    ]
    assert min(abs(a - b) for a in ends for b in ends if a is not b) > 1e-3
