"""study=departure: every figure is the library's or a path's, and the bounds that the theory gives hold."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import refusal, run
from helpers import Inconsistent, random_target
from rich.console import Console

from mdlm_cfg import Guidance, Sampler, TableMixture, best_schedule, terminal_law, tilted_law
from mdlm_cfg.app.evaluation import Report, evaluate
from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.guidance_schedules import LinearRamp
from mdlm_cfg.chain.policies import FixedOrder, Policy
from mdlm_cfg.chain.policy_names import parse_policy
from mdlm_cfg.compare.ideal import departure
from mdlm_cfg.compare.metrics import kl_divergence
from mdlm_cfg.compare.metrics import total_variation as tv
from mdlm_cfg.studies.departure import Departures
from mdlm_cfg.studies.departure.findings import DepartureFindings
from mdlm_cfg.studies.plan import Plan

N, D, Z = 3, 3, 1
STRENGTHS = (0.0, 1.0, 2.0, LinearRamp(0, 2))
RULES = ["rate", "normalized", "fixed_order", "confidence", "margin", "entropy"]
EXACT = 1e-12


def target() -> TableMixture:
    return random_target(N, D, 2, seed=51, zeros=0.2)


def data(table: Any = None) -> Any:
    table = table or target()
    return SimpleNamespace(target=table, name="small", num_classes=2, num_tokens=N, grid_shape=(table.num_dims,))


def plan_of(strengths: Any = STRENGTHS, policy: Policy | None = None) -> Plan:
    return Plan(tuple(Guidance(w) for w in strengths), Sampler(policy=policy), 10, classes=(Z,))


def network() -> Inconsistent:
    return Inconsistent(N, D, 2, seed=4)


def found(denoiser: Any = None, plan: Plan | None = None, w: float | None = None) -> DepartureFindings:
    return Departures(w).run(data(), denoiser, plan or plan_of(), lambda line: None)


@pytest.fixture(scope="module")
def both() -> DepartureFindings:
    return found(network())


def rule_of(name: str, guidance: Guidance) -> tuple[Guidance, Policy | None]:
    if name in ("rate", "normalized"):
        return Guidance(guidance.w, name), None
    return guidance, parse_policy(name)


def test_every_rule_is_the_librarys(both: DepartureFindings) -> None:
    assert len(both.rules) == len(STRENGTHS) * 2 * len(RULES)
    for row in both.rules:
        w = 2.0 if row.guidance.is_schedule else row.guidance.constant  # the largest number
        source = target().denoiser() if row.denoiser == "exact" else network()
        guidance, policy = rule_of(row.rule, row.guidance)
        expected = departure(target(), guidance, Z, policy, w=w, denoiser=source, most=10)
        assert row.tilted_w == w and row.found.states == expected.states
        assert row.found.by_level == pytest.approx(expected.by_level, abs=EXACT)
        tilted, law = tilted_law(target(), w, Z), terminal_law(source, guidance, Z, policy)
        assert row.kl_tilted == pytest.approx(kl_divergence(tilted, law), abs=EXACT)
        assert row.tv_tilted == pytest.approx(tv(tilted, law), abs=EXACT)


def test_what_the_theory_says(both: DepartureFindings) -> None:
    for row in both.rules:
        assert row.found.total >= row.kl_tilted - EXACT  # data processing
        if row.denoiser == "exact" and not row.guidance.is_schedule:
            assert abs(row.found.by_level[-1]) < EXACT  # the last coordinate is the tilted law's own
            assert (row.guidance.constant == 0) == (row.found.total < EXACT)
        if row.denoiser == "learned":
            assert row.found.by_level[-1] > 1e-3
        if row.rule == "fixed_order":  # one path to every state: the divergence of the paths is that of the laws
            assert row.found.total == pytest.approx(row.kl_tilted, abs=1e-11)


def test_the_best_schedule_departs_least() -> None:
    best = best_schedule(target(), 2.0, Z)
    rows = found(plan=plan_of((2.0, best.strengths))).rules
    by_rate = [row for row in rows if row.rule == "rate"]
    assert by_rate[1].kl_tilted < by_rate[0].kl_tilted


def test_the_verdict_names_the_least_the_most_and_the_worst_state(both: DepartureFindings) -> None:
    exact = [row for row in both.rules if row.denoiser == "exact" and row.guidance == Guidance(2.0)]
    best, worst = min(exact, key=lambda row: row.found.total), max(exact, key=lambda row: row.found.total)
    first = both.verdict[0]
    assert first.startswith("At w = 2, exact scores, ") and f"{best.rule} departs least" in first
    assert f"{best.found.total:.4f}" in first and f"{worst.rule} most ({worst.found.total:.4f}" in first
    assert name_state(list(worst.found.states[0].state), N) in both.verdict[1]
    assert any("ramp(0,2) departs least from the ideal of w = 2" in sentence for sentence in both.verdict)
    assert any("With learned scores" in sentence for sentence in both.verdict)
    unguided = found(plan=plan_of((0.0,)))
    assert unguided.verdict == ["With exact scores no rule departs from the ideal guided conditionals."]


def test_which_tilted_law_a_schedule_is_held_against() -> None:
    plan = plan_of((1.0, LinearRamp(0, 2)))
    assert {row.guidance.label: row.tilted_w for row in found(plan=plan).rules} == {"1": 1.0, "ramp(0,2)": 1.0}
    assert {row.guidance.label: row.tilted_w for row in found(plan=plan, w=3.0).rules} == {"1": 1.0, "ramp(0,2)": 3.0}
    with pytest.raises(ValueError, match=r"give study\.w=2"):
        Departures().check(data(), plan_of((LinearRamp(0, 2),)))
    Departures(2.0).check(data(), plan_of((LinearRamp(0, 2),)))
    with pytest.raises(ValueError, match="w = -3"):
        Departures(-3.0)


def test_the_plans_own_policy_comes_in() -> None:
    rules = [row.rule for row in found(plan=plan_of((2.0,), FixedOrder([2, 0, 1]))).rules]
    assert rules == [*RULES, "fixed_order(2,0,1)"]


def test_one_dimension_never_departs() -> None:
    rows = Departures().run(data(random_target(4, 1, 2, seed=2)), None, plan_of((2.0,)), lambda line: None).rules
    assert max(abs(row.found.total) for row in rows) < EXACT


def test_the_page_and_the_files(tmp_path: Path) -> None:
    report = Report(tmp_path, "T", {"command": "x"}, {}, {}, Console(file=io.StringIO(), width=200))
    evaluate(data(), network(), plan_of(), report, Departures())
    read, text = json.loads((tmp_path / "report.json").read_text()), (tmp_path / "report.html").read_text()
    assert read["version"] == 2 and len(read["departures"]) == len(STRENGTHS) * 2 * len(RULES)
    pictures = {name for name in read["files"] if name.endswith(".png")}
    names = {"departure_w0.png", "departure_w1.png", "departure_w2.png", "departure_wramp_0_2.png"}
    assert pictures == names | {"departure_schedules.png"}  # at w = 0 the learned scores depart
    row = next(r for r in read["departures"] if (r["w"], r["rule"], r["denoiser"]) == (2, "margin", "exact"))
    assert len(row["by_level"]) == D and sum(row["by_level"]) == pytest.approx(row["total"])
    assert f"<td>{row['by_level'][0]:.4f}</td>" in text and 0 < len(row["worst_states"]) <= 10
    assert text.index("<h2>Verdict</h2>") < text.index("<h2>What is the ideal?</h2>")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("experiment=departure", "denoiser=exact", "data=toy_2d_overlap", "target_class=0")
    assert run("eval", *arguments, "w=[0,2,[0.58,2]]", f"out={tmp_path}") == 0
    rows = json.loads((tmp_path / "report.json").read_text())["departures"]
    totals = {row["w"]: row["total"] for row in rows if row["rule"] == "rate"}
    assert set(totals) == {0, 2, "[0.58,2]"} and totals["[0.58,2]"] < 0.001 * totals[2]
    assert "give study.w=2" in refusal(capsys, "eval", *arguments, "w=ramp(0,2)", f"out={tmp_path / 'no'}")
    assert not (tmp_path / "no").exists()
