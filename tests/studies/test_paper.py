"""The paper's experiments: every verdict is computed from laws, and a wrong law turns it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from helpers import decimals, evaluate_table, perturbed, random_target
from torch import Tensor

from mdlm_cfg import Guidance, Interval, LinearRamp, Sampler, TableMixture, UserError, terminal_law, tilted_law
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.compare.decay import log_still_masked, tv_decay
from mdlm_cfg.compare.geometry import regions
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.reports.paper_report import to_markdown
from mdlm_cfg.studies.evaluation import StrengthEvaluation
from mdlm_cfg.studies.paper import claims, normalized, schedules
from mdlm_cfg.studies.paper.claims import DECAY_STRENGTHS, DECAY_TAU, PaperResult, gain_in_time
from mdlm_cfg.studies.paper.experiments import EXPERIMENTS, check
from mdlm_cfg.studies.paper.study import Paper
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, run
from mdlm_cfg.targets import toys
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.data import KnownData

TOYS: dict[str, Callable[[], TableMixture]] = {
    "1d_disjoint": toys.toy_1d_disjoint,
    "1d_overlap": toys.toy_1d_overlap,
    "1d_tv_vs_w": toys.toy_1d_overlap,
    "2d_projection": toys.toy_2d_projection,
    "2d_overlap": toys.toy_2d_overlap,
    "2d_tv_vs_w": toys.toy_2d_overlap,
}
YES, NO = claims.verdict(True), claims.verdict(False)
# what each verdict is on the data that the experiment comes with; why, beside those that are no plain YES
VERDICTS: dict[str, list[str]] = {
    "1d_disjoint": [YES, YES],
    "1d_overlap": [YES, YES, YES],
    # Z = 1, 1.75, 3.25 for w = 0, 1, 2, and the time to any TV goes with 1 / Z: 43% shorter, then 69%
    "1d_tv_vs_w": [rf"{YES} \(.*\d.*", YES, f"{YES} .* w = 2"],
    "2d_projection": [YES, YES, YES, YES],
    "2d_overlap": [YES, YES, YES],
    # theory, section 5: with two overlapping squares -ln TV(tau = 1/2) stops at 1/2, that of w = infinity
    "2d_tv_vs_w": [f"{YES} .+", f"{NO} .* 19%"],
}


def plan_of(
    *strengths: float, kind: str = "rate", n: int = 20, classes: tuple[int, ...] | None = None, steps: int = 2
) -> Plan:
    """Of few samples and steps: the experiments are about exact laws."""
    guidances = tuple(Guidance(w, kind) for w in strengths)
    return Plan(guidances, Sampler("tau_leaping", steps), n, classes=classes)


Plant = Callable[[StrengthEvaluation], Tensor]
PLAN = plan_of(0.0, 1.0, 2.0)


def judge(
    name: str,
    target: TableMixture,
    learned: Denoiser | None = None,
    plant: Plant | None = None,
    plan: Plan = PLAN,
) -> PaperResult:
    """An experiment's result; `plant` gives another law in the exact one's place."""
    check(name, target, plan)
    evaluation = evaluate_table(target, learned, plan)
    if plant is not None:
        planted = [dataclasses.replace(r, laws={**r.laws, "exact": plant(r)}) for r in evaluation.results]
        evaluation = dataclasses.replace(evaluation, results=planted)
    return EXPERIMENTS[name](evaluation)


@cache
def shipped(name: str) -> PaperResult:
    """The result on the data that the experiment comes with, nothing learned."""
    return judge(name, TOYS[name]())


def unguided(target: TableMixture) -> TableMixture:
    """Every class is class 0: nothing to guide by, and Z = 1 whatever w is."""
    return TableMixture(target.class_pmfs[:1].expand_as(target.class_pmfs), target.class_weights)


def chain_of(wrong: TableMixture) -> Callable[..., Any]:
    """`tv_decay` of another table's chain."""

    def decay(target: TableMixture, *args: Any, **settings: Any) -> Any:
        return tv_decay(target, *args, **settings, denoiser=wrong.denoiser())

    return decay


@pytest.mark.parametrize(
    ("name", "claim", "verdict"), [(name, k, v) for name, found in VERDICTS.items() for k, v in enumerate(found)]
)
def test_the_verdict_on_the_data_that_it_comes_with(name: str, claim: int, verdict: str) -> None:
    claims = shipped(name).claims
    assert len(claims) == len(VERDICTS[name])
    assert re.fullmatch(verdict, claims[claim].verdict)


