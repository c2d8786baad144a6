"""Evaluations are judged by the laws themselves, and by what theory says of them."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import Inconsistent, block_of, data_of, evaluate_table, found_by, random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, UserError, terminal_law, tilted_law
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, mean_and_covariance, total_variation
from mdlm_cfg.laws import tabulated
from mdlm_cfg.studies.evaluation import array_name
from mdlm_cfg.studies.findings import to_jsonable
from mdlm_cfg.studies.geometry import overlap_counts, overlap_of
from mdlm_cfg.studies.laws import arrays_of, row_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.support import progress
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets import toys

STRENGTHS = [0, 1, 2, 4]


def plan(strengths, z=0, kind="rate", sampler=None, **changes):
    guidances = tuple(Guidance(w, kind) for w in strengths)
    return Plan(guidances, sampler or Sampler(), **({"classes": (z,), "num_samples": 50} | changes))


def imperfect(target: TableMixture, share: float = 0.05) -> TableMixture:
    """Another mixture whose exact denoiser stands in for an imperfectly trained one."""
    cells = target.class_pmfs[0].numel()
    return TableMixture((1 - share) * target.class_pmfs + share / cells, target.class_weights)


@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_the_laws_are_those_of_the_functions_they_name(kind):
    target = toys.toy_2d_overlap()
    denoiser = imperfect(target).denoiser()
    evaluation = evaluate_table(target, denoiser, plan([0, 3], 1, kind))
    result = evaluation.results[1]
    guidance = Guidance(3.0, kind)
    assert torch.equal(result.laws["class"], target.class_pmfs[1])
    assert torch.equal(result.laws["tilted"], tilted_law(target, 3.0, 1))
    assert torch.equal(result.laws["exact"], terminal_law(target.denoiser(), guidance, 1))
    assert (result.laws["learned"] - terminal_law(denoiser, guidance, 1)).abs().max() < 1e-14
    assert result.tv("exact", "learned") == total_variation(result.laws["exact"], result.laws["learned"]) > 0.001
    assert set(arrays_of(evaluation)) == {"class"} | {
        f"{name}_w{w}" for w in (0, 3) for name in ("tilted", f"exact_{kind}", f"learned_{kind}", f"samples_{kind}")
    }


def test_in_one_dimension_the_exact_law_is_the_tilted_law():
    for target in (toys.toy_1d_disjoint(), toys.toy_1d_overlap()):
        for result in evaluate_table(target, None, plan(STRENGTHS)).results:
            assert result.gap_to_tilted < 1e-12


def test_without_guidance_nothing_moves_and_with_it_the_gap_opens_in_two_dimensions():
    none, strong = evaluate_table(toys.toy_2d_overlap(), None, plan([0, 4])).results
    assert max(none.guidance_effect, none.gap_to_tilted) < 1e-14
    assert strong.guidance_effect > 0.2 and strong.gap_to_tilted > 0.1


def test_exact_only_has_no_learned_law_and_samples_the_exact_one():
    evaluation = evaluate_table(toys.toy_2d_projection(), None, plan([2], num_samples=100_000))
    row = row_of(evaluation.results[0])
    assert not evaluation.has_learned and row.tv_exact_learned is None
    assert row.tv_exact_samples == pytest.approx(row.noise_floor_exact, rel=0.2)


def test_samples_follow_the_learned_law_and_not_the_exact_one():
    target = toys.toy_1d_overlap()
    found = evaluate_table(target, imperfect(target, 0.2).denoiser(), plan([0], num_samples=50_000))
    row = row_of(found.results[0])
    assert row.tv_learned_samples < 2 * row.noise_floor_learned
    assert row.tv_exact_samples > 5 * row.noise_floor_exact
    assert row.tv_exact_samples_low <= row.tv_exact_samples <= row.tv_exact_samples_high


def test_the_noise_floor_is_the_mean_distance_of_repeated_exact_samples():
    target = toys.toy_2d_overlap()
    generator = torch.Generator().manual_seed(3)
    n = 2000
    repeats = 200
    result = evaluate_table(target, None, plan([0], num_samples=n)).results[0]
    tvs = torch.tensor(
        [
            total_variation(result.laws["exact"], histogram(target.sample(n, generator, 0)[0], 16))
            for _ in range(repeats)
        ]
    )
    assert abs(float(tvs.mean()) - result.sample_tv["exact"].floor) < 4 * float(tvs.std()) / repeats**0.5
    assert result.sample_tv["exact"].floor == expected_sampling_tv(result.laws["exact"], n)


def test_moments_are_those_of_the_laws():
    evaluation = evaluate_table(toys.toy_2d_overlap(), None, plan([1], num_samples=500))
    result = evaluation.results[0]
    for name, law in result.laws.items():
        mean, covariance = mean_and_covariance(law)
        assert torch.equal(result.moments[name].mean, mean)
        eigenvalues = result.moments[name].eigenvalues
        assert float(eigenvalues.sum()) == pytest.approx(float(covariance.trace()))
        assert float(eigenvalues.prod()) == pytest.approx(float(torch.linalg.det(covariance)))
    expected = result.moments["class"].covariance - result.moments["exact"].covariance
    relative = float(expected.norm() / result.moments["exact"].covariance.norm())
    assert result.covariance_difference("class")["frobenius"] == pytest.approx(relative)


def test_kl_is_infinite_where_support_is_missing_and_json_stays_valid():
    pmfs = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    narrow = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    weights = torch.tensor([0.5, 0.5])
    denoiser = TableMixture(narrow, weights).denoiser()
    findings = found_by(TableReport(), data_of(TableMixture(pmfs, weights)), denoiser, plan([0]))
    read = json.loads(json.dumps(findings.to_dict(), allow_nan=False))
    assert read["distances"][0]["kl_exact_learned"] == "inf"
    assert read["laws"] == list(findings.arrays)


def test_a_stepped_sampler_is_named_in_the_plan():
    asked = plan([0, 2], sampler=Sampler("tau_leaping", 4))
    evaluation = evaluate_table(toys.toy_2d_overlap(), None, asked)
    assert evaluation.plan is asked
    head = evaluation.plan.describe()
    assert (head["sampler"], head["steps"], head["schedule"]) == ("tau_leaping", 4, "linear")


def test_mean_probability_by_overlap_is_the_five_dimensional_table():
    evaluation = evaluate_table(toys.toy_5d_hypercube(), None, plan([1, 2], 1))
    expected = {1: [4.938, 4.543, 4.030, 3.326, 2.277, 0.320], 2: [5.487, 4.755, 3.902, 2.886, 1.639, 0.017]}
    rows = [row for row in overlap_of(evaluation) if row.law == "exact"]
    for w, values in expected.items():
        own = [row for row in rows if row.w == Guidance(w)]
        assert [row.num_overlapping for row in own] == [0, 1, 2, 3, 4, 5]
        assert [1000 * row.mean_probability for row in own] == pytest.approx(values, abs=5.1e-4)
        assert sum(row.mass for row in own) == pytest.approx(1)


def test_overlap_counts_coordinates_and_not_points():
    target = toys.toy_2d_projection()
    counts = overlap_counts(target.class_pmfs[0], target.class_pmfs[1])
    assert int(counts[7, 7]) == 0 and int(counts[2, 7]) == 1 and int(counts[4, 4]) == 2
    assert not bool(((target.class_pmfs[0] > 0) & (target.class_pmfs[1] > 0)).any())


def test_law_keys():
    expected = {("exact", 2.0): "exact_rate_w2", ("learned", 0.5): "learned_rate_w0.5", ("tilted", -1.0): "tilted_w-1"}
    for (name, w), key in expected.items():
        assert array_name(name, Guidance(w), Guidance(w).identifier) == key


def test_plain_types():
    value = {1: torch.tensor([1.0, float("inf")]), "a": (None, True, float("nan"))}
    assert to_jsonable(value) == {"1": [1.0, "inf"], "a": [None, True, "nan"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"strengths": []},
        {"strengths": [1, 1.0]},
        {"strengths": [-2]},
        {"z": 2},
        {"classes": (0, 1)},
        {"num_samples": 0},
        {"kind": "fast"},
    ],
)
def test_what_is_refused(changes):
    with pytest.raises(UserError):
        evaluate_table(toys.toy_1d_overlap(), None, plan(**({"strengths": [1]} | changes)))


def test_a_denoiser_of_other_data_is_refused():
    with pytest.raises(ValueError, match="made for other data"):
        evaluate_table(toys.toy_1d_overlap(), toys.toy_2d_overlap().denoiser(), plan([1]))


def test_a_network_too_large_for_its_own_law_is_sampled_itself(monkeypatch):
    monkeypatch.setattr("mdlm_cfg.studies.case.LEARNED_LAW_ENTRIES", 10)
    target = toys.toy_1d_overlap()
    wrong = TableMixture(target.class_pmfs.flip(0), target.class_weights)  # the other class's samples
    report = TableReport("1d_overlap")
    findings = found_by(report, data_of(target), wrong.denoiser(), plan([0, 2], num_samples=5000))
    read = findings.to_dict()
    assert read["judged"] == "learned"
    for row in read["distances"]:
        laws = [terminal_law(one.denoiser(), Guidance(row["w"]), 0) for one in (wrong, target)]
        assert abs(row["tv_exact_samples"] - total_variation(*laws)) < 0.1 and row["tv_exact_samples"] > 0.3
        assert row["tv_exact_samples"] > 5 * row["noise_floor_exact"]
        assert all(value is None for name, value in row.items() if "learned" in name)
    assert {row["law"] for row in read["moments"]} == {"class", "tilted", "exact", "samples"}
    assert "ledger" not in read and {row["denoiser"] for row in read["samplers"]} == {"exact"}
    assert {row["law"] for row in read["geometry"]} == {"exact"}
    assert "too large" in " ".join(read["verdict"]) and not any("learned" in name for name in read["laws"])
    assert not any(character.isdigit() for claim in block_of(findings, "claims") for character in claim.learned)


def test_strengths_do_not_share_a_stream():
    assert hash((0, -1.0)) == hash((0, -2.0))  # what seeds were once made of
    keys = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 1e4]
    draws = [torch.rand(4, generator=generator_for("table samples", 0, "rate", f"{w:g}", 0)) for w in keys]
    draws += [torch.rand(4, generator=generator_for("x", 0, w)) for w in keys]
    assert len({tuple(draw.tolist()) for draw in draws}) == 2 * len(keys)
    both = [Guidance(w, kind) for w in (-1.0, -0.5, 0.0, 1.0) for kind in ("rate", "normalized")]
    ours = {
        tuple(torch.rand(4, generator=plan([0.0]).generator(what, g, z)).tolist())
        for g in both
        for what in ("table samples", "bootstrap", "ledger")
        for z in (0, 1)
    }
    assert len(ours) == 8 * 3 * 2


def test_a_long_table_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tabulated, "MAX_BATCH", 40)
    monkeypatch.setattr(progress, "QUIET", 0.0)  # a line for every call
    plan = Plan((Guidance(1.0),), Sampler())
    table = Case.of(data_of(random_target(3, 3, 4)), Inconsistent(3, 3, 4), plan).table("learned")
    assert table is not None
    terminal_law(table, Guidance(1.0), 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "asking the network about all states: 54%",  # 20 of 37 under two labels
        "asking the network about all states: 100%",
    ]
