"""The study of correction: its figures are the library's, for both kinds, another order and another class than 0."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import Inconsistent, block_of, conclusion, data_of, decimals, found_by, random_target, table_of
from scipy.stats import binom
from torch import Tensor

from mdlm_cfg import (
    FunctionDenoiser,
    Guidance,
    Sampler,
    TableMixture,
    UserError,
    sequential_monte_carlo,
    terminal_law,
    tilted_law,
)
from mdlm_cfg.chain.kinds import kind_of
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, total_variation
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling.smc import even_of
from mdlm_cfg.studies.correction import Correction
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.mixture_correction import REFERENCE, SETS, Seen, SetRow, set_rows, verdict_of as mixture_verdict
from mdlm_cfg.studies.mixture_moves import MixtureMoves
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, check
from mdlm_cfg.studies.rows import where
from mdlm_cfg.studies.table_correction import CostRow, SampleRow, closest, verdict_of
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.toys import toy_2d_overlap

TARGET = random_target(2, 3, seed=6)
MANY = 1000  # groups, whose spread is that of all
STRENGTHS = (Guidance(0.0, kind_of("normalized")), Guidance(2.0, kind_of("normalized")))


def plan_of(n: int = 2000, policy: Any = "confidence", guidances: tuple[Guidance, ...] = STRENGTHS) -> Plan:
    return Plan(guidances, Sampler(policy=policy), n, seed=3, classes=(1,))


def study(target: Any, denoiser: Any = None, plan: Plan | None = None, **settings: Any) -> Findings:
    return found_by(Correction(**settings), data_of(target), denoiser, plan or plan_of())


@pytest.fixture(scope="module")
def exact() -> Findings:
    return study(TARGET)


@pytest.fixture(scope="module")
def learned() -> Findings:
    return study(TARGET, Inconsistent(2, 3, 2))


def test_costs_are_those_of_the_library(learned: Findings) -> None:
    denoisers = {"exact": TARGET.denoiser(), "learned": Inconsistent(2, 3, 2)}
    costs = block_of(learned, "costs")
    assert len(costs) == 2 * 2 * 4
    for cost in costs:
        weights = tilted_weights(denoisers[cost.denoiser], cost.w, 1, cost.policy)
        tilted = tilted_law(TARGET, cost.w.constant, 1)
        law = terminal_law(denoisers[cost.denoiser], cost.w, 1, cost.policy)
        assert cost.ess == pytest.approx(weights.ess, rel=1e-12) and cost.cost == pytest.approx(1 / weights.ess)
        assert cost.log_normalizer == pytest.approx(weights.log_normalizer, abs=1e-12)
        assert cost.tv_guided == pytest.approx(total_variation(law, tilted), abs=1e-12)
        assert cost.tv_weighted == pytest.approx(total_variation(weights.law, tilted), abs=1e-12)
        assert cost.own == (cost.policy == "confidence")
        if cost.denoiser == "exact":
            assert cost.tv_weighted < 1e-12


@pytest.mark.parametrize(("kind", "own"), [("rate", "rate"), ("normalized", "uniform")])
def test_without_a_policy_the_order_is_the_kinds_and_comes_once(kind: str, own: str) -> None:
    plan = plan_of(100, None, (Guidance(1.0, kind_of(kind)),))
    costs = block_of(study(TARGET, plan=plan), "costs")
    assert [cost.policy for cost in costs if cost.own] == [own]
    assert sorted(cost.policy for cost in costs) == ["confidence", "fixed_order", "rate", "uniform"]
    law = terminal_law(TARGET.denoiser(), plan.guidances[0], 1)
    tilted = tilted_law(TARGET, 1.0, 1)
    assert next(c for c in costs if c.own).tv_guided == pytest.approx(total_variation(law, tilted))


def test_samples_are_those_of_the_plans_generators(exact: Findings) -> None:
    guidance = STRENGTHS[1]
    plan = plan_of()
    tilted = tilted_law(TARGET, 2.0, 1)
    generator = plan.generator("weighted samples", guidance, 1, num_dims=3)
    x, log_w = plan.sampler.draw_weighted(TARGET.denoiser(), guidance, 1, 2000, generator)
    rows = [row for row in block_of(exact, "distances") if row.w == guidance]
    assert [(row.num_samples, row.num_sets) for row in rows] == [(100, 20), (1000, 2), (2000, 1)]
    assert rows[2].tv_guided == pytest.approx(total_variation(histogram(x, 2), tilted))
    assert rows[2].tv_weighted == pytest.approx(total_variation(histogram(x, 2, log_w.softmax(0)), tilted))
    assert rows[2].noise_floor == pytest.approx(expected_sampling_tv(tilted, 2000))
    half = [total_variation(histogram(part, 2), tilted) for part in x.split(1000)]
    assert rows[1].tv_guided == pytest.approx(sum(half) / 2)
    generator = plan.generator("resampled samples", guidance, 1, 2000, num_dims=3)
    smc = sequential_monte_carlo(TARGET.denoiser(), guidance, 1, 2000, policy="confidence", generator=generator)
    assert rows[2].tv_resampled == pytest.approx(total_variation(histogram(smc.x, 2, smc.weights), tilted))
    found = block_of(exact, "resampling")[1]
    assert (found.log_normalizer, found.relative_error) == (smc.log_normalizer, smc.relative_error)
    known = tilted_weights(TARGET.denoiser(), guidance, 1).log_normalizer
    assert found.exact_log_normalizer == pytest.approx(known)
    assert abs(smc.log_normalizer - known) < 4 * smc.relative_error


class Noisy(Inconsistent):
    """The exact conditionals of a target with 0.1% of random ones, which differ from class to class."""

    def __init__(self, target: TableMixture) -> None:
        super().__init__(target.num_tokens, target.num_dims, target.num_classes, seed=5)
        self.exact = target.denoiser()

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        log_p = self.exact(tokens, classes)
        mixed = (0.999 * log_p.exp() + 0.001 * super().__call__(tokens, classes).exp()).log()
        return torch.where((tokens == self.num_tokens)[..., None], mixed, log_p)


def test_weights_are_said_to_help_only_where_they_do() -> None:
    """Conditionals with 0.1% of noise on a target with empty states: the weighted distribution is farther away."""
    target = toy_2d_overlap()
    plan = Plan((Guidance(2.0),), Sampler(), 100, classes=(0,))
    findings = study(target, Noisy(target), plan)
    cost = next(row for row in block_of(findings, "costs") if row.denoiser == "learned" and row.own)
    assert cost.tv_weighted > cost.tv_guided
    assert decimals(findings.verdict[0])[:2] == [f"{cost.tv_guided:.4f}", f"{cost.tv_weighted:.4f}"]
    better = replace(cost, tv_weighted=cost.tv_guided / 2)
    said = verdict_of([better], block_of(findings, "distances"), "learned", MANY)[0]
    assert conclusion(findings.verdict[0]) != conclusion(said)


@pytest.mark.parametrize(
    ("tv_guided", "tv_weighted", "figures"),
    [(0.1, 0.0, ["0.1000", "0", "0.5%", "200"]), (0.1, 0.05, ["0.1000", "0.0500", "0.5%", "200"]), (0.0, 0.0, [])],
)
def test_the_verdict_follows_the_numbers(
    tv_guided: float, tv_weighted: float, figures: list[str], exact: Findings
) -> None:
    g = STRENGTHS[1]
    cost = CostRow(g, "exact", "rate", True, 0.005, 200.0, 0.1, tv_guided, tv_weighted)
    samples = SampleRow(g, 1000, 1, 0.3, 0.3, 0.3, 0.0, 0.0, 0.0, 0.1)
    first = verdict_of([cost], [samples], "exact", MANY)[0]
    assert re.findall(r"\d[\d,]*(?:\.\d+)?%?", first.partition(")")[2]) == figures
    ways = ["no correction", "weighting", "resampling"]
    for resampled, nearest in ((0.3, ways), (0.2, ways[2:]), (0.4, ways[:2])):  # all, one or two of them
        assert closest(replace(samples, tv_resampled=resampled), MANY) == nearest
    worse, by_rounding, better = (replace(cost, tv_guided=0.1, tv_weighted=tv) for tv in (0.2, 0.1 - 1e-16, 0.05))
    said = [conclusion(verdict_of([one], [samples], "exact", MANY)[0]) for one in (worse, by_rounding, better)]
    assert said[0] == said[1] != said[2]


def test_weights_of_an_effective_size_too_small_for_float64_are_a_report() -> None:
    target = random_target(3, 2, seed=1, zeros=0.3)
    plan = Plan((Guidance(1e3),), Sampler(), 20, classes=(0,))
    found = found_by(Correction(num_groups=2), data_of(target), None, plan)
    costs = [(row.cost, row.ess) for row in block_of(found, "costs")]
    assert math.inf in [cost for cost, _ in costs]
    assert all(cost == math.inf if ess < 1e-300 else cost * ess == pytest.approx(1) for cost, ess in costs)


def mixture() -> BernoulliMixture:
    g = torch.Generator().manual_seed(8)
    p = torch.sigmoid(2 * torch.randn(3, 3, 6, generator=g, dtype=torch.float64))
    w = torch.rand(3, 3, generator=g, dtype=torch.float64) + 0.3
    return BernoulliMixture(p, w / w.sum(1, keepdim=True), torch.tensor([0.2, 0.5, 0.3]))


@pytest.fixture(scope="module")
def many() -> Findings:
    plan = Plan((Guidance(2.0, kind_of("normalized")),), Sampler(policy="entropy"), 6000, seed=1, classes=(2,))
    names = ("ant", "bee", "cat")
    data = data_of(mixture(), grid_shape=(2, 3), class_names=names)
    return found_by(Correction(num_reference=40_000), data, None, plan)


def sets(findings: Findings) -> dict[str, SetRow]:
    return {row.set: row for row in block_of(findings, "distances")}


def test_a_mixtures_sets_are_compared_with_its_table(many: Findings) -> None:
    """Usage and class posterior of every set by brute force over all 64 states."""
    target = mixture()
    states = torch.cartesian_prod(*[torch.arange(2)] * 6)
    usage = target.component_posterior(states, 2)
    posterior = (target.log_prob(states, torch.full((64,), 2)) + math.log(0.3) - target.log_prob(states)).exp()
    table = table_of(target)
    guidance = many.plan.guidances[0]
    guided = terminal_law(table.denoiser(), guidance, 2, "entropy").flatten()
    tilted = tilted_law(table, 2.0, 2).flatten()
    laws = {REFERENCE: tilted, "class": table.class_pmf(2).flatten(), "guided": guided}
    laws |= {"weighted": tilted, "resampled": tilted}
    assert set(sets(many)) == {REFERENCE, *SETS} == set(laws)
    for name, law in laws.items():
        away = total_variation(law @ usage, tilted @ usage)
        assert sets(many)[name].usage_tv == pytest.approx(away, abs=0.03), name
        assert sets(many)[name].class_posterior == pytest.approx(float(law @ posterior), abs=0.02), name
    assert total_variation(guided @ usage, tilted @ usage) > 0.05  # else the sets could be exchanged
    assert sets(many)["guided"].usage_tv > 2 * sets(many)["resampled"].usage_tv
    assert sets(many)[REFERENCE].usage_tv == 0


@pytest.mark.parametrize("apart", [0.0, 0.02, 0.2])
def test_the_interval_of_a_usage_covers_that_of_the_distributions(apart: float) -> None:
    """Also where it is 0 or less than the noise, which raises it."""
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    moved = shares + apart * torch.tensor([0.5, -1.0, 0.5, 0.0])
    generator = torch.Generator().manual_seed(0)

    def seen(law: torch.Tensor, num: int) -> Seen:
        drawn = torch.multinomial(law, num, replacement=True, generator=generator)
        components = 0.8 * torch.eye(4, dtype=torch.float64)[drawn] + 0.05
        return Seen(even_of(drawn[:, None], 10), components, 0.5)

    hits = 0
    repeats = 80
    for _ in range(repeats):
        sets = {REFERENCE: seen(shares, 1000), "guided": seen(moved, 200)}
        row = set_rows(Guidance(1.0), "a", sets, 200)[1]
        hits += row.usage_tv - row.usage_bias - 2 * row.usage_se <= 0.8 * apart <= row.usage_tv + 2 * row.usage_se
    assert hits >= binom.ppf(1e-5, repeats, 0.95)


def test_a_mixtures_normalisers_agree(many: Findings) -> None:
    exact = tilted_weights(table_of(mixture()).denoiser(), many.plan.guidances[0], 2).log_normalizer
    rows = block_of(many, "normalizers")
    assert [row.set for row in rows] == [REFERENCE, "weighted", "resampled"]
    for row in rows:
        assert abs(row.log_normalizer - exact) < 4 * row.relative_error


def test_samples_of_one_distribution_are_rarely_said_to_differ_in_distance() -> None:
    """At w = 0 all weights are 1, and at w = 1 too where two classes are one: no way of correction is nearer."""
    one_class = BernoulliMixture(mixture().probabilities[:1].expand(2, 3, 6), torch.ones(2, 3) / 3, torch.ones(2) / 2)
    worlds = ((TARGET, Guidance(0.0), {}), (one_class, Guidance(1.0), {"num_reference": 2000}))
    for target, guidance, settings in worlds:
        said = []
        for seed in range(15):
            data = data_of(target, grid_shape=(target.num_dims,))
            plan = Plan((guidance,), Sampler(), 100, seed, classes=(1,))
            findings = found_by(Correction(**settings), data, None, plan)
            row = block_of(findings, "distances")[-1]
            said.append(str(closest(row, 10)) if isinstance(row, SampleRow) else conclusion(findings.verdict[0]))
        # the same in 12 of 15, where 1 in 20 are expected to differ; each 1 in 2 if chance were not counted
        assert max(map(said.count, said)) >= 12


def test_a_way_is_compared_with_every_other_by_the_errors_of_these_two() -> None:
    """Also where the closest has so large an error that it is not clearly closer than any, and another one is."""
    row = SampleRow(Guidance(4.0), 1000, 1, 0.165, 0.055, 0.045, 0.012, 0.022, 0.044, 0.02)
    ways = ["no correction", "weighting", "resampling"]
    for errors, named in (((0.012, 0.044), ways[1:]), ((0.05, 0.044), ways), ((0.012, 0.07), ways[1:])):
        assert closest(replace(row, se_guided=errors[0], se_resampled=errors[1]), MANY) == named


@pytest.mark.parametrize("num_groups", [2, 3, 10])
def test_equal_ways_are_rarely_said_to_differ_by_the_spread_of_few_groups(num_groups: int) -> None:
    g = torch.Generator().manual_seed(num_groups)
    groups = torch.randn(400, 3, num_groups, dtype=torch.float64, generator=g)  # of three ways
    means, errors = groups.mean(dim=2).tolist(), (groups.std(dim=2) / num_groups**0.5).tolist()
    rows = [SampleRow(Guidance(1.0), 100, 1, *tv, *error, 0.0) for tv, error in zip(means, errors)]
    differ = sum(len(closest(row, num_groups)) < 3 for row in rows)
    assert differ <= 40  # 20 are expected at most, and 40 or more of 20 once in 10^5


def test_samples_that_the_class_cannot_have_use_none_of_its_components() -> None:
    """Two classes of one image each; a network that draws the other image: usages are as far apart as can be."""
    pixels = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]], dtype=torch.float64)
    target = BernoulliMixture(pixels, torch.ones(2, 1), torch.tensor([0.5, 0.5]))
    denoiser = FunctionDenoiser(lambda x, _: target.denoiser()(x, torch.ones(len(x), dtype=torch.int64)), 2, 2, 2)
    plan = Plan((Guidance(1.0),), Sampler(), 20, classes=(0,))
    findings = found_by(Correction(num_reference=100), data_of(target, grid_shape=(1, 2)), denoiser, plan)
    usage = {row.set: row.usage_tv for row in block_of(findings, "distances")}
    assert usage == pytest.approx({REFERENCE: 0, "class": 0, "guided": 1, "weighted": 1, "resampled": 1}, abs=1e-12)
    assert "nan" not in findings.verdict[0] and "1.000" in findings.verdict[0]
    study = MixtureMoves(sizes=[1], moves=[1], starts=[Sampler()], num_reference=100)
    moved = where(block_of(found_by(study, data_of(target), denoiser, plan), "sets"), denoiser="learned", moves=1)
    assert [(row.usage_tv, row.components) for row in moved] == [(1.0, 0.0)]


def test_no_small_number_of_a_mixture_is_written_as_zero(many: Findings) -> None:
    rows = [
        replace(row, usage_tv=row.usage_tv / 1000, usage_floor=row.usage_floor / 1000)
        for row in block_of(many, "distances")
    ]
    verdict = mixture_verdict(rows, block_of(many, "normalizers"), 6000, 10)
    assert verdict and not [line for line in verdict if re.search(r"(?<![\w.])0\.0+(?![\d%])", line)]


def test_a_mixtures_verdict_follows_the_numbers(many: Findings) -> None:
    rows = block_of(many, "distances")
    said = [many.verdict]
    for tv in (0.9, sets(many)["guided"].usage_tv):  # farther, and equally far
        changed = [replace(r, usage_tv=tv) if r.set == "resampled" else r for r in rows]
        said.append(mixture_verdict(changed, block_of(many, "normalizers"), 6000, 10))
    assert len({conclusion(one[0]) for one in said}) == 3


def test_more_samples_are_advised_only_where_they_can_show_a_difference(many: Findings) -> None:
    rows = block_of(many, "distances")
    weights = block_of(many, "normalizers")
    guided = sets(many)["guided"].usage_tv
    near = [replace(row, usage_tv=guided + 1e-5) if row.set == "resampled" else row for row in rows]
    same = [replace(row, usage_tv=1.0) if row.set in ("guided", "resampled") else row for row in rows]
    even = [replace(row, ess=1.0) for row in weights]
    said = [mixture_verdict(*given, 6000, 10)[0] for given in ((near, weights), (same, weights), (near, even))]
    assert ["60000" in sentence for sentence in said] == [True, False, False]
    cost = CostRow(STRENGTHS[1], "exact", "rate", True, 0.005, 200.0, 0.1, 0.2, 0.1)
    samples = SampleRow(STRENGTHS[1], 1000, 1, 0.3, 0.3, 0.3, 0.0, 0.0, 0.0, 0.1)
    costs = (cost, replace(cost, tv_weighted=0.2))
    assert ["10000" in verdict_of([one], [samples], "exact", MANY)[1] for one in costs] == [True, False]


@pytest.mark.parametrize(
    ("settings", "plan", "target", "message"),
    [
        ({}, Plan((Guidance(1.0),), Sampler("tau_leaping", 4), 100), TARGET, "tau_leaping, 4 .* first_hitting, "),
        ({}, plan_of(105), TARGET, "105 .* 10 "),
        ({"threshold": 1.5}, plan_of(100), TARGET, r"threshold = 1\.5 .* 0 .* 1$"),
        ({"num_reference": 30}, plan_of(100), mixture(), " 30 .* 20$"),
        ({}, plan_of(100), TableMixture(torch.ones(2, 2) / 2, torch.tensor([1.0, 0.0])), "class 1 .* 0 .* w = 2 "),
    ],
)
def test_what_cannot_be_answered_is_refused_before_any_work(
    settings: dict[str, Any], plan: Plan, target: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(Correction(**settings), Case.of(data_of(target), None, plan))
