"""The benchmark: cells against brute force, rankings against entries whose place is known, its targets pinned."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import oracle
import policy_oracle
import pytest
import torch
from commands import refusal, run
from helpers import Inconsistent, block_of, data_of, random_target, without_pixels
from torch import Tensor

from bench.provenance import tiny_mnist_counts
from mdlm_cfg import (
    Compose,
    Confidence,
    Correction,
    FixedOrder,
    Guidance,
    Sampler,
    UserError,
    benchmark,
    tilted_law,
    tilted_weights,
)
from mdlm_cfg.app.study_choice import build_study
from mdlm_cfg.chain.kinds import Rate
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.laws.weights import TiltedWeights
from mdlm_cfg.reports.page import write_page
from mdlm_cfg.studies.benchmark import TARGETS, Benchmark, Entry, Target
from mdlm_cfg.studies.benchmark.entries import built_in, entry_of
from mdlm_cfg.studies.benchmark.judge import Bench
from mdlm_cfg.studies.benchmark.ranking import BenchmarkFindings
from mdlm_cfg.studies.benchmark.study import CALLS, STRENGTHS
from mdlm_cfg.studies.benchmark.targets import VERSION, of_table, rotation, tiny_mnist
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, check
from mdlm_cfg.support.numbers import short

FINGERPRINTS = {
    "toy_1d_disjoint": "a14924100257f751",
    "toy_1d_overlap": "d6faeb5e8c07559f",
    "toy_2d_projection": "aa5dc22299573657",
    "toy_2d_overlap": "b3fd3d31ccb1de34",
    "toy_5d_hypercube": "e03497a44bdab3de",
    "tiny_mnist_3x3": "f19729bbbf9e1677",
    "hmm_rotation": "6e6cf8e2013df3e3",
    "hmm_motif": "79fb385533bac210",
    "learned_rotation": "6a08cbeedc47874c",
}


def small() -> Target:
    return of_table("small", random_target(2, 3, seed=3), 1)


def incoherent() -> Target:
    denoiser = Inconsistent(2, 3, 2, seed=5)
    return Target("incoherent", denoiser, 1, torch.full((2, 2, 2), 1 / 8, dtype=torch.float64))


def tv(p: Tensor, q: Tensor) -> float:
    return sum(abs(a - b) for a, b in zip(p.flatten().tolist(), q.flatten().tolist())) / 2


def kl(p: Tensor, q: Tensor) -> float:
    return float(torch.special.xlogy(p, p / q).sum())


@pytest.fixture(scope="module")
def found() -> BenchmarkFindings:
    return benchmark(targets=[small(), incoherent()], strengths=[0.0, 2.0], calls=[1, 2, 4])


def results(found: BenchmarkFindings) -> list[dict[str, Any]]:
    return [vars(row) for row in block_of(found, "results")]


def cell(found: BenchmarkFindings, **which: Any) -> dict[str, Any]:
    rows = [row for row in results(found) if all(row[key] == value for key, value in which.items())]
    assert len(rows) == 1, which
    return rows[0]


@pytest.mark.parametrize("kind", ["rate", "normalized"])
@pytest.mark.parametrize("sampler", ["tau_leaping", "euler", "d_cfg", "event_leaping"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_cells_are_those_of_the_oracle(found: BenchmarkFindings, kind: str, sampler: str, schedule: str) -> None:
    for target in (small(), incoherent()):
        chain = oracle.Chain(target.denoiser, 2.0, kind, 1)
        law = chain.stepped(sampler, oracle.fractions(schedule, 2))[:2, :2, :2]
        row = cell(found, entry=f"{sampler}, {kind}, {schedule}", target=target.name, w=2.0, calls=2)
        end = chain.terminal_by_orders()
        assert row["used"] == 2
        for name, reference in (("class", target.class_law), ("chain", end), ("tilted", tilted_by_orders(target))):
            assert abs(row[f"tv_{name}"] - tv(law, reference)) < 1e-12
            assert abs(row[f"kl_{name}"] - kl(reference, law)) < 1e-11


def tilted_by_orders(target: Target) -> Tensor:
    """sum over orders of prod rho, normalised; of a table the tilted law itself."""
    weighted = policy_oracle.law_by_paths(target.denoiser, Guidance(2.0), target.target_class, "uniform")[1]
    return weighted / weighted.sum()


def test_the_tilted_law_of_a_table_is_its_own() -> None:
    mixture = random_target(2, 3, seed=3)
    law = oracle.tilted(mixture.pmf, mixture.class_pmf(1), 2.0)
    assert tv(small().tilted(2.0), law) < 1e-12 and tv(tilted_by_orders(small()), law) < 1e-12


@pytest.mark.parametrize("policy", ["confidence", "margin", "entropy", "uniform", "rate"])
@pytest.mark.parametrize(("calls", "at_a_time"), [(1, 3), (2, 2), (4, 1)])
def test_policies_unmask_as_many_as_the_calls_ask_for(
    found: BenchmarkFindings, policy: str, calls: int, at_a_time: int
) -> None:
    for target in (small(), incoherent()):
        law = policy_oracle.law_by_paths(target.denoiser, Guidance(2.0), 1, policy, at_a_time)[0]
        row = cell(found, entry=f"policy {policy}", target=target.name, w=2.0, calls=calls)
        assert row["used"] == -(-3 // at_a_time)
        end = oracle.Chain(target.denoiser, 2.0, "normalized" if policy == "uniform" else "rate", 1)
        assert abs(row["tv_chain"] - tv(law, end.terminal_by_orders())) < 1e-12
        assert abs(row["tv_tilted"] - tv(law, tilted_by_orders(target))) < 1e-12


def test_strengths_change_with_progress_and_are_held_against_the_constant_one(found: BenchmarkFindings) -> None:
    target = small()
    at = {"ramp": lambda p: 2 * p, "late": lambda p: 2.0 * (p >= 0.5)}
    for name, strength in at.items():
        for kind in ("rate", "normalized"):
            law = oracle.Chain(target.denoiser, strength, kind, 1).terminal_by_orders()
            row = cell(found, entry=f"event_leaping, {kind}, {name}", target="small", w=2.0, calls=4)
            end = oracle.Chain(target.denoiser, 2.0, kind, 1).terminal_by_orders()
            assert row["used"] == 3 and abs(row["tv_chain"] - tv(law, end)) < 1e-12 and row["tv_chain"] > 1e-3


def test_what_needs_more_calls_has_no_cell_and_no_rank(found: BenchmarkFindings) -> None:
    entries = {(row["entry"], row["calls"]) for row in results(found)}
    assert ("first_hitting, rate", 2) not in entries and ("first_hitting, rate", 4) in entries
    ranks = {place.entry: place.rank for place in found.ranking(2)}
    assert ranks["first_hitting, rate"] is None and ranks["tau_leaping, rate, linear"] is not None
    last = [name for name in ranks if ranks[name] is None]
    assert list(ranks)[-len(last) :] == last and last[:2] == ["first_hitting, rate", "first_hitting, normalized"]


@pytest.mark.parametrize("against", ["tilted", "chain", "class"])
def test_a_ranking_is_by_the_mean_and_ties_share_a_place(found: BenchmarkFindings, against: str) -> None:
    places = [place for place in found.ranking(2, against) if place.error is not None]
    for place in places:
        rows = [row for row in results(found) if row["entry"] == place.entry and row["calls"] == 2]
        assert len(rows) == 4 and abs(place.error - sum(row[f"tv_{against}"] for row in rows) / 4) < 1e-14
        assert place.rank == 1 + sum(other.error < place.error - 1e-9 for other in places)
        assert (place.best, place.worst) == (place.rank, place.rank)
    ranks = {place.entry: place.rank for place in places}
    # normalized rates are 1, where tau-leaping and D-CFG have the same J
    assert ranks["tau_leaping, normalized, linear"] == ranks["d_cfg, normalized, linear"]
    assert [place.rank for place in places] == sorted(place.rank for place in places)


def the_tilted_law_itself(denoiser: Any, guidance: Guidance, z: int, n: int, generator: torch.Generator) -> Tensor:
    weights: TiltedWeights = tilted_weights(denoiser, guidance, z, "uniform")
    cells = torch.multinomial(weights.law.flatten(), n, replacement=True, generator=generator)
    return torch.stack(torch.unravel_index(cells, weights.law.shape), dim=1)


def always_the_first_value(denoiser: Any, guidance: Guidance, z: int, n: int, generator: torch.Generator) -> Tensor:
    denoiser(torch.full((n, denoiser.num_dims), denoiser.num_tokens), None)
    return torch.zeros(n, denoiser.num_dims, dtype=torch.int64)


def test_a_cheat_ranks_first_and_what_is_broken_last() -> None:
    targets = [of_table(str(seed), random_target(2, 3, seed=seed), seed % 2) for seed in (1, 2)]
    found = benchmark(
        the_tilted_law_itself,
        always_the_first_value,
        targets=targets,
        strengths=[2.0, 4.0],
        calls=[4],
        num_samples=50_000,
    )
    ranking = found.ranking(4)
    assert ranking[0].entry == "the_tilted_law_itself" and ranking[0].rank == 1
    last = max(ranking, key=lambda place: place.rank or 0)
    assert last.entry == "always_the_first_value" and last.error > 0.5
    assert "the_tilted_law_itself" in found.verdict[0]
    # against the class it is the guided ones that are far
    assert found.ranking(4, "class")[0].entry != "the_tilted_law_itself"


def test_samples_are_as_far_as_the_law_they_are_drawn_from() -> None:
    steps = Sampler("tau_leaping", 4)

    def drawn(denoiser: Any, guidance: Guidance, z: int, n: int, generator: torch.Generator) -> Tensor:
        return steps.draw(denoiser, guidance, z, n, generator)

    targets = [small(), of_table("larger", random_target(3, 2, seed=4), 0)]
    found = benchmark(drawn, Entry("exact", steps), targets=targets, strengths=[0.0, 2.0], calls=[2, 4])
    assert {row["calls"] for row in results(found) if row["entry"] == "drawn"} == {4}  # its four calls were counted
    for target in ("small", "larger"):
        for w in (0.0, 2.0):
            ours = cell(found, entry="drawn", target=target, w=w, calls=4)
            exact = cell(found, entry="exact", target=target, w=w, calls=4)
            # a sample that is finished before its fourth step is not asked about again
            assert 3 <= ours["used"] <= exact["used"] == 4
            for name in ("class", "chain", "tilted"):
                assert ours[f"tv_{name}_low"] <= exact[f"tv_{name}"] <= ours[f"tv_{name}_high"]
                assert abs(ours[f"tv_{name}"] - exact[f"tv_{name}"]) < 2 * ours[f"noise_floor_{name}"]
                assert 0.001 < ours[f"noise_floor_{name}"] < 0.05 and ours[f"kl_{name}"] is None
    place = next(place for place in found.ranking(4) if place.entry == "drawn")
    own = next(place for place in found.ranking(4) if place.entry == "exact")
    assert place.best <= own.rank <= place.worst and place.best < place.worst


@pytest.mark.parametrize("num_dims", [1, 2, 5, 9])
def test_samplers_are_set_to_the_calls_they_may_make(num_dims: int) -> None:
    for entry in built_in():
        for calls in CALLS:
            sampler = entry.at(calls, num_dims)
            used = sampler.calls(num_dims)
            if entry.halves:
                assert used == calls
                continue
            if sampler.steps is None and sampler.events is None:
                assert used == num_dims  # of an adaptive one at most
            else:
                # all that it may, unless one for every coordinate is all there is
                assert used <= calls and (used == calls or used <= num_dims)


def test_adaptive_decoders_cost_what_they_are_expected_to_ask(found: BenchmarkFindings) -> None:
    for name, sampler in (("threshold 0.9", Sampler("threshold")), ("entropy_bound 0.1", Sampler("entropy_bound"))):
        for target in (small(), incoherent()):
            expected = sampler.expected_calls(target.denoiser, Guidance(2.0), target.target_class)
            rows = [r for r in results(found) if (r["entry"], r["target"], r["w"]) == (name, target.name, 2.0)]
            assert [row["calls"] for row in rows] == [calls for calls in (1, 2, 4) if expected <= calls]
            assert rows and all(abs(row["used"] - expected) < 1e-12 for row in rows)
            law = sampler.law(target.denoiser, Guidance(2.0), target.target_class)
            assert abs(rows[0]["tv_class"] - tv(law, target.class_law)) < 1e-12


def stepped(denoiser: Any, guidance: Any, z: int, n: int, generator: torch.Generator, calls: int) -> Tensor:
    return Sampler("tau_leaping", calls).draw(denoiser, guidance, z, n, generator)


def test_a_function_that_takes_calls_is_told_them_and_bound_arguments_are_in_the_name() -> None:
    given = {"targets": [small()], "strengths": [2.0], "calls": [1, 2, 4], "num_samples": 2_000}
    own = [stepped, partial(stepped, calls=1), partial(stepped, calls=2)]
    found = benchmark(*own, **given)
    assert [entry["name"] for entry in found.facts["entries"][:3]] == [
        "stepped",
        "stepped(calls=1)",
        "stepped(calls=2)",
    ]
    assert [row["used"] for row in results(found) if row["entry"] == "stepped"] == [1, 2, 4]
    assert [row["used"] for row in results(found) if row["entry"] == "stepped(calls=2)"] == [2, 2]
    for calls in (1, 2, 4):
        ours = cell(found, entry="stepped", calls=calls)
        exact = cell(found, entry="tau_leaping, rate, linear", calls=calls)
        assert ours["tv_tilted_low"] <= exact["tv_tilted"] <= ours["tv_tilted_high"]


def test_half_of_the_calls_may_correct_what_the_other_half_drew() -> None:
    plan = Plan((Guidance(2.0),), Sampler())
    halved = {entry.name: entry for entry in built_in() if entry.halves}
    for target in (small(), incoherent()):
        bench = Bench(target, Guidance(2.0), plan)
        cells = {one["calls"]: one for one in bench.judge(halved["event_leaping, corrected"], [1, 3, 64])}
        for calls, steps in ((1, 1), (3, 2), (64, 3)):
            correction = Correction(moves=calls - steps) if calls > steps else None
            law = Sampler("event_leaping", steps, correction=correction).law(target.denoiser, Guidance(2.0), 1)
            row = cells[calls]
            assert row["used"] == calls and abs(row["tv_tilted"] - tv(law, tilted_by_orders(target))) < 1e-12
    bench = Bench(small(), Guidance(2.0), plan)
    for name in ("event_leaping", "sampled_confidence"):  # the conditionals of a table: moves end in its tilted law
        assert [one["tv_tilted"] < 1e-6 for one in bench.judge(halved[f"{name}, corrected"], [2000])] == [True]


FOUR = Sampler("tau_leaping", 4)
ORDER = FixedOrder([2, 0, 1])
BOTH = Compose({0: 0.5, 1: 1.0})
ONE_MOVE = Correction(moves=1)
MOVED = Sampler("tau_leaping", 3, correction=ONE_MOVE)  # four calls in all


def half_rate(w: float) -> Guidance:
    return Guidance(w / 2)


def jump(log_z: Tensor, u: Tensor) -> Tensor:
    return u.expand_as(log_z)


OWN_ENTRIES = [  # with the names that they get, and the laws that they have
    (Sampler("flat", 7, jump=jump), "flat", lambda t: FOUR.law(t, Guidance(2.0, "normalized"), 1)),
    (jump, "jump", lambda t: FOUR.law(t, Guidance(2.0, "normalized"), 1)),
    (Confidence(), "confidence", lambda t: terminal_law(t, Guidance(2.0), 1, "confidence")),
    (ORDER, "fixed_order(2,0,1)", lambda t: terminal_law(t, Guidance(2.0), 1, ORDER)),
    (Rate(), "rate", lambda t: terminal_law(t, Guidance(2.0), 1)),
    (half_rate, "half_rate", lambda t: terminal_law(t, Guidance(1.0), 1)),
    (Entry("mine", Sampler(), half_rate), "mine", lambda t: terminal_law(t, Guidance(1.0), 1)),
    (Entry("mine", Confidence()), "mine", lambda t: terminal_law(t, Guidance(2.0), 1, "confidence")),
    (Entry("mine", Rate()), "mine", lambda t: terminal_law(t, Guidance(2.0), 1)),
    (BOTH, "compose(0:0.5,1:1)", lambda t: terminal_law(t, Guidance(2.0, rule=BOTH), 1)),
    (replace(MOVED, steps=9), f"tau_leaping, {ONE_MOVE}", lambda t: MOVED.law(t, Guidance(2.0), 1)),
]


def test_ones_own_may_be_anything_that_samples() -> None:
    tilted = tilted_law(random_target(2, 3, seed=3), 2.0, 1)
    names = [name for _, name, _ in OWN_ENTRIES]
    of_a_name = [names[:k].count(name) for k, name in enumerate(names)]
    for turn in range(max(of_a_name) + 1):  # entries of one name are judged apart
        judged = [entry for entry, k in zip(OWN_ENTRIES, of_a_name) if k == turn]
        found = benchmark(*(own for own, _, _ in judged), targets=[small()], strengths=[2.0], calls=[4])
        for entry, (_, name, law) in zip(found.facts["entries"], judged):
            assert entry["own"] and entry["name"] == name
            row = cell(found, entry=name, calls=4)
            assert abs(row["tv_tilted"] - tv(law(small().denoiser), tilted)) < 1e-12, name


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (3, "^3 .*Entry"),
        (FixedOrder([0, 1]), r"\[0, 1\].* 0\.\.2 "),
        (Entry("policy rate", Sampler()), "entries have the name 'policy rate'"),
        (Confidence, "Confidence.*Entry"),
        (lambda steps=3: FOUR, "^<lambda> .* steps: "),
        (lambda a, b: FOUR, "^<lambda> .* a, b: "),
        (lambda: FOUR, "^<lambda> .*Entry"),
        (lambda d, g, z, n, generator, *, more: None, "^<lambda> .* d, g, z, n, generator, more: "),
        (lambda w: w, r"<lambda>\(2\) .* float, .*Guidance"),
        (lambda d, g, z, n, generator: torch.zeros(n, 2), r"float32 .*\(10000, 2\).* int64 .*\(10000, 3\)"),
        (lambda d, g, z, n, generator: torch.full((n, 3), 2), " 2, .* 0 to 1: 2 "),
        (lambda d, g, z, n, generator: None, r"None.* int64 .*\(10000, 3\)"),
    ],
)
def test_what_cannot_be_judged_is_refused(own: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        benchmark(own, targets=[small()], strengths=[2.0], calls=[2])


def test_calls_targets_and_references_that_there_are_not_are_refused(found: BenchmarkFindings) -> None:
    for arguments, message in (
        ({"calls": []}, r"calls = \[\]"),
        ({"calls": [0, 1]}, r"calls = \[0, 1\]"),
        ({"calls": [2, 2]}, r"calls = \[2, 2\]"),
        ({"targets": ["toy_3d"]}, "'toy_3d': .* toy_1d_disjoint, "),
        ({"targets": []}, " targets "),
        ({"strengths": []}, r"w=\[0,1,2\]"),
    ):
        with pytest.raises(UserError, match=message):
            benchmark(**arguments)
    for calls, against in ((3, "tilted"), (2, "truth")):
        with pytest.raises(UserError, match=f"'{against}' .* {calls} .* class, chain, tilted, .* 1, 2, 4$"):
            found.ranking(calls, against)


def test_the_json_is_stable_versioned_and_names_everything(found: BenchmarkFindings) -> None:
    again = benchmark(targets=[incoherent()], strengths=[2.0], calls=[4, 1])
    assert again.to_dict() == benchmark(targets=[incoherent()], strengths=[2.0], calls=[1, 4]).to_dict()
    rows = results(found)
    assert len(results(again)) > 50 and all(row in rows for row in results(again))  # whatever else was asked for
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["version"] == 3 and plain["benchmark_version"] == VERSION == 3 and plain["complete"] is False
    assert plain["plan"] == {"w": [0.0, 2.0], "calls": [1, 2, 4], "num_samples": 10_000, "seed": 0}
    assert {row["entry"] for row in plain["results"]} == {entry["name"] for entry in plain["entries"]}
    assert len(plain["rankings"]) == 3 * 3 * len(plain["entries"])
    assert plain["targets"][0]["fingerprint"] == small().fingerprint()
    places = {place.entry: place.error for place in found.ranking(4)}
    assert found.numbers()["tilted_4/first_hitting_rate"] == places["first_hitting, rate"]


def test_the_page_shows_the_ranking_first_and_unfolded(found: BenchmarkFindings, tmp_path: Path) -> None:
    sections = without_pixels(found, tmp_path)
    for section, against in zip(sections, ("tilted", "chain")):
        places = {place.entry: place for place in found.ranking(4, against)}
        assert section.group == "" and [row[0] for row in section.table.rows] == list(places)
        for name, rank, error in section.table.rows:
            place = places[name]
            assert (rank, error) == (("-", "-") if place.rank is None else (str(place.rank), short(place.error)))
    assert all(section.group for section in sections[2:])
    many = len(found.facts["entries"])
    page = write_page(tmp_path / "p.html", "T", sections[:2], {}).read_text()
    assert "<details>" not in page and page.count("<tr><td>") == 2 * many
    texts = [section.text for section in sections if section.text]
    assert len(texts) == len(set(texts)) and "learned_rotation" not in " ".join(texts)
    table = found.table().splitlines()
    assert len(table) == 2 + len(found.facts["entries"]) and all(line.count("|") == 4 for line in table)


def test_the_targets_are_those_of_this_version() -> None:
    # another number here is another benchmark: raise VERSION
    made = {name: make() for name, make in TARGETS.items()}
    assert {name: target.fingerprint() for name, target in made.items()} == FINGERPRINTS
    assert all(target.name == name for name, target in made.items())
    assert VERSION == 3 and STRENGTHS == (0, 1, 2, 4) and CALLS == (1, 2, 4, 8, 16, 32, 64)
    assert max((2 * t.denoiser.num_tokens + 1) ** t.num_dims for t in made.values()) < 2e6


def test_a_fingerprint_sees_the_conditionals_the_class_and_its_law() -> None:
    prints = {
        small().fingerprint(),
        incoherent().fingerprint(),
        of_table("small", random_target(2, 3, seed=3), 0).fingerprint(),
        of_table("small", random_target(2, 3, seed=4), 1).fingerprint(),
        Target("x", Inconsistent(2, 3, 2, seed=6), 1, incoherent().class_law).fingerprint(),
        Target("x", Inconsistent(2, 3, 2, seed=5), 1, small().class_law).fingerprint(),
    }
    assert len(prints) == 6
    assert Target("another name", small().denoiser, 1, small().class_law).fingerprint() == small().fingerprint()


def test_the_digits_are_mnists() -> None:
    root = Path(__file__).parent.parent.parent / "data"
    if not (root / "MNIST").exists():
        pytest.skip("MNIST is not here")
    counts = tiny_mnist_counts(str(root)).double()
    assert torch.equal(tiny_mnist().class_pmfs.flatten(1), (counts / counts.sum(dim=1, keepdim=True)))
    assert (tiny_mnist().class_weights - counts.sum(dim=1) / 60_000).abs().max() < 1e-15


def test_the_learned_conditionals_are_near_those_of_the_data_and_of_no_joint() -> None:
    target = TARGETS["learned_rotation"]()
    data = rotation(4).table()
    unguided = Guidance(0.0)
    laws = [terminal_law(target.denoiser, unguided, 1, FixedOrder(order)) for order in ([0, 1, 2, 3], [3, 2, 1, 0])]
    assert tv(*laws) > 0.005
    exact = [terminal_law(data.denoiser(), unguided, 1, FixedOrder(order)) for order in ([0, 1, 2, 3], [3, 2, 1, 0])]
    assert tv(*exact) < 1e-12 and tv(exact[0], target.class_law) < 1e-12
    assert 0.005 < tv(terminal_law(target.denoiser, unguided, 1), target.class_law) < 0.1
    assert tv(target.tilted(0.0), terminal_law(target.denoiser, unguided, 1)) < 1e-12


OWN = """
import torch
from mdlm_cfg import Sampler
def jump(log_z, u):
    return u.expand_as(log_z)
