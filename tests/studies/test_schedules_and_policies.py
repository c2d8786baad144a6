"""A plan that mixes numbers, schedules and a policy: the figures of its report are the library's, and none is made up.

What is expected is computed from what was asked, by the public functions: nothing is read from the plan or findings
but the figures that are judged.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import data_of, found_by, random_target
from rich.console import Console
from torch import Tensor

from mdlm_cfg import Guidance, Sampler, TableMixture, error_ledger, sample, terminal_law, tilted_law
from mdlm_cfg.app.evaluation import Report, evaluate
from mdlm_cfg.chain.guidance_schedules import Interval, LinearRamp
from mdlm_cfg.chain.policies import Confidence, FixedOrder
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.compare.geometry import region_mass, regions
from mdlm_cfg.compare.metrics import histogram, kl_divergence
from mdlm_cfg.laws import TabulatedDenoiser
from mdlm_cfg.studies.decay import DecayStudy
from mdlm_cfg.studies.geometry import GeometryStudy
from mdlm_cfg.studies.laws import Laws
from mdlm_cfg.studies.ledger import COLUMNS, LedgerStudy
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Together
from mdlm_cfg.studies.samplers import Samplers
from mdlm_cfg.support.numbers import format_number
from mdlm_cfg.support.seeds import generator_for

N = 3
D = 3
Z = 2
SEED = 5
NUM = 400
STRENGTHS: dict[Any, Any] = {  # as report.json has them, and what they are
    2.0: 2.0,
    "ramp(0,4)": LinearRamp(0, 4),
    "interval(4,0.3,0.9)": Interval(4, 0.3, 0.9),
    "[0.5,1,3]": [0.5, 1.0, 3.0],
}
TABLES = {"ramp(0,4)": [0, 2, 4], "interval(4,0.3,0.9)": [0, 4, 0], "[0.5,1,3]": [0.5, 1, 3], 2.0: [2, 2, 2]}
SAMPLERS = {
    "own order": Sampler(),
    "policy": Sampler(policy=FixedOrder([2, 0, 1])),
    "policy, two a step": Sampler("event_leaping", events=2, policy=Confidence(temperature=0.5)),
}
EXACT = 1e-12


class Case(NamedTuple):
    """What is asked of the study."""

    kind: str
    sampler: str
    judged: str


CASES = [
    Case("rate", "own order", "learned"),
    Case("normalized", "own order", "exact"),
    Case("normalized", "policy", "learned"),
    Case("rate", "policy, two a step", "exact"),
]
each = pytest.mark.parametrize("case", CASES, ids=["-".join(case) for case in CASES])


@functools.cache
def target() -> TableMixture:
    """Three classes with some zeros."""
    return random_target(N, D, 3, seed=21, zeros=0.2)


@functools.cache
def network() -> TabulatedDenoiser:
    """The exact denoiser of a perturbed table, standing for a network."""
    other = random_target(N, D, 3, seed=22)
    return TabulatedDenoiser(
        TableMixture(0.7 * target().class_pmfs + 0.3 * other.class_pmfs, other.class_weights).denoiser()
    )


def denoisers(case: Case) -> dict[str, Any]:
    return {"exact": target().denoiser()} | ({"learned": network()} if case.judged == "learned" else {})


def quick_report(budgets: tuple[int, ...] = (2,)) -> Together:
    """The report of a table without what takes longest: many budgets, and the decay in time of many strengths."""
    return Together([Laws(), GeometryStudy(), DecayStudy((0.0, 2.0)), Samplers(budgets), LedgerStudy()])


def plan_of(case: Case) -> Plan:
    guidances = tuple(Guidance(w, case.kind) for w in STRENGTHS.values())
    return Plan(guidances, SAMPLERS[case.sampler], NUM, SEED, classes=(Z,))


@functools.cache
def found(case: Case) -> dict[str, Any]:
    """report.json's part of a study."""
    learned = network() if case.judged == "learned" else None
    return found_by(quick_report((2, 5)), data_of(target()), learned, plan_of(case)).to_dict()


@functools.cache
def law(case: Case, denoiser: str, name: Any) -> Tensor:
    source = denoisers(case)[denoiser]
    return terminal_law(source, Guidance(STRENGTHS[name], case.kind), Z, SAMPLERS[case.sampler].policy)


@functools.cache
def drawn(case: Case, name: Any) -> Tensor:
    guidance = Guidance(STRENGTHS[name], case.kind)
    values = f"{name:g}" if isinstance(name, float) else f"[{','.join(f'{w:g}' for w in guidance.table(D))}]"
    generator = generator_for("table samples", SEED, case.kind, values, Z)
    return sample(denoisers(case)[case.judged], guidance, Z, NUM, SAMPLERS[case.sampler], generator=generator)


def tv(p: Tensor, q: Tensor) -> float:
    return 0.5 * float((p - q).abs().sum())


@each
def test_the_plan_says_every_strength(case: Case) -> None:
    plan = found(case)["plan"]
    assert [g["w"] for g in plan["guidances"]] == list(STRENGTHS)
    assert [g["strengths"] for g in plan["guidances"]] == [TABLES[name] for name in STRENGTHS]
    policy = SAMPLERS[case.sampler].policy
    assert plan.get("policy") == (None if policy is None else str(policy))