def mirrored(r: StrengthEvaluation) -> Tensor:
    """The law turned about: what is private trades places with what is shared, on the toys."""
    return r.laws["exact"].flip(tuple(range(r.laws["exact"].ndim)))


def mixed(r: StrengthEvaluation) -> Tensor:
    """A little of another law: uniform on the class's support."""
    support = (r.laws["class"] > 0).double()
    return 0.99 * r.laws["exact"] + 0.01 * support / support.sum()


def growing(r: StrengthEvaluation) -> Tensor:
    """The class, the more of its least private state the larger w is."""
    last = torch.zeros_like(r.laws["class"]).flatten()
    last[(r.laws["class"].flatten() > 0).nonzero()[-1]] = 1.0
    share = r.w / (1 + r.w)
    return (1 - share) * r.laws["class"] + share * last.reshape(r.laws["class"].shape)


@pytest.mark.parametrize(
    ("name", "claim", "plant"),
    [
        ("1d_disjoint", 0, mixed),
        ("1d_overlap", 0, mixed),
        ("1d_overlap", 1, growing),
        ("1d_overlap", 2, mixed),
        ("2d_projection", 0, lambda r: 2 * r.laws["class"] - r.laws["exact"]),  # whoever gains loses
        ("2d_projection", 1, lambda r: r.laws["tilted"]),
        ("2d_projection", 2, lambda r: r.laws["class"]),
        ("2d_projection", 3, lambda r: r.laws["class"]),
        ("2d_overlap", 0, growing),
        ("2d_overlap", 1, lambda r: r.laws["tilted"]),
        ("2d_overlap", 2, lambda r: r.laws["class"]),
    ],
)
def test_a_wrong_law_turns_the_verdict(name: str, claim: int, plant: Plant) -> None:
    target = TOYS[name]()
    assert shipped(name).claims[claim].verdict == YES
    assert judge(name, target, plant=plant).claims[claim].verdict == NO


def test_a_wrong_chain_turns_the_verdict_on_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    overlap = toys.toy_1d_overlap()
    disjoint = toys.toy_1d_disjoint()
    monkeypatch.setattr(claims, "tv_decay", chain_of(perturbed(overlap, 0.1)))
    assert judge("1d_tv_vs_w", overlap).claims[0].verdict.startswith(f"{NO} (")
    monkeypatch.setattr(claims, "tv_decay", chain_of(unguided(overlap)))
    found = [claim.verdict for claim in judge("1d_tv_vs_w", overlap).claims]
    assert found[0].startswith(f"{NO} (") and found[1] == NO
    assert re.fullmatch(f"{NO} .* 0%", found[2])
    other_weights = TableMixture(disjoint.class_pmfs, torch.tensor([0.4, 0.6]))
    monkeypatch.setattr(claims, "tv_decay", chain_of(other_weights))
    assert judge("1d_disjoint", disjoint).claims[1].verdict == NO


def test_speed_in_two_dimensions_is_judged_either_way() -> None:
    # full support: no partial state tells the class for certain, and nothing stops the growth
    found = [claim.verdict for claim in judge("2d_tv_vs_w", random_target(4, 2, seed=3)).claims]
    assert found[0] == YES and re.fullmatch(rf"{YES} .* w = \d", found[1])


@pytest.mark.parametrize("most", [0.1, 0.1852, 0.494, 0.4996, 0.49999])
def test_a_gain_that_is_never_half_is_not_said_to_be_half(most: float) -> None:
    found = gain_in_time([1.0, *[1 - most] * (len(DECAY_STRENGTHS) - 1)])
    assert found.verdict.endswith(f" {most:.0%}") and ("below" in found.verdict) == (f"{most:.0%}" == "50%")


def test_gain_in_time_is_that_of_the_closed_form() -> None:
    # D = 1: TV = exp(-tau Z), so the time to TV 0.05 is ln 20 / Z
    target = toys.toy_1d_overlap()
    p = target.pmf
    pz = target.class_pmf(0)
    z = [float((pz[pz > 0] * (pz / p)[pz > 0] ** w).sum()) for w in DECAY_STRENGTHS]
    text = ", ".join(f"{1 - 1 / v:.0%} (w = {w:g})" for v, w in zip(z[1:], DECAY_STRENGTHS[1:]))
    assert judge("1d_tv_vs_w", target).claims[2].exact.endswith(f" 0.05 shorter by {text}")


