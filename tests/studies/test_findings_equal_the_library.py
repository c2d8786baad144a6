"""What a study says is what the library gives: for every kind, sampler, schedule, class and denoiser.

A report asked for one thing must not answer another. Each figure of report.json is computed here once more, by the
public functions alone; a kind, schedule, class or number of steps that got lost on the way would show.
"""

from __future__ import annotations

import math

import pytest
import torch
from helpers import random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, error_ledger, stepped_law, terminal_law, tilted_law
from mdlm_cfg.compare.decay import log_still_masked, time_to_tv
from mdlm_cfg.compare.geometry import limit_law, region_mass, regions
from mdlm_cfg.compare.metrics import histogram, kl_divergence, total_variation
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table.study import TableFindings, study_table

SAMPLERS = {
    "first_hitting": Sampler(),
    "tau linear": Sampler("tau_leaping", 3),
    "tau cosine": Sampler("tau_leaping", 4, "cosine"),
    "euler exponential": Sampler("euler", 3, "exponential"),
    "d_cfg grid": Sampler("d_cfg", [0.0, 0.4, 1.5, math.inf]),
    "events cosine": Sampler("event_leaping", 2),
    "events linear": Sampler("event_leaping", 2, "linear"),
}
W = (0.0, 2.5)
pytestmark = pytest.mark.slow  # test_report_figures.py holds a part of these combinations in seconds
SAME = 1e-12


