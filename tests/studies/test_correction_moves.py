"""study=correction_moves: distances are those of Gibbs sampling, and sentences say what the rows say."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import Blurred, Opaque, bernoulli_mixture, block_of, conclusion, data_of, found_by, random_target, table_of
from torch import Tensor

from mdlm_cfg import Correction, Guidance, Sampler, TableMixture, UserError, terminal_law, tilted_law
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.studies.correction_moves import CorrectionMoves
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.mixture_moves import REFERENCE, MixtureMoves, MovedSetRow
from mdlm_cfg.studies.moves import phrase, verb_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.studies.table_moves import CONNECTED, EndRow, MoveRow, TableMoves, _of_moves, _of_starts
from mdlm_cfg.targets.bernoulli import BernoulliMixture

TARGET = random_target(2, 3, seed=4)
Z = 1
W = Guidance(2.0)
FIRST = Sampler()
STARTS = [{"name": "first_hitting"}, {"name": "sampled_confidence", "events": 1}]
STUDY = TableMoves(moves=[1, 4], starts=STARTS)


def found(denoiser: Any = None, sampler: Sampler = FIRST) -> Findings:
    return found_by(STUDY, data_of(TARGET), denoiser, Plan((Guidance(0.0), W), sampler, classes=(Z,)))


def rows_of(findings: Findings, **given: Any) -> list[Any]:
    rows: list[MoveRow] = block_of(findings, "moves")
    return [row for row in rows if all(getattr(row, name) == value for name, value in given.items())]


def gibbs(law: Tensor, tilted: Tensor) -> Tensor:
    """The law after one coordinate, chosen uniformly, was drawn from the tilted law given all others."""
    d = law.ndim
    moved = [
        law.sum(dim=i, keepdim=True) * (tilted / tilted.sum(dim=i, keepdim=True).clamp(min=1e-300)) for i in range(d)
    ]
    return torch.stack(moved).mean(dim=0)


@pytest.mark.parametrize("start", [Sampler(), Sampler("sampled_confidence", events=1)])
def test_single_refills_are_gibbs_sampling_of_the_tilted_law(start: Sampler) -> None:
    tilted = tilted_law(TARGET, 2.0, Z)
    law = start.law(TARGET.denoiser(), W, Z)
    for moves in range(5):
        for row in rows_of(found(), w=W, start=start.label, move="k = 1", moves=moves):
            assert row.tv_tilted == pytest.approx(total_variation(tilted, law), abs=1e-12)
            assert row.calls == 3 + moves
        law = gibbs(law, tilted)


@pytest.mark.parametrize(("size", "accept"), [(2, False), (2, True), (3, False), (3, True)])
def test_moves_are_those_of_a_sampler_with_the_correction(size: int, accept: bool) -> None:
    corrected = Sampler(correction=Correction(size=size, moves=4, accept=accept))
    move = f"k = {size}{', accept/reject' if accept else ''}"
    (row,) = rows_of(found(), w=W, start="first_hitting", move=move, moves=4)
    law = corrected.law(TARGET.denoiser(), W, Z)
    assert row.tv_tilted == pytest.approx(total_variation(tilted_law(TARGET, 2.0, Z), law), abs=1e-12)
    assert row.calls == corrected.calls(3)


def test_invariant_moves_end_in_the_tilted_law_and_a_restart_in_the_guided_one() -> None:
    ends: list[EndRow] = [row for row in block_of(found(), "ends") if row.w == W]
    assert {row.move for row in ends if row.invariant} == {"k = 1", "k = 2, accept/reject", "k = 3, accept/reject"}
    assert all(row.tv_tilted < 1e-10 and row.gap and row.gap > CONNECTED for row in ends if row.invariant)
    (restart,) = [row for row in ends if row.move == "k = 3"]
    departure = total_variation(tilted_law(TARGET, 2.0, Z), terminal_law(TARGET.denoiser(), W, Z))
    assert restart.tv_tilted == pytest.approx(departure, abs=1e-12)
    assert restart.gap == pytest.approx(1.0)


@pytest.mark.parametrize("denoiser", [None, Blurred(TARGET, 0.3)])
def test_moves_that_do_not_settle_have_no_end_and_all_other_rows(
    denoiser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found(denoiser)
    monkeypatch.setattr("mdlm_cfg.laws.stationary.MAX_MOVES", 1)
    findings = found(denoiser)
    ends: list[EndRow] = block_of(findings, "ends")
    slow = [row for row in ends if row.w == W and not row.tv_tilted]
    assert slow and all(row.tv_own is None for row in slow)
    assert rows_of(findings) == rows_of(whole)
    assert all(row.move in " ".join(findings.verdict) for row in slow)


def test_distances_of_learned_conditionals_are_to_both_tilted_laws() -> None:
    learned = Blurred(TARGET, 0.2)
    (row,) = rows_of(found(learned), w=W, denoiser="learned", start="first_hitting", move="k = 1", moves=4)
    law = Sampler(correction=Correction(moves=4)).law(learned, W, Z)
    own = tilted_weights(learned, W, Z, "uniform").law
    assert row.tv_tilted == pytest.approx(total_variation(tilted_law(TARGET, 2.0, Z), law), abs=1e-12)
    assert row.tv_own == pytest.approx(total_variation(own, law), abs=1e-12)
    assert row.tv_own != pytest.approx(row.tv_tilted, abs=1e-4)


def test_the_sampler_and_the_moves_that_are_asked_for_are_compared_too() -> None:
    informed = Correction(size=2, moves=7, scan="lowest_confidence")
    own = Sampler("event_leaping", events=2, correction=informed)
    findings = found(sampler=own)
    assert {row.start for row in rows_of(findings)} >= {"event_leaping, 2 a step"}
    (row,) = rows_of(findings, w=W, start="event_leaping, 2 a step", move="k = 2, lowest confidence", moves=4)
    law = Sampler("event_leaping", events=2, correction=Correction(2, 4, scan="lowest_confidence")).law(
        TARGET.denoiser(), W, Z
    )
    assert row.tv_tilted == pytest.approx(total_variation(tilted_law(TARGET, 2.0, Z), law), abs=1e-12)


@pytest.mark.parametrize("before", [0.2, 0.1])
def test_moves_that_take_samples_away_are_not_said_to_leave_them_where_they_are(before: float) -> None:
    """Moves that double a distance, that leave it as it is, and that halve it, after one sampler and after two."""
    said = set()
    for factor in (2.0, 1.0, 0.5):
        rows = [
            MoveRow(W, "learned", start, "k = 1", moves, 1.0, tv, 0.0)
            for start, first in (("first_hitting", 0.2), ("threshold, 0.9", before))
            for moves, tv in ((0, first), (9, factor * first))
        ]
        said |= {conclusion(one) for one in _of_starts("At w = 2,", rows)}
    assert len(said) == 3


def test_of_moves_that_end_alike_the_cheapest_are_named() -> None:
    rows = [
        MoveRow(W, "exact", "first_hitting", move, moves, 10.0 + moves, 0.2 - moves * gain, 0.0)
        for move, gain in (("k = 1, a", 0.01), ("k = 2, b", 0.02), ("k = 3, c", 0.02))
        for moves in (0, 7)
    ]
    (said,) = _of_moves(rows, [])
    assert "k = 2, b" in said and "k = 1, a" not in said
    (said,) = _of_moves([replace(row, tv_tilted=0.2) for row in rows], [])
    assert phrase(0, "") in said


@pytest.mark.parametrize("learned", [False, True])
def test_shares_in_sentences_are_those_of_the_distances_beside_them(learned: bool) -> None:
    findings = found(Blurred(TARGET, 0.2) if learned else None)
    said = re.findall(r"(\d+)% [^(]*\(\D*([\d.]+) \D*([\d.]+) \D*\)", " ".join(findings.verdict))
    assert said
    for share, before, after in said:
        assert int(share) == pytest.approx(100 * (1 - float(after) / float(before)), abs=0.6)


NESTED = torch.tensor([[0.45, 0.0, 0.0, 0.35, 0.0, 0.2, 0.0, 0.0], [0.3, 0.0, 0.1, 0.2, 0.0, 0.15, 0.25, 0.0]])


@pytest.mark.parametrize("moves", [1, 8])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("zeros", [None, 0.0, 0.4])
def test_moves_are_judged_by_the_samplers_that_the_sentence_names(
    zeros: float | None, learned: bool, moves: int
) -> None:
    nested = TableMixture(NESTED.double().view(2, 2, 2, 2), torch.tensor([0.4, 0.6]))
    target = nested if zeros is None else random_target(2, 3, seed=5, zeros=zeros)
    findings = found_by(
        TableMoves(sizes=[1], moves=[moves]),
        data_of(target),
        Blurred(target, 0.25) if learned else None,
        Plan((W,), Sampler(), classes=(0,)),
    )
    rows = block_of(findings, "moves")
    for who in dict.fromkeys(row.denoiser for row in rows):
        here = [row for row in rows if row.denoiser == who]
        before = {row.start: row.tv_tilted for row in here if not row.moves}
        worth = any(row.tv_tilted <= 0.5 * before[row.start] for row in here if row.moves and before[row.start] > 1e-9)
        said = next(line for line in findings.verdict if who in line)
        # what is said where moves remove nothing of any distance, and where they remove all
        ends = [[replace(r, tv_tilted=left * before[r.start]) if r.moves else r for r in here] for left in (1, 0)]
        either = [said, *(_of_starts(",", end)[0] for end in ends)]
        judgement, of_nothing, of_all = (one.partition(":")[0].rpartition(",")[2] for one in either)
        assert (judgement == of_all) == worth and (judgement == of_nothing) != worth
        assert "0%" not in re.findall(r"\d+%", said) and phrase(moves, here[0].move) in said
    assert verb_of(1, "end") != verb_of(2, "end") == verb_of(0, "end")


def test_moves_that_change_nothing_do_not_end_nearest() -> None:
    for seed in range(5):
        target = random_target(30, 1, seed=seed)  # in one dimension a refill is the chain itself
        case = data_of(target), Blurred(target, 0.25), Plan((W,), Sampler(), classes=(0,))
        rows = [row for row in block_of(found_by(TableMoves(), *case), "moves") if row.denoiser == "learned"]
        assert phrase(0, "") in _of_moves(rows, [])[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"sizes": [0]},
        {"sizes": []},
        {"sizes": [1, 1]},
        {"sizes": [True]},
        {"moves": []},
        {"moves": [-1]},
        {"moves": [1.5]},
        {"starts": []},
        {"starts": ["threshold"]},
        {"starts": [{"name": "nothing"}]},
        {"starts": [{"threshold": 0.9}]},
        {"starts": [{"name": "threshold", "treshold": 0.9}]},
        {"starts": [{"name": "threshold", "threshold": 0}]},
        {"starts": [{"name": "first_hitting", "correction": "correction(size=1)"}]},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        TableMoves(**settings)


def test_a_size_above_the_dimension_is_refused_before_any_work() -> None:
    case = Case.of(data_of(TARGET), None, Plan((W,), Sampler(), classes=(Z,)))
    with pytest.raises(UserError):
        TableMoves(sizes=[4]).check(case)


PIXELS = bernoulli_mixture(9)
EVERY = Plan((W,), Sampler(), 400, classes=(0, 1))
BY_SAMPLES = MixtureMoves(moves=[9], starts=STARTS, num_reference=4000)


def sets() -> list[MovedSetRow]:
    return block_of(found_by(BY_SAMPLES, data_of(PIXELS, grid_shape=(3, 3)), None, EVERY), "sets")


def test_sets_of_a_mixture_are_judged_by_its_exact_law() -> None:
    """Accuracy and likelihood within five standard errors, usage within three noise floors, of the exact law's."""
    table = table_of(PIXELS)
    states = torch.cartesian_prod(*[torch.arange(2)] * 9)
    joint = torch.stack([table.class_pmf(k).flatten() * table.class_weights[k] for k in range(3)])
    rows = sets()
    for sampler in (Sampler(), Sampler("sampled_confidence", events=1)):
        (row,) = [one for one in rows if (one.start, one.move, one.moves) == (sampler.label, "k = 1", 9)]
        moved = replace(sampler, correction=Correction(moves=9))
        usage = 0.0
        means: dict[str, list[tuple[float, float]]] = {"accuracy": [], "log_likelihood": []}
        for z in (0, 1):
            law = moved.law(table.denoiser(), W, z).flatten()
            components = PIXELS.component_posterior(states, z)
            tilted = tilted_law(table, 2.0, z).flatten()
            usage += total_variation(law @ components, tilted @ components) / 2
            right = (joint.argmax(dim=0) == z).double()
            for name, each in (("accuracy", right), ("log_likelihood", table.class_pmf(z).flatten().log())):
                mean = law @ each
                means[name].append((float(mean), float(law @ (each - mean) ** 2)))
        assert abs(row.usage_tv - usage) < 3 * row.usage_floor
        assert row.calls == 18
        for name, found in means.items():
            error = (sum(variance for _, variance in found) / 4 / EVERY.num_samples) ** 0.5
            assert abs(getattr(row, name) - sum(mean for mean, _ in found) / 2) < 5 * error + 1e-9
    (reference,) = [row for row in rows if row.start == REFERENCE]
    assert reference.usage_tv == 0