@pytest.mark.parametrize("name", TOYS)
def test_what_was_not_learned_is_absent(name: str) -> None:
    target = TOYS[name]()
    alone = shipped(name)
    assert {claim.learned for claim in alone.claims} == {"-"}
    for _, columns, rows in alone.tables:
        assert columns[:3] == ["region", "w", "exact"] and {len(row) for row in rows} == {len(columns)} == {4}
    learned = judge(name, target, perturbed(target, 0.1).denoiser())
    assert any(claim.learned != "-" for claim in learned.claims)
    assert [claim.verdict for claim in learned.claims] == [claim.verdict for claim in alone.claims]
    for _, columns, _rows in learned.tables:
        assert columns[:4] == ["region", "w", "exact", "learned"] and len(columns) == 5
    command = f"train.py experiment=paper/{name}"
    claimed = [vars(claim) for claim in learned.claims]
    text = to_markdown({"run": {"command": command}, "claims": claimed, "paper": {"name": name, "tables": []}})
    assert f"    python {command}\n" in text
    assert all(claim.verdict.replace("|", "\\|") in text for claim in learned.claims)


def test_learned_values_are_the_networks_own() -> None:
    target = toys.toy_2d_overlap()
    other = perturbed(target, 0.5)
    result = judge("2d_overlap", target, other.denoiser())
    part = {part.name: part.mask for part in regions(target, 0)}["R4"]
    for w in (0.0, 1.0, 2.0):
        row = next(row for row in result.tables[0][2] if row[:2] == ["R4", f"{w:g}"])
        laws = [terminal_law(d.denoiser(), Guidance(w), 0) for d in (target, other)]
        assert row[2:4] == [f"{1000 * float(law[part].mean()):.3f}" for law in laws]
        assert row[2] != row[3]
    decay = judge("2d_tv_vs_w", target, other.denoiser()).claims[0].learned
    own = -float(log_still_masked(other.denoiser(), Guidance(DECAY_STRENGTHS[2]), 0, [DECAY_TAU])[0])
    assert f"{own:.4g}" in decay


CUBE_PLAN = plan_of(2.0, n=100, classes=(1,), steps=50)


def turned_over(r: StrengthEvaluation) -> Tensor:
    """The law that favours the overlap of the hypercubes."""
    return mirrored(r).roll((2,) * 5, tuple(range(5)))


@pytest.mark.slow
def test_five_dimensions_beside_the_papers_table() -> None:
    target = toys.toy_5d_hypercube()
    result = judge("5d_hypercube", target, plan=CUBE_PLAN)
    rows = {row[1]: row for row in result.tables[0][2]}
    assert rows["exact"][2:] == ["5.487", "4.755", "3.902", "2.886", "1.639", "0.017"]  # theory, section 4
    assert rows["the paper's measurement"][7] == "0.200"
    assert not any("learned" in name or "network" in name for name in rows)
    assert [claim.learned for claim in result.claims] == ["-", "-"]
    assert result.claims[0].verdict == YES
    # one state of probability 1.7e-5: of 10,000 samples two or more hit it with 1 - (1 + 0.17) exp(-0.17) = 0.013
    steps = float(rows["exact conditionals, 50 steps"][7])
    chance = 1 - (1 + 10 * steps) * math.exp(-10 * steps)
    assert f" {chance:.2f}" in result.claims[1].verdict
    # turned: a law that favours the overlap, and data on which guidance has nothing to do
    reverse = judge("5d_hypercube", target, plant=turned_over, plan=CUBE_PLAN)
    assert reverse.claims[0].verdict == NO
    mostly_one = TableMixture(target.class_pmfs, torch.tensor([0.001, 0.999]))
    turned = judge("5d_hypercube", mostly_one, plan=CUBE_PLAN)
    unlikely, likely = (one.claims[1].verdict.rpartition(":")[2] for one in (result, turned))
    assert unlikely != likely


@pytest.mark.slow
def test_five_dimensions_beside_a_network() -> None:
    target = toys.toy_5d_hypercube()
    other = perturbed(target, 0.2)
    result = judge("5d_hypercube", target, other.denoiser(), plan=CUBE_PLAN)
    rows = {row[1]: row[2:] for row in result.tables[0][2]}
    assert rows["learned"] != rows["exact"] and "10,000 samples of the network, 50 steps" in rows
    assert decimals(result.claims[1].learned)[:2] == [rows["learned"][5], rows["learned, 50 steps"][5]]


