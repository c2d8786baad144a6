"""Tables: what they refuse, how they are sampled in strata, and the shipped toys."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from math import exp

import pytest
import torch
from helpers import random_target

from mdlm_cfg import Guidance, terminal_law, tilted_law
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets import toys
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import TableMixture
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


OFF = 1 + 2.5e-6
HALF = torch.full((2, 2), 0.5, dtype=torch.float64)
ONE = torch.tensor([0.5, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TableMixture(OFF * HALF, ONE),
        lambda: TableMixture(HALF, OFF * ONE),
        lambda: BernoulliMixture(torch.full((2, 2, 3), 0.5), OFF * HALF, ONE),
        lambda: HiddenMarkovMixture(HALF, torch.full((2, 2, 2), OFF / 2), torch.full((2, 2, 2), 0.5), ONE, num_dims=3),
    ],
)
def test_the_difference_from_1_is_printed(make: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"2\.5\d*e-06"):
        make()


def test_tables_are_checked():
    good = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    for pmfs, weights, complaint in (
        (torch.tensor([[1.5, -0.5], [1.0, 0.0]]), [0.5, 0.5], r"class_pmfs .* -0\.5: "),
        (torch.tensor([[0.5, 0.5], [1.0, 0.1]]), [0.5, 0.5], r"class_pmfs\[1\] .* 1\.1 "),
        (good, [0.5, 0.4], r"class_weights .* 0\.9 "),
        (good * math.nan, [0.5, 0.5], "class_pmfs .* nan: "),
        (good, [1.0], r"class_weights .*\(2,\).*\(1,\)"),
    ):
        with pytest.raises(ValueError, match=complaint):
            TableMixture(pmfs, torch.tensor(weights))
    with pytest.raises(ValueError, match=r"class 2 .* 2 .* 0 to 1"):
        TableMixture(good, torch.tensor([0.5, 0.5])).class_pmf(2)


@pytest.mark.parametrize("name", [n for n in dir(toys) if n.startswith("toy_")])
def test_toys_are_mixtures(name):
    target = getattr(toys, name)()
    assert abs(float(target.pmf.sum()) - 1) < 1e-12
    shared = (target.class_pmfs > 0).sum(dim=0).max()
    assert (shared == 1) == (name in ("toy_1d_disjoint", "toy_2d_projection"))


def test_lists_keep_their_digits():
    target = TableMixture([[0.1, 0.9], [0.3, 0.7]], [0.4, 0.6])
    assert target.class_pmfs.tolist() == [[0.1, 0.9], [0.3, 0.7]] and target.class_pmfs.dtype == torch.float64


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("target_class", [None, 1])
def test_samples_invert_the_cdf_one_by_one(target_class: int | None, stratified: bool) -> None:
    """Each draw is the first state whose cumulated probability exceeds its uniform, or (stratum + uniform) / n."""
    pmfs = random_target(3, 3, k=2, seed=7, zeros=0.4).class_pmfs
    pmfs[:, 2] = 0  # so are the last states
    target = TableMixture(pmfs / pmfs.sum(dim=(1, 2, 3), keepdim=True), [0.3, 0.7])
    num = 300
    x, classes = target.sample(num, torch.Generator().manual_seed(5), target_class, stratified)
    generator = torch.Generator().manual_seed(5)
    uniform = torch.rand(num, generator=generator, dtype=torch.float64)
    levels = (torch.randperm(num, generator=generator) + uniform) / num if stratified else uniform
    joint = target.class_weights[:, None] * target.class_pmfs.flatten(1)
    cdf = (joint.flatten() if target_class is None else target.class_pmf(target_class).flatten()).cumsum(0)
    for row, own, level in zip(x.tolist(), classes.tolist(), levels.tolist()):
        cell = next(k for k, end in enumerate(cdf.tolist()) if end > level * float(cdf[-1]))
        assert row == [cell // 9 % 3, cell // 3 % 3, cell % 3]
        assert own == (cell // 27 if target_class is None else target_class)


@pytest.mark.parametrize("z", [None, 1])
@pytest.mark.parametrize("stratified", [False, True])
def test_states_that_are_looked_up_are_those_that_are_computed(z: int | None, stratified: bool, monkeypatch) -> None:
    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        return toy_4d_chain().sample(500, torch.Generator().manual_seed(0), z, stratified)

    found = drawn()
    monkeypatch.setattr("mdlm_cfg.targets.table.MOST_LISTED", 0)
    assert all(torch.equal(*pair) for pair in zip(found, drawn(), strict=True))
