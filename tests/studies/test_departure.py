"""study=departure: every figure is the library's or a path's, and the bounds that the theory gives hold."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import Inconsistent, block_of, data_of, found_by, random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, terminal_law, tilted_law
from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.guidance_schedules import LinearRamp
from mdlm_cfg.chain.policies import FixedOrder, Policy
from mdlm_cfg.chain.policy_names import parse_policy
from mdlm_cfg.compare.metrics import kl_divergence, total_variation as tv
from mdlm_cfg.compare.path_kl import path_kl
from mdlm_cfg.studies.departure import Departures, LevelRow, RuleRow, StateRow
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, check

N = 3
D = 3
Z = 1
STRENGTHS = (0.0, 1.0, 2.0, LinearRamp(0, 2))
RULES = ["rate", "normalized", "fixed_order", "confidence", "margin", "entropy"]
EXACT = 1e-12


def target() -> TableMixture:
    return random_target(N, D, 2, seed=51, zeros=0.2)


def plan_of(strengths: Any = STRENGTHS, policy: Policy | None = None) -> Plan:
    return Plan(tuple(Guidance(w) for w in strengths), Sampler(policy=policy), 10, classes=(Z,))


def network() -> Inconsistent:
    return Inconsistent(N, D, 2, seed=4)


def found(denoiser: Any = None, plan: Plan | None = None) -> Findings:
    return found_by(Departures(), data_of(target()), denoiser, plan or plan_of())


def rules(findings: Findings) -> list[RuleRow]:
    return block_of(findings, "departures")


def own(findings: Findings, block: str, row: RuleRow) -> list[LevelRow | StateRow]:
    key = (row.w, row.denoiser, row.rule)
    return [one for one in block_of(findings, block) if (one.w, one.denoiser, one.rule) == key]


@pytest.fixture(scope="module")
def both() -> Findings:
    return found(network())


def rule_of(name: str, guidance: Guidance) -> tuple[Guidance, Policy | None]:
    if name in ("rate", "normalized"):
        return Guidance(guidance.w, name), None
    return guidance, parse_policy(name)


def by_level(findings: Findings, row: RuleRow) -> list[float]:
    return [one.kl for one in own(findings, "levels", row)]


def test_every_rule_is_the_librarys(both: Findings) -> None:
    assert len(rules(both)) == len(STRENGTHS) * 2 * len(RULES)
    for row in rules(both):
        w = 2.0 if row.w.is_schedule else row.w.constant  # the largest number
        source = target().denoiser() if row.denoiser == "exact" else network()
        guidance, policy = rule_of(row.rule, row.w)
        expected = path_kl(target(), guidance, Z, policy, w=w, denoiser=source, most=10)
        assert row.tilted_w == w and row.departure == pytest.approx(expected.total, abs=EXACT)
        states = [(s.state, s.visits, s.kl) for s in own(both, "states", row)]
        listed = [(name_state(list(s.state), N), s.visits, s.kl) for s in expected.states]
        assert states == [one for one in listed if one[1] * one[2] > EXACT] or row.departure < EXACT
        if row.departure > EXACT:
            assert by_level(both, row) == pytest.approx(expected.by_level, abs=EXACT)
        tilted = tilted_law(target(), w, Z)
        law = terminal_law(source, guidance, Z, policy)
        assert row.kl_tilted == pytest.approx(kl_divergence(tilted, law), abs=EXACT)
        assert row.tv_tilted == pytest.approx(tv(tilted, law), abs=EXACT)


def test_the_verdict_names_the_worst_state_of_the_rule_that_departs_most(both: Findings) -> None:
    exact = [row for row in rules(both) if row.denoiser == "exact" and row.w == Guidance(2.0)]
    worst = max(exact, key=lambda row: row.departure)
    assert f"{worst.departure:.4f}" in both.verdict[0]
    worst_state = max(own(both, "states", worst), key=lambda state: state.cost)
    assert worst_state.state in both.verdict[1]


def test_which_tilted_law_a_schedule_is_held_against() -> None:
    plan = plan_of((1.0, LinearRamp(0, 2)))
    assert {row.w.label: row.tilted_w for row in rules(found(plan=plan))} == {"1": 1.0, "ramp(0,2)": 1.0}
    with pytest.raises(ValueError, match=r"w = ramp\(0,2\) "):
        check(Departures(), Case.of(data_of(target()), None, plan_of((LinearRamp(0, 2),))))


def test_the_plans_own_policy_comes_in() -> None:
    names = [row.rule for row in rules(found(plan=plan_of((2.0,), FixedOrder([2, 0, 1]))))]
    assert names == [*RULES, "fixed_order(2,0,1)"]
