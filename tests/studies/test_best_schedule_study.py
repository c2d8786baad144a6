"""The study of the best strengths: its figures are the library's, and its sentences follow from them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Inconsistent, block_of, data_of, decimals, found_by, random_target

from mdlm_cfg import FunctionDenoiser, Guidance, Sampler, UserError, terminal_law, tilted_law
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.studies.best_schedule import (
    BEST,
    CONSTANT,
    EXACTS_BEST,
    RAMP,
    BestScheduleStudy,
    ScheduleRow,
    TransferRow,
    carried_over,
    transfers_of,
)
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, check
from mdlm_cfg.targets import toys

Z = 1


def plan_of(*strengths: Any, kind: str = "rate", policy: str | None = None, z: int = Z) -> Plan:
    sampler = Sampler() if policy is None else Sampler("event_leaping", events=1, policy=policy)
    return Plan(tuple(Guidance(w, kind) for w in strengths), sampler, classes=(z,))


def found(target: Any, learned: Any = None, plan: Plan | None = None, **settings: Any) -> Findings:
    return found_by(BestScheduleStudy(**settings), data_of(target), learned, plan or plan_of(2.0))


def schedules(findings: Findings, w: float = 2.0) -> dict[tuple[str, str], ScheduleRow]:
    rows = block_of(findings, "schedules")
    return {(row.denoiser, row.schedule): row for row in rows if row.w.constant == w}


def strengths(findings: Findings, w: float = 2.0, who: str = "exact") -> list[float]:
    return [r.strength for r in block_of(findings, "strengths") if (r.w.constant, r.denoiser) == (w, who)]


def quality(findings: Findings, target: Any, w: float) -> tuple[float, float]:
    """E ln p(z | x) of the best distribution, and its entropy."""
    law = torch.tensor(findings.arrays[f"exact_{BEST}_w{w:g}"])
    log_posterior = (target.class_weights[Z] * target.class_pmf(Z) / target.pmf).log()
    return float((law * log_posterior).sum()), -float((law * law.log()).sum())


@pytest.mark.parametrize(("kind", "policy"), [("rate", None), ("normalized", None), ("rate", "fixed_order")])
def test_every_figure_is_the_librarys(kind: str, policy: str | None) -> None:
    target = random_target(3, 2, seed=4)
    learned = Inconsistent(3, 2, 2, seed=1)
    findings = found(target, learned, plan_of(0.5, 2.0, kind=kind, policy=policy))
    denoisers = {"exact": target.denoiser(), "learned": learned}
    for w in (0.5, 2.0):
        rows = schedules(findings, w)
        tilted = tilted_law(target, w, Z)
        own = {who: strengths(findings, w, who) for who in denoisers}
        expected = {(who, s): v for who in denoisers for s, v in ((CONSTANT, [w, w]), (RAMP, [0.0, w]))}
        expected |= {(who, BEST): own[who] for who in denoisers} | {("learned", EXACTS_BEST): own["exact"]}
        assert rows.keys() == expected.keys()
        for (who, schedule), values in expected.items():
            row = rows[who, schedule]
            law = terminal_law(denoisers[who], Guidance(values, kind), Z, policy)
            assert np.abs(findings.arrays[f"{who}_{schedule}_w{w:g}"] - law.numpy()).max() < 1e-12
            cells = [(float(law[x]), float(tilted[x])) for x in product(range(3), repeat=2)]
            assert row.tv_tilted == pytest.approx(sum(abs(q - p) for q, p in cells) / 2)
            assert row.kl_tilted == pytest.approx(sum(p * math.log(p / q) for q, p in cells), abs=1e-12)
            assert row.objective == row.kl_tilted
        for who in denoisers:  # nothing that was tried is better
            assert rows[who, BEST].objective <= min(r.objective for r in rows.values() if r.denoiser == who) + 1e-12


def test_other_objectives_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, least in (("RANDOM_STARTS", 2), ("VALUES", 20)):
        monkeypatch.setattr(f"mdlm_cfg.compare.best_schedule.{name}", least)
    target = random_target(3, 2, seed=4)
    assert all(row.objective == row.tv_tilted for row in schedules(found(target, objective="tv")).values())
    findings = found(target, None, plan_of(1.0, 2.0), objective="trade_off", entropy_weight=0.5)
    for w in (1.0, 2.0):
        rows = schedules(findings, w)
        mean, entropy = quality(findings, target, w)
        assert rows["exact", BEST].objective == pytest.approx(-mean - 0.5 * entropy)
        assert rows["exact", BEST].objective < rows["exact", CONSTANT].objective
    one, two = (schedules(findings, w)["exact", BEST].objective for w in (1.0, 2.0))
    assert one == pytest.approx(two, abs=1e-6)  # it does not depend on the tilted distribution
    sure = found(target, objective="trade_off", entropy_weight=0.01)
    both = zip(quality(sure, target, 2.0), quality(findings, target, 2.0))
    assert [a > b for a, b in both] == [True, False]


def test_on_the_support_of_an_even_class_the_best_trade_off_is_a_tilted_distribution() -> None:
    target = toys.toy_2d_overlap()
    findings = found(target, None, plan_of(1.0, z=0), objective="trade_off", entropy_weight=0.5)
    best = torch.tensor(findings.arrays["exact_best_w1"])
    assert total_variation(best, tilted_law(target, 2.0, 0)) < 1e-5  # of w = 1 / weight


def test_the_first_sentence_says_whether_a_schedule_gains() -> None:
    target = toys.toy_2d_overlap()
    findings = found(target, None, plan_of(2.0, z=0))
    none = [found(target, None, plan_of(0.0, z=0)).verdict, found(random_target(4, 1, seed=2)).verdict]
    constant = schedules(findings)["exact", CONSTANT]
    assert decimals(findings.verdict[0]) == [f"{constant.objective:.4f}"]  # of the best one: 0
    assert round(constant.tv_tilted, 4) == 0.1006  # theory, section 12
    for verdict in none:
        assert len(verdict) == 1 and not decimals(verdict[0])


def test_strengths_that_gain_alike_are_named_together() -> None:
    target = random_target(3, 2, seed=4)
    (row,) = [row for row in block_of(found(target), "schedules") if row.schedule == BEST]
    rows = []
    for w, gain in ((1.25, 0.1), (2.25, 0.4), (3.25, 0.4), (4.25, math.inf), (5.25, math.inf)):
        g = Guidance(w)
        rows += [replace(row, w=g, objective=0.5), replace(row, w=g, schedule=CONSTANT, objective=0.5 + gain)]
    for kept, named in ((rows, {"4.25", "5.25"}), (rows[:6], {"2.25", "3.25"}), (rows[:4], {"2.25"})):
        (said,) = BestScheduleStudy().verdict_of(kept, [])
        assert set(re.findall(r"\d\.25", said)) == named
    shares = [TransferRow(Guidance(w), 0.1, share) for w, share in ((1.25, 0.9), (2.25, 0.3), (3.25, 0.3), (4.25, 0.5))]
    assert set(re.findall(r"\d\.25", carried_over(shares)[0])) == {"2.25", "3.25"}
    worse = [replace(one, share_kept=share) for one, share in zip(shares, (-0.5, 0.2, -0.5, 0.3))]
    assert set(re.findall(r"\d\.25", carried_over(worse)[0])) == {"1.25", "3.25"}


def test_strengths_at_which_no_schedule_is_finite_are_named() -> None:
    target = random_target(2, 2, seed=4)
    never = FunctionDenoiser(lambda tokens, classes: torch.tensor([0.0, -math.inf]).expand(*tokens.shape, 2), 2, 2, 2)
    findings = found(target, never, plan_of(1.25, 2.25))
    infinite = [row.objective == math.inf for row in block_of(findings, "schedules") if row.denoiser == "learned"]
    assert infinite and all(infinite)
    exact, said = findings.verdict
    assert "infinite" in said and "infinite" not in exact
    assert {"1.25", "2.25"} == set(re.findall(r"\d\.25", said))
    rows = [row for row in block_of(findings, "schedules") if row.denoiser == "learned"]
    known = [replace(row, w=Guidance(3.25), objective=0.5) for row in rows if row.w == Guidance(1.25)]
    finite, infinite = BestScheduleStudy().verdict_of(rows + known, [])
    assert infinite == said and "infinite" not in finite


def test_what_carries_over_is_a_share_of_the_gain() -> None:
    target = random_target(3, 2, seed=4)
    near = block_of(found(target, target.denoiser()), "transfer")[0]
    assert near.share_kept == pytest.approx(1.0, abs=1e-6)
    findings = found(target, Inconsistent(3, 2, 2, seed=1))
    (far,) = block_of(findings, "transfer")
    rows = schedules(findings)
    constant, best, others = (rows["learned", name].objective for name in (CONSTANT, BEST, EXACTS_BEST))
    assert far.gain == pytest.approx(constant - best)
    assert far.share_kept == pytest.approx((constant - others) / (constant - best)) and far.share_kept < 0.99
    (unguided,) = block_of(found(target, target.denoiser(), plan_of(0.0)), "transfer")
    assert unguided.share_kept is None and carried_over([unguided]) == []


def test_a_schedule_that_harms_learned_conditionals_is_said_to() -> None:
    rows = list(schedules(found(random_target(3, 2, seed=4), Inconsistent(3, 2, 2, seed=1))).values())
    worse = [replace(row, objective=9.0) if row.schedule == EXACTS_BEST else row for row in rows]
    (sentence,) = carried_over(transfers_of(worse))
    assert "%" not in sentence  # no share of the gain
    assert "%" in carried_over(transfers_of(rows))[0]
    endless = [replace(row, objective=math.inf) if row.schedule != BEST else row for row in rows]
    assert transfers_of(endless)[0].share_kept is None


def test_what_it_cannot_answer_is_refused() -> None:
    target = random_target(3, 2)
    plan = plan_of(1.0)
    for settings in ({"objective": "mse"}, {"entropy_weight": -1.0}):
        with pytest.raises(UserError):
            BestScheduleStudy(**settings)
    weightless = type(target)(target.class_pmfs, torch.tensor([1.0, 0.0]))
    with pytest.raises(UserError):
        check(BestScheduleStudy(), Case.of(data_of(weightless), None, plan))
    large = random_target(2, 3)
    large.num_dims = 16
    with pytest.raises(UserError, match=r"small .*\(2\+1\)\^16 "):
        check(BestScheduleStudy(), Case.of(data_of(large), None, plan))
