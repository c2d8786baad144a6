"""study=policies: every figure is a law's distance, the theory's identities hold, and the page says the same."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from helpers import Inconsistent, block_of, data_of, found_by, random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, terminal_law, tilted_law
from mdlm_cfg.chain.guidance_schedules import LinearRamp
from mdlm_cfg.chain.policies import Blocks, Confidence, FixedOrder, Policy
from mdlm_cfg.chain.policy_names import parse_policy
from mdlm_cfg.compare.metrics import total_variation as tv
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.policies import Policies, PolicyRow

N = 3
D = 3
Z = 1
STRENGTHS = (0.0, 2.0, LinearRamp(0, 2))
NAMES = ["rate", "uniform", "fixed_order", "confidence", "margin", "entropy", "blocks(0|1,2; confidence)"]
EXACT = 1e-12


def target() -> TableMixture:
    return random_target(N, D, 2, seed=41, zeros=0.2)


def plan_of(policy: Policy | None = None, strengths: Any = STRENGTHS) -> Plan:
    return Plan(tuple(Guidance(w) for w in strengths), Sampler(policy=policy), 10, classes=(Z,))


def network() -> Inconsistent:
    return Inconsistent(N, D, 2, seed=3)


def found(denoiser: Any = None, plan: Plan | None = None) -> Findings:
    return found_by(Policies(), data_of(target()), denoiser, plan or plan_of())


def laws(findings: Findings) -> list[PolicyRow]:
    return block_of(findings, "policies")


def of(findings: Findings, guidance: Guidance, denoiser: str, together: int) -> list[PolicyRow]:
    chosen = (guidance, denoiser, together)
    return [row for row in laws(findings) if (row.w, row.denoiser, row.together) == chosen]


@pytest.fixture(scope="module")
def both() -> Findings:
    return found(network())


def test_every_law_is_asked_for_once(both: Findings) -> None:
    expected = set(
        product(map(str, STRENGTHS), ("exact", "learned"), [*NAMES, "confidence(temperature=0.5)"], (1, 2, 3))
    )
    asked = [(str(row.w.w), row.denoiser, row.policy, row.together) for row in laws(both)]
    assert set(asked) == expected and len(asked) == len(expected)


def test_distances_are_the_librarys(both: Findings) -> None:
    for row in laws(both):
        source = target().denoiser() if row.denoiser == "exact" else network()
        sampler = Sampler("event_leaping", events=row.together, policy=parse_policy(row.policy))
        law = sampler.law(source, row.w, Z)
        assert row.tv_class == pytest.approx(tv(target().class_pmf(Z), law), abs=EXACT)
        if row.w.is_schedule:
            assert row.tv_tilted is None
        else:
            tilted = tilted_law(target(), row.w.constant, Z)
            assert row.tv_tilted == pytest.approx(tv(tilted, law), abs=EXACT)


def test_the_plans_own_policy_comes_in() -> None:
    own = FixedOrder([2, 0, 1])
    rows = found(plan=plan_of(own, (2.0,)))
    policies = list(dict.fromkeys(row.policy for row in laws(rows)))
    assert policies == [*NAMES, "confidence(temperature=0.5)", "fixed_order(2,0,1)"]
    law = terminal_law(target().denoiser(), Guidance(2.0), Z, own)
    (row,) = [row for row in of(rows, Guidance(2.0), "exact", 1) if row.policy == str(own)]
    assert row.tv_tilted == pytest.approx(tv(tilted_law(target(), 2.0, Z), law), abs=EXACT)
    blocks = terminal_law(target().denoiser(), Guidance(2.0), Z, Blocks([[0], [1, 2]], within=Confidence()))
    (row,) = [row for row in of(rows, Guidance(2.0), "exact", 1) if row.policy.startswith("blocks")]
    assert row.tv_class == pytest.approx(tv(target().class_pmf(Z), blocks), abs=EXACT)


def test_one_dimension_and_large_tables_are_answered() -> None:
    line = random_target(4, 1, 2, seed=1)
    rows = laws(found_by(Policies(), data_of(line), None, plan_of(strengths=(3.0,))))
    assert {row.together for row in rows} == {1} and max(row.tv_tilted or 0 for row in rows) < EXACT
    large = random_target(2, 8, 2, seed=1)  # the laws of its steps take minutes: one at a time alone
    rows = laws(found_by(Policies(), data_of(large), None, plan_of(strengths=(1.0,))))
    assert {row.together for row in rows} == {1}
