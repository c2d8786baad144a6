"""A mixture of 4 x 4 images: the exact denoiser has no score error, its samples match the floor, all is reported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from helpers import Blurred, bernoulli_mixture

from mdlm_cfg import Guidance, Sampler, UserError
from mdlm_cfg.chain.guidance import linear_ramp
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.compare.mixtures import (
    component_usage,
    rank_correlation,
)
from mdlm_cfg.compare.score_error import score_error
from mdlm_cfg.reports.mixture_report import bernoulli_sections
from mdlm_cfg.reports.tables import format_number
from mdlm_cfg.studies.mixture.findings import STATISTICS, BernoulliEvaluation, Distinctness
from mdlm_cfg.studies.mixture.study import evaluate_bernoulli
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.data import Data, KnownData


def mixture(side: int = 4, sharpness: float = 2.0) -> BernoulliMixture:
    return bernoulli_mixture(side * side, sharpness=sharpness)


def plan_of(*guidances: Guidance, n: int = 300, classes: tuple[int, ...] | None = None) -> Plan:
    return Plan(guidances, Sampler(), n, classes=classes)


def data_of(target: BernoulliMixture) -> KnownData:
    return KnownData(target, "tiny", (4, 4), num_test=400)


def evaluation_of(share: float | None, plan: Plan | None = None) -> BernoulliEvaluation:
    target = mixture()
    denoiser = None if share is None else Blurred(target, share)
    return evaluate_bernoulli(data_of(target), denoiser, plan or plan_of(Guidance(0.0), Guidance(3.0)))


@pytest.fixture(scope="module")
def blurred() -> BernoulliEvaluation:
    return evaluation_of(0.4)


def test_the_exact_denoiser_has_no_score_error() -> None:
    target = mixture()
    x, classes = target.sample(200, generator_for("x"))
    for labels in (classes, None):
        found = score_error(target, target.denoiser(), x, labels, generator=generator_for("masks"))
        assert found.difference == found.difference_se == found.kl == 0
        assert found.nelbo == found.exact_nelbo == pytest.approx(found.entropy, abs=1.0)


def test_both_estimates_of_the_score_error_agree_and_kl_is_less_noisy() -> None:
    target = mixture()
    x, classes = target.sample(3000, generator_for("x"))
    found = score_error(target, Blurred(target, 0.2), x, classes, generator=generator_for("masks"))
    assert found.kl > 0.1
    assert abs(found.difference - found.kl) < 4 * found.difference_se
    assert found.kl_se < found.difference_se
    independent = (found.nelbo**2 / 3000) ** 0.5
    assert found.difference_se < independent / 5


def test_the_exact_nelbo_is_the_entropy_on_average() -> None:
    target = mixture(side=2)
    x, classes = target.sample(2000, generator_for("x"))
    found = score_error(target, target.denoiser(), x, classes, 16, generator_for("masks"))
    assert found.exact_nelbo == pytest.approx(found.entropy, abs=0.02)


def test_an_exact_learned_denoiser_matches_the_floor() -> None:
    found = evaluation_of(0.0)
    for w in (0.0, 3.0):
        learned, floor, own = (found.at[w].compared[name] for name in ("learned", "floor", "class"))
        assert learned["mean_rms"] == pytest.approx(floor["mean_rms"], rel=0.4)
        assert learned["covariance"] == pytest.approx(floor["covariance"], rel=0.4)
        assert abs(learned["energy"]) < 0.015 and abs(floor["energy"]) < 0.015
        assert learned["component_tv"] < 0.12
        assert (own["energy"] > 0.03) == (w > 0)


def test_a_wrong_denoiser_is_told_from_the_floor(blurred: BernoulliEvaluation) -> None:
    for w in (0.0, 3.0):
        learned, floor = (blurred.at[w].compared[name] for name in ("learned", "floor"))
        assert learned["energy"] > floor["energy"] + 0.03
        assert learned["mean_rms"] > 1.5 * floor["mean_rms"]
    assert blurred.score["conditional"].difference > 0.3


def test_private_values_and_distinct_components_gain(blurred: BernoulliEvaluation) -> None:
    noise, guided = (blurred.at[w].pixels["exact"] for w in (0.0, 3.0))
    assert abs(noise.correlation) < 0.35
    assert guided.correlation > 0.5 and guided.tilt_correlation > guided.correlation - 0.2
    assert guided.groups["private"] > 0.02 and guided.groups["foreign"] < -0.02
    unused, used = (blurred.at[w].components["exact"] for w in (0.0, 3.0))
    assert used.rank_correlation_partial > 0.3
    assert used.entropy < unused.entropy


def test_usage_of_own_samples_is_the_weights_and_ranks_correlate() -> None:
    target = mixture()
    x, _ = target.sample(5000, generator_for("x"), 2)
    assert torch.allclose(component_usage(target, x, 2), target.weights(2), atol=0.03)
    a = torch.tensor([3.0, 1.0, 2.0, 9.0])
    assert rank_correlation(a, a.exp()) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)


def test_sets_are_those_of_the_plans_generators_compared_by_hand() -> None:
    """Another kind, sampler and schedule than the default, classes that are not all: what was asked for is what ran."""
    target, guidance = mixture(), Guidance(1.5, cast(Kind, "normalized"))
    plan = Plan((guidance,), Sampler("event_leaping", 3, "linear"), 50, seed=5, classes=(2, 1))
    learned = Blurred(target, 0.4)
    found = evaluate_bernoulli(data_of(target), learned, plan, num_test=20)
    assert found.kind == "normalized" and found.classes == [2, 1]
    for at, k in enumerate((2, 1)):
        x, y = (
            plan.sampler.draw(used, guidance, k, 50, plan.generator("samples", guidance, k, name))
            for name, used in (("exact", target.denoiser()), ("learned", learned))
        )
        assert torch.equal(found.at[1.5].samples["exact"][at].long(), x)
        assert torch.equal(found.at[1.5].samples["learned"][at].long(), y)
        difference = (x.double().mean(dim=0) - y.double().mean(dim=0)).square().mean().sqrt()
        assert found.at[1.5].by_class["learned"][at]["mean_rms"] == pytest.approx(float(difference))
        assert torch.allclose(found.at[1.5].exact_means[at], x.double().mean(dim=0))
    rows = [row["energy"] for row in found.at[1.5].by_class["learned"]]
    assert found.against_w("learned", "energy") == [pytest.approx(sum(rows) / 2)]


def test_a_strengths_numbers_do_not_depend_on_the_others(blurred: BernoulliEvaluation) -> None:
    alone = evaluation_of(0.4, plan_of(Guidance(3.0), classes=(1,)))
    for name, rows in alone.at[3.0].by_class.items():
        assert rows == [blurred.at[3.0].by_class[name][1]]
    assert torch.equal(alone.distinct.values[0], blurred.distinct.values[1])


def test_components_that_do_not_differ_are_not_ranked(blurred: BernoulliEvaluation) -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]], dtype=torch.float64)
    found = Distinctness(values)
    assert found.centred.tolist() == [[-1, 0, 1], [0, 0, 0]]
    assert found.mean == pytest.approx(3.5) and found.spread == pytest.approx((2 / 5) ** 0.5) and found.ranks
    assert blurred.rank_correlation_whole(3.0, "exact") == blurred.at[3.0].components["exact"].rank_correlation
    equal = dataclasses.replace(blurred, distinct=Distinctness(torch.full((3, 3), 0.7, dtype=torch.float64)))
    assert equal.rank_correlation_whole(3.0, "exact") is None


def test_the_report_has_everything(blurred: BernoulliEvaluation, tmp_path: Path) -> None:
    sections = bernoulli_sections(blurred, tmp_path)
    assert sections[0].title == "Score error" and len(sections) == 5
    pictures = [picture.path for section in sections for picture in section.pictures]
    assert len(pictures) == 8 and all(path.is_file() for path in pictures)
    table = sections[1].table
    assert table is not None
    for row in table.rows:
        name = {"learned": "learned", "exact again (noise floor)": "floor", "class, unguided": "class"}[row[1]]
        assert row[5] == format_number(blurred.at[float(row[0])].compared[name]["energy"])
    assert "by first_hitting, guidance of the kind “rate”" in sections[1].text


def test_rows_are_flat_and_everything_is_json(blurred: BernoulliEvaluation) -> None:
    plain = json.loads(json.dumps(blurred.to_dict(), allow_nan=False))
    rows = blurred.rows()
    assert len(rows) == 2 * 3 * 4
    assert all(set(row) == {"w", "kind", "set", "class", *STATISTICS} for row in rows)
    assert plain["plan"] == blurred.plan.describe() and plain["distances"] == rows
    assert plain["score_error"]["null"]["kl"] == blurred.score["null"].kl
    assert [(row["w"], row["set"]) for row in plain["pixels"]] == [
        (w, name) for w in (0.0, 3.0) for name in ("exact", "learned")
    ]
    assert plain["components"][2]["rank_correlation_partial"] == (
        blurred.at[3.0].components["exact"].rank_correlation_partial
    )
    assert "energy_learned_w3" in blurred.numbers()


def test_what_was_not_learned_is_absent(tmp_path: Path) -> None:
    exact = evaluation_of(None, plan_of(Guidance(0.0), Guidance(3.0), n=20))
    assert not exact.has_learned and len(bernoulli_sections(exact, tmp_path)) == 4
    assert exact.to_dict()["score_error"] == {}
    assert not any("learned" in name or "score" in name for name in exact.numbers())
    assert {row["set"] for row in exact.rows()} == {"floor", "class"}


def test_what_cannot_be_evaluated_is_refused() -> None:
    no_mixture, tiny = cast(Data, SimpleNamespace(target=None, name="mnist")), data_of(mixture())
    one = Guidance(1.0)
    for data, denoiser, plan, words in [
        (no_mixture, None, plan_of(one), "no Bernoulli mixture"),
        (tiny, None, plan_of(one, n=1), "at least 2 per class"),
        (tiny, None, plan_of(one, classes=(3,)), "class 3 is out of range"),
        (tiny, None, plan_of(Guidance(linear_ramp(0.0, 1.0))), "needs one number w"),
        (tiny, None, plan_of(one, Guidance(1.0, cast(Kind, "normalized"))), "takes one kind"),
        (tiny, mixture(side=3).denoiser(), plan_of(one), "other data"),
    ]:
        with pytest.raises(UserError, match=words):
            evaluate_bernoulli(data, denoiser, plan)
