"""No sentence of a verdict contradicts its numbers, on targets that are hard on sentences."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from helpers import Blurred, block_of, data_of, found_by, random_target
from study_cases import CASES, TABLE
from torch import Tensor

from mdlm_cfg import Guidance, Sampler, TableMixture
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.likelihood import LikelihoodStudy
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.samplers import Samplers
from mdlm_cfg.studies.table_moves import TableMoves

HALF = torch.tensor([0.5, 0.5], dtype=torch.float64)
ROUNDING = 1e-12


def table(*classes: list[list[float]], weights: Tensor = HALF) -> TableMixture:
    return TableMixture(torch.tensor(classes, dtype=torch.float64), weights)


SQUARE = [[0.4, 0.1], [0.2, 0.3]]
TARGETS = {
    "equal classes": table(SQUARE, SQUARE),
    "disjoint classes": table([[0.5, 0.5], [0.0, 0.0]], [[0.0, 0.0], [0.5, 0.5]]),
    "nested supports": table([[0.5, 0.5], [0.0, 0.0]], [[0.25, 0.25], [0.25, 0.25]]),
    "a deterministic class": table([[1.0, 0.0], [0.0, 0.0]], SQUARE),
    "independent coordinates": table([[0.42, 0.28], [0.18, 0.12]], [[0.06, 0.14], [0.24, 0.56]]),
    "one class": TableMixture(torch.tensor([SQUARE], dtype=torch.float64), torch.ones(1, dtype=torch.float64)),
    "one value": TableMixture(torch.ones(2, 1, 1, dtype=torch.float64), HALF),
    "ties": table([[0.25, 0.25], [0.25, 0.25]], [[0.5, 0.0], [0.0, 0.5]]),
    "one coordinate": TableMixture(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64), HALF),
}
STUDIES = {name: study for name, (study, data, _) in CASES.items() if data is TABLE} | {
    "LikelihoodStudy": LikelihoodStudy(orders=2),
    "TableMoves": TableMoves(moves=[0, 3, 9]),
}
PLAN = Plan((Guidance(0.0), Guidance(2.0)), Sampler(), 40, classes=(0,))


def findings(study: str, target: TableMixture, learned: bool) -> Findings:
    denoiser = Blurred(target, 0.2) if learned else None
    plan = replace(PLAN, classes=None) if study == "LikelihoodStudy" else PLAN  # it is of all classes
    return found_by(STUDIES[study], data_of(target), denoiser, plan)


SLOW = ("BestScheduleStudy", "TableCorrection", "TableMoves", "LikelihoodStudy")


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "study", [pytest.param(study, marks=pytest.mark.slow) if study in SLOW else study for study in STUDIES]
)
def test_every_figure_of_a_sentence_is_one_of_the_rows(study: str, name: str, learned: bool) -> None:
    found = findings(study, TARGETS[name], learned)
    known = {0.0, 1.0}
    for block in found.blocks:
        for row in block.rows:
            values = [v for v in vars(row).values() if isinstance(v, float)]
            known |= {round(v, 4) for v in values if v == v and abs(v) != float("inf")}
    sums = {round(a - b, 4) for a in known for b in known} if len(known) < 400 else set()
    for sentence in found.verdict:
        assert "nan" not in sentence.lower().split() and "None" not in sentence
        for figure in re.findall(r"(?<![\w.])\d\.\d{4}(?![\d%e])", sentence):
            assert any(abs(float(figure) - v) < 1.01e-4 for v in known | sums), (sentence, figure)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_said_of_guidance_is_what_its_distances_say(name: str) -> None:
    found = findings("Laws", TARGETS[name], learned=False)
    top = block_of(found, "distances")[-1]
    moved = top.tv_class_exact > ROUNDING
    said = " ".join(found.verdict)
    assert ("does not change" in said) == (not moved)
    assert ("is the tilted distribution" in said) == (moved and top.tv_tilted_exact < ROUNDING)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_said_of_convergence_is_what_the_curves_say(name: str) -> None:
    found = findings("DecayStudy", TARGETS[name], learned=False)
    curves = block_of(found, "decay_curves")
    at = {w: [row.log_tv for row in curves if row.w == w][15] for w in (4.0, 8.0, 16.0)}
    (fit,) = found.facts["decay_fit"]
    grows = at[16.0] < 1.5 * at[8.0] - 0.1
    if fit["growth"] == "bounded":
        assert not grows
    else:
        assert grows or at[16.0] == at[8.0] == float("-inf")


@pytest.mark.parametrize("name", TARGETS)
def test_policies_are_said_to_differ_only_where_they_do(name: str) -> None:
    found = findings("Policies", TARGETS[name], learned=False)
    rows = [row for row in block_of(found, "policies") if row.together == 1 and row.w == Guidance(2.0)]
    differ = max(row.tv_tilted for row in rows) - min(row.tv_tilted for row in rows) > 1e-9
    (sentence,) = [s for s in found.verdict if s.startswith("At w = 2") and "one coordinate" in s]
    assert ("every policy" in sentence) == (not differ)


def test_a_random_target_is_spoken_of_as_well() -> None:
    assert findings("Laws", random_target(3, 3, seed=3), learned=True).verdict


@pytest.mark.parametrize("own", [Sampler("sampled_confidence", events=1), Sampler("tau_leaping", 3)])
def test_the_sampler_that_was_asked_for_is_spoken_of_first(own: Sampler) -> None:
    found = found_by(Samplers((2, 16)), data_of(random_target(2, 3, seed=1)), None, replace(PLAN, sampler=own))
    (row,) = [row for row in block_of(found, "samplers") if row.sampler == own and row.w == Guidance(2.0)]
    assert own.label in found.verdict[0] and f"{row.tv:.4f}" in found.verdict[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_sampler_that_needs_fewer_calls_is_among_those_compared(seed: int) -> None:
    """Event-leaping with one event a step is exact with D calls; here no other sampler is."""
    found = found_by(Samplers((2, 16)), data_of(random_target(2, 3, seed=seed)), None, PLAN)
    exact = [row for row in block_of(found, "samplers") if row.w == Guidance(2.0) and row.tv < ROUNDING]
    assert {row.method for row in exact} == {"event_leaping"} and max(row.calls for row in exact) < 16
    assert any("event_leaping has the least" in sentence for sentence in found.verdict)