def test_what_an_experiment_is_not_about_is_refused() -> None:
    ramp = Plan((Guidance(LinearRamp(0.0, 2.0)),), Sampler())
    overlap = toys.toy_1d_overlap()
    plan = plan_of(0.0, 1.0)
    bits = BernoulliMixture(torch.full((2, 1, 4), 0.5), torch.ones(2, 1), torch.tensor([0.5, 0.5]))
    cases: list[tuple[str, object, Plan, str]] = [
        ("3d", overlap, plan, "'3d' .* 1d_disjoint, 1d_overlap, "),
        ("1d_overlap", overlap, plan_of(0.0, 1.0, kind="normalized"), "guidance=normalized .* guidance=rate$"),
        ("1d_overlap", overlap, ramp, r"ramp\(0,2\)"),
        ("1d_overlap", bits, plan, "1d_overlap .* data=toy_2d_overlap$"),
        ("1d_overlap", toys.toy_2d_overlap(), plan, "1d_overlap .* D = 1, .* N = 16, D = 2; "),
        ("1d_tv_vs_w", toys.toy_2d_overlap(), plan, "1d_tv_vs_w .* D = 1, .* N = 16, D = 2; "),
        ("2d_tv_vs_w", overlap, plan, "2d_tv_vs_w .* D = 2, .* N = 32, D = 1; "),
        ("5d_hypercube", random_target(4, 5), plan, "5d_hypercube .* N = 5, D = 5, .* N = 4, D = 5; "),
        ("5d_hypercube", random_target(5, 5), plan, r"class 0 .*\(32, 80, 80, 40, 10, 1\); .* data=toy_5d_hypercube$"),
        ("1d_disjoint", overlap, plan, "class 0 .* 1d_disjoint .* 1d_overlap$"),
        ("1d_overlap", toys.toy_1d_disjoint(), plan, "class 0 .* 1d_overlap, .* private; "),
        ("1d_overlap", random_target(5, 1), plan, "class 0 .* 1d_overlap, .* shared; "),
        ("1d_overlap", overlap, plan_of(0.0, 1.0, classes=(2,)), "class 2 .* 2 .* 0 to 1"),
        ("1d_overlap", overlap, plan_of(1.0, 2.0), r"w = \[1, 2\] .* 0 .* 1d_overlap .* w=\[0,1,2\]"),
        ("2d_overlap", toys.toy_2d_overlap(), plan_of(0.0, 2.0, 1.0), r"w = \[0, 2, 1\] .* 0 .* w=\[0,1,2\]"),
        *((name, toys.toy_2d_overlap(), plan_of(0.0), f"w > 0, .* {name} ") for name in ("2d_tv_vs_w", *CLAIMED)),
        *((name, overlap, plan, f"{name} .* D >= 2, .* N = 32, D = 1; ") for name in CLAIMED),
    ]
    for name, target, asked, values in cases:
        with pytest.raises(UserError, match=values) as error:
            check(name, target, asked)
        assert "\n" not in str(error.value)
    for name, toy in TOYS.items():
        check(name, toy(), plan_of(0.0, 1.0, 2.0, 4.0))
    check("5d_hypercube", toys.toy_5d_hypercube(), plan_of(0.0, 1.0, 2.0, classes=(1,)))


# the claims of arXiv 2507.08965

SQUARES = toys.toy_2d_overlap()
EARLY = "2507_08965_early"
LATE = "2507_08965_late"
NORMALIZED = "2507_08965_normalized"
# on two overlapping squares; why, beside those that do not hold
CLAIMED = {
    # early guidance is better than none there; and as strong as it is, it moves the law farther than late guidance
    EARLY: [YES, NO, YES, NO, YES, YES],
    LATE: [YES, YES, YES, YES],
    # the squares are symmetric: which coordinate comes first does not matter
    NORMALIZED: [YES, YES, YES, YES, NO],
}


@pytest.mark.parametrize("name", CLAIMED)
def test_the_verdicts_on_early_late_and_normalized_guidance(name: str) -> None:
    for claim, verdict in zip(judge(name, SQUARES).claims, CLAIMED[name], strict=True):
        assert re.fullmatch(verdict, claim.verdict), claim.statement


