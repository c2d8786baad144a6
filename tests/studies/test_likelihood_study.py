"""The study of likelihoods: exact of tables, bounds with honest errors of everything else."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    Inconsistent,
    block_of,
    brute_bound,
    conclusion,
    data_of,
    decimals,
    found_by,
    random_hmm,
    random_target,
    table_of,
)
from torch import Tensor

from mdlm_cfg import Guidance, Sampler, TableMixture, UserError, exact_likelihood, terminal_law
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.studies.likelihood import LABELS, LikelihoodStudy
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, check
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture

PLAN = Plan((Guidance(0.0),), Sampler())


def drawn(target: Any, x: Tensor, classes: Tensor, **more: Any) -> Any:
    """Data of which examples are known, and the target where `more` says so."""
    return data_of(target, test_examples=lambda: (x.to(torch.uint8), classes), **more)


def unknown(target: TableMixture, num: int) -> Any:
    """Data drawn from a table that the study does not know."""
    found = drawn(target, *target.sample(num, generator_for("test")))
    found.target = None
    return found


def parts_of(target: TableMixture, label: str) -> list[tuple[float, int | None]]:
    """The classes and their weights, or none."""
    return list(zip(target.class_weights.tolist(), range(2))) if label == "conditional" else [(1.0, None)]


def along_fixed_order(target: TableMixture, learned: Inconsistent, label: str) -> float:
    """The exact NLL along the fixed order."""
    total = 0.0
    for a, k in parts_of(target, label):
        law = terminal_law(learned, Guidance(0.0), k, "fixed_order").log()
        total -= a * float((target.class_pmf(k) * law).sum())
    return total


def test_of_a_table_all_is_exact_and_bounds_keep_to_their_errors(tmp_path: Path) -> None:
    target = random_target(2, 3, seed=0)
    learned = Inconsistent(2, 3, 2, seed=0)
    findings = found_by(LikelihoodStudy(orders=4), data_of(target), learned, PLAN)
    rows, bounds, orders = (block_of(findings, name) for name in ("likelihoods", "bounds", "orders"))
    assert [(row.denoiser, row.label) for row in rows] == list(product(("exact", "learned"), ("conditional", "null")))
    for row in rows[:2]:
        same = [row.nll, row.nelbo]
        same += [o.nats for o in (*bounds, *orders) if (o.denoiser, o.label) == ("exact", row.label)]
        assert len(same) == 2 + 3 + 4 and same == pytest.approx([row.entropy] * 9, abs=1e-12)
    for row in rows[2:]:
        parts = parts_of(target, row.label)
        assert row.nll == pytest.approx(sum(a * exact_likelihood(target, learned, k).nll for a, k in parts), abs=1e-12)
        assert row.nelbo == pytest.approx(sum(a * brute_bound(target, learned, k, 1) for a, k in parts), abs=1e-12)
        assert row.order_gap == pytest.approx(row.nelbo - row.nll, abs=1e-15)
        own = {o.policy: o.nats for o in orders if (o.denoiser, o.label) == ("learned", row.label)}
        assert own["fixed_order"] == pytest.approx(along_fixed_order(target, learned, row.label), abs=1e-12)
        found = {b.orders: b for b in bounds if (b.denoiser, b.label) == ("learned", row.label)}
        assert list(found) == [1, 2, 4]
        for k in (1, 2):
            exact = sum(a * brute_bound(target, learned, z, k) for a, z in parts)
            got = found[k]
            assert abs(got.nats - exact) < 5 * got.nats_se and 1e-4 < got.nats_se < 0.03
            assert got.fall == pytest.approx(row.nelbo - got.nats, abs=1e-12)
        assert row.nll < found[4].nats < found[1].nats
        assert any(f"{row.nll:.5f}" in said and f"{row.entropy:.5f}" in said for said in findings.verdict)
    pictures = [picture.path.name for section in sections_of(findings, tmp_path) for picture in section.pictures]
    assert len(pictures) == 1


def test_bounds_of_all_examples_from_a_few_that_are_taken_apart() -> None:
    target = random_target(2, 3, seed=0)
    learned = Inconsistent(2, 3, 2, seed=0)
    findings = found_by(LikelihoodStudy(orders=2, num_images=3000), unknown(target, 20_000), learned, PLAN)
    assert (findings.facts["num_images"], findings.facts["num_test"]) == (3000, 20_000)
    for row in block_of(findings, "likelihoods"):
        assert row.denoiser == "learned" and row.nll is row.entropy is row.order_gap is None
    bounds = block_of(findings, "bounds")
    assert len(bounds) == 2 * 2
    for row in bounds:
        exact = sum(a * brute_bound(target, learned, k, row.orders) for a, k in parts_of(target, row.label))
        assert abs(row.nats - exact) < 4 * row.nats_se and row.nats_se < 0.02
        assert row.bits_per_dim == pytest.approx(row.nats / 3 / math.log(2))
        assert row.fall == 0 if row.orders == 1 else row.fall > 5 * row.fall_se
    for row in block_of(findings, "orders"):
        if row.policy == "fixed_order":
            assert abs(row.nats - along_fixed_order(target, learned, row.label)) < 4 * row.nats_se


def test_orders_are_the_same_with_the_class_and_without() -> None:
    blind = Inconsistent(2, 3, 2, seed=0)
    blind.table = blind.table[:1].expand(3, -1, -1, -1).clone()  # it answers the same for every class and for none
    found = found_by(LikelihoodStudy(orders=3, num_images=20), unknown(random_target(2, 3), 200), blind, PLAN)
    for name in ("likelihoods", "bounds", "orders"):
        by_label = {label: [row for row in block_of(found, name) if row.label == label] for label in LABELS}
        assert by_label["null"] == [replace(row, label="null") for row in by_label["conditional"]]


def bernoulli() -> BernoulliMixture:
    probabilities = torch.rand(2, 3, 6, generator=generator_for("bits"), dtype=torch.float64)
    return BernoulliMixture(probabilities, torch.ones(2, 3) / 3, torch.tensor([0.3, 0.7]))


@pytest.mark.parametrize("target", [bernoulli(), random_hmm(zeros=0.3)], ids=["bernoulli", "hmm"])
def test_exact_conditionals_in_many_dimensions_need_one_order(target: Any) -> None:
    x, classes = target.sample(2000, generator_for("examples"))
    table = table_of(target)
    findings = found_by(LikelihoodStudy(orders=2, num_images=20), drawn(target, x, classes), None, PLAN)
    assert all(abs(row.fall) < 1e-9 for name in ("bounds", "orders") for row in block_of(findings, name))
    for row in block_of(findings, "likelihoods"):
        pmfs = table.class_pmfs[classes, *x.T] if row.label == "conditional" else table.pmf[tuple(x.T)]
        own = -pmfs.log()
        assert row.denoiser == "exact" and row.entropy == pytest.approx(float(own.mean()))
        assert abs(row.nelbo - row.entropy) < 4 * row.nelbo_se
    nelbo, error, *bound = decimals(findings.verdict[0])
    assert bound[:2] == [nelbo, error]  # nothing that orders change


def test_the_verdict_says_what_its_numbers_say() -> None:
    target = random_target(2, 3, seed=0)
    learned = Inconsistent(2, 3, 2, seed=0)
    one = found_by(LikelihoodStudy(orders=1, num_images=20), unknown(target, 100), learned, PLAN)
    assert [len(decimals(said)) for said in one.verdict] == [3, 3]  # one order lowers nothing
    line = random_target(4, 1, seed=1)  # one coordinate has one order
    found = found_by(LikelihoodStudy(orders=2), data_of(line), Inconsistent(4, 1, 2, seed=0), PLAN)
    row = next(row for row in block_of(found, "likelihoods") if row.denoiser == "learned")
    above, *nats = decimals(found.verdict[0])  # no gap between orders
    assert float(above) == pytest.approx(row.nll - row.entropy, rel=0.1)
    assert nats == [f"{row.nll:.5f}", f"{row.entropy:.5f}"]
    same = found_by(LikelihoodStudy(orders=2), data_of(target), target.denoiser(), PLAN)
    row = next(row for row in block_of(same, "likelihoods") if row.denoiser == "learned")
    assert decimals(same.verdict[0]) == [f"{row.entropy:.5f}"] * 2


def test_orders_that_give_an_example_other_probabilities_are_never_said_to_agree() -> None:
    """Of few examples the fall of the bound may be within its error, and yet no chance: it is 0 where orders agree."""
    target = random_target(2, 3, seed=0)
    denoisers = (target.denoiser(), Inconsistent(2, 3, 2, seed=0))
    found = [found_by(LikelihoodStudy(orders=2, num_images=2), unknown(target, 50), one, PLAN) for one in denoisers]
    last = block_of(found[1], "bounds")[1]
    assert 0 < last.fall < 2 * last.fall_se
    assert conclusion(found[0].verdict[0]) != conclusion(found[1].verdict[0])


def test_data_that_nothing_is_known_of_need_a_network() -> None:
    with pytest.raises(UserError):
        check(LikelihoodStudy(), Case.of(unknown(random_target(2, 2), 5), None, PLAN))
