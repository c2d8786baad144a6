"""The study of correction: its figures are the library's, for both kinds, another order and another class than 0."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import refusal, run
from helpers import Inconsistent, random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, UserError, sequential_monte_carlo, terminal_law, tilted_law
from mdlm_cfg.chain.kinds import kind_of
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, total_variation
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.reports.pages import sections_of
from mdlm_cfg.studies.correction import Correction
from mdlm_cfg.studies.correction.findings import TableCorrection
from mdlm_cfg.studies.correction.mixture_findings import SETS, MixtureCorrection
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.targets.bernoulli import BernoulliMixture

TARGET = random_target(2, 3, seed=6)
STRENGTHS = (Guidance(0.0, kind_of("normalized")), Guidance(2.0, kind_of("normalized")))


def silent(line: str) -> None:
    pass


def data_of(target: Any) -> Any:
    return SimpleNamespace(target=target, name="tiny", grid_shape=(target.num_dims,))


def plan_of(n: int = 2000, policy: Any = "confidence", guidances: tuple[Guidance, ...] = STRENGTHS) -> Plan:
    return Plan(guidances, Sampler(policy=policy), n, seed=3, classes=(1,))


def study(target: Any, denoiser: Any = None, plan: Plan | None = None, **settings: Any) -> Any:
    return Correction(**settings).run(data_of(target), denoiser, plan or plan_of(), silent)


@pytest.fixture(scope="module")
def exact() -> TableCorrection:
    return study(TARGET)


@pytest.fixture(scope="module")
def learned() -> TableCorrection:
    return study(TARGET, Inconsistent(2, 3, 2))


def test_costs_are_those_of_the_library(learned: TableCorrection) -> None:
    denoisers = {"exact": TARGET.denoiser(), "learned": Inconsistent(2, 3, 2)}
    assert len(learned.costs) == 2 * 2 * 4
    for cost in learned.costs:
        weights = tilted_weights(denoisers[cost.denoiser], cost.guidance, 1, cost.policy)
        tilted = tilted_law(TARGET, cost.guidance.constant, 1)
        law = terminal_law(denoisers[cost.denoiser], cost.guidance, 1, cost.policy)
        assert cost.ess == pytest.approx(weights.ess, rel=1e-12)
        assert cost.log_normalizer == pytest.approx(weights.log_normalizer, abs=1e-12)
        assert cost.tv_guided == pytest.approx(total_variation(law, tilted), abs=1e-12)
        assert cost.tv_weighted == pytest.approx(total_variation(weights.law, tilted), abs=1e-12)
        assert cost.own == (cost.policy == "confidence")
        if cost.denoiser == "exact":
            assert cost.tv_weighted < 1e-12
        assert cost.row()["cost"] == pytest.approx(1 / weights.ess)


@pytest.mark.parametrize(("kind", "own"), [("rate", "rate"), ("normalized", "uniform")])
def test_without_a_policy_the_order_is_the_kinds_and_comes_once(kind: str, own: str) -> None:
    plan = plan_of(100, None, (Guidance(1.0, kind_of(kind)),))
    costs = study(TARGET, plan=plan).costs
    assert [cost.policy for cost in costs if cost.own] == [own]
    assert sorted(cost.policy for cost in costs) == ["confidence", "fixed_order", "rate", "uniform"]
    law = terminal_law(TARGET.denoiser(), plan.guidances[0], 1)
    tilted = tilted_law(TARGET, 1.0, 1)
    assert next(c for c in costs if c.own).tv_guided == pytest.approx(total_variation(law, tilted))


def test_samples_are_those_of_the_plans_generators(exact: TableCorrection) -> None:
    guidance, plan = STRENGTHS[1], plan_of()
    tilted = tilted_law(TARGET, 2.0, 1)
    x, log_w = plan.sampler.draw_weighted(
        TARGET.denoiser(), guidance, 1, 2000, plan.generator("weighted samples", guidance, 1)
    )
    rows = exact.samples_at(guidance)
    assert [(row.num_samples, row.num_sets) for row in rows] == [(100, 20), (1000, 2), (2000, 1)]
    assert rows[2].guided == pytest.approx(total_variation(histogram(x, 2), tilted))
    assert rows[2].weighted == pytest.approx(total_variation(histogram(x, 2, log_w.softmax(0)), tilted))
    assert rows[2].floor == pytest.approx(expected_sampling_tv(tilted, 2000))
    half = [total_variation(histogram(part, 2), tilted) for part in x.split(1000)]
    assert rows[1].guided == pytest.approx(sum(half) / 2)
    smc = sequential_monte_carlo(
        TARGET.denoiser(), guidance, 1, 2000, policy="confidence",
        generator=plan.generator("resampled samples", guidance, 1, 2000),
    )  # fmt: skip
    assert rows[2].resampled == pytest.approx(total_variation(histogram(smc.x, 2, smc.weights), tilted))
    assert exact.resampling[1].log_normalizer == smc.log_normalizer
    assert exact.resampling[1].relative_error == smc.relative_error
    assert exact.resampling[1].exact == pytest.approx(tilted_weights(TARGET.denoiser(), guidance, 1).log_normalizer)
    assert abs(smc.log_normalizer - exact.resampling[1].exact) < 4 * smc.relative_error


def test_at_w_0_every_weight_is_one(exact: TableCorrection) -> None:
    for row in exact.samples_at(STRENGTHS[0]):
        assert row.guided == pytest.approx(row.weighted, abs=1e-12)
    assert all(cost.ess == pytest.approx(1) and cost.pays_from is None for cost in exact.costs[:4])


def test_the_verdict_says_the_figures(learned: TableCorrection) -> None:
    text, cost = " ".join(learned.verdict), learned.own(STRENGTHS[1])
    assert f"ends {cost.tv_guided:.4f} from the tilted law" in text and "w = 2 (normalized)" in text
    assert f"{cost.ess:.3g} of the samples: {1 / cost.ess:.3g} samples" in text
    assert f"averaged over orders, is {cost.tv_weighted:.4f}" in text
    assert cost.denoiser == "learned"


def test_everything_is_json_and_has_a_page(learned: TableCorrection, exact: TableCorrection, tmp_path: Path) -> None:
    for found in (exact, learned):
        plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert plain["version"] == 2 and plain["plan"]["policy"] == "confidence" and plain["target_class"] == 1
        assert len(plain["distances"]) == len(found.rows()) == 6
        assert sorted(found.arrays()) == plain["laws"]
    sections = sections_of(found, tmp_path)
    assert all(p.path.is_file() for s in sections for p in s.pictures)
    assert sum(len(s.pictures) for s in sections) == 4
    assert sections[0].table is not None and sections[0].table.rows[1][4] == f"{1 / learned.costs[1].ess:,.3g}"
    assert found.arrays()["tilted_w2"].sum() == pytest.approx(1)


def mixture() -> BernoulliMixture:
    g = torch.Generator().manual_seed(8)
    p = torch.sigmoid(2 * torch.randn(3, 3, 6, generator=g, dtype=torch.float64))
    w = torch.rand(3, 3, generator=g, dtype=torch.float64) + 0.3
    return BernoulliMixture(p, w / w.sum(1, keepdim=True), torch.tensor([0.2, 0.5, 0.3]))


@pytest.fixture(scope="module")
def many() -> MixtureCorrection:
    plan = Plan((Guidance(2.0, kind_of("normalized")),), Sampler(policy="entropy"), 6000, seed=1, classes=(2,))
    return study(mixture(), plan=plan, num_reference=40_000)


def test_a_mixtures_sets_are_held_against_its_table(many: MixtureCorrection) -> None:
    """Usage and class posterior of every set by brute force over all 64 states."""
    target, one = mixture(), many.found[0]
    states = torch.cartesian_prod(*[torch.arange(2)] * 6)
    usage = target.component_posterior(states, 2)
    posterior = (target.log_prob(states, torch.full((64,), 2)) + math.log(0.3) - target.log_prob(states)).exp()
    table, guidance = target.to_table(), many.plan.guidances[0]
    guided = terminal_law(table.denoiser(), guidance, 2, "entropy").flatten()
    tilted = tilted_law(table, 2.0, 2).flatten()
    laws = {
        "reference": tilted, "class": table.class_pmf(2).flatten(), "guided": guided, "weighted": tilted,
        "resampled": tilted,
    }  # fmt: skip
    assert set(one.sets) == {"reference", *SETS}
    for name, law in laws.items():
        assert float((one.sets[name].usage - law @ usage).abs().max()) < 0.03, name
        assert one.sets[name].class_posterior == pytest.approx(float(law @ posterior), abs=0.02), name
    assert total_variation(guided @ usage, tilted @ usage) > 0.05  # else the sets could be exchanged
    assert one.sets["guided"].usage_tv > 2 * one.sets["resampled"].usage_tv


def test_a_mixtures_normalisers_agree(many: MixtureCorrection) -> None:
    exact = tilted_weights(mixture().to_table().denoiser(), many.plan.guidances[0], 2).log_normalizer
    rows = many.found[0].normalizers()
    assert [row["set"] for row in rows] == ["reference", "weighted", "resampled"]
    for row in rows:
        assert abs(row["log_normalizer"] - exact) < 4 * row["relative_error"]


def test_a_mixtures_findings_are_numbers_and_arrays(many: MixtureCorrection) -> None:
    plain = json.loads(json.dumps(many.to_dict(), allow_nan=False))
    assert plain["plan"]["policy"] == "entropy" and plain["data"]["classes"] == [2]
    assert len(plain["distances"]) == 5 and len(plain["resampling"][0]["ess_on_the_way"]) == 6
    one = many.found[0]
    assert f"{one.sets['guided'].usage_tv:.3f} (TV) from the tilted law's under guidance" in many.verdict[0]
    assert "class 2" in many.verdict[0]
    arrays = many.arrays()
    assert arrays["resampled_normalized_w2_class2"].shape == (6000, 6)
    assert many.numbers()["usage_tv_guided_w2"] == one.sets["guided"].usage_tv


def test_a_mixtures_page_holds_what_was_found(many: MixtureCorrection, tmp_path: Path) -> None:
    one = many.found[0]
    sets, normalizers, images = sections_of(replace(many, grid_shape=(2, 3)), tmp_path)
    assert sets.table is not None and normalizers.table is not None and images.table is None
    shown = {row[2]: row for row in sets.table.rows}
    assert list(shown) == ["tilted law", *SETS] and {row[1] for row in sets.table.rows} == {"2"}
    for name in SETS:
        assert float(shown[name][3]) == pytest.approx(one.sets[name].usage_tv, abs=5.01e-4)  # three digits are shown
        assert float(shown[name][5]) == pytest.approx(one.sets[name].class_posterior, abs=1e-6)
    assert float(shown["tilted law"][3]) == 0
    for row, found in zip(normalizers.table.rows, one.normalizers(), strict=True):
        assert float(row[4].split(" ± ")[0]) == pytest.approx(found["log_normalizer"], abs=1e-4)
    pictures = [picture.path for section in (sets, normalizers, images) for picture in section.pictures]
    assert [path.name for path in pictures] == ["usage_class2.png", "ess_on_the_way.png", "samples_class2.png"]
    usage = list(csv.DictReader((tmp_path / "usage_class2.csv").open(encoding="utf-8")))
    for name in ("guided", "resampled"):
        shares = {int(row["component"]): float(row["share"]) for row in usage if row["series"] == name}
        assert [shares[c] for c in range(3)] == pytest.approx(one.sets[name].usage.tolist())


@pytest.mark.parametrize(
    ("settings", "plan", "target", "message"),
    [
        ({}, Plan((Guidance(1.0),), Sampler("tau_leaping", 4), 100), TARGET, "carries no weights"),
        ({}, plan_of(105), TARGET, "105 samples in 10 groups"),
        ({"threshold": 1.5}, plan_of(100), TARGET, "threshold is 1.5"),
        ({"policies": ["best"]}, plan_of(100), TARGET, "policy 'best' is unknown"),
        ({}, plan_of(100, guidances=(Guidance(1.0, temperature=0.5),)), TARGET, "no tilted law under temperature"),
        ({}, plan_of(100), None, "the tilted law of tiny is not known"),
        ({"num_reference": 30}, plan_of(100), mixture(), "multiple of 20"),
        ({}, plan_of(100), TableMixture(torch.ones(2, 2) / 2, torch.tensor([1.0, 0.0])), "class 1 has weight 0"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_any_work(
    settings: dict[str, Any], plan: Plan, target: Any, message: str
) -> None:
    data = SimpleNamespace(target=target, name="tiny", grid_shape=(3,))
    with pytest.raises(UserError, match=message):
        Correction(**settings).check(data, plan)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("denoiser=exact", "data=toy_1d_overlap", "w=[2]", "num_samples=100", f"out={tmp_path}")
    assert run("eval", "experiment=correction", *more) == 0
    assert "guidance ends" in capsys.readouterr().out
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["costs"][-1]["w"] == 2 and plain["target_class"] == 1
    assert {"arrays.npz", "ess.png"} <= set(plain["files"]) and all((tmp_path / f).is_file() for f in plain["files"])
    said = refusal(capsys, "eval", "experiment=correction", "denoiser=exact", "sampler=euler", f"out={tmp_path}")
    assert "carries no weights" in said
