"""Every figure of a table's report is the library's, for the kind, sampler, schedule and class that were asked for.

A report that forgets one of them on the way answers another question without an error; here each is asked of the
library by the test's own parameters, and not by what the report says of itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from helpers import random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, error_ledger, sample, stepped_law, terminal_law, tilted_law
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.policies import Confidence
from mdlm_cfg.compare.decay import tv_decay
from mdlm_cfg.compare.geometry import limit_law, region_mass, regions
from mdlm_cfg.compare.ledger import Ledger, ledger_laws, ledger_of
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, kl_divergence, mean_and_covariance
from mdlm_cfg.compare.metrics import total_variation as tv
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table import decay, distances, equal_cost, ledgers
from mdlm_cfg.studies.table.study import study_table

pytestmark = pytest.mark.slow  # test_report_figures.py holds the same kind of fault in seconds

N, D, NUM_SAMPLES = 2, 3, 400
STRENGTHS = (0.0, 1.5)
GRID = (0.0, 0.3, 1.1, math.inf)
STEPPED = ("tau_leaping", "euler", "d_cfg", "event_leaping")
RUNS = [
    ("first_hitting", None, None),
    *((name, steps, schedule) for name in STEPPED for steps, schedule in ((2, "linear"), (2, "cosine"))),
    *((name, 3, "exponential") for name in STEPPED),
    *((name, GRID, None) for name in STEPPED),
    ("event_leaping", 2, None),
    ("euler", 2, None),
]
STANDARD = [("first_hitting", None, None), ("tau_leaping", 5, "linear"), ("event_leaping", 2, "cosine")]
DEFAULT = {"event_leaping": "cosine"}  # linear for the others
EXACTLY = {"rel": 0, "abs": 1e-12}


@pytest.fixture(autouse=True)
def few_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_cost, "BUDGETS", (2, 5))
    monkeypatch.setattr(ledgers, "STANDARD", tuple(Sampler(*one) for one in STANDARD))
    monkeypatch.setattr(decay, "STRENGTHS", (0.0, 1.0, 3.0))


def cases() -> Iterator[Any]:
    """Everything with everything; by default, every kind with every run, and in turns the other two."""
    for k, (kind, one) in enumerate(product(("rate", "normalized"), RUNS)):
        for j, (z, learned) in enumerate([(2, True), (None, False), (0, True), (2, False)]):
            yield pytest.param(kind, *one, z, learned, marks=[] if j == k % 2 else [pytest.mark.slow])


def target() -> TableMixture:
    """Three classes; the first has the whole cube, so that no rate is infinite under the network below."""
    full, holed = random_target(N, D, 3, seed=1), random_target(N, D, 3, seed=4, zeros=0.3)
    pmfs = torch.stack([full.class_pmfs[0], holed.class_pmfs[1], holed.class_pmfs[2]])
    return TableMixture(pmfs, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64))


def network() -> Denoiser:
    """A stand-in for a trained network: conditionals of another table."""
    pmfs = target().class_pmfs + 0.3 * random_target(N, D, 3, seed=2).class_pmfs
    sums = pmfs.flatten(1).sum(1).reshape(-1, 1, 1, 1)
    return TableMixture(pmfs / sums, target().class_weights).denoiser()


def plan_of(kind: str, sampler: Sampler, z: int | None, strengths: tuple[float, ...] = STRENGTHS) -> Plan:
    guidances = tuple(Guidance(w, kind) for w in strengths)
    return Plan(guidances, sampler, NUM_SAMPLES, seed=3, classes=None if z is None else (z,))


def reported(denoiser: Denoiser | None, plan: Plan) -> dict:
    """The findings as a program reads them in report.json."""
    return json.loads(json.dumps(study_table(target(), denoiser, plan).to_dict(), allow_nan=False))


def plain(steps: int | tuple[float, ...] | None) -> object:
    return [v if math.isfinite(v) else "inf" for v in steps] if isinstance(steps, tuple) else steps


def law_of(denoiser: Denoiser, guidance: Guidance, z: int, name: str, steps: object, schedule: str | None):
    if name == "first_hitting":
        return terminal_law(denoiser, guidance, z)
    return stepped_law(denoiser, guidance, z, name, steps, schedule)[(slice(0, N),) * D]


@pytest.mark.parametrize(("kind", "name", "steps", "schedule", "z", "learned"), list(cases()))
def test_every_figure_is_the_librarys(kind, name, steps, schedule, z, learned, monkeypatch):
    monkeypatch.setattr(decay, "MAX_STATES", 0)  # it knows no sampler, and has a test of its own
    judged = network() if learned else None
    plan = plan_of(kind, Sampler(name, steps, schedule), z)
    found, z = reported(judged, plan), z or 0
    assert (found["plan"]["sampler"], found["plan"]["steps"]) == (name, plain(steps))
    assert found["target_class"] == z and found["judged"] == ("learned" if learned else "exact")
    samples = {
        w: sample(
            judged or target().denoiser(), Guidance(w, kind), z, NUM_SAMPLES, name, steps, schedule,
            generator=plan.generator("table samples", Guidance(w, kind), z),
        )
        for w in STRENGTHS
    }  # fmt: skip
    check_distances(found["distances"], judged, kind, z, samples)
    check_samplers(found["samplers"], judged, kind, z, (name, steps, schedule))
    check_ledger(found["ledger"], judged, plan, kind, z, (name, steps, schedule), samples)


@pytest.mark.parametrize("z", [0, 2])
@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_decay_and_geometry_are_of_the_kind_and_class(kind, z):
    found = reported(None, plan_of(kind, Sampler("d_cfg", 2, "cosine"), z))
    check_decay(found["decay"], kind, z)
    check_geometry(found["geometry"], kind, z)


def check_distances(rows, judged, kind, z, samples):
    assert [(row["w"], row["kind"]) for row in rows] == [(w, kind) for w in STRENGTHS]
    exact = target()
    for row in rows:
        w = row["w"]
        laws = {
            "class": exact.class_pmf(z), "tilted": tilted_law(exact, w, z),
            "exact": terminal_law(exact.denoiser(), Guidance(w, kind), z), "samples": histogram(samples[w], N),
        }  # fmt: skip
        if judged is not None:
            laws["learned"] = terminal_law(judged, Guidance(w, kind), z)
        expected = {
            "tv_class_exact": tv(laws["class"], laws["exact"]),
            "tv_tilted_exact": tv(laws["tilted"], laws["exact"]),
            "tv_exact_samples": tv(laws["exact"], laws["samples"]),
            "noise_floor_exact": expected_sampling_tv(laws["exact"], NUM_SAMPLES),
            "kl_exact_class": kl_divergence(laws["exact"], laws["class"]),
            "kl_exact_tilted": kl_divergence(laws["exact"], laws["tilted"]),
        }
        if judged is not None:
            expected |= {
                "tv_exact_learned": tv(laws["exact"], laws["learned"]),
                "tv_learned_samples": tv(laws["learned"], laws["samples"]),
                "noise_floor_learned": expected_sampling_tv(laws["learned"], NUM_SAMPLES),
                "kl_exact_learned": kl_divergence(laws["exact"], laws["learned"]),
            }
        assert {key: row[key] for key in expected} == pytest.approx(expected, **EXACTLY)
        assert judged is not None or not any("learned" in key for key in row)  # absent, not null
        assert set(row["moments"]) == set(laws)
        for law, moments in row["moments"].items():
            mean, covariance = mean_and_covariance(laws[law])
            assert moments["mean"] == pytest.approx(mean.tolist(), **EXACTLY)
            assert torch.tensor(moments["covariance"]).flatten().tolist() == pytest.approx(
                covariance.flatten().tolist(), rel=0, abs=1e-7
            )


def check_samplers(rows, judged, kind, z, own):
    name, steps, schedule = own
    used = None if steps is None or isinstance(steps, tuple) else schedule or DEFAULT.get(name, "linear")
    denoisers = {"exact": target().denoiser()} | ({} if judged is None else {"learned": judged})
    compared = [(other, budget, used or DEFAULT.get(other, "linear")) for other in STEPPED for budget in (2, 5)]
    own = (name, steps, used)
    if name != "first_hitting" and own not in compared:
        compared.append(own)
    expected = {}
    for w, (denoiser, source), (other, budget, on) in product(STRENGTHS, denoisers.items(), compared):
        end = terminal_law(source, Guidance(w, kind), z)
        law = law_of(source, Guidance(w, kind), z, other, budget, on)
        expected[w, kind, denoiser, other, str(plain(budget)), on] = tv(law, end)
    found = {
        (r["w"], r["kind"], r["denoiser"], r["sampler"], str(r["steps"]), r["schedule"]): r["tv"] for r in rows
    }  # fmt: skip
    assert len(rows) == len(found) and found == pytest.approx(expected, **EXACTLY)
    for row in rows:
        calls = len(row["steps"]) - 1 if isinstance(row["steps"], list) else row["steps"]
        assert row["calls"] == (min(calls, D) if row["sampler"] == "event_leaping" else calls)


def check_ledger(entries, judged, plan, kind, z, own, samples):
    own_sampler = Sampler(*own)
    others = [one for one in STANDARD if Sampler(*one) != own_sampler]
    assert [(e["w"], e["kind"]) for e in entries] == [(w, kind) for w in STRENGTHS for _ in (own, *others)]
    at = iter(entries)
    for w in STRENGTHS:
        guidance = Guidance(w, kind)
        shared = ledger_laws(target(), judged or target().denoiser(), guidance, z)
        generator = plan.generator("ledger", guidance, z, own_sampler.label)
        expected = ledger_of(shared, own_sampler, NUM_SAMPLES, generator, samples[w])
        entry = next(at)
        assert entry["sampler"] == own[0] and entry["steps"] == plain(own[1])
        check_entry(entry, expected, judged)
        assert entry["tv"]["total"] == tv(
            terminal_law(target().denoiser(), guidance, z), histogram(samples[w], N)
        )  # one number with the distances' "samples to exact"
        for one in others:
            generator = plan.generator("ledger", guidance, z, Sampler(*one).label)
            entry = next(at)
            assert (entry["sampler"], entry["steps"], entry["schedule"]) == one
            expected = error_ledger(
                target(), judged or target().denoiser(), guidance, z, *one, num_samples=NUM_SAMPLES, generator=generator
            )
            check_entry(entry, expected, judged)


def check_entry(entry: dict, expected: Ledger, judged: Denoiser | None) -> None:
    learned = {"score error", "discretisation error, exact scores"}
    lines = set(expected.tv) - (set() if judged else learned)
    for key in ("tv", "kl", "mean", "covariance"):
        assert set(entry[key]) == lines
    assert entry["tv"] == pytest.approx({line: expected.tv[line] for line in lines}, **EXACTLY)
    for line in lines:
        if math.isfinite(expected.kl[line]):
            assert entry["kl"][line] == pytest.approx(expected.kl[line], rel=1e-9, abs=1e-12)
        else:
            assert entry["kl"][line] == "inf"
        assert entry["mean"][line] == pytest.approx(expected.mean[line], rel=1e-9, abs=1e-12)
        assert entry["covariance"][line] == pytest.approx(expected.covariance[line], rel=1e-9, abs=1e-12)
    for key, value in (("sampling_noise", expected.noise), ("predicted_total", expected.predicted_total)):
        assert entry[key] == pytest.approx(vars(value), **EXACTLY)
    assert entry["expected_sampling_noise"] == pytest.approx(expected.expected_noise, **EXACTLY)
    assert entry["closes"] == expected.closes and entry["num_samples"] == NUM_SAMPLES
    if judged is None:
        assert not {"score_error_if_only", "worst_states", "visited_kl_by_level"} & set(entry)
    else:
        assert entry["score_error_if_only"] == pytest.approx(expected.shared.score_share, **EXACTLY)
        assert entry["visited_kl_by_level"] == [pytest.approx(pair) for pair in expected.shared.visit_error]
        assert [tuple(s["state"]) for s in entry["worst_states"]] == [s.state for s in expected.shared.states]


def check_decay(found, kind, z):
    expected = tv_decay(target(), z, [Guidance(w, kind) for w in (0.0, 1.0, 3.0)], decay.TAUS)
    assert (found["kind"], found["statement"]) == (kind, expected.statement)
    assert found["double_exponential"] == expected.double_exponential
    assert torch.tensor(found["log_tv"]).flatten().tolist() == pytest.approx(expected.log_tv.flatten().tolist())
    assert found["tau_at_tv_0.05"] == pytest.approx(expected.time_to_5_percent)
    if kind == "normalized":  # TV = 1 - (1 - exp(-tau))^D, whatever w is
        assert "does not depend on w" in found["statement"] and not found["double_exponential"]
        for row in found["log_tv"]:
            closed = [math.log(1 - (1 - math.exp(-t)) ** D) for t in found["tau"]]
            assert row == pytest.approx(closed, rel=1e-9, abs=1e-12)


def check_geometry(found, kind, z):
    parts = {part.name: part for part in regions(target(), z)}
    assert {region["name"] for region in found["regions"]} == set(parts)
    exact = [row for row in found["rows"] if row["law"] == "exact"]
    assert [row["w"] for row in exact] == [*STRENGTHS, "inf"]
    for row in exact:
        law = (
            limit_law(target(), z, kind)
            if row["w"] == "inf"
            else terminal_law(target().denoiser(), Guidance(row["w"], kind), z)
        )
        masses = [region_mass(law, parts[region["name"]])[0] for region in found["regions"]]
        assert row["kind"] == kind and row["mass"] == pytest.approx(masses, **EXACTLY)
        spread = torch.linalg.eigvalsh(mean_and_covariance(law)[1]).tolist()
        assert row["eigenvalues"] == pytest.approx(spread, **EXACTLY)


@pytest.mark.parametrize("learned", [False, True])
def test_no_figure_depends_on_which_other_strengths_were_asked_for(learned):
    judged = network() if learned else None
    alone = reported(judged, plan_of("rate", Sampler("euler", 3), 1, (2.0,)))
    among = reported(judged, plan_of("rate", Sampler("euler", 3), 1, (-0.5, 0.0, 2.0)))
    for key in ("distances", "samplers", "ledger"):
        assert alone[key] == [row for row in among[key] if row["w"] == 2]
    reordered = reported(judged, plan_of("rate", Sampler("euler", 3), 1, (2.0, 0.0)))
    assert alone["ledger"] == [row for row in reordered["ledger"] if row["w"] == 2]


def test_another_seed_draws_other_samples():
    plan = plan_of("rate", Sampler(), 0)
    other = Plan(plan.guidances, plan.sampler, plan.num_samples, 4, plan.classes)
    one, two = (reported(None, p)["distances"][0]["tv_exact_samples"] for p in (plan, other))
    assert one != two


@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_a_network_too_large_for_its_law_is_judged_by_its_own_samples(kind, monkeypatch):
    monkeypatch.setattr(distances, "LEARNED_LAW_ENTRIES", 0)
    plan = plan_of(kind, Sampler("tau_leaping", 4, "cosine"), 2)
    found = reported(network(), plan)
    assert found["judged"] == "learned" and found["ledger"] == []
    assert not any("learned" in name for name in found["laws"])
    assert {row["denoiser"] for row in found["samplers"]} == {"exact"}
    for row in found["distances"]:
        guidance = Guidance(row["w"], kind)
        assert not any("learned" in key for key in row) and set(row["moments"]) == {
            "class", "tilted", "exact", "samples"
        }  # fmt: skip
        generator = plan.generator("table samples", guidance, 2)
        x = sample(network(), guidance, 2, NUM_SAMPLES, "tau_leaping", 4, "cosine", generator=generator)
        exact = terminal_law(target().denoiser(), guidance, 2)
        assert row["tv_exact_samples"] == pytest.approx(tv(exact, histogram(x, N)), **EXACTLY)
        # far above what samples of the exact chain could show
        assert row["tv_exact_samples"] > 2 * expected_sampling_tv(exact, NUM_SAMPLES)
    assert any("too large for its own exact law" in line for line in found["verdict"])


def test_without_a_law_of_its_steps_there_is_no_ledger_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr(ledgers, "MAX_ENTRIES", 1)
    monkeypatch.setattr(equal_cost, "MAX_KERNEL_ENTRIES", 1)
    found = reported(None, plan_of("rate", Sampler("euler", 3), 0))
    assert found["ledger"] == [] and found["samplers"] == []
    assert any(line.startswith("There is no ledger") for line in found["verdict"])
    assert len(reported(None, plan_of("rate", Sampler(), 0))["ledger"]) == len(STRENGTHS)


def test_under_a_policy_every_law_is_of_its_order():
    sampler = Sampler("event_leaping", 3, policy=Confidence())
    found = reported(network(), plan_of("rate", sampler, 2))
    for row in found["distances"]:
        guidance = Guidance(row["w"])
        ends = [terminal_law(d, guidance, 2, Confidence()) for d in (target().denoiser(), network())]
        assert row["tv_exact_learned"] == pytest.approx(tv(*ends), **EXACTLY)
    assert {entry["policy"] for entry in found["ledger"]} == {"confidence"}  # the samplers beside it, too
    own = [entry for entry in found["ledger"] if sampler.describe().items() <= entry.items()]
    assert [entry["w"] for entry in own] == list(STRENGTHS)
    for entry, row in zip(own, found["distances"]):
        assert entry["tv"]["discretisation error"] < 1e-12  # one coordinate a step
        assert entry["tv"]["total"] == pytest.approx(row["tv_exact_samples"], **EXACTLY)