@each
def test_distances(case: Case) -> None:
    rows = found(case)["distances"]
    assert [(row["w"], row["kind"]) for row in rows] == [(name, case.kind) for name in STRENGTHS]
    for row, name in zip(rows, STRENGTHS):
        exact = law(case, "exact", name)
        x = histogram(drawn(case, name), N)
        assert row["tv_class_exact"] == pytest.approx(tv(target().class_pmfs[Z], exact), abs=EXACT)
        assert row["tv_exact_samples"] == pytest.approx(tv(exact, x), abs=EXACT)
        if case.judged == "learned":
            learned = law(case, "learned", name)
            assert row["tv_exact_learned"] == pytest.approx(tv(exact, learned), abs=EXACT)
            assert row["kl_exact_learned"] == pytest.approx(kl_divergence(exact, learned), abs=EXACT)
        of_the_tilted = {key for key in row if "tilted" in key}
        assert {"tv_tilted_exact", "kl_exact_tilted"} <= of_the_tilted
        moments = {moment["law"] for moment in found(case)["moments"] if moment["w"] == name}
        if isinstance(name, float):
            assert row["tv_tilted_exact"] == pytest.approx(tv(tilted_law(target(), name, Z), exact), abs=EXACT)
            assert "tilted" in moments
        else:
            assert all(row[key] is None for key in of_the_tilted) and "tilted" not in moments


@each
def test_laws_have_names_of_their_own(case: Case) -> None:
    names = found(case)["laws"]
    keys = ["w2", "wramp(0,4)", "winterval(4,0.3,0.9)", "w[0.5,1,3]"]
    laws = ["exact", "samples"] + (["learned"] if case.judged == "learned" else [])
    expected = {"class", "tilted_w2"} | {f"{law}_{case.kind}_{key}" for law in laws for key in keys}
    assert set(names) == expected and len(names) == len(expected)


@each
def test_samplers(case: Case) -> None:
    rows = found(case)["samplers"]
    policy = SAMPLERS[case.sampler].policy
    own = SAMPLERS[case.sampler]
    asked = set()
    for row in rows:
        guidance = Guidance(STRENGTHS[row["w"]], case.kind)
        source = denoisers(case)[row["denoiser"]]
        under = policy if "policy" in row else None
        assert row.get("policy") == (None if under is None else str(under))
        schedule = None if row["schedule"] is None else Schedule(row["schedule"])
        sampler = Sampler(row["sampler"], row["steps"], schedule, policy=under, events=row.get("events"))
        expected = tv(sampler.law(source, guidance, Z), terminal_law(source, guidance, Z, under))
        assert row["tv"] == pytest.approx(expected, abs=EXACT), row
        asked.add((row["w"], row["denoiser"], row["sampler"], row["steps"], row.get("policy"), row.get("events")))
    assert len(asked) == len(rows)
    for name in STRENGTHS:
        for denoiser in denoisers(case):
            assert {(name, denoiser, s, k, None, None) for s in ("euler", "event_leaping") for k in (2, 5)} <= asked
            if policy is not None:
                assert (name, denoiser, "event_leaping", 2, str(policy), None) in asked
            if own.events is not None:
                assert (name, denoiser, "event_leaping", None, str(policy), own.events) in asked


@each
def test_ledger(case: Case) -> None:
    entries = found(case)["ledger"]
    own = SAMPLERS[case.sampler]
    assert {entry.get("policy") for entry in entries} == {None if own.policy is None else str(own.policy)}
    for name in STRENGTHS:
        entry = next(e for e in entries if e["w"] == name)  # the plan's own sampler comes first
        assert (entry["sampler"], entry.get("events")) == (own.name, own.events)
        guidance = Guidance(STRENGTHS[name], case.kind)
        judged = denoisers(case)[case.judged]
        laws = {
            "L0": target().class_pmfs[Z],
            "L2": law(case, "exact", name),
            "L3": law(case, case.judged, name),
            "L3'": own.law(judged, guidance, Z),
            "L4": histogram(drawn(case, name), N),
        }
        expected = {
            "guidance effect": tv(laws["L0"], laws["L2"]),
            "error of the network": tv(laws["L2"], laws["L3"]),
            "discretisation error": tv(laws["L3"], laws["L3'"]),
            "sampling noise": tv(laws["L3'"], laws["L4"]),
            "total": tv(laws["L2"], laws["L4"]),
        }
        for line, value in expected.items():
            if line != "error of the network" or case.judged == "learned":
                assert entry[COLUMNS[line]] == pytest.approx(value, abs=EXACT), line
        assert (entry["gap_to_tilted"] is None) == (not isinstance(name, float))
        assert entry["predicted_low"] <= entry["predicted_high"] and entry["closes"] in (True, False)
    assert sum(entry["closes"] for entry in entries) >= len(entries) - 1  # one in a hundred may miss


