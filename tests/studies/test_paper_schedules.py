"""The claims of arXiv 2507.08965: every verdict is computed from laws, and a wrong law turns it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers import random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, UserError, interval, linear_ramp, terminal_law, tilted_law
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.studies.evaluation import evaluate_table
from mdlm_cfg.studies.paper import normalized, schedules
from mdlm_cfg.studies.paper.claims import PaperResult
from mdlm_cfg.studies.paper.experiments import EXPERIMENTS, check
from mdlm_cfg.studies.paper.study import Paper
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, run
from mdlm_cfg.targets import toys
from mdlm_cfg.targets.data import KnownData

EARLY = "2507_08965_early"
LATE = "2507_08965_late"
NORMALIZED = "2507_08965_normalized"
PLAN = Plan((Guidance(0.0), Guidance(1.0), Guidance(2.0)), Sampler(), num_samples=100)
# on two overlapping squares; why, beside those that do not hold
VERDICTS = {
    # early guidance is better than none there; and as strong as it is, it moves the law farther than late guidance
    EARLY: ["holds", "does not hold", "holds", "does not hold", "holds", "holds"],
    LATE: ["holds", "holds", "holds", "holds"],
    # the squares are symmetric: which coordinate comes first does not matter
    NORMALIZED: ["holds", "holds", "holds", "holds", "does not hold here: both end in the same law"],
}


def judge(name: str, target: TableMixture | None = None, learned: Any = None) -> PaperResult:
    target = toys.toy_2d_overlap() if target is None else target
    check(name, target, PLAN)
    return EXPERIMENTS[name](target, evaluate_table(target, None, PLAN), learned)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdicts_on_overlapping_squares(name: str) -> None:
    assert [claim.verdict for claim in judge(name).claims] == VERDICTS[name]


def test_the_numbers_are_those_of_the_laws() -> None:
    target = toys.toy_2d_overlap()
    tilted = tilted_law(target, 2.0, 0)
    denoiser = target.denoiser()

    def gap(w: Any, kind: str = "rate") -> str:
        return f"{total_variation(tilted, terminal_law(denoiser, Guidance(w, kind), 0)):.4f}"

    first = judge(EARLY).claims[0].exact.split("; ")
    assert first[1] == f"early {gap(interval(2.0, 0, 0.5))}, late {gap(interval(2.0, 0.5, 1.0))} (w = 2)"
    first = judge(LATE).claims[0].exact.split("; ")
    assert first[1] == f"rising {gap(linear_ramp(0.0, 2.0))}, falling {gap(linear_ramp(2.0, 0.0))} (w = 2)"
    assert judge(LATE).claims[3].exact.split("; ")[1] == "(0.585, 2.000) (w = 2)"  # theory, section 12
    claims = judge(NORMALIZED).claims
    assert claims[0].exact.startswith("unguided 0.0952, rate ")  # 1 - exp(-0.1)
    assert claims[4].exact.split("; ")[1] == f"rate {gap(2.0)}, normalized {gap(2.0, 'normalized')} (w = 2)"
    steps = Sampler("tau_leaping", 8).law(denoiser, Guidance(2.0, "normalized"), 0)
    between = total_variation(steps, terminal_law(denoiser, Guidance(2.0, "normalized"), 0))
    assert f"normalized (8 steps) {between:.4f}" in claims[2].exact.split("; ")[1]


def turned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early for late, rising for falling, one kind for the other."""
    if name == EARLY:
        monkeypatch.setattr(schedules, "Interval", lambda w, begin, end: interval(w, 1 - end, 1 - begin))
    elif name == LATE:
        monkeypatch.setattr(schedules, "LinearRamp", lambda start, end: linear_ramp(end, start))
        best: Callable[..., Any] = schedules.best_schedule

        def backwards(*arguments: Any, **settings: Any) -> Any:
            found = best(*arguments, **settings)
            object.__setattr__(found.strengths, "values", found.strengths.values[::-1])
            return found

        monkeypatch.setattr(schedules, "best_schedule", backwards)
    else:
        swapped = {"rate": KINDS["normalized"], "normalized": KINDS["rate"]}
        monkeypatch.setattr(normalized, "KINDS", swapped)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_wrong_law_turns_the_verdicts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turned(name, monkeypatch)
    same = {EARLY: [1, 4], LATE: [], NORMALIZED: [4]}[name]  # claims on what both halves or kinds have in common
    for k, (claim, verdict) in enumerate(zip(judge(name).claims, VERDICTS[name])):
        assert (claim.verdict == verdict) == (k in same), claim.statement


@pytest.mark.parametrize("name", VERDICTS)
def test_learned_values_are_the_networks_own(name: str) -> None:
    target = random_target(3, 3, seed=1)
    other = random_target(3, 3, seed=2)
    alone = judge(name, target)
    beside = judge(name, target, other.denoiser())
    assert {claim.learned for claim in alone.claims} == {"-"}
    assert [claim.exact for claim in beside.claims] == [claim.exact for claim in alone.claims]
    assert all(
        claim.learned not in ("-", claim.exact) for claim in beside.claims if "as without" not in claim.statement
    )
    scores = [row[1] for row in beside.tables[0][2]]
    assert scores == ["exact"] * (len(scores) // 2) + ["learned"] * (len(scores) // 2)
    tilted = tilted_law(target, 2.0, 0)
    row = beside.tables[0][2][-1]
    assert row[0] == "2" and row[1] == "learned"
    law = {
        EARLY: terminal_law(other.denoiser(), Guidance(2.0), 0),
        LATE: terminal_law(other.denoiser(), Guidance(2.0), 0),
        NORMALIZED: Sampler("tau_leaping", 16).law(other.denoiser(), Guidance(2.0, "normalized"), 0),
    }[name]
    assert row[3] == f"{total_variation(tilted, law):.4f}"
    block = run(Paper(name), Case.of(KnownData(target, "random"), other.denoiser(), PLAN)).main
    assert "arXiv 2507.08965" in block.text
    assert [row.learned for row in block.rows] == [claim.learned for claim in beside.claims]


def test_what_they_are_not_about_is_refused() -> None:
    for name in VERDICTS:
        with pytest.raises(UserError, match="needs data with D >= 2"):
            check(name, toys.toy_1d_overlap(), PLAN)
        with pytest.raises(UserError, match="holds no w > 0"):
            check(name, toys.toy_2d_overlap(), Plan((Guidance(0.0),), Sampler()))
