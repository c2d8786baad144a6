"""Evaluations are judged by the laws themselves, and by what theory says of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers import Inconsistent, block_of, data_of, evaluate_table, found_by, random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, UserError, terminal_law
from mdlm_cfg.compare.geometry import overlap_masks
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws import tabulated
from mdlm_cfg.studies.findings import to_jsonable
from mdlm_cfg.studies.geometry import overlap_of
from mdlm_cfg.studies.law_pictures import cells
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.support import progress
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets import toys


def plan(strengths, z=0, kind="rate", sampler=None, **changes):
    guidances = tuple(Guidance(w, kind) for w in strengths)
    return Plan(guidances, sampler or Sampler(), **({"classes": (z,), "num_samples": 50} | changes))


def test_mean_probability_by_overlap_is_the_five_dimensional_table():
    evaluation = evaluate_table(toys.toy_5d_hypercube(), None, plan([1, 2], 1))
    expected = {1: [4.938, 4.543, 4.030, 3.326, 2.277, 0.320], 2: [5.487, 4.755, 3.902, 2.886, 1.639, 0.017]}
    rows = [row for row in overlap_of(evaluation) if row.law == "exact"]
    for w, values in expected.items():
        own = [row for row in rows if row.w == Guidance(w)]
        assert [row.num_overlapping for row in own] == [0, 1, 2, 3, 4, 5]
        assert [1000 * row.mean_probability for row in own] == pytest.approx(values, abs=5.1e-4)
        assert sum(row.mass for row in own) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_only_images_that_have_a_probability_are_called_the_most_probable(seed: int) -> None:
    """Of two images that were drawn the first six were shown: four of them are never drawn."""
    target = random_target(2, 4, seed=seed, zeros=0.7)
    evaluation = evaluate_table(target, None, plan([0, 3], num_samples=1 + 2 * seed))
    likeliest, *_ = cells(evaluation, (2, 2))
    for result, images in zip(evaluation.results, likeliest.images.values()):
        for name, own in zip(evaluation.law_names, images):
            law = result.laws[name]
            there = own[~np.isnan(own).any(axis=(1, 2))].reshape(-1, 4).astype(int)
            found = [float(law[tuple(image)]) for image in there]
            assert found == law.flatten().sort(descending=True).values[: len(found)].tolist()
            assert min(found) > 0 and len(found) == min(len(own), int((law > 0).sum()))
            assert np.isnan(own[len(found) :]).all()


def test_overlap_counts_coordinates_and_not_points():
    target = toys.toy_2d_projection()
    own, other = (pmf > 0 for pmf in target.class_pmfs)
    assert not bool((own & other).any())
    masks = overlap_masks(target, 0)
    assert torch.equal(torch.stack(masks).sum(dim=0), own.long())
    assert [int(mask.sum()) > 0 for mask in masks] == [True] * 3
    for k, mask in enumerate(masks):
        assert all(bool(other[i].any()) + bool(other[:, j].any()) == k for i, j in mask.nonzero().tolist())


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
    assert not re.search(r"\d", read["verdict"][0]) and not any("learned" in name for name in read["laws"])
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
    terminal_law(table, Guidance(1.0), 0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0].rsplit(" ", 1)[1] for line in lines] == [
        "54%",  # 20 of 37 under two labels
        "100%",
    ]