def learned_table(target: TableMixture) -> TableMixture:
    """Another table near the target, in a network's place."""
    noise = torch.rand(target.class_pmfs.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    pmfs = target.class_pmfs * (1 + 0.3 * noise)
    return TableMixture(pmfs / pmfs.flatten(1).sum(1).reshape(-1, *[1] * target.num_dims), target.class_weights)


@pytest.fixture(scope="module", params=["rate", "normalized"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=SAMPLERS, ids=lambda name: name.replace(" ", "-"))
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return SAMPLERS[request.param]


@pytest.fixture(scope="module", params=[0, 2])
def z(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module", params=["exact", "learned"])
def judged(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def target() -> TableMixture:
    return random_target(3, 2, k=3, seed=21, zeros=0.15)


@pytest.fixture(scope="module", autouse=True)
def fewer():
    """The same figures, of fewer budgets and strengths than a report shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mdlm_cfg.studies.table.equal_cost.BUDGETS", (2, 5))
        patch.setattr("mdlm_cfg.studies.table.decay.STRENGTHS", (0.0, 1.0, 4.0))
        patch.setattr("mdlm_cfg.studies.table.decay.TAUS", torch.tensor([0.05, 0.7, 4.0], dtype=torch.float64))
        yield


@pytest.fixture(scope="module")
def found(kind: str, sampler: Sampler, z: int, judged: str, target: TableMixture) -> TableFindings:
    plan = Plan(tuple(Guidance(w, kind) for w in W), sampler, num_samples=300, seed=4, classes=(z,))
    return study_table(target, learned_table(target).denoiser() if judged == "learned" else None, plan)


def law_of(sampler: Sampler, denoiser, guidance: Guidance, z: int):
    """The law of a sampler by the public functions."""
    if sampler.name == "first_hitting":
        return terminal_law(denoiser, guidance, z)
    return stepped_law(denoiser, guidance, z, sampler.name, sampler.steps, sampler.schedule)[:3, :3]


def test_distances(found, kind, sampler, z, judged, target):
    network = learned_table(target).denoiser()
    for row, w in zip(found.to_dict()["distances"], W, strict=True):
        guidance = Guidance(w, kind)
        exact, learned = (terminal_law(d, guidance, z) for d in (target.denoiser(), network))
        assert (row["w"], row["kind"]) == (w, kind)
        assert abs(row["tv_class_exact"] - total_variation(target.class_pmf(z), exact)) < SAME
        assert abs(row["tv_tilted_exact"] - total_variation(tilted_law(target, w, z), exact)) < SAME
        assert abs(row["kl_exact_tilted"] - kl_divergence(exact, tilted_law(target, w, z))) < SAME
        if judged == "exact":
            assert not any("learned" in key for key in row)
        else:
            assert abs(row["tv_exact_learned"] - total_variation(exact, learned)) < SAME
    for result in found.evaluation.results:
        # the samples are of the judged denoiser, by the sampler that was asked for
        generator = found.evaluation.plan.generator("table samples", result.guidance, z)
        source = target.denoiser() if judged == "exact" else network
        drawn = sampler.draw(source, Guidance(result.w, kind), z, 300, generator)
        assert torch.equal(result.laws["samples"], histogram(drawn, 3))


def test_samplers_at_equal_cost(found, kind, sampler, z, judged, target):
    rows = found.to_dict()["samplers"]
    denoisers = {"exact": target.denoiser(), "learned": learned_table(target).denoiser()}
    assert {row["denoiser"] for row in rows} == ({"exact", "learned"} if judged == "learned" else {"exact"})
    for row in rows:
        guidance = Guidance(row["w"], row["kind"])
        steps = (
            [math.inf if tau == "inf" else tau for tau in row["steps"]] if type(row["steps"]) is list else row["steps"]
        )
        asked = Sampler(row["sampler"], steps, row["schedule"])
        law = law_of(asked, denoisers[row["denoiser"]], guidance, z)
        assert abs(row["tv"] - total_variation(law, terminal_law(denoisers[row["denoiser"]], guidance, z))) < SAME
        assert row["kind"] == kind and row["calls"] == asked.calls(2)
    # every sampler is held on the noise schedule that was asked for, and the one that was asked for is among them
    if sampler.schedule is not None:
        assert {row["schedule"] for row in rows} == {str(sampler.schedule)}
    if sampler.name != "first_hitting":
        grid = [str(tau) if math.isinf(tau) else tau for tau in sampler.steps] if type(sampler.steps) is tuple else None
        own = [r for r in rows if r["sampler"] == sampler.name and r["steps"] == (grid or sampler.steps)]
        assert {row["w"] for row in own} == set(W)


def test_ledger(found, kind, sampler, z, judged, target):
    rows = found.to_dict()["ledger"]
    source = target.denoiser() if judged == "exact" else learned_table(target).denoiser()
    own = [row for row in rows if (row["sampler"], row["schedule"]) == (sampler.name, sampler.describe()["schedule"])]
    assert {row["w"] for row in own} == set(W) and {row["kind"] for row in rows} == {kind}
    for row, w in zip((rows[k] for k in range(0, len(rows), len(rows) // len(W))), W, strict=True):
        guidance = Guidance(w, kind)
        ledger = error_ledger(target, source, guidance, z, sampler, num_samples=10)
        for line in ("guidance effect", "gap to tilted", "discretisation error"):
            assert abs(row["tv"][line] - ledger.tv[line]) < SAME
        own_law, exact = law_of(sampler, source, guidance, z), terminal_law(source, guidance, z)
        assert abs(row["tv"]["discretisation error"] - total_variation(exact, own_law)) < SAME
        result = next(r for r in found.evaluation.results if r.w == w)
        assert abs(row["tv"]["total"] - result.tv("exact", "samples")) < SAME  # one number, not two
        assert abs(row["tv"]["sampling noise"] - total_variation(own_law, result.laws["samples"])) < SAME
        if judged == "exact":
            assert "score error" not in row["tv"] and "score_error_if_only" not in row
        else:
            assert abs(row["tv"]["score error"] - ledger.tv["score error"]) < SAME
            assert row["score_error_if_only"] == pytest.approx(ledger.shared.score_share, abs=SAME)
    standard = [row for row in rows if (row["sampler"], row["steps"]) == ("tau_leaping", 50)]
    assert {row["w"] for row in standard} == set(W) and {row["schedule"] for row in standard} == {"linear"}


def test_decay(found, kind, z, target):
    decay = found.to_dict()["decay"]
    assert decay["kind"] == kind
    for w, log_tv, tau in zip(decay["w"], decay["log_tv"], decay["tau_at_tv_0.05"], strict=True):
        guidance = Guidance(w, kind)
        expected = log_still_masked(target.denoiser(), guidance, z, decay["tau"])
        assert (torch.tensor(log_tv, dtype=torch.float64) - expected).abs().max() < SAME * expected.abs().max()
        assert tau == pytest.approx(time_to_tv(target.denoiser(), guidance, z, 0.05), rel=1e-9)
        if kind == "normalized":  # theory, section 5: the same for every w
            times = torch.tensor(decay["tau"], dtype=torch.float64)
            closed = (-((1 - (-times).exp()) ** 2)).log1p()
            assert (torch.tensor(log_tv, dtype=torch.float64) - closed).abs().max() < 1e-10
    assert ("does not depend on w" in decay["statement"]) == (kind == "normalized")
    assert decay["double_exponential"] is (kind == "rate" and not decay["neutral_states"])


def test_geometry(found, kind, z, target):
    geometry = found.to_dict()["geometry"]
    parts = {part.name: part for part in regions(target, z)}
    for row in geometry["rows"]:
        if row["law"] == "learned":
            law = terminal_law(learned_table(target).denoiser(), Guidance(row["w"], kind), z)
        elif row["w"] == "inf":
            law = limit_law(target, z, kind)
        else:
            law = terminal_law(target.denoiser(), Guidance(row["w"], kind), z)
        for head, mass, mean in zip(geometry["regions"], row["mass"], row["mean_probability"], strict=True):
            assert (mass, mean) == pytest.approx(region_mass(law, parts[head["name"]]), abs=SAME)
        assert row["kind"] == kind


def test_no_figure_depends_on_which_other_strengths_were_asked_for(found, kind, sampler, z, judged, target):
    denoiser = learned_table(target).denoiser() if judged == "learned" else None
    plan = Plan((Guidance(2.5, kind),), sampler, num_samples=300, seed=4, classes=(z,))
    alone, among = study_table(target, denoiser, plan).to_dict(), found.to_dict()
    for part in ("distances", "samplers", "ledger"):
        assert alone[part] == [row for row in among[part] if row["w"] == 2.5]


def test_numbers_are_numbers(found):
    def look(value: object) -> None:
        if isinstance(value, dict):
            [look(item) for item in value.values()]
        elif isinstance(value, list):
            [look(item) for item in value]
        elif isinstance(value, str) and value not in ("inf", "-inf", "nan"):
            with pytest.raises(ValueError):
                float(value)

    plain = found.to_dict()
    for part in ("distances", "samplers", "ledger", "decay", "geometry"):
        look(plain[part])