def test_equal_classes_are_recognised_by_lot() -> None:
    """The same class twice, its components in another order: which of both is more probable, rounding decides."""
    p = bernoulli_mixture(4, 3).probabilities[:1]
    target = BernoulliMixture(torch.cat([p, p[:, [2, 0, 1]]]), torch.full((2, 3), 1 / 3), torch.full((2,), 0.5))
    for z in (0, 1):
        plan = replace(EVERY, classes=(z,), num_samples=20)
        rows = block_of(found_by(MixtureMoves(moves=[1], num_reference=20), data_of(target), None, plan), "sets")
        assert {round(row.accuracy, 9) for row in rows} == {0.5}


def test_the_noise_floor_of_usage_is_that_of_probabilities_of_components() -> None:
    """Usage is a mean of probabilities, which vary less than counts of known components."""
    table = table_of(PIXELS)
    states = torch.cartesian_prod(*[torch.arange(2)] * 9)
    expected = 0.0
    for z in (0, 1):
        tilted = tilted_law(table, 2.0, z).flatten()
        components = PIXELS.component_posterior(states, z)
        variance = tilted @ (components - tilted @ components).square()
        expected += float((variance / (2 * math.pi * EVERY.num_samples)).sqrt().sum()) / 2
    assert all(row.usage_floor == pytest.approx(expected, rel=0.03) for row in sets())


