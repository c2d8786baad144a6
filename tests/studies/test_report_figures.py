"""The figures of a table's findings are the library's, for both kinds, all samplers, schedules, classes and denoisers,
for strengths that are numbers or schedules, and under policies.

What a report says is computed here once more from what was asked, argument by argument, by the public functions and by
the oracle: nothing is read from the plan or the findings but the figures that are judged.
"""

from __future__ import annotations

import functools
import math
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
import torch
from helpers import data_of, found_by, random_target
from torch import Tensor

from mdlm_cfg import Guidance, TableMixture, error_ledger, sample, stepped_law, terminal_law, tilted_law
from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.guidance_schedules import Interval, LinearRamp
from mdlm_cfg.chain.policies import Confidence, FixedOrder
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.compare.by_state import conditionals_error_by_state
from mdlm_cfg.compare.decay import log_still_masked, neutral_states, time_to_tv
from mdlm_cfg.compare.geometry import limit_law, regions
from mdlm_cfg.compare.ledger import LINES, Ledger, predicted_sample_tv
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, kl_divergence, sampled_tv
from mdlm_cfg.laws import TabulatedDenoiser
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies import report
from mdlm_cfg.studies.decay import DecayStudy
from mdlm_cfg.studies.geometry import GeometryStudy
from mdlm_cfg.studies.laws import Laws
from mdlm_cfg.studies.ledger import COLUMNS, LedgerStudy
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Together
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.studies.samplers import Samplers
from mdlm_cfg.support.seeds import generator_for

N = 3
K = 3
SEED = 7
NUM = 300
STRENGTHS: dict[str, dict[Any, Any]] = {  # by the names that report.json has for them
    "numbers": {0.5: 0.5, 2.0: 2.0},
    "schedules": {
        2.0: 2.0,
        "ramp(0,4)": LinearRamp(0, 4),
        "interval(4,0.3,0.9)": Interval(4, 0.3, 0.9),
        "[0.5,1,3]": [0.5, 1.0, 3.0],
    },
}
TABLES = {"ramp(0,4)": [0, 2, 4], "interval(4,0.3,0.9)": [0, 4, 0], "[0.5,1,3]": [0.5, 1, 3], 2.0: [2, 2, 2]}
POLICIES = {
    "policy": Sampler(policy=FixedOrder([2, 0, 1])),
    "policy, two a step": Sampler("event_leaping", events=2, policy=Confidence(temperature=0.5)),
}
GRID = (0.0, 0.4, 1.5, math.inf)
STEPS = 5  # no budget of the table of samplers: a row of its own
SCHEDULES: dict[str, tuple[Any, str | None]] = {
    "linear": (STEPS, "linear"),
    "cosine": (STEPS, "cosine"),
    "exponential": (STEPS, "exponential"),
    "grid": (GRID, None),
}
WAYS = [("first_hitting", "none")] + [
    (name, schedule) for name in ("tau_leaping", "euler", "d_cfg", "event_leaping") for schedule in SCHEDULES
]
WHOLE = ("tau_leaping", "cosine")  # of which the whole report is asked, decay in time at all strengths and all
EXACT = 1e-12
PAIRS = [
    ("class", "exact"),
    ("tilted", "exact"),
    ("exact", "learned"),
    ("exact", "samples"),
    ("learned", "samples"),
]