mine = Sampler("mine", 1, jump=jump)
def drawn(denoiser, guidance, target_class, num_samples, generator):
    return mine.draw(denoiser, guidance, target_class, num_samples, generator)
"""
RESTRICTED = ("experiment=benchmark", "study.targets=[toy_1d_overlap]", "study.calls=[1,2]", "w=[0,2]")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bench_own_sampler.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_entries_that_differ_in_an_option_have_names_of_their_own() -> None:
    samplers = [
        *(Sampler("threshold", threshold=number) for number in (0.3, 0.5)),
        *(Sampler("tau_leaping", 1, schedule) for schedule in ("linear", "cosine")),
        *(Sampler("remdm", 1, remasking=rule) for rule in ("cap(0)", "cap(0.2)")),
        *(Sampler("sampled_confidence", 1, choice_temperature=2.0, annealed=falls) for falls in (True, False)),
    ]
    assert len({entry_of(sampler).name for sampler in samplers}) == len(samplers)


def test_the_command_judges_ones_own_by_their_names(own: Path) -> None:
    names = ["mine", "drawn"]
    asked = "study.own=[bench_own_sampler.mine,bench_own_sampler.drawn]"
    assert run("eval", *RESTRICTED, asked, "num_samples=500", f"out={own / 'both'}") == 0
    plain = json.loads((own / "both" / "report.json").read_text())
    assert plain["entries"][:2] == [{"name": name, "own": True, "exact_law": name == "mine"} for name in names]
    assert plain["plan"] == {"w": [0.0, 2.0], "calls": [1, 2], "num_samples": 500, "seed": 0}
    assert all(any(name in sentence for sentence in plain["verdict"]) for name in names)


MAKERS = """
from dataclasses import dataclass
from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.chain.kinds import Rate
@dataclass(frozen=True)
class Weaker:
    share: float
    def __call__(self, w):
        return Guidance(self.share * w)