@pytest.mark.parametrize("components", [1, 3])
def test_a_usage_that_moves_cannot_mend_is_not_said_to_be_left_uncorrected(components: int) -> None:
    target = bernoulli_mixture(9, components)
    findings = found_by(BY_SAMPLES, data_of(target, grid_shape=(3, 3)), None, EVERY)
    (reference,) = [row for row in block_of(findings, "sets") if row.start == REFERENCE]
    before = [row.usage_tv for row in block_of(findings, "sets") if row.start != REFERENCE and row.moves == 0]
    nothing = max(before) <= reference.usage_floor
    assert nothing == (components == 1)
    assert ('"' not in findings.verdict[0]) == nothing  # it names the start of the moves that correct most
    distances = re.sub(r'"[^"]*"', "", findings.verdict[0].partition("(")[2])
    assert len(re.findall(r"\d\S*", distances)) == 3 - nothing


def test_a_sequential_scan_goes_on_where_earlier_moves_ended() -> None:
    asked: list[torch.Tensor] = []

    class Watched(Opaque):
        def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
            asked.append((tokens == self.num_tokens).nonzero()[:, 1].unique())
            return super().__call__(tokens, classes)

    scan = Correction(size=1, moves=2, scan="sequential")
    scan.draw(Watched(TARGET.denoiser()), W, Z, torch.zeros(4, 3, dtype=torch.int64), made=2)
    assert torch.cat(asked).unique_consecutive().tolist() == [2, 0]


def test_the_study_of_the_data_is_chosen_and_takes_its_settings() -> None:
    case = Case.of(data_of(PIXELS, grid_shape=(3, 3)), None, EVERY)
    chosen = CorrectionMoves(moves=[9], starts=STARTS, num_reference=4000).study(case)
    assert chosen == BY_SAMPLES
    table = Case.of(data_of(TARGET), None, Plan((W,), Sampler(), classes=(Z,)))
    assert CorrectionMoves(moves=[1, 4], starts=STARTS).study(table) == STUDY


@pytest.mark.parametrize(
    ("correction", "guidance"),
    [
        (Correction(size=4), Guidance(1.0)),
        (Correction(size=2, accept=True), Guidance([0.0, 1.0, 2.0])),
        (Correction(size=2, accept=True), Guidance(1.0, temperature=0.5)),
    ],
)
def test_a_plan_refuses_corrections_that_do_not_fit_before_any_work(correction: Correction, guidance: Guidance) -> None:
    with pytest.raises(UserError):
        Plan((guidance,), Sampler(correction=correction)).check_dims(3)
