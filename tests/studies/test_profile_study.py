"""study=profile: predicted costs bound exact ones, the best steps are cheapest, samples estimate the profile."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import Blurred, bernoulli_mixture, block_of, data_of, found_by, random_target, table_of

from mdlm_cfg import Guidance, Sampler, UserError, calibrated_strengths, exact_information_profile, tilted_law
from mdlm_cfg.compare.metrics import kl_divergence
from mdlm_cfg.compare.profile import InformationProfile
from mdlm_cfg.studies.calibration import CalibrationStudy
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.profile import BEST, CostRow, ProfileStudy, TotalRow, verdict_of
from mdlm_cfg.studies.protocol import Case, check
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.sequences import motif_in_noise

Z = 1
PLAN = Plan((Guidance(0.0), Guidance(2.0)), Sampler(), 100, classes=(Z,))


def study_of(target: Any, denoiser: Any = None, plan: Plan = PLAN, **settings: Any) -> Any:
    return found_by(ProfileStudy(**settings), data_of(target), denoiser, plan)


@pytest.mark.parametrize("learned", [False, True])
def test_a_table_has_exact_costs_below_those_that_are_predicted(learned: bool) -> None:
    target = random_target(2, 4, 2, seed=5)
    denoiser = Blurred(target, 0.2) if learned else None
    rows = block_of(study_of(target, denoiser), "costs")
    assert {row.calls for row in rows} == {1, 2, 3, 4}
    for row in rows:
        used = denoiser if row.denoiser == "learned" else target.denoiser()
        w = row.w.constant
        strengths = calibrated_strengths(target, w, Z, used) if w else 0.0
        sizes = tuple(map(int, row.sizes.split(",")))
        sampler = Sampler("event_leaping", events=sizes)
        law = sampler.law(used, Guidance(strengths, "normalized"), Z)
        assert row.exact_kl == pytest.approx(kl_divergence(tilted_law(target, w, Z), law), abs=1e-12)
        assert row.exact_kl <= row.cost + 1e-12
        best = next(r for r in rows if (r.w, r.denoiser, r.calls, r.schedule) == (row.w, row.denoiser, row.calls, BEST))
        assert best.cost <= row.cost + 1e-12 and row.cost_se == 0
    free = [row for row in rows if (row.calls, row.w.constant, row.denoiser) == (4, 0.0, "exact")]
    assert all(abs(row.cost) < 1e-12 for row in free)  # one at a time is exact


def test_numbers_of_calls_that_save_alike_are_named_together() -> None:
    g = Guidance(0.0)
    costs = []
    for calls, saved in ((11, 0.2), (22, 0.5), (33, 0.5)):
        costs += [
            CostRow(g, "exact", "uniform", calls, 1.0, 0.0, None, ""),
            CostRow(g, "exact", BEST, calls, 1.0 - saved, 0, None, ""),
        ]
    total = TotalRow(g, "exact", *[0.0] * 6)
    (said,) = verdict_of(costs, [total], 10)
    assert {"22", "33"} == set(re.findall(r"\b(11|22|33)\b", said))


def test_one_step_costs_the_total_correlation() -> None:
    target = random_target(3, 3, 2, seed=8)
    found = study_of(target)
    total, _ = block_of(found, "totals")
    pmf = target.class_pmf(Z)
    entropy = float(-torch.special.xlogy(pmf, pmf).sum())
    singles = [pmf.sum(dim=[j for j in range(3) if j != i]) for i in range(3)]
    correlation = float(sum(-torch.special.xlogy(p, p).sum() for p in singles)) - entropy
    assert total.total_entropy == pytest.approx(entropy, abs=1e-12)
    assert total.total_correlation == pytest.approx(correlation, abs=1e-12)
    ones = [row.cost for row in block_of(found, "costs") if row.calls == 1 and row.w == PLAN.guidances[0]]
    assert ones == pytest.approx([correlation] * len(ones), abs=1e-12)


@pytest.mark.parametrize("target", [bernoulli_mixture(8), motif_in_noise(8)])
def test_samples_estimate_the_exact_profile(target: Any) -> None:
    table = table_of(target)
    exact = exact_information_profile(table, Z)
    plan = replace(PLAN, guidances=(Guidance(0.0),))
    found = study_of(target, num_examples=4000, plan=plan)
    scores = [(row.entropy - float(exact.entropies[row.known])) / row.entropy_se for row in block_of(found, "profile")]
    assert max(map(abs, scores)) < 5
    for row in block_of(found, "costs"):
        predicted = exact.plan([int(k) for k in row.sizes.split(",")]).cost.value
        assert abs(row.cost - predicted) <= 5 * row.cost_se + 1e-12


def test_examples_have_the_profile_of_their_class() -> None:
    target = random_target(3, 4, 2, seed=4)
    x, classes = target.sample(8000, torch.Generator().manual_seed(0))
    examples = data_of(target)
    examples.target = None
    examples.test_examples = lambda: (x, classes)
    found = found_by(ProfileStudy(), examples, target.denoiser(), PLAN)
    exact = exact_information_profile(target, Z)
    rows = block_of(found, "profile")
    assert {row.w.constant for row in rows} == {0.0}
    assert max(abs(row.entropy - float(exact.entropies[row.known])) / row.entropy_se for row in rows) < 5


def test_one_step_costs_the_total_correlation_of_few_examples_too() -> None:
    """Noise makes a measured profile rise; costs and sums must then be of the same one."""
    found = study_of(bernoulli_mixture(6), plan=replace(PLAN, guidances=(Guidance(0.0),), seed=5), num_examples=10)
    known, following = ([row.entropy for row in block_of(found, "profile")][at] for at in (0, 1))
    assert following > known
    (total,) = block_of(found, "totals")
    (cost,) = {row.cost for row in block_of(found, "costs") if row.calls == 1}
    assert cost == pytest.approx(total.total_correlation, abs=1e-12)


def test_the_dual_total_correlation_of_few_examples_has_the_right_mean() -> None:
    """Coordinates that are independent have none, and noise alone must not show one."""
    target = BernoulliMixture(torch.full((1, 1, 6), 0.3, dtype=torch.float64), torch.ones(1, 1), torch.ones(1))
    plan = replace(PLAN, guidances=(Guidance(0.0),), classes=(0,))
    found = []
    for seed in range(30):
        (total,) = block_of(study_of(target, plan=replace(plan, seed=seed), num_examples=12), "totals")
        found.append(total.dual_total_correlation)
    mean, error = torch.tensor(found).mean(), torch.tensor(found).std() / len(found) ** 0.5
    assert abs(float(mean / error)) < 3.5


@pytest.mark.parametrize("study", [ProfileStudy, CalibrationStudy])
def test_few_samples_of_a_known_distribution_are_said_to_be_few(study: Any) -> None:
    plan = replace(PLAN, guidances=(Guidance(0.0),), num_samples=4)
    data = data_of(bernoulli_mixture(6))
    words = [
        [re.sub(r"[\d,]+", "", block.text) for block in found_by(study(num_examples=num), data, None, plan).blocks]
        for num in (10, 40, 1000)
    ]
    assert words[0] != words[1] == words[2]


def test_the_nearest_profile_that_never_rises() -> None:
    g = torch.Generator().manual_seed(3)
    values = torch.linspace(1, 0, 8, dtype=torch.float64) + 0.2 * torch.randn(8, generator=g, dtype=torch.float64)
    noise = torch.eye(8, dtype=torch.float64)
    found = InformationProfile(values, values, torch.zeros(8), noise).decreasing().entropies
    assert bool((found.diff() <= 1e-12).all()) and not torch.equal(found, values)
    least = float((found - values).square().sum())
    for _ in range(2000):  # no other falling sequence is nearer
        other = found + 0.1 * torch.randn(8, generator=g, dtype=torch.float64)
        other = other.sort(descending=True).values
        assert float((other - values).square().sum()) >= least - 1e-12
    exact = InformationProfile(values, values, torch.zeros(8), 0 * noise)
    assert exact.decreasing() is exact


@pytest.mark.parametrize("filtered", [{"temperature": 0.5}, {"top_p": 0.9}])
def test_a_temperature_or_a_top_p_is_refused_before_any_work(filtered: dict[str, float]) -> None:
    target = random_target(2, 3, seed=5)
    plan = replace(PLAN, guidances=(Guidance(2.0, **filtered),))
    with pytest.raises(UserError):
        check(ProfileStudy(), Case.of(data_of(target), None, plan))