class Case(NamedTuple):
    """What is asked of the study."""

    kind: str
    way: tuple[str, str]  # the sampler and its schedule, or one of `POLICIES`
    z: int
    judged: str
    strengths: str = "numbers"

    @property
    def w(self) -> dict[Any, Any]:
        """The strengths by their names."""
        return STRENGTHS[self.strengths]

    @property
    def num_dims(self) -> int:
        """Schedules of w show on three coordinates."""
        return 2 if self.strengths == "numbers" else 3

    @property
    def sampler(self) -> Sampler:
        """The plan's."""
        name, schedule = self.way
        return POLICIES[name] if name in POLICIES else Sampler(name, *SCHEDULES.get(schedule, (None, None)))

    @property
    def denoisers(self) -> dict[str, Any]:
        """The exact one, and the network where it is judged."""
        exact = {"exact": target(self.num_dims).denoiser()}
        return exact | ({"learned": network(self.num_dims)} if self.judged == "learned" else {})

    def guidance(self, w: Any) -> Guidance:
        """Of a strength by its name."""
        return Guidance(self.w[w], self.kind)

    def law(self, name: str, w: Any) -> Tensor:
        """A law by name."""
        table = target(self.num_dims)
        if name == "class":
            return table.class_pmfs[self.z]
        if name == "tilted":
            return tilted_law(table, self.w[w], self.z)
        return ended(name, self.guidance(w), self.z, self.num_dims, self.sampler.policy)

    def laws(self, w: Any) -> dict[str, Tensor]:
        """Those that a report compares, by name; a schedule has no tilted law."""
        names = ["class", *(["tilted"] if isinstance(w, float) else []), *self.denoisers]
        samples = histogram(drawn(self, w), N)
        return {name: self.law(name, w) for name in names} | {"samples": samples}

    def generator(self, what: str, w: Any, *more: Any) -> torch.Generator:
        """The one that a plan has for this."""
        values = f"{w:g}" if isinstance(w, float) else f"[{','.join(f'{v:g}' for v in TABLES[w])}]"
        return generator_for(what, SEED, self.kind, values, self.z, *more)


SIDES = [(0, "exact"), (2, "learned"), (2, "exact"), (0, "learned")]


