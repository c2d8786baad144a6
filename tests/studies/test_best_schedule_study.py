"""The study of the best strengths: its figures are the library's, and its sentences follow from them."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from helpers import Inconsistent, random_target

from mdlm_cfg import Guidance, Sampler, UserError, linear_ramp, terminal_law, tilted_law
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.reports.pages import sections_of
from mdlm_cfg.studies.best_schedule import BestScheduleStudy
from mdlm_cfg.studies.best_schedule.findings import BEST, CONSTANT, OTHERS_BEST, RAMP, BestScheduleFindings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.targets import toys

Z = 1


def data_of(target: Any) -> Any:
    return SimpleNamespace(name="some", target=target)


def plan_of(*strengths: Any, kind: str = "rate", policy: str | None = None, z: int = Z) -> Plan:
    sampler = Sampler() if policy is None else Sampler("event_leaping", events=1, policy=policy)
    return Plan(tuple(Guidance(w, kind) for w in strengths), sampler, classes=(z,))


def found_by(study: BestScheduleStudy, target: Any, learned: Any, plan: Plan) -> BestScheduleFindings:
    study.check(data_of(target), plan)
    return study.run(data_of(target), learned, plan, lambda line: None)


@pytest.mark.parametrize(("kind", "policy"), [("rate", None), ("normalized", None), ("rate", "fixed_order")])
def test_every_figure_is_the_librarys(kind: str, policy: str | None) -> None:
    target, learned = random_target(3, 2, seed=4), Inconsistent(3, 2, 2, seed=1)
    findings = found_by(BestScheduleStudy(), target, learned, plan_of(0.5, 2.0, kind=kind, policy=policy))
    denoisers = {"exact": target.denoiser(), "learned": learned}
    assert [at.w for at in findings.at] == [0.5, 2.0]
    for at in findings.at:
        assert [(r.scores, r.schedule) for r in at.reached] == [
            ("exact", CONSTANT), ("exact", RAMP), ("exact", BEST),
            ("learned", CONSTANT), ("learned", RAMP), ("learned", OTHERS_BEST), ("learned", BEST),
        ]  # fmt: skip
        assert at.of("learned", OTHERS_BEST).strengths == at.of("exact", BEST).strengths
        tilted = tilted_law(target, at.w, Z)
        for r in at.reached:
            if r.schedule in (CONSTANT, RAMP):
                assert r.strengths == ((at.w, at.w) if r.schedule == CONSTANT else (0.0, at.w))
            law = terminal_law(denoisers[r.scores], Guidance(list(r.strengths), kind), Z, policy)
            assert (r.law - law).abs().max() < 1e-12
            cells = [(float(law[x]), float(tilted[x]), x) for x in product(range(3), repeat=2)]
            assert r.tv == pytest.approx(sum(abs(q - p) for q, p, _ in cells) / 2)
            assert r.kl == pytest.approx(sum(p * math.log(p / q) for q, p, _ in cells), abs=1e-12)
            assert r.entropy == pytest.approx(-sum(q * math.log(q) for q, _, _ in cells))
            posterior = [
                float(target.class_weights[Z] * target.class_pmfs[Z][x] / sum(
                    target.class_weights[k] * target.class_pmfs[k][x] for k in range(2)))
                for _, _, x in cells
            ]  # fmt: skip
            assert r.class_posterior == pytest.approx(sum(q * a for (q, _, _), a in zip(cells, posterior)))
            assert r.value == pytest.approx(r.kl)
        for scores in denoisers:  # nothing that was tried is better
            assert at.of(scores, BEST).value <= min(r.value for r in at.reached if r.scores == scores) + 1e-12


def test_other_objectives_are_what_they_say() -> None:
    target = random_target(3, 2, seed=4)
    tv = found_by(BestScheduleStudy("tv"), target, None, plan_of(2.0)).at[0]
    assert all(r.value == pytest.approx(r.tv) for r in tv.reached)
    findings = found_by(BestScheduleStudy("trade_off", entropy_weight=0.5), target, None, plan_of(1.0, 2.0))
    joint = target.class_weights[Z] * target.class_pmf(Z) / target.pmf
    for at in findings.at:
        for r in at.reached:
            assert r.value == pytest.approx(-float((r.law * joint.log()).sum()) - 0.5 * r.entropy)
        assert at.of("exact", BEST).value < at.of("exact", CONSTANT).value
    # it knows no tilted law: the same strengths for every w
    one, two = (at.of("exact", BEST) for at in findings.at)
    assert one.value == pytest.approx(two.value, abs=1e-6)
    assert findings.verdict[1].startswith("The trade-off -E ln p(z | x) - 0.5 times the entropy")
    squares = found_by(
        BestScheduleStudy("trade_off", entropy_weight=0.5), toys.toy_2d_overlap(), None, plan_of(1.0, z=0)
    )
    # of all laws on the support of a class that is uniform, the best is the tilted one of w = 1 / weight
    reached = squares.at[0].of("exact", BEST)
    assert total_variation(reached.law, tilted_law(toys.toy_2d_overlap(), 2.0, 0)) < 1e-5
    sure = found_by(BestScheduleStudy("trade_off", entropy_weight=0.01), target, None, plan_of(1.0)).at[0]
    assert sure.of("exact", BEST).class_posterior > one.class_posterior
    assert sure.of("exact", BEST).entropy < one.entropy


def test_the_verdict_says_what_the_strengths_do() -> None:
    target = toys.toy_2d_overlap()
    findings = found_by(BestScheduleStudy(), target, None, plan_of(2.0, z=0))
    assert "0.1006, 0.0537, 0.0000 (w = 2)" in findings.verdict[0]  # theory, section 12
    assert findings.verdict[1].startswith("The best strengths rise from the first coordinate to the last, to w itself")
    at = findings.at[0]
    turned = [dataclasses.replace(r, strengths=r.strengths[::-1]) for r in at.reached]
    falling = dataclasses.replace(findings, at=[dataclasses.replace(at, reached=turned)])
    assert falling.verdict[1] == "The best strengths do not rise from the first coordinate to the last at any w."


def test_whether_the_schedule_carries_over_is_a_share_of_the_gain() -> None:
    target = random_target(3, 2, seed=4)
    near = found_by(BestScheduleStudy(), target, target.denoiser(), plan_of(2.0))
    assert near.at[0].share_kept == pytest.approx(1.0, abs=1e-6) and "at least 100.0%" in near.verdict[-1]
    far = found_by(BestScheduleStudy(), target, Inconsistent(3, 2, 2, seed=1), plan_of(2.0)).at[0]
    constant, best, others = (far.of("learned", name).value for name in (CONSTANT, BEST, OTHERS_BEST))
    assert far.share_kept == pytest.approx((constant - others) / (constant - best)) and far.share_kept < 0.99
    unguided = found_by(BestScheduleStudy(), target, target.denoiser(), plan_of(0.0))
    assert unguided.at[0].share_kept is None and unguided.verdict[-1].endswith("over the constant there.")


def test_one_dimension_has_one_strength(tmp_path: Path) -> None:
    findings = found_by(BestScheduleStudy(), random_target(4, 1, seed=2), None, plan_of(2.5))
    assert findings.at[0].of("exact", BEST).strengths == pytest.approx((2.5,))
    assert findings.at[0].of("exact", BEST).tv < 1e-10
    assert "In one dimension" in findings.verdict[1]
    assert sections_of(findings, tmp_path)


def test_what_it_cannot_answer_is_refused() -> None:
    target, plan = random_target(3, 2), plan_of(1.0)
    for settings, message in (({"objective": "mse"}, "choose one of kl"), ({"entropy_weight": -1.0}, "at least 0")):
        with pytest.raises(UserError, match=message):
            BestScheduleStudy(**settings)
    weights = torch.tensor([1.0, 0.0])
    cases: list[tuple[Any, Plan, str]] = [
        (None, plan, "needs data given as a table"),
        (target, plan_of(1.0, z=5), "class 5 is out of range"),
        (target, plan_of(linear_ramp(0.0, 1.0)), "needs one number w"),
        (target, Plan((Guidance(1.0, top_p=0.5),), Sampler()), "leave temperature and top_p away"),
        (type(target)(target.class_pmfs, weights), plan, "has weight 0"),
        (SimpleNamespace(**vars(target) | {"num_dims": 9}), plan, "needs data given as a table"),
    ]
    for known, asked, message in cases:
        with pytest.raises(UserError, match=message):
            BestScheduleStudy().check(data_of(known), asked)
    large = random_target(2, 3)
    large.num_dims = 16
    with pytest.raises(UserError, match="too many to differentiate"):
        BestScheduleStudy().check(data_of(large), plan)


def test_the_command_writes_what_the_study_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = random_target(3, 2, seed=4)
    np.savez(tmp_path / "t.npz", class_pmfs=target.class_pmfs.numpy(), class_weights=target.class_weights.numpy())
    out = tmp_path / "out"
    arguments = ("data=table", f"data.path={tmp_path / 't.npz'}", "w=[1,2]", "target_class=1", f"out={out}")
    assert run("eval", "experiment=best_schedule", "denoiser=exact", *arguments) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["version"] == 2 and report["objective"]["name"] == "kl" and report["target_class"] == 1
    best = next(r for r in report["schedules"][1]["reached"] if r["schedule"] == "best")
    law = terminal_law(target.denoiser(), Guidance(best["strengths"]), 1)
    assert best["tv_tilted"] == pytest.approx(float((law - tilted_law(target, 2.0, 1)).abs().sum()) / 2, abs=1e-9)
    with np.load(out / "arrays.npz") as arrays:
        assert np.abs(arrays["exact_best_w2"] - law.numpy()).max() < 1e-9
        assert np.abs(arrays["tilted_w1"] - tilted_law(target, 1.0, 1).numpy()).max() < 1e-9
    assert set(report["files"]) == {path.name for path in out.iterdir()}
    said = " ".join(capsys.readouterr().out.split())
    assert all(sentence in said for sentence in report["verdict"])
