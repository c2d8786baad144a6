"""No sentence of a verdict contradicts its numbers, on targets that are hard on sentences."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import (
    Blurred,
    Inconsistent,
    block_of,
    conclusion,
    data_of,
    decimals,
    every_pair,
    found_by,
    random_target,
    without_pixels,
)
from study_cases import CASES, PIXELS, TABLE
from torch import Tensor

from mdlm_cfg import FunctionDenoiser, Guidance, Sampler, TableMixture, UserError
from mdlm_cfg.chain.policies import POLICIES
from mdlm_cfg.chain.policy_names import parse_policy
from mdlm_cfg.studies import own_model, profile, samplers, sequence_rows
from mdlm_cfg.studies.calibration import CalibrationStudy
from mdlm_cfg.studies.common import LONGER
from mdlm_cfg.studies.decay import DecayStudy
from mdlm_cfg.studies.departure import Departures
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.geometry import GeometryStudy
from mdlm_cfg.studies.inpainting import Inpainting
from mdlm_cfg.studies.laws import Laws
from mdlm_cfg.studies.ledger import LedgerStudy
from mdlm_cfg.studies.likelihood import LikelihoodStudy
from mdlm_cfg.studies.mixture import Mixtures
from mdlm_cfg.studies.mixture_correction import MixtureCorrection
from mdlm_cfg.studies.own_model import OwnModel
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.rows import least_and_most, tied_ends
from mdlm_cfg.studies.samplers import SamplerRow, Samplers
from mdlm_cfg.studies.table_moves import TableMoves
from mdlm_cfg.support.numbers import apart
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.data import KnownData

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


@cache
def findings(study: str, name: str, learned: bool) -> Findings:
    target = TARGETS[name]
    denoiser = Blurred(target, 0.2) if learned else None
    plan = replace(PLAN, classes=None) if study == "LikelihoodStudy" else PLAN  # it is of all classes
    return found_by(STUDIES[study], data_of(target), denoiser, plan)


def shares_of(found: Findings) -> list[float]:
    """Every probability, share and total variation of the tables; a sum of errors is none."""
    tables = [
        (rows, columns) for name, columns in found.to_dict()["columns"].items() for rows in (found.to_dict()[name],)
    ]
    return [
        row[name]
        for rows, columns in tables
        for row in rows
        for name, about in columns.items()
        if about["unit"] in ("TV", "share", "probability") and name not in SUMS and isinstance(row.get(name), float)
    ]


SUMS = ("bound", "total_bound")
SLOW = ("BestScheduleStudy", "TableCorrection", "TableMoves", "LikelihoodStudy")


@pytest.mark.parametrize(("name", "learned"), every_pair(TARGETS, [False, True]))
@pytest.mark.parametrize(
    "study", [pytest.param(study, marks=pytest.mark.slow) if study in SLOW else study for study in STUDIES]
)
def test_every_figure_of_a_sentence_is_one_of_the_rows(study: str, name: str, learned: bool) -> None:
    found = findings(study, name, learned)
    known = {0.0, 1.0}
    for block in found.blocks:
        for row in block.rows:
            values = [v for v in vars(row).values() if isinstance(v, float)]
            known |= {round(v, 4) for v in values if v == v and abs(v) != float("inf")}
    assert all(0 <= share <= 1 for share in shares_of(found))
    sums = {round(a - b, 4) for a in known for b in known} if len(known) < 400 else set()
    for sentence in found.verdict:
        assert "nan" not in sentence.lower().split() and "None" not in sentence
        for figure in re.findall(r"(?<![\w.])\d\.\d{4}(?![\d%e])", sentence):
            assert any(abs(float(figure) - v) < 1.01e-4 for v in known | sums), (sentence, figure)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(
    "study", [pytest.param(study, marks=pytest.mark.slow) if study in SLOW else study for study in STUDIES]
)
def test_no_sentence_rounds_a_number_to_zero(study: str, learned: bool) -> None:
    """At w = 1e-4, and of a network whose errors are of 1e-5, all is small: what is written as 0.0000 is not 0."""
    target = random_target(2, 2, seed=1)
    denoiser = Blurred(target, 1e-5) if learned else None
    plan = Plan((Guidance(1e-4),), Sampler(), 40, classes=None if study == "LikelihoodStudy" else (0,))
    verdict = found_by(STUDIES[study], data_of(target), denoiser, plan).verdict
    assert verdict and not [line for line in verdict if re.search(r"(?<![\w.])0\.0+(?![\d%])", line)]


def test_no_mass_is_beyond_1_by_rounding() -> None:
    for seed in range(12):
        found = found_by(GeometryStudy(), data_of(random_target(3, 2, seed=seed, zeros=0.2)), None, PLAN)
        assert all(0 <= share <= 1 for share in shares_of(found))


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_said_of_guidance_is_what_its_distances_say(name: str) -> None:
    found = findings("Laws", name, False)
    top = block_of(found, "distances")[-1]
    moved = top.tv_class_exact > ROUNDING
    distances = [top.tv_class_exact, top.tv_tilted_exact] if moved else []  # that to the tilted law where there is one
    named = [value for value in distances if value > ROUNDING]
    assert list(map(float, decimals(found.verdict[0]))) == pytest.approx(named, abs=1e-4)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_said_of_convergence_is_what_the_curves_say(name: str) -> None:
    found = findings("DecayStudy", name, False)
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
    found = findings("Policies", name, False)
    rows = [row for row in block_of(found, "policies") if row.together == 1 and row.w == Guidance(2.0)]
    differ = max(row.tv_tilted for row in rows) - min(row.tv_tilted for row in rows) > 1e-9
    sentence = next(s for s in found.verdict if "w = 2" in s)  # of one coordinate per step
    assert any(re.search(rf"\b{re.escape(row.policy)}\b", sentence) for row in rows) == differ
    assert len(re.findall(r"\(\d\.\d+\)", sentence)) == 2 * differ


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
    methods = re.findall("|".join(sorted({row.method for row in block_of(found, "samplers")})), found.verdict[-1])
    near, far = map(float, re.findall(r"\(([\d.e-]+) ", found.verdict[-1]))
    assert methods[0] == "event_leaping" and len(methods) > 1 and near < ROUNDING < far


@pytest.mark.parametrize("name", ["nested supports", "a deterministic class", "ties"])
@pytest.mark.parametrize(
    "network", [lambda t: Blurred(t, 0.2), lambda t: Blurred(t, 1e-4), lambda t: Inconsistent(2, 2, 2)]
)
def test_a_network_is_good_enough_only_where_its_largest_error_is_small(name: str, network: Any) -> None:
    """Strong guidance hides errors: a network that is wrong at every other strength may be right at the largest."""
    target = TARGETS[name]
    plan = replace(PLAN, guidances=(Guidance(-0.5), Guidance(0.0), Guidance(2.0), Guidance(25.0)), num_samples=4)
    found = found_by(Laws(), data_of(target), network(target), plan)
    rows = block_of(found, "distances")
    worst = max(row.tv_exact_learned for row in rows)
    effect = rows[-1].tv_class_exact
    too_large = worst > 0.1 * effect > ROUNDING
    assert re.findall(r"\d+%", found.verdict[0]) == ([f"{worst / effect:.0%}"] if too_large else [])
    assert (LONGER in found.verdict[0]) == too_large


def first_decides() -> TableMixture:
    """The class says nothing of the second coordinate once the first is known: orders that begin with it are ideal."""
    then = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    first = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    return TableMixture(first[:, :, None] * then, HALF)


@pytest.mark.parametrize("target", [*TARGETS.values(), first_decides(), random_target(3, 3, seed=1)])
def test_every_rule_that_departs_least_is_named(target: TableMixture) -> None:
    found = found_by(Departures(), data_of(target), Blurred(target, 0.2), PLAN)
    for denoiser, said in {"exact": found.verdict[0], "learned": found.verdict[-1]}.items():
        rows = [row for row in block_of(found, "departures") if (row.w, row.denoiser) == (Guidance(2.0), denoiser)]
        smallest, largest = (end(row.departure for row in rows) for end in (min, max))
        rules = rf"\b({'|'.join({row.rule for row in rows})})\b"
        named = [set(re.findall(rules, part)) for part in said.split("(")]  # a number follows each list
        if largest - smallest < 1e-9 or len(found.verdict) == 1:
            assert not any(named)
            continue
        for names, at in zip(named, (smallest, largest)):
            assert {row.rule for row in rows if abs(row.departure - at) < 1e-9} == names


@pytest.mark.parametrize(("seed", "weakest"), [(0, 0.0), (1, 0.0), (2, 1.0)])
def test_the_regions_that_change_most_are_those_of_all_regions(seed: int, weakest: float) -> None:
    """In four dimensions with values of its own in each, a class has up to 17 regions."""
    pmfs = torch.rand(2, 3, 3, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pmfs[pmfs < 0.5] = 0
    for i in range(4):
        pmfs[1].select(i, 0).zero_()
    pmfs /= pmfs.flatten(1).sum(dim=1).view(2, 1, 1, 1, 1)
    plan = replace(PLAN, guidances=(Guidance(weakest), Guidance(2.0)), num_samples=4)
    found = found_by(GeometryStudy(), data_of(TableMixture(pmfs, HALF)), None, plan)
    rows = [row for row in block_of(found, "geometry") if row.w in plan.guidances]
    masses: dict[str, list[float]] = {}
    for row in rows:
        masses.setdefault(row.region, []).append(row.mass)
    assert len(masses) > 8 and sum(v for _, v in masses.values()) == pytest.approx(1)
    change = {region: after - before for region, (before, after) in masses.items()}
    for region in (max(change, key=change.__getitem__), min(change, key=change.__getitem__)):
        before, after = masses[region]
        assert re.search(rf"\b{region} \([^()]*\)[^()]*{before:.4f}\D+{after:.4f}", found.verdict[0])


def test_one_region_is_no_table_and_a_private_region_is_mentioned_only_where_there_is_one(tmp_path: Path) -> None:
    private = torch.tensor([[[0.4, 0.4, 0], [0.2, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0.3, 0.4], [0, 0.2, 0.1]]])
    for target, has_regions in ((random_target(3, 2), False), (TableMixture(private.double(), HALF), True)):
        found = found_by(GeometryStudy(), data_of(target), None, PLAN)
        sections = without_pixels(found, tmp_path)
        assert (len({row.region for row in block_of(found, "geometry")}) > 1) == has_regions
        assert any("region" in s.table.columns for s in sections if s.table is not None) == has_regions
        assert any("private region" in f"{s.title} {s.text}" for s in sections) == has_regions


def test_lines_of_a_budget_have_the_headings_of_its_columns(tmp_path: Path) -> None:
    found = found_by(LedgerStudy(), data_of(random_target(3, 2)), None, PLAN)
    budget, lines = (s.table for s in without_pixels(found, tmp_path) if s.table is not None)
    shown = {row[lines.columns.index("line")] for row in lines.rows}
    assert len(shown) > 3 and shown <= set(budget.columns)


def exchanged(text: str) -> str:
    """The name of a region or of a state of two coordinates, with these exchanged."""
    if text.startswith("R"):
        return f"R2,{3 - int(text[-1])}"
    return "({1}, {0})".format(*text.strip("()").split(", "))


@pytest.mark.parametrize("study", [GeometryStudy(), DecayStudy(), Departures(), LedgerStudy()], ids=str)
@pytest.mark.parametrize("edge", [1.0, 0.5])
def test_what_only_its_place_tells_apart_is_named_together(study: Any, edge: float) -> None:
    """A target that is the same with its coordinates exchanged: a sentence that names one end of a tie names both."""
    own = torch.tensor([[0.5, 0.0, edge], [0.0, 0.0, 0.0], [edge, 0.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    target = TableMixture(torch.stack([own / own.sum(), other / other.sum()]), HALF)
    found = found_by(study, data_of(target), None, replace(PLAN, num_samples=4))
    for sentence in found.verdict:
        names = set(re.findall(r"R2,\d|\((?:\d|mask), (?:\d|mask)\)", sentence))
        assert names == {exchanged(name) for name in names}


def test_a_state_is_not_said_to_cost_most_where_others_cost_as_much() -> None:
    """Three bits that are alike: the first draw is ideal under guidance, and every second one departs as much."""
    alike = torch.tensor([0.35, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.35], dtype=torch.float64).view(2, 2, 2)
    target = TableMixture(torch.stack([alike, torch.full_like(alike, 0.125)]), HALF)
    found = found_by(Departures(), data_of(target), None, PLAN)
    costs = [row.cost for row in block_of(found, "states") if row.w == Guidance(2.0) and row.rule == "rate"]
    assert sum(max(costs) - cost < 1e-9 for cost in costs) == 6
    (sentence,) = [one for one in found.verdict if "mask" in one]
    assert len(re.findall(r"\([^()]*mask[^()]*\)", sentence)) > 1


def test_a_largest_error_that_is_the_same_at_every_strength_is_of_all() -> None:
    """Equal classes, so that no strength changes the distribution of a network that looks at none."""
    target = TARGETS["equal classes"]
    other = table([[0.1, 0.2], [0.3, 0.4]], [[0.1, 0.2], [0.3, 0.4]]).denoiser()
    found = found_by(Laws(), data_of(target), other, replace(PLAN, num_samples=4))
    (where,) = re.findall(r"\([^()]*w = ([^()]*)\)", found.verdict[0])
    assert all(row.w.label in where for row in block_of(found, "distances"))


class Symmetric:
    """Two bits that are as confident of each other, and agree on no joint distribution."""

    num_tokens = num_dims = 2
    num_classes = 1

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        one = torch.full(tokens.shape, 0.7, dtype=torch.float64)
        one[:, 0] = torch.where(tokens[:, 1] == 1, 0.3, 0.7)  # only the first looks at the other
        return torch.stack([one, 1 - one], dim=2).log().where((tokens == 2)[..., None], self.copied(tokens))

    def copied(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(tokens.clamp(max=1), 2).double().log()


@pytest.mark.parametrize("policy", [None, "confidence", "fixed_order"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_that_two_orders_agree_is_not_said_to_be_one_distribution(
    policy: str | None, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_model, "Samplers", partial(Samplers, (2,)))  # of which nothing is said here
    plan = Plan(
        (Guidance(0.0, temperature=temperature), Guidance(1.0, temperature=temperature)), Sampler(policy=policy)
    )
    coherent = TARGETS["independent coordinates"].denoiser()
    for denoiser, is_joint in ((Symmetric(), False), (coherent, True), (Inconsistent(2, 2, 1), False)):
        k = denoiser.num_classes
        data = SimpleNamespace(
            target=None, name="own", num_tokens=2, num_classes=k, grid_shape=(2,), class_names=None, value_names=None
        )
        found = found_by(OwnModel(), data, denoiser, replace(plan, num_samples=4))
        *of_orders, of_change = own_model.verdict_of(block_of(found, "distances"), policy and parse_policy(policy))
        assert found.verdict[: len(of_orders) + 1] == [*of_orders, of_change]
        if is_joint or temperature != 1 or policy == "confidence":
            assert not decimals(" ".join(of_orders))  # no distance between orders
        changed = max(row.tv_unguided for row in block_of(found, "distances"))
        assert bool(re.search(r"\d", of_change)) == (changed >= 1e-9)


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("num_dims", [2, 40])
def test_what_guidance_changes_most_is_no_noise_and_no_tie(
    num_dims: int, alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_model, "Samplers", partial(Samplers, (2,)))  # of which nothing is said here
    bits = torch.tensor([[0.5, 0.5], [0.5, 0.5] if alike else [0.9, 0.1], [0.5, 0.5]], dtype=torch.float64).log()

    def ask(tokens: Tensor, classes: Tensor | None) -> Tensor:
        own = torch.full(tokens.shape[:1], 2) if classes is None else classes
        return bits[own][:, None].expand(*tokens.shape, 2)

    data = SimpleNamespace(
        target=None, name="own", num_tokens=2, num_classes=2, grid_shape=(num_dims,), class_names=None, value_names=None
    )
    denoiser = FunctionDenoiser(ask, 2, num_dims, 2)
    for seed in range(5):
        plan = Plan((Guidance(0.0), Guidance(1.0), Guidance(4.0)), Sampler(), 50, seed)
        said = " ".join(found_by(OwnModel(), data, denoiser, plan).verdict)
        assert ("class 0" in said, "class 1" in said) == (False, not alike)


@pytest.mark.parametrize("w", [(-0.5, 0.0), (-0.5,), (0.0,), (0.0, 2.0)])
def test_hidden_pixels_are_said_to_have_no_guidance_only_where_none_was_given(w: tuple[float, ...]) -> None:
    plan = Plan(tuple(map(Guidance, w)), Sampler(), 4, classes=(0, 1))
    found = found_by(Inpainting(num_free=2, images=[0]), PIXELS, None, plan)
    assert ("w=[0,1,2]" in found.verdict[0]) == (max(w) <= 0)
    # it is one image, guided to two classes
    assert re.findall(r"\d+ of \d+", found.verdict[0]) == (["1 of 1"] if max(w) > 0 else [])


def bernoulli(*classes: list[list[float]]) -> BernoulliMixture:
    shares = [[1 / len(components)] * len(components) for components in classes]
    tables = (torch.tensor(v, dtype=torch.float64) for v in (classes, shares, [1 / len(classes)] * len(classes)))
    return BernoulliMixture(*tables)


TWO = [[0.9, 0.2, 0.5, 0.1], [0.3, 0.3, 0.8, 0.6]]
PIXEL_TARGETS = {
    "equal classes": bernoulli(TWO, TWO),
    "one class": bernoulli(TWO),
    "deterministic classes": bernoulli([[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]),
    "fair coins": bernoulli([[0.5] * 4]),
    "nested supports": bernoulli([[1.0, 1.0, 0.5, 0.5]], [[0.5] * 4]),
}


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", PIXEL_TARGETS)
@pytest.mark.parametrize("study", [Mixtures(), MixtureCorrection(num_reference=100), CalibrationStudy(num_examples=40)])
def test_what_is_said_of_mixtures_is_said_of_numbers_that_exist(study: Any, name: str, learned: bool) -> None:
    target = PIXEL_TARGETS[name]
    denoiser = Blurred(target, 0.3) if learned else None
    found = found_by(study, KnownData(target, "small", (2, 2)), denoiser, replace(PLAN, classes=None))
    said = " ".join(found.verdict)
    assert "nan" not in said and "None" not in said
    for row in block_of(found, "pixels") if isinstance(study, Mixtures) else ():
        assert all(value == value for value in (row.change_private, row.change_shared, row.change_foreign))
    if isinstance(study, CalibrationStudy):
        for row in block_of(found, "gains"):  # what is within the noise of so few samples is no effect
            same = abs(row.usage_tv - row.usage_tv_calibrated) <= row.usage_floor
            if row.w == Guidance(2.0) and same:
                *_, about = [s for s in found.verdict if row.denoiser in s]  # the distances, and that by chance
                distances = set(apart(row.usage_tv_calibrated, row.usage_tv))
                assert len(re.findall(r"\d\S*", about.rpartition(":")[2])) == len(distances) + 1


class Sure:
    """A denoiser that gives probability 1 to the value 0, whatever is possible."""

    def __init__(self, data: Any) -> None:
        self.num_tokens = data.num_tokens
        self.num_dims = math.prod(data.grid_shape)
        self.num_classes = data.num_classes

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        known = torch.where(tokens == self.num_tokens, 0, tokens)
        return torch.nn.functional.one_hot(known, self.num_tokens).double().log()


IMPOSSIBLE = ("Corpus", "Departures", "Images", "LikelihoodStudy", "Mixtures", "Sequences")


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_network_that_gives_probability_0_to_the_data_has_an_infinite_error_and_no_number_that_is_none(
    name: str,
) -> None:
    study, data, plan = CASES[name]
    found = found_by(study, data, Sure(data), plan)
    said = " ".join(found.verdict)
    assert "nan" not in said and "±" not in found.verdict[0]
    values = [value for block in found.blocks for row in block.rows for value in vars(row).values()]
    assert math.inf in values and not [value for value in values if isinstance(value, float) and value != value]


def test_steps_of_a_denoiser_without_the_data_have_no_best_sizes() -> None:
    study, data, plan = CASES["ProfileStudy"]
    with pytest.raises(UserError, match=" 0 "):
        found_by(study, data, Sure(data), plan)


def test_infinite_numbers_are_the_largest_and_equal_ones() -> None:
    rows = [SimpleNamespace(number=number) for number in (1.0, float("inf"), 1.0, float("inf"), 2.0)]
    near, far = tied_ends(rows, "number", 1e-9)
    assert (near, far) == ([rows[0], rows[2]], [rows[1], rows[3]])
    assert tied_ends(rows[1:2], "number", 1e-9) == (rows[1:2], [])


def test_what_is_smallest_and_largest_has_two_numbers() -> None:
    rows = [SimpleNamespace(name=name, tv=tv) for name, tv in (("a", 0.666912), ("b", 0.666874), ("c", 0.666874))]
    said = least_and_most("the distance", rows, "tv", "name", 1e-9, after=lambda tied: f" by {len(tied)}")
    assert [float(number) for number in re.findall(r"[(]([0-9.]+) by ", said)] == [0.66687, 0.66691]
    assert len(re.findall(r"[(]0[.]6669 by", least_and_most("the distance", rows[1:], "tv", "name", 1e-9))) == 0


def test_samplers_without_an_error_are_said_to_have_none() -> None:
    rows = [SamplerRow(Guidance(1e4), "learned", Sampler(), "a", calls, tv=0.0) for calls in (4, 10_000)]
    assert samplers.verdict_of(rows) and not samplers.verdict_of(rows[1:])


def order_row(name: str, **found: float) -> sequence_rows.OrderRow:
    """A row of an order of which nothing else is known."""
    names = ("posterior", "posterior_se", "log_prob", "log_prob_se", "tv_class_2")
    measured: dict[str, Any] = {"impossible": 0.0, "diversity": 0.5} | dict.fromkeys(names, 0.0) | found
    return sequence_rows.OrderRow(
        w=Guidance(2.0), denoiser="exact", sampler=Sampler(policy=name), order=name, calls=8, **measured
    )


@pytest.mark.parametrize("num", [2, 3, 5, 20])
def test_few_sequences_of_equal_orders_rarely_differ(num: int) -> None:
    """The errors are those of few values themselves: in at most 1 of 20 reports two of six equal sets differ."""
    generator = torch.Generator().manual_seed(num)
    said = 0
    for _ in range(200):
        x = torch.randn(len(POLICIES), num, generator=generator)
        errors = x.std(dim=1) / math.sqrt(num)
        rows = [
            order_row(name, log_prob=mean, log_prob_se=error)
            for name, mean, error in zip(sorted(POLICIES), x.mean(dim=1).tolist(), errors.tolist())
        ]
        both = (rows, [replace(row, log_prob_se=1e9) for row in rows])  # and errors that leave no difference clear
        said += len({conclusion(sequence_rows._of_orders(these, Guidance(0.0), num)[0]) for these in both}) > 1
    assert said <= 20  # of 200, where at most 10 are expected; more than 20 by chance once in 900


def test_all_steps_that_tie_are_named() -> None:
    costs = {"best": 1.0, "uniform": 2.0, "cosine": 1.5, "exponential": 1.5 + 1e-15}
    steps = [profile.CostRow(Guidance(0.0), "exact", name, 2, cost, 0.0, None, "1,1") for name, cost in costs.items()]
    named = profile._saved(steps, 2.0) or ""
    assert [name in named for name in costs] == [True, False, True, True]
    noisy = [replace(row, calls=1, cost=5 * row.cost, cost_se=4.0) for row in steps]  # the largest saving may be chance
    assert (profile._saved([*noisy, *steps], 2.0) or "") == named