def test_the_numbers_are_those_of_the_laws() -> None:
    tilted = tilted_law(SQUARES, 2.0, 0)
    denoiser = SQUARES.denoiser()

    def gap(w: Any, kind: str = "rate") -> str:
        return f"{total_variation(tilted, terminal_law(denoiser, Guidance(w, kind), 0)):.4f}"

    first = judge(EARLY, SQUARES).claims[0].exact.split("; ")
    assert decimals(first[1]) == [gap(Interval(2.0, 0, 0.5)), gap(Interval(2.0, 0.5, 1.0))]
    first = judge(LATE, SQUARES).claims[0].exact.split("; ")
    assert decimals(first[1]) == [gap(LinearRamp(0.0, 2.0)), gap(LinearRamp(2.0, 0.0))]
    assert judge(LATE, SQUARES).claims[3].exact.split("; ")[1] == "(0.585, 2.000) (w = 2)"  # theory, section 12
    claims = judge(NORMALIZED, SQUARES).claims
    assert decimals(claims[0].exact)[0] == "0.0952"  # 1 - exp(-0.1)
    assert claims[4].exact.split("; ")[1] == f"rate {gap(2.0)}, normalized {gap(2.0, 'normalized')} (w = 2)"
    steps = Sampler("tau_leaping", 8).law(denoiser, Guidance(2.0, "normalized"), 0)
    between = total_variation(steps, terminal_law(denoiser, Guidance(2.0, "normalized"), 0))
    assert f" {between:.4f}" in claims[2].exact.split("; ")[1]


def turned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early for late, rising for falling, one kind for the other."""
    if name == EARLY:
        monkeypatch.setattr(schedules, "Interval", lambda w, begin, end: Interval(w, 1 - end, 1 - begin))
    elif name == LATE:
        monkeypatch.setattr(schedules, "LinearRamp", lambda start, end: LinearRamp(end, start))
        best: Callable[..., Any] = schedules.best_schedule

        def backwards(*arguments: Any, **settings: Any) -> Any:
            found = best(*arguments, **settings)
            object.__setattr__(found.strengths, "values", found.strengths.values[::-1])
            return found

        monkeypatch.setattr(schedules, "best_schedule", backwards)
    else:
        swapped = {"rate": KINDS["normalized"], "normalized": KINDS["rate"]}
        monkeypatch.setattr(normalized, "KINDS", swapped)


@pytest.mark.parametrize("name", CLAIMED)
def test_halves_and_kinds_turned_about_turn_the_verdicts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turned(name, monkeypatch)
    same = {EARLY: [1, 4], LATE: [], NORMALIZED: [4]}[name]  # claims on what both halves or kinds have in common
    for k, (claim, verdict) in enumerate(zip(judge(name, SQUARES).claims, CLAIMED[name])):
        assert bool(re.fullmatch(verdict, claim.verdict)) == (k in same), claim.statement


@pytest.mark.parametrize("name", CLAIMED)
def test_learned_values_of_schedules_are_the_networks_own(name: str) -> None:
    target = random_target(3, 3, seed=1)
    other = random_target(3, 3, seed=2)
    alone = judge(name, target)
    beside = judge(name, target, other.denoiser())
    assert {claim.learned for claim in alone.claims} == {"-"}
    assert [claim.exact for claim in beside.claims] == [claim.exact for claim in alone.claims]
    same = [k for k, claim in enumerate(beside.claims) if claim.learned in ("-", claim.exact)]
    assert set(same) <= {NORMALIZED: {1}}.get(name, set())  # unmasking as without guidance is that of any denoiser
    claim, law = {
        EARLY: (2, terminal_law(other.denoiser(), Guidance(2.0), 0)),
        LATE: (1, terminal_law(other.denoiser(), Guidance(2.0), 0)),
        NORMALIZED: (3, Sampler("tau_leaping", 16).law(other.denoiser(), Guidance(2.0, "normalized"), 0)),
    }[name]
    gap = total_variation(tilted_law(target, 2.0, 0), law)
    assert f"{gap:.4f}" in decimals(beside.claims[claim].learned.split("; ")[-1])
    block = run(Paper(name), Case.of(KnownData(target, "random"), other.denoiser(), PLAN)).main
    assert "arXiv 2507.08965" in block.text
    assert [row.learned for row in block.rows] == [claim.learned for claim in beside.claims]