@each
def test_geometry_and_time_are_of_the_chain_that_was_asked_for(case: Case) -> None:
    report = found(case)
    policy = SAMPLERS[case.sampler].policy
    parts = {part.name: part for part in regions(target(), Z)}
    rows = [row for row in report["geometry"] if row["w"] != "inf"]
    assert len(rows) == len(STRENGTHS) * len(denoisers(case)) * len({row["region"] for row in rows})
    for row in rows:
        mass, _ = region_mass(law(case, row["law"], row["w"]), parts[row["region"]])
        assert row["mass"] == pytest.approx(mass, abs=EXACT)
    # the limit of infinite w, and the decay in time, are of the kind's own order: under a policy there are none
    assert ("inf" in {row["w"] for row in report["geometry"]}) == (policy is None) == ("decay" in report)
    assert {row["w"] for row in report["overlap"]} == set(STRENGTHS)


@each
def test_the_verdict_speaks_of_every_schedule_and_of_the_order(case: Case) -> None:
    verdict = " ".join(found(case)["verdict"])
    for name in STRENGTHS:
        assert f"w = {name:g}" in verdict if isinstance(name, float) else f"w = {name}" in verdict
    assert str(SAMPLERS[case.sampler].policy or case.kind) in verdict


def written(folder: Path, plan: Plan, denoiser: Any = None) -> dict[str, Any]:
    """The report of a plan, written."""
    evaluate(
        data_of(target()),
        denoiser,
        plan,
        Report(folder, "T", {"command": "x"}, {}, {}, Console(file=io.StringIO(), width=200)),
        quick_report(),
    )
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_files_and_page(tmp_path: Path) -> None:
    read = written(tmp_path, plan_of(CASES[3]))
    laws = np.load(tmp_path / "laws.npz")
    assert sorted(laws.files) == sorted(read["laws"])
    assert np.abs(laws["exact_rate_wramp(0,4)"] - law(CASES[3], "exact", "ramp(0,4)").numpy()).max() < EXACT
    assert all((tmp_path / name).is_file() for name in read["files"])
    with (tmp_path / "report.csv").open(newline="") as file:
        gaps = {row["w"]: row["tv_tilted_exact"] for row in csv.DictReader(file)}
    assert gaps.pop("2.0") and set(gaps.values()) == {""}
    text = (tmp_path / "report.html").read_text()
    lines = [re.findall(r"<td>(.*?)</td>", line) for line in text.split("<tr>")]
    schedules = [name for name in STRENGTHS if name != 2.0]
    assert all([name, *map(format_number, TABLES[name])] in lines for name in schedules)
    assert "event_leaping, confidence(temperature=0.5)" in text


def test_schedules_alone_have_a_report() -> None:
    plan = Plan((Guidance(LinearRamp(0, 2)), Guidance(LinearRamp(2, 0))), Sampler(), 50, classes=(Z,))
    report = found_by(quick_report(), data_of(target()), None, plan).to_dict()
    assert not any(name.startswith("tilted") for name in report["laws"])
    assert report["distances"][0]["tv_class_exact"] != report["distances"][1]["tv_class_exact"]


def test_two_temperatures_have_laws_of_their_own() -> None:
    guidances = (Guidance(2.0), Guidance(2.0, temperature=0.5), Guidance(2.0, top_p=0.8))
    findings = found_by(quick_report(), data_of(target()), None, Plan(guidances, Sampler(), 50, classes=(Z,)))
    laws = findings.arrays
    report = findings.to_dict()
    for key, guidance in zip(("w2", "w2_temperature0.5", "w2_top_p0.8"), guidances):
        expected = terminal_law(target().denoiser(), guidance, Z).numpy()
        assert np.abs(laws[f"exact_rate_{key}"] - expected).max() < EXACT
    assert [g.get("temperature") for g in report["plan"]["guidances"]] == [None, 0.5, None]
    assert [g.get("top_p") for g in report["plan"]["guidances"]] == [None, None, 0.8]
    assert "decay" in report
    filtered = Plan(guidances[1:], Sampler(), 50, classes=(Z,))
    # time and infinite w were not derived for such values
    assert "decay" not in found_by(quick_report(), data_of(target()), None, filtered).to_dict()


@pytest.mark.parametrize("kind", ["rate", "normalized"])
@pytest.mark.parametrize(
    "sampler",
    [Sampler(policy="margin"), Sampler("event_leaping", events=2, policy=FixedOrder([1, 2, 0])), Sampler("euler", 4)],
    ids=lambda sampler: sampler.label,
)
def test_the_ledger_closes_for_schedules_and_policies(kind: str, sampler: Sampler) -> None:
    ledger = error_ledger(
        target(),
        network(),
        Guidance(LinearRamp(-0.5, 3), kind),
        Z,
        sampler,
        num_samples=4000,
        generator=generator_for("ledger of a schedule"),
    )
    assert ledger.closes and ledger.tv["total"] <= ledger.bound
    assert "gap to tilted" not in ledger.tv and "L1" not in ledger.laws
    assert ledger.tv["error of the network"] > 0.01 and math.isfinite(ledger.noise.value)
    assert torch.equal(ledger.laws["L0"], target().class_pmf(Z))
