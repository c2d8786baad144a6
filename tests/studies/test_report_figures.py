"""The figures of a table's findings are the library's, for both kinds, all samplers, schedules, classes and denoisers.

What a report says is computed here once more from what was asked, argument by argument, by the public functions and by
the oracle: nothing is read from the plan or the findings but the figures that are judged.
"""

from __future__ import annotations

import functools
import math
from itertools import product
from typing import Any, NamedTuple

import oracle
import pytest
import torch
from helpers import data_of, found_by, random_target
from torch import Tensor

from mdlm_cfg import Guidance, TableMixture, error_ledger, sample, stepped_law, terminal_law, tilted_law
from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.compare.by_state import conditionals_error_by_state
from mdlm_cfg.compare.decay import log_still_masked, neutral_states, time_to_tv
from mdlm_cfg.compare.geometry import limit_law, regions
from mdlm_cfg.compare.ledger import LINES, predicted_sample_tv
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, kl_divergence, sampled_tv
from mdlm_cfg.laws import TabulatedDenoiser
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies import report
from mdlm_cfg.studies.ledger import COLUMNS
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.studies.samplers import Samplers
from mdlm_cfg.support.seeds import generator_for

N = 3
D = 2
K = 3
SEED = 7
NUM = 300
STRENGTHS = (0.5, 2.0)
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
    way: tuple[str, str]
    z: int
    judged: str

    @property
    def settings(self) -> tuple[Any, str | None]:
        """Steps and schedule, as the sampler takes them."""
        return SCHEDULES.get(self.way[1], (None, None))


SIDES = [(0, "exact"), (2, "learned"), (2, "exact"), (0, "learned")]