def cases(ways: list[tuple[str, str]]) -> list[Any]:
    """Every way with every kind, classes and denoisers in turn; of many ways one kind each is quick."""
    found = []
    for (k, way), (j, kind) in product(enumerate(ways), enumerate(("rate", "normalized"))):
        z, judged = SIDES[(k + k // 4 + j) % 4]
        quick = len(ways) == 1 or j == (k + k // 8) % 2
        name = "-".join(map(str, (kind, *way, z, judged)))
        found.append(pytest.param(Case(kind, way, z, judged), id=name, marks=() if quick else pytest.mark.slow))
    return found


NUMBERS = cases(WAYS)
MIXED = [
    pytest.param(Case(kind, way, 2, judged, "schedules"), id=f"schedules-{kind}-{way[0]}-{judged}")
    for kind, way, judged in (
        ("rate", ("first_hitting", "none"), "learned"),
        ("normalized", ("first_hitting", "none"), "exact"),
        ("normalized", ("policy", "none"), "learned"),
        ("rate", ("policy, two a step", "none"), "exact"),
    )
]
each_case = pytest.mark.parametrize("case", NUMBERS + MIXED)
each_number = pytest.mark.parametrize("case", NUMBERS)
each_mixed = pytest.mark.parametrize("case", MIXED)
one_way = pytest.mark.parametrize("case", cases([WHOLE]))


@functools.cache
def target(num_dims: int = 2) -> TableMixture:
    """Three classes with some zeros."""
    return random_target(N, num_dims, K, seed=11, zeros=0.25)


@functools.cache
def network(num_dims: int = 2) -> TabulatedDenoiser:
    """The exact denoiser of a perturbed table, standing for a network."""
    other = random_target(N, num_dims, K, seed=12)
    pmfs = 0.7 * target(num_dims).class_pmfs + 0.3 * other.class_pmfs
    return TabulatedDenoiser(TableMixture(pmfs, other.class_weights).denoiser())


def denoiser_of(name: str, num_dims: int) -> Any:
    return target(num_dims).denoiser() if name == "exact" else network(num_dims)


def quick_report(budgets: tuple[int, ...] = (2,)) -> Together:
    """The report of a table without what takes longest: many budgets, and the decay in time of many strengths."""
    return Together([Laws(), GeometryStudy(), DecayStudy((0.0, 2.0)), Samplers(budgets), LedgerStudy()])


@functools.cache
def found(case: Case) -> dict[str, Any]:
    """report.json's part of a study."""
    plan = Plan(tuple(map(case.guidance, case.w)), case.sampler, NUM, SEED, classes=(case.z,))
    learned = case.denoisers.get("learned")
    with pytest.MonkeyPatch.context() as patch:
        # other numbers of steps are as these, and take seconds
        patch.setattr(report, "Samplers", functools.partial(Samplers, (2, 3, 8)))
        whole = case.strengths == "numbers" and case.way == WHOLE
        study = TableReport() if whole else quick_report((2, 8))
        return found_by(study, data_of(target(case.num_dims)), learned, plan).to_dict()


@functools.cache
def ended(name: str, guidance: Guidance, z: int, num_dims: int, policy: Any) -> Tensor:
    """The law of a denoiser's chain."""
    return terminal_law(denoiser_of(name, num_dims), guidance, z, policy)


@functools.cache
def after_steps(name: str, guidance: Guidance, z: int, num_dims: int, sampler: Sampler) -> Tensor:
    """The law of a sampler's steps, of finished states."""
    denoiser = denoiser_of(name, num_dims)
    if sampler.policy is not None:
        return sampler.law(denoiser, guidance, z)
    if sampler.name == "first_hitting":
        return ended(name, guidance, z, num_dims, None)
    law = stepped_law(denoiser, guidance, z, sampler.name, sampler.steps, sampler.schedule)
    return law[(slice(0, N),) * num_dims]


@functools.cache
def drawn(case: Case, w: Any) -> Tensor:
    """The samples that the study is to have drawn."""
    generator = case.generator("table samples", w)
    denoiser = case.denoisers[case.judged]
    return sample(denoiser, case.guidance(w), case.z, NUM, case.sampler, generator=generator)


def tv(p: Tensor, q: Tensor) -> float:
    return 0.5 * float((p - q).abs().sum())


def same(found: Any, expected: Any, where: str = "") -> None:
    """Equal to 1e-12 of the larger of 1 and the value; infinite values as report.json has them."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            same(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for k, (a, b) in enumerate(zip(found, expected)):
            same(a, b, f"{where}/{k}")
    elif isinstance(expected, float) and math.isfinite(expected):
        assert isinstance(found, int | float), where
        assert abs(found - expected) <= EXACT * max(1.0, abs(expected)), (where, found, expected)
    else:
        assert found == (str(expected) if isinstance(expected, float) else expected), where


@each_mixed
def test_the_plan_says_every_strength_and_the_policy(case: Case) -> None:
    plan = found(case)["plan"]
    assert [g["w"] for g in plan["guidances"]] == list(case.w)
    assert [g["strengths"] for g in plan["guidances"]] == [TABLES[w] for w in case.w]
    policy = case.sampler.policy
    assert plan.get("policy") == (None if policy is None else str(policy))


@each_mixed
def test_laws_have_names_of_their_own(case: Case) -> None:
    names = found(case)["laws"]
    keys = ["w2", "wramp(0,4)", "winterval(4,0.3,0.9)", "w[0.5,1,3]"]
    expected = {"class", "tilted_w2"} | {
        f"{law}_{case.kind}_{key}" for law in (*case.denoisers, "samples") for key in keys
    }
    assert set(names) == expected and len(names) == len(expected)


@each_case
def test_distances(case: Case) -> None:
    rows = found(case)["distances"]
    assert [(row["w"], row["kind"]) for row in rows] == [(w, case.kind) for w in case.w]
    for row, w in zip(rows, case.w):
        laws = case.laws(w)
        for a, b in PAIRS:
            there = a in laws and b in laws
            same(row.get(f"tv_{a}_{b}"), tv(laws[a], laws[b]) if there else None, f"{a} {b}")
        for name in ("exact", "learned"):
            same(row.get(f"noise_floor_{name}"), expected_sampling_tv(laws[name], NUM) if name in laws else None)
        moments = {m["law"]: m for m in found(case)["moments"] if m["w"] == w}
        assert set(moments) == set(laws)
        for name, p in laws.items():
            same_moments(moments[name], p)


def same_moments(moments: dict[str, Any], p: Tensor) -> None:
    """Mean and covariance by their definitions, value by value."""
    dims = range(p.ndim)
    states = [(x, float(p[x])) for x in product(range(N), repeat=p.ndim)]
    mean = [sum(m * x[i] for x, m in states) for i in dims]
    same(moments["mean"], mean, "mean")
    covariance = [[sum(m * (x[a] - mean[a]) * (x[b] - mean[b]) for x, m in states) for b in dims] for a in dims]
    same(moments["covariance"], covariance, "covariance")
    assert sum(moments["eigenvalues"]) == pytest.approx(sum(moments["covariance"][i][i] for i in dims), abs=EXACT)


@each_case
def test_samplers(case: Case) -> None:
    own = case.sampler
    schedule = own.schedule if own.policy is None else None
    default = {"event_leaping": "cosine"}
    asked = set()
    for row in found(case)["samplers"]:
        w = row["w"]
        name = row["sampler"]
        steps = row["steps"]
        assert row["kind"] == case.kind and row["denoiser"] in case.denoisers and w in case.w
        steps = tuple(float(tau) for tau in steps) if isinstance(steps, list) else steps
        policy = own.policy if "policy" in row else None
        assert row.get("policy") == (None if policy is None else str(policy))
        on = None if steps is None or isinstance(steps, tuple) else str(schedule or default.get(name, "linear"))
        assert row["schedule"] == on
        sampler = Sampler(name, steps, on, policy=policy, events=row.get("events"))
        p = after_steps(row["denoiser"], case.guidance(w), case.z, case.num_dims, sampler)
        end = ended(row["denoiser"], case.guidance(w), case.z, case.num_dims, policy)
        same(row["tv"], tv(p, end), str(row))
        if policy is None:
            assert row["calls"] == calls(name, steps, on, case.num_dims)
        asked.add((w, row["denoiser"], name, steps, row.get("policy"), row.get("events")))
    assert len(asked) == len(found(case)["samplers"])
    ways = {(name, k, None, None) for name in ("tau_leaping", "euler", "d_cfg") for k in (2, 8)}
    ways |= {("event_leaping", 2, None, None)}
    if own.policy is not None:
        ways |= {("event_leaping", 2, str(own.policy), None)}
    if own.events is not None:
        ways |= {("event_leaping", None, str(own.policy), own.events)}
    elif own.name not in ("first_hitting", "event_leaping"):  # one event at a time is the chain itself
        ways |= {(own.name, own.steps, None, None)}
    assert asked >= {(w, name, *way) for w in case.w for name in case.denoisers for way in ways}


def calls(sampler: str, steps: Any, schedule: str | None, num_dims: int) -> int:
    """Steps that ask the denoiser: all of a parallel sampler's, and of event-leaping's those that unmask something."""
    count = len(steps) - 1 if isinstance(steps, tuple) else steps
    return len(oracle.event_counts(shares(steps, schedule), num_dims)) if sampler == "event_leaping" else count


def shares(steps: Any, schedule: str | None) -> list[float]:
    """By the oracle, what share of the masks each step unmasks."""
    if isinstance(steps, tuple):
        return oracle.grid_fractions(list(steps))
    return oracle.fractions(schedule, steps, 10.0 if schedule == "exponential" else 1.0)


def lines_of(case: Case, w: Any) -> dict[str, tuple[str, str]]:
    """The lines of a ledger that its entry has: which two laws each compares."""
    absent = {"error of the network", "discretisation error, exact conditionals"} if case.judged == "exact" else set()
    if not isinstance(w, float):
        absent |= {"gap to tilted"}
    return {line: pair for line, pair in LINES.items() if line not in absent}


@each_case
def test_ledger(case: Case) -> None:
    entries = found(case)["ledger"]
    sampler = case.sampler
    assert {entry.get("policy") for entry in entries} == {None if sampler.policy is None else str(sampler.policy)}
    for w in case.w:
        own = next(e for e in entries if e["w"] == w)  # the plan's own sampler comes first
        assert (own["kind"], own["denoiser"]) == (case.kind, case.judged)
        assert (own["sampler"], own.get("events"), own["num_samples"]) == (sampler.name, sampler.events, NUM)
        assert own["schedule"] == (sampler.schedule and str(sampler.schedule))
        assert own["steps"] == ([*GRID[:-1], "inf"] if sampler.steps == GRID else sampler.steps)
        laws = ledger_laws_of(case, w)
        generator = case.generator("ledger", w, sampler.label)
        for line, (a, b) in lines_of(case, w).items():
            same(own[COLUMNS[line]], tv(laws[a], laws[b]), line)
            same(line_of(case, own, line)["kl"], kl_divergence(laws[a], laws[b]), line)
        assert (own["gap_to_tilted"] is None) == (not isinstance(w, float))
        noise = sampled_tv(laws["L3'"], drawn(case, w), generator=generator)
        same([own["sampling_noise_low"], own["sampling_noise_high"]], [noise.low, noise.high], "noise")
        predicted = predicted_sample_tv(laws["L2"], laws["L3'"], NUM, generator=generator)
        same([own["predicted_low"], own["predicted_high"]], [predicted.low, predicted.high], "predicted")
        same(own["expected_sampling_noise"], expected_sampling_tv(laws["L3'"], NUM))
        assert own["closes"] == (predicted.low <= tv(laws["L2"], laws["L4"]) <= predicted.high)
        if case.judged == "learned":
            states, by_level = conditionals_error_by_state(
                target(case.num_dims), network(case.num_dims), case.guidance(w), case.z, policy=sampler.policy
            )
            kls = ("kl_conditional", "kl_unconditional")
            levels = [row for row in found(case)["visited_kl"] if row["w"] == w]
            same([[row[name] for name in kls] for row in levels], by_level, "visits")
            listed = [row for row in found(case)["worst_states"] if row["w"] == w]
            assert [row["state"] for row in listed] == [name_state(list(s.state), N) for s in states]
            same([[row[name] for name in kls] for row in listed], [[getattr(s, n) for n in kls] for s in states])


def line_of(case: Case, entry: dict[str, Any], line: str) -> dict[str, Any]:
    """A line of a budget in other distances."""
    keys = ("w", "sampler", "steps", "schedule", "policy", "events")
    rows = [r for r in found(case)["ledger_lines"] if all(r.get(k) == entry.get(k) for k in keys)]
    return next(row for row in rows if row["line"] == COLUMNS[line])


def ledger_laws_of(case: Case, w: Any) -> dict[str, Tensor]:
    """L0 to L4 of theory, section 8."""
    at = (case.guidance(w), case.z, case.num_dims, case.sampler)
    tilted = {"L1": case.law("tilted", w)} if isinstance(w, float) else {}
    return tilted | {
        "L0": case.law("class", w),
        "L2": case.law("exact", w),
        "L2'": after_steps("exact", *at),
        "L3": case.law(case.judged, w),
        "L3'": after_steps(case.judged, *at),
        "L4": histogram(drawn(case, w), N),
    }


@functools.cache
def standard_ledger(case: Case, w: float, sampler: Sampler) -> Ledger:
    generator = case.generator("ledger", w, sampler.label)
    asked = (target(), case.denoisers[case.judged], case.guidance(w), case.z, sampler)
    return error_ledger(*asked, num_samples=NUM, generator=generator)


@each_number
def test_ledger_of_the_standard_samplers(case: Case) -> None:
    own = case.sampler
    for entry in found(case)["ledger"]:
        own_way = (own.name, own.schedule and str(own.schedule))
        if (entry["sampler"], entry["schedule"]) == own_way and entry["steps"] != 50:
            continue  # the plan's own: the test above
        sampler = Sampler(entry["sampler"], entry["steps"], entry["schedule"] and Schedule(entry["schedule"]))
        w = entry["w"]
        expected = standard_ledger(case._replace(way=WHOLE), w, sampler)  # whatever the plan's own way is
        for line in lines_of(case, w):
            same(entry[COLUMNS[line]], expected.tv[line], line)
            norms = line_of(case, entry, line)
            same(norms["covariance_frobenius"], expected.covariance[line]["frobenius"], line)
            same(norms["covariance_spectral"], expected.covariance[line]["spectral"], line)
        interval = expected.predicted_total
        same([entry["predicted_low"], entry["predicted_high"]], [interval.low, interval.high])
        assert entry["closes"] == expected.closes and entry["kind"] == case.kind
    ways = {(entry["sampler"], str(entry["steps"])) for entry in found(case)["ledger"]}
    assert ways >= {("first_hitting", "None"), ("tau_leaping", "50"), ("event_leaping", "2")}


@one_way
def test_decay(case: Case) -> None:
    exact = target().denoiser()
    rows = found(case)["decay"]
    assert {row["kind"] for row in rows} == {case.kind} and len(rows) == 6
    for row in rows:
        guidance = Guidance(row["w"], case.kind)
        same(row["tau_5"], time_to_tv(exact, guidance, case.z, 0.05), f"w = {row['w']}")
        curve = [point for point in found(case)["decay_curves"] if point["w"] == row["w"]]
        log_tv = log_still_masked(exact, guidance, case.z, [point["tau"] for point in curve]).tolist()
        same([point["log_tv"] for point in curve], log_tv, f"w = {row['w']}")
        if case.kind == "normalized":  # theory, section 5
            expected = [math.log(1 - (1 - math.exp(-point["tau"])) ** 2) for point in curve]
            assert log_tv == pytest.approx(expected, rel=1e-9)
    neutral = neutral_states(target(), case.z) if case.kind == "rate" else []
    listed = {(row["state"], row["probability"], row["limit"]) for row in found(case).get("neutral", [])}
    assert listed == {(name_state(list(one.state), N), one.probability, one.limit) for one in neutral}
    (fit,) = found(case)["decay_fit"]
    assert (fit["growth"] == "exponential") == (case.kind == "rate" and not neutral)


@pytest.mark.parametrize("case", cases([WHOLE]) + MIXED)
def test_geometry(case: Case) -> None:
    rows = found(case)["geometry"]
    table = target(case.num_dims)
    masks = {part.name: part.mask for part in regions(table, case.z)}
    support = sum(mask.long() for mask in masks.values())
    assert torch.equal(support, (table.class_pmfs[case.z] > 0).long())  # a partition of the class's support
    assert {row["region"] for row in rows} == set(masks)
    # the limit of infinite w, and the decay in time, are of the kind's own order: under a policy there are none
    limit = set() if case.sampler.policy else {("inf", "exact")}
    expected = {(w, name) for name in case.denoisers for w in case.w} | limit
    assert {(row["w"], row["law"]) for row in rows} == expected and len(rows) == len(expected) * len(masks)
    assert bool(limit) == ("decay" in found(case))
    assert {row["w"] for row in found(case).get("overlap", [])} == (set(case.w) if case.num_dims > 2 else set())
    for row in rows:
        is_limit = row["w"] == "inf"
        p = limit_law(table, case.z, case.kind) if is_limit else case.law(row["law"], row["w"])
        mask = masks[row["region"]]
        assert row["kind"] == case.kind and row["states"] == int(mask.sum())
        same(row["mass"], float(p[mask].sum()), "mass")
        same(row["mean_probability"], float(p[mask].mean()), "mean probability")


@each_mixed
def test_the_verdict_speaks_of_every_schedule_and_of_the_order(case: Case) -> None:
    verdict = " ".join(found(case)["verdict"])
    for w in case.w:
        assert f"w = {w:g}" in verdict if isinstance(w, float) else f"w = {w}" in verdict
    assert str(case.sampler.policy or case.kind) in verdict


def test_two_temperatures_have_laws_of_their_own() -> None:
    guidances = (Guidance(2.0), Guidance(2.0, temperature=0.5), Guidance(2.0, top_p=0.8))
    findings = found_by(quick_report(), data_of(target()), None, Plan(guidances, Sampler(), 50, classes=(2,)))
    report = findings.to_dict()
    for key, guidance in zip(("w2", "w2_temperature0.5", "w2_top_p0.8"), guidances):
        expected = terminal_law(target().denoiser(), guidance, 2).numpy()
        assert np.abs(findings.arrays[f"exact_rate_{key}"] - expected).max() < EXACT
    assert [g.get("temperature") for g in report["plan"]["guidances"]] == [None, 0.5, None]
    assert [g.get("top_p") for g in report["plan"]["guidances"]] == [None, None, 0.8]
    assert "decay" in report and report["laws"] == list(findings.arrays)
    filtered = Plan(guidances[1:], Sampler(), 50, classes=(2,))
    # time and infinite w were not derived for such values
    assert "decay" not in found_by(quick_report(), data_of(target()), None, filtered).to_dict()