class Mine(Rate):
    name = "another"
"""


def test_the_command_makes_samplers_corrections_guidance_and_kinds_by_target(own: Path) -> None:
    (own / "bench_makers.py").write_text(MAKERS)
    sampler = "{_target_:mdlm_cfg.Sampler,name:event_leaping,steps:1,correction:'correction(size=1, moves=1)'}"
    makers = [
        "bench_own_sampler.mine",
        sampler,
        "{_target_:bench_makers.Weaker,share:0.5}",
        "{_target_:bench_makers.Mine}",
        "{_target_:mdlm_cfg.Compose,weights:[[0,1.0]]}",
        f"{{_target_:mdlm_cfg.studies.benchmark.Entry,name:named,sampler:{sampler}}}",
    ]
    targets = ["experiment=benchmark", "study.targets=[toy_2d_overlap]", "study.calls=[2]", "w=[2]"]
    assert run("eval", *targets, f"study.own=[{','.join(makers)}]", f"out={own / 'makers'}") == 0
    plain = json.loads((own / "makers" / "report.json").read_text())
    names = [entry["name"] for entry in plain["entries"] if entry["own"]]
    assert names[0] == "mine" and names[1].startswith("event_leaping, correction")
    assert names[2:] == ["Weaker", "another", "compose(0:1)", "named"]
    found = {row["entry"]: row["tv_tilted"] for row in plain["results"]}
    denoiser = TARGETS["toy_2d_overlap"]().denoiser
    one = Sampler("event_leaping", 1, correction=Correction(moves=1))
    for name, law in (
        (names[1], one.law(denoiser, Guidance(2.0), 0)),
        (names[2], terminal_law(denoiser, Guidance(1.0), 0)),
        (names[4], terminal_law(denoiser, Guidance(2.0), 0)),
        (names[5], one.law(denoiser, Guidance(2.0), 0)),
    ):
        assert abs(found[name] - tv(law, TARGETS["toy_2d_overlap"]().tilted(2.0))) < 1e-12
    one_target = "study.own={_target_:bench_makers.Weaker,share:0.5}"
    assert run("eval", *targets, one_target, f"out={own / 'one'}") == 0


def test_the_command_refuses_what_the_benchmark_would_not_heed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        ("sampler=euler", "leave sampler"),
        ("study.own=bench_own_sampler.nothing", "bench_own_sampler.nothing"),
        ("study.own=no_such_module_anywhere.f", "PYTHONPATH"),
        ("study.own={_target_:no_such_module_anywhere.f}", "PYTHONPATH"),
        ("study.own=[{_target_:mdlm_cfg.Sampler,name:nothing}]", "nothing"),
    ):
        assert message in refusal(capsys, "eval", *RESTRICTED, more)


@pytest.mark.parametrize(
    ("study", "guidance", "more"),
    [
        (Benchmark(), Guidance(1.0, "normalized"), {}),
        (Benchmark(), Guidance(1.0, top_p=0.9), {}),
        (Benchmark(), Guidance([1.0, 2.0]), {}),
        (Benchmark(), Guidance(1.0), {"classes": (1,)}),
        (Benchmark(targets=["toy_9d"]), Guidance(1.0), {}),
        (Benchmark(targets=[]), Guidance(1.0), {}),
        (Benchmark(own=3), Guidance(1.0), {}),
    ],
)
def test_the_study_refuses_the_same_before_any_work(study: Benchmark, guidance: Guidance, more: dict[str, Any]) -> None:
    data = data_of(random_target(2, 2, seed=1))
    with pytest.raises(UserError):
        check(study, Case.of(data, None, Plan((guidance,), Sampler(), **more)))
    check(Benchmark(), Case.of(data, None, Plan((Guidance(1.0),), Sampler())))
    with pytest.raises(UserError):  # a network would not be heeded
        check(Benchmark(), Case.of(data, Inconsistent(2, 2, 2), Plan((Guidance(1.0),), Sampler())))


def test_a_checkpoint_cannot_name_what_is_imported(own: Path) -> None:
    with_two = {"_target_": "mdlm_cfg.studies.benchmark.Benchmark", "own": ["bench_own_sampler.mine"]}
    with pytest.raises(UserError):
        build_study(with_two, {"own": ["bench_own_sampler.drawn"]})
    made = {"_target_": "mdlm_cfg.studies.benchmark.Benchmark", "own": {"_target_": "bench_own_sampler.drawn"}}
    with pytest.raises(UserError):
        build_study(made, {"own": None})
    saved = {"_target_": "mdlm_cfg.studies.benchmark.Benchmark", "own": "bench_own_sampler.mine"}
    for given in (None, {}, saved | {"own": None}):
        with pytest.raises(UserError, match="bench_own_sampler"):
            build_study(saved, given)
    assert build_study(saved, saved).own.name == "mine"