def cases(ways: list[tuple[str, str]]) -> list[Any]:
    """Every kind, way, class and denoiser; most are slow: of many ways all but one of each."""
    found = []
    for (k, way), (j, kind) in product(enumerate(ways), enumerate(("rate", "normalized"))):
        for side, (z, judged) in enumerate(SIDES):
            quick = side < 2 if len(ways) == 1 else (side == (k + k // 4) % 4 and j == (k + k // 8) % 2)
            found.append(
                pytest.param(
                    Case(kind, way, z, judged),
                    id="-".join(map(str, (kind, *way, z, judged))),
                    marks=() if quick else pytest.mark.slow,
                )
            )
    return found


each_case = pytest.mark.parametrize("case", cases(WAYS))
one_way = pytest.mark.parametrize("case", cases([("tau_leaping", "cosine")]))


@functools.cache
def target() -> TableMixture:
    """Three classes with some zeros."""
    return random_target(N, D, K, seed=11, zeros=0.25)


@functools.cache
def network() -> TabulatedDenoiser:
    """The exact denoiser of a perturbed table, standing for a network."""
    other = random_target(N, D, K, seed=12)
    return TabulatedDenoiser(
        TableMixture(0.7 * target().class_pmfs + 0.3 * other.class_pmfs, other.class_weights).denoiser()
    )


def denoisers() -> dict[str, Any]:
    return {"exact": target().denoiser(), "learned": network()}


@functools.cache
def found(case: Case) -> dict[str, Any]:
    """report.json's part of a study."""
    steps, schedule = case.settings
    plan = Plan(
        tuple(Guidance(w, case.kind) for w in STRENGTHS),
        Sampler(case.way[0], steps, None if schedule is None else Schedule(schedule)),
        num_samples=NUM,
        seed=SEED,
        classes=(case.z,),
    )
    with pytest.MonkeyPatch.context() as patch:
        # other numbers of steps are as these, and take seconds
        patch.setattr(report, "Samplers", functools.partial(Samplers, (2, 3, 8)))
        learned = network() if case.judged == "learned" else None
        return found_by(TableReport(), data_of(target()), learned, plan).to_dict()


@functools.cache
def law(name: str, kind: str, w: float, z: int) -> Tensor:
    """A law by name."""
    if name == "class":
        return target().class_pmfs[z]
    return tilted_law(target(), w, z) if name == "tilted" else terminal_law(denoisers()[name], Guidance(w, kind), z)


@functools.cache
def after_steps(name: str, kind: str, w: float, z: int, sampler: str, steps: Any, schedule: str | None) -> Tensor:
    """The law of a sampler's steps, of finished states."""
    if sampler == "first_hitting":
        return law(name, kind, w, z)
    return stepped_law(denoisers()[name], Guidance(w, kind), z, sampler, steps, schedule)[(slice(0, N),) * D]


@functools.cache
def drawn(case: Case, w: float) -> Tensor:
    """The samples that the study is to have drawn."""
    generator = generator_for("table samples", SEED, case.kind, f"{w:g}", case.z)
    guidance = Guidance(w, case.kind)
    denoiser = denoisers()[case.judged]
    return sample(denoiser, guidance, case.z, NUM, case.way[0], *case.settings, generator=generator)


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


@each_case
def test_distances(case: Case) -> None:
    rows = found(case)["distances"]
    assert [(row["w"], row["kind"]) for row in rows] == [(w, case.kind) for w in STRENGTHS]
    for row, w in zip(rows, STRENGTHS):
        laws = {name: law(name, case.kind, w, case.z) for name in ("class", "tilted", "exact")}
        if case.judged == "learned":
            laws["learned"] = law("learned", case.kind, w, case.z)
        laws["samples"] = histogram(drawn(case, w), N)
        for a, b in PAIRS:
            there = a in laws and b in laws
            same(row.get(f"tv_{a}_{b}"), tv(laws[a], laws[b]) if there else None, f"{a} {b}")
        for name in ("class", "tilted", "learned"):
            expected = kl_divergence(laws["exact"], laws[name]) if name in laws else None
            same(row.get(f"kl_exact_{name}"), expected, name)
        for name in ("exact", "learned"):
            same(row.get(f"noise_floor_{name}"), expected_sampling_tv(laws[name], NUM) if name in laws else None)
        moments = {m["law"]: m for m in found(case)["moments"] if m["w"] == w}
        assert set(moments) == set(laws)
        for name, p in laws.items():
            same_moments(moments[name], p)


def same_moments(moments: dict[str, Any], p: Tensor) -> None:
    """Mean and covariance by their definitions, value by value."""
    states = [(i, j, float(p[i, j])) for i in range(N) for j in range(N)]
    mean = [sum(m * state[i] for *state, m in states) for i in range(D)]
    same(moments["mean"], mean, "mean")
    same(
        moments["covariance"],
        [[sum(m * (s[a] - mean[a]) * (s[b] - mean[b]) for *s, m in states) for b in range(D)] for a in range(D)],
        "covariance",
    )
    assert sum(moments["eigenvalues"]) == pytest.approx(sum(moments["covariance"][i][i] for i in range(D)), abs=EXACT)


@each_case
def test_samplers(case: Case) -> None:
    rows = found(case)["samplers"]
    names = ["exact", "learned"][: 1 + (case.judged == "learned")]
    schedule = case.settings[1]
    default = {"event_leaping": "cosine"}
    asked = set()
    for row in rows:
        w = row["w"]
        kind = row["kind"]
        steps = row["steps"]
        assert kind == case.kind and row["denoiser"] in names and w in STRENGTHS
        steps = tuple(float(tau) for tau in steps) if isinstance(steps, list) else steps
        on = None if isinstance(steps, tuple) else schedule or default.get(row["sampler"], "linear")
        assert row["schedule"] == on
        p = after_steps(row["denoiser"], case.kind, w, case.z, row["sampler"], steps, on)
        same(row["tv"], tv(p, law(row["denoiser"], case.kind, w, case.z)), str(row))
        assert row["calls"] == calls(row["sampler"], steps, on)
        asked.add((w, row["denoiser"], row["sampler"], steps))
    own = set() if case.way[0] == "first_hitting" else {(case.way[0], case.settings[0])}
    if case.way[0] == "event_leaping":  # one event at a time is the chain itself
        own = set()
    every = {(name, k) for name in ("tau_leaping", "euler", "d_cfg") for k in (2, 8)} | {("event_leaping", 2)} | own
    assert asked >= {(w, name, *way) for w in STRENGTHS for name in names for way in every}


def calls(sampler: str, steps: Any, schedule: str | None) -> int:
    """Steps that ask the denoiser: all of a parallel sampler's, and of event-leaping's those that unmask something."""
    count = len(steps) - 1 if isinstance(steps, tuple) else steps
    return len(oracle.event_counts(shares(steps, schedule), D)) if sampler == "event_leaping" else count


def shares(steps: Any, schedule: str | None) -> list[float]:
    """By the oracle, what share of the masks each step unmasks."""
    if isinstance(steps, tuple):
        return oracle.grid_fractions(list(steps))
    return oracle.fractions(schedule, steps, 10.0 if schedule == "exponential" else 1.0)


@each_case
def test_ledger(case: Case) -> None:
    entries = found(case)["ledger"]
    z = case.z
    (steps, schedule) = case.settings
    for w in STRENGTHS:
        own = next(e for e in entries if e["w"] == w)  # the plan's own sampler comes first
        assert (own["kind"], own["denoiser"], own["sampler"]) == (case.kind, case.judged, case.way[0])
        assert own["schedule"] == schedule and own["num_samples"] == NUM
        assert own["steps"] == ([*GRID[:-1], "inf"] if steps == GRID else steps)
        laws = ledger_laws_of(case.judged, case.kind, w, z, case.way[0], steps, schedule)
        label = Sampler(case.way[0], steps, schedule and Schedule(schedule)).label
        generator = generator_for("ledger", SEED, case.kind, f"{w:g}", z, label)
        x = drawn(case, w)
        laws["L4"] = histogram(x, N)
        absent = ("error of the network", "discretisation error, exact conditionals") if case.judged == "exact" else ()
        lines = {line: pair for line, pair in LINES.items() if line not in absent}
        for line, (a, b) in lines.items():
            same(own[COLUMNS[line]], tv(laws[a], laws[b]), line)
            same(line_of(case, own, line)["kl"], kl_divergence(laws[a], laws[b]), line)
        noise = sampled_tv(laws["L3'"], x, generator=generator)
        same([own["sampling_noise_low"], own["sampling_noise_high"]], [noise.low, noise.high], "noise")
        predicted = predicted_sample_tv(laws["L2"], laws["L3'"], NUM, generator=generator)
        same([own["predicted_low"], own["predicted_high"]], [predicted.low, predicted.high], "predicted")
        same(own["expected_sampling_noise"], expected_sampling_tv(laws["L3'"], NUM))
        assert own["closes"] == (predicted.low <= tv(laws["L2"], laws["L4"]) <= predicted.high)
        if case.judged == "learned":
            states, by_level = conditionals_error_by_state(target(), network(), Guidance(w, case.kind), z)
            kls = ("kl_conditional", "kl_unconditional")
            levels = [row for row in found(case)["visited_kl"] if row["w"] == w]
            same([[row[name] for name in kls] for row in levels], by_level, "visits")
            listed = [row for row in found(case)["worst_states"] if row["w"] == w]
            assert [row["state"] for row in listed] == [name_state(list(s.state), N) for s in states]
            same([[row[name] for name in kls] for row in listed], [[getattr(s, n) for n in kls] for s in states])


def line_of(case: Case, entry: dict[str, Any], line: str) -> dict[str, Any]:
    """A line of a budget in other distances."""
    keys = ("w", "sampler", "steps", "schedule")
    rows = [r for r in found(case)["ledger_lines"] if all(r.get(k) == entry.get(k) for k in keys)]
    return next(row for row in rows if row["line"] == COLUMNS[line])


def ledger_laws_of(judged: str, kind: str, w: float, z: int, *way: Any) -> dict[str, Tensor]:
    """L0 to L3' of theory, section 8."""
    return {
        "L0": law("class", kind, w, z),
        "L1": law("tilted", kind, w, z),
        "L2": law("exact", kind, w, z),
        "L2'": after_steps("exact", kind, w, z, *way),
        "L3": law(judged, kind, w, z),
        "L3'": after_steps(judged, kind, w, z, *way),
    }


@each_case
def test_ledger_of_the_standard_samplers(case: Case) -> None:
    for entry in found(case)["ledger"]:
        if entry["sampler"] == case.way[0] and entry["steps"] != 50 and entry["schedule"] == case.settings[1]:
            continue  # the plan's own: the test above
        sampler = Sampler(entry["sampler"], entry["steps"], entry["schedule"] and Schedule(entry["schedule"]))
        generator = generator_for("ledger", SEED, case.kind, f"{entry['w']:g}", case.z, sampler.label)
        expected = error_ledger(
            target(),
            denoisers()[case.judged],
            Guidance(entry["w"], case.kind),
            case.z,
            sampler,
            num_samples=NUM,
            generator=generator,
        )
        absent = ("error of the network", "discretisation error, exact conditionals") if case.judged == "exact" else ()
        for line, value in expected.tv.items():
            if line not in absent:
                same(entry[COLUMNS[line]], value, line)
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
            expected = [math.log(1 - (1 - math.exp(-point["tau"])) ** D) for point in curve]
            assert log_tv == pytest.approx(expected, rel=1e-9)
    neutral = neutral_states(target(), case.z) if case.kind == "rate" else []
    listed = {(row["state"], row["probability"], row["limit"]) for row in found(case).get("neutral", [])}
    assert listed == {(name_state(list(one.state), N), one.probability, one.limit) for one in neutral}
    (fit,) = found(case)["decay_fit"]
    assert fit["double_exponential"] == (case.kind == "rate" and not neutral)


@one_way
def test_geometry(case: Case) -> None:
    rows = found(case)["geometry"]
    masks = {part.name: part.mask for part in regions(target(), case.z)}
    support = sum(mask.long() for mask in masks.values())
    assert torch.equal(support, (target().class_pmfs[case.z] > 0).long())  # a partition of the class's support
    assert {row["region"] for row in rows} == set(masks)
    whose = ["exact"] + (["learned"] if case.judged == "learned" else [])
    expected = {(w, name) for name in whose for w in STRENGTHS} | {("inf", "exact")}
    assert {(row["w"], row["law"]) for row in rows} == expected and len(rows) == len(expected) * len(masks)
    for row in rows:
        limit = row["w"] == "inf"
        p = limit_law(target(), case.z, case.kind) if limit else law(row["law"], case.kind, row["w"], case.z)
        mask = masks[row["region"]]
        assert row["kind"] == case.kind and row["states"] == int(mask.sum())
        same(row["mass"], float(p[mask].sum()), "mass")
        same(row["mean_probability"], float(p[mask].mean()), "mean probability")


@pytest.mark.parametrize("kind", ["rate", "normalized"])
@pytest.mark.parametrize("judged", ["exact", "learned"])
def test_the_figures_are_the_oracles(kind: str, judged: str) -> None:
    # the same once more by brute force, which shares nothing with the product
    case = Case(kind, ("tau_leaping", "cosine"), 2, judged)
    w = 2.0
    z = 2
    report = found(case)
    chains = {name: oracle.Chain(d, w, kind, z) for name, d in denoisers().items()}
    exact = chains["exact"].terminal_by_orders()
    row = next(row for row in report["distances"] if row["w"] == w)
    tilted = oracle.tilted(target().pmf, target().class_pmfs[z], w)
    same(row["tv_class_exact"], tv(target().class_pmfs[z], exact))
    same(row["tv_tilted_exact"], tv(tilted, exact))
    chain = chains[judged]
    own = chains[judged].terminal_by_orders()
    if judged == "learned":
        same(row["tv_exact_learned"], tv(own, exact))
    for sampler, schedule, count in (
        ("tau_leaping", "cosine", STEPS),
        ("euler", "cosine", 3),
        ("d_cfg", "cosine", 8),
        ("event_leaping", "cosine", 2),
    ):
        p = chain.stepped(sampler, shares(count, schedule))[(slice(0, N),) * D]
        asked = (w, judged, sampler, count)
        rows = [r for r in report["samplers"] if (r["w"], r["denoiser"], r["sampler"], r["steps"]) == asked]
        assert len(rows) == 1
        same(rows[0]["tv"], tv(p, own), sampler)
        if sampler == "tau_leaping":
            entry = next(e for e in report["ledger"] if e["w"] == w)
            same(entry["discretisation_error"], tv(p, own), "ledger")
