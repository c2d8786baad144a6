"""The study of inpainting: exact laws of hidden pixels, held against Bayes and against the whole chain."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Blurred, bernoulli_mixture, block_of, conclusion, data_of as known_data, found_by
from torch import Tensor

from mdlm_cfg import (
    Blocks,
    Confidence,
    Correction,
    FixedOrder,
    Guidance,
    Sampler,
    UserError,
    slice_denoiser,
    terminal_law,
)
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.kinds import kind_of
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.compare.metrics import histogram, total_variation
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.studies.common import LONGER
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.inpainting import SHOWN, BudgetRow, Inpainting, SliceRow, verdict_of
from mdlm_cfg.studies.law_pictures import most_probable
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, check
from mdlm_cfg.studies.slices import Slice, hidden_pixels, marginal_of, posterior_of
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.table import TableMixture

FREE = 4
SIDE = 6
GUIDANCES = (Guidance(0.0, kind_of("normalized")), Guidance(2.0, kind_of("normalized")))


def mixture() -> BernoulliMixture:
    return bernoulli_mixture(SIDE * SIDE, 4, 1.0)


def data_of(known: bool = True, target: Any = None, grid: tuple[int, ...] = (SIDE, SIDE)) -> Any:
    target = target or mixture()
    test = target.sample(300, generator_for("inpainting test"))
    data = known_data(target, "tiny", grid_shape=grid, test_examples=lambda: test)
    data.target = target if known else None
    return data


def plan_of(classes: tuple[int, ...] | None = (2,), sampler: Sampler | None = None) -> Plan:
    return Plan(GUIDANCES, sampler or Sampler(policy="confidence"), 800, seed=4, classes=classes)


def study(**settings: Any) -> Inpainting:
    return Inpainting(**({"num_free": FREE} | settings))


def found(denoiser: Denoiser | None, known: bool = True, plan: Plan | None = None) -> Findings:
    return found_by(study(), data_of(known), denoiser, plan or plan_of())


def slices(findings: Findings, denoiser: Denoiser | None = None) -> list[Slice]:
    return study().slices(Case.of(data_of(), denoiser, findings.plan))


def at(findings: Findings, block: str, s: Slice, w: float) -> list[Any]:
    """The rows of one image and strength."""
    about = (s.image, s.target_class, w)
    return [row for row in block_of(findings, block) if (row.image, row.target_class, row.w.constant) == about]


def law_at(findings: Findings, s: Slice, w: float) -> Tensor:
    return torch.from_numpy(findings.arrays[f"image{s.image}_class{s.target_class}_normalized_w{w:g}"])


@pytest.fixture(scope="module")
def blurred() -> Findings:
    return found(Blurred(mixture(), 0.4))


def test_exact_and_unguided_the_hidden_pixels_follow_bayes() -> None:
    target = mixture()
    findings = found(None, plan=plan_of((0, 2)))
    assert findings.facts["judged"] == "exact" and len(slices(findings)) == 2
    values = torch.cartesian_prod(*[torch.arange(2)] * FREE)
    for s in slices(findings):
        assert s.image_class == s.target_class
        images = s.x.repeat(len(values), 1)
        images[:, s.hidden] = values
        own = target.log_prob(images, torch.full((16,), s.target_class))
        whole = target.log_prob(images)
        for w in (0.0, 2.0):
            tilted = ((1 + w) * own - w * whole).softmax(0)
            (row,) = at(findings, "distances", s, w)
            assert row.conditionals_error is None
            assert row.tv_tilted == pytest.approx(total_variation(law_at(findings, s, w).flatten(), tilted), abs=1e-12)
            likelihoods = [target.log_prob(images, torch.full((16,), k)).logsumexp(0) for k in range(3)]
            posterior = (torch.stack(likelihoods) + target.class_weights.log()).softmax(0)
            assert row.posterior == pytest.approx(float(posterior[s.target_class]), rel=1e-9)
        law = law_at(findings, s, 0.0)
        assert float((law.flatten() - own.softmax(0)).abs().max()) < 1e-12
        assert most_probable(law, SHOWN).tolist() == values[own.argsort(descending=True)[:4]].tolist()
        assert marginal_of(law)[:, 1].tolist() == pytest.approx((own.softmax(0) @ values.double()).tolist())


def test_figures_are_those_of_the_slice(blurred: Findings) -> None:
    """Another kind, order and class than the default: what was asked for is what was computed."""
    learned = Blurred(mixture(), 0.4)
    exact = mixture().denoiser()
    (s,) = slices(blurred)
    laws = []
    for guidance in GUIDANCES:
        (row,) = at(blurred, "distances", s, guidance.constant)
        law = terminal_law(slice_denoiser(learned, s.state), guidance, 2, "confidence")
        truth = terminal_law(slice_denoiser(exact, s.state), guidance, 2, "confidence")
        weights = tilted_weights(slice_denoiser(learned, s.state), guidance, 2, "confidence")
        laws.append(law)
        assert float((law_at(blurred, s, guidance.constant) - law).abs().max()) < 1e-12
        assert row.conditionals_error == pytest.approx(total_variation(law, truth), abs=1e-12)
        assert row.conditionals_error > 0.01
        assert row.ess == pytest.approx(weights.ess)
        assert row.tv_tilted == pytest.approx(total_variation(weights.law, law), abs=1e-12)
        assert row.guidance_effect == pytest.approx(total_variation(laws[0], law), abs=1e-12)


def test_ledgers_close_and_their_samples_are_of_the_whole_denoiser(blurred: Findings) -> None:
    plan = plan_of()
    (s,) = slices(blurred)
    budgets = block_of(blurred, "ledger")
    assert all(row.closes for row in budgets) and len(budgets) == 4
    generator = plan.generator("samples", GUIDANCES[1], 2, f"image {s.image}")
    x = plan.sampler.draw(Blurred(mixture(), 0.4), GUIDANCES[1], 2, 800, generator, start=s.state)
    own, few = at(blurred, "ledger", s, 2.0)
    drawn = histogram(x[:, s.hidden], 2)
    assert own.sampling_noise == pytest.approx(total_variation(law_at(blurred, s, 2.0), drawn), abs=1e-12)
    truth = terminal_law(slice_denoiser(mixture().denoiser(), s.state), GUIDANCES[1], 2, "confidence")
    assert own.total == pytest.approx(total_variation(truth, drawn), abs=1e-12)
    assert own.discretisation_error == 0 and own.sampler == plan.sampler
    assert few.sampler == Sampler("event_leaping", 2) and few.discretisation_error > 0
    assert None not in (own.conditionals_error, own.gap_to_tilted, own.guidance_effect)


def test_without_a_known_truth_nothing_is_said_of_the_conditionals_error(tmp_path: Path) -> None:
    findings = found(Blurred(mixture(), 0.4), known=False)
    assert all(row.conditionals_error is None for name in ("distances", "ledger") for row in block_of(findings, name))
    assert all(row.gap_to_tilted is None and row.guidance_effect is None for row in block_of(findings, "ledger"))
    assert all(row.closes for row in block_of(findings, "ledger"))
    assert not any(name.startswith("conditionals_error") for name in findings.numbers())
    sections = sections_of(findings, tmp_path)
    head = SliceRow.__dataclass_fields__["conditionals_error"].metadata["head"]
    assert not any(head in section.table.columns for section in sections if section.table)


def test_the_posterior_has_the_shares_of_the_training_examples_also_of_a_class_that_the_test_lacks() -> None:
    counts = torch.tensor([1, 4, 15], dtype=torch.float64)
    data = data_of(known=False)
    x, labels = data.test_examples()
    tested = (x[labels != 2], labels[labels != 2])
    data.test_examples, data.example_kind = lambda: tested, "images"
    data.train_examples = lambda k, generator: torch.zeros(int(counts[k]), SIDE * SIDE)
    target = mixture()
    case = Case.of(data, target.denoiser(), plan_of((0, 2)))
    for s in Inpainting(FREE, images=[0]).slices(case):
        each = torch.stack([target.log_prob(s.state[None], torch.tensor([k]))[0] for k in range(3)])
        expected = (each + (counts / 20).log()).softmax(0)[s.target_class]
        assert posterior_of(case, s) == pytest.approx(float(expected), rel=1e-9)


def test_the_picture_shows_the_hidden_pixels_and_what_is_around_them(blurred: Findings) -> None:
    (s,) = slices(blurred)
    whole, around = next(block for block in blurred.blocks if block.name.startswith("image")).views
    hidden = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    hidden.view(-1)[s.hidden] = True
    known = torch.from_numpy(whole.images["known pixels"][0, 0])
    assert torch.equal(known.isnan(), hidden)
    assert torch.equal(known[~hidden], s.x.view(SIDE, SIDE)[~hidden].double())
    for k, w in enumerate((0.0, 2.0)):
        tiles = {title: torch.from_numpy(block[k, 0]) for title, block in around.images.items()}
        shown = tiles["known pixels"].isnan()
        assert int(shown.sum()) == FREE
        assert tiles["true values"][shown].tolist() == s.x[s.hidden].tolist()
        law = law_at(blurred, s, w)
        for rank, values in enumerate(most_probable(law, SHOWN).tolist(), 1):
            assert tiles[f"rank {rank}"][shown].tolist() == values
            assert torch.equal(tiles[f"rank {rank}"][~shown], tiles["known pixels"][~shown])
        assert tiles["pixel means"][shown].tolist() == pytest.approx(marginal_of(law)[:, 1].tolist())


def test_a_ledger_that_stays_open_is_said(blurred: Findings) -> None:
    rows: list[SliceRow] = block_of(blurred, "distances")
    budgets: list[BudgetRow] = block_of(blurred, "ledger")
    open_ones = [replace(budgets[0], closes=False), *budgets[1:]]
    assert "3 of 4" in verdict_of(rows, open_ones, "learned")[-1]
    assert "4 of 4" in verdict_of(rows, budgets, "learned")[-1]


def test_completions_of_probability_0_are_not_shown() -> None:
    """Of two possible completions the first four were shown."""
    table = torch.zeros(2, 2, 2, 2).double()
    table[0, 0, 0, 0] = 0.7
    table[0, 1, 1, 0] = 0.3
    table[1, 0, 1, 1] = 1.0
    data = data_of(True, TableMixture(table, torch.tensor([0.5, 0.5]).double()), (3,))
    asked = Inpainting(num_free=2)
    plan = plan_of(None, Sampler())
    found = found_by(asked, data, None, plan)
    pictures = [block.views[1].images for block in found.blocks if block.name.startswith("image")]
    for s, images in zip(asked.slices(Case.of(data, None, plan)), pictures, strict=True):
        for k, w in enumerate((0.0, 2.0)):
            tiles = {title: torch.from_numpy(block[k, 0]) for title, block in images.items()}
            hidden = tiles["known pixels"].isnan()
            law = law_at(found, s, w)
            shown = [tiles[f"rank {rank}"][hidden] for rank in range(1, SHOWN + 1)]
            there = [float(law[tuple(values.long().tolist())]) for values in shown if not values.isnan().any()]
            assert min(there) > 0 and len(there) == int((law > 0).sum()) < SHOWN


def test_where_the_known_pixels_determine_the_class_guidance_changes_nothing() -> None:
    """Two classes with different distributions of two pixels; the third one is the class, and is known."""
    square = torch.tensor([[0.3, 0.1], [0.2, 0.4]]).double()
    tables = torch.zeros(2, 2, 2, 2).double()
    tables[0, 0] = square
    tables[1, 1] = square.flip(0)
    target = TableMixture(tables, torch.tensor([0.5, 0.5]).double())
    data = data_of(True, target, (3,))
    asked = Inpainting(num_free=2)
    plan = plan_of(None, Sampler())
    assert all(s.hidden.tolist() == [1, 2] for s in asked.slices(Case.of(data, None, plan)))
    rows = block_of(found_by(asked, data, None, plan), "distances")
    assert len(rows) == 4
    for row in rows:
        assert row.posterior == 1 and row.guidance_effect < 1e-12
    hidden = found_by(Inpainting(num_free=3), data, None, plan)  # with the third pixel hidden, nothing tells the class
    assert [row.posterior for row in block_of(hidden, "distances")] == [0.5] * 4


@pytest.mark.parametrize(
    ("posterior", "effect", "determined", "changed"),
    [(0.9999, 0.0004, True, False), (0.5, 0.0004, False, False), (0.5, 0.2, False, True), (0.995, 0.2, True, True)],
)
def test_the_verdict_says_whether_the_known_pixels_determine_the_class(
    blurred: Findings, posterior: float, effect: float, determined: bool, changed: bool
) -> None:
    rows = [
        replace(row, posterior=posterior, guidance_effect=effect * (row.w.constant > 0), conditionals_error=None)
        for row in block_of(blurred, "distances")
    ]
    judgement = verdict_of(rows, block_of(blurred, "ledger"), "exact")[0]
    unsure = [replace(row, posterior=0.5, guidance_effect=0.0004) for row in rows]
    neither = verdict_of(unsure, block_of(blurred, "ledger"), "exact")[0]
    assert bool(re.search(r"\d of \d", judgement)) == changed
    assert (conclusion(judgement) != conclusion(neither)) == (determined or changed) and f"{effect:g}" in judgement
    assert len(judgement) > len(neither) or not determined  # with the reason


def test_the_error_of_the_network_is_judged_by_the_effect_of_guidance(blurred: Findings) -> None:
    rows = block_of(blurred, "distances")
    for times, longer in ((0.5, False), (2.0, True)):
        wrong = [replace(row, conditionals_error=times * rows[1].guidance_effect) for row in rows]
        assert verdict_of(wrong, [], "learned")[0].endswith(LONGER) == longer
    rounding = 1e-16  # of an error, or of an effect, that is 0
    for error, effect in ((rounding, 0.0), (0.0, rounding), (0.0, 0.3), (0.2, rounding)):
        these = [replace(row, conditionals_error=error, guidance_effect=effect) for row in rows]
        said = verdict_of(these, [], "learned")[0]
        assert not said.endswith(LONGER) and ("0.2000" in said) == (error == 0.2)


@pytest.mark.parametrize("seed", range(5))
def test_a_patch_is_connected_and_the_seeds(seed: int) -> None:
    variance = torch.rand(48, generator=torch.Generator().manual_seed(seed))
    chosen = hidden_pixels(variance, (6, 8), 9, generator_for("patch", seed))
    assert torch.equal(chosen, hidden_pixels(variance, (6, 8), 9, generator_for("patch", seed)))
    places = {divmod(int(i), 8) for i in chosen}
    reached = set()
    edge = [next(iter(places))]
    while edge:
        y, x = edge.pop()
        reached.add((y, x))
        edge += [p for p in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)) if p in places - reached]
    assert reached == places and len(places) == 9
    assert chosen.tolist() == sorted(chosen.tolist())


def test_pixels_that_never_vary_can_be_hidden() -> None:
    assert len(hidden_pixels(torch.zeros(4), (2, 2), 4, generator_for("none"))) == 4


def test_images_by_place_and_by_class() -> None:
    data = data_of()
    labels = data.test_examples()[1]

    def pairs(classes: tuple[int, ...] | None, **settings: Any) -> list[tuple[int, int]]:
        return study(**settings).pairs(Case.of(data, None, plan_of(classes)))

    assert pairs(None, images=[7, 3]) == [(7, int(labels[7])), (3, int(labels[3]))]
    assert pairs((0, 1), images=[7]) == [(7, 0), (7, 1)]
    every = pairs(None)
    assert [(z, int(labels[i])) for i, z in every] == [(0, 0), (1, 1), (2, 2)]


class LaterLikelier(Policy):
    """Coordinate i with weight e^(i / 2): by its place in the whole image, which a slice does not know."""

    def preference(self, log_z: Tensor, log_r: Any, coordinates: Tensor) -> tuple[None, Tensor]:
        """See `Policy.preference`."""
        return None, coordinates.expand_as(log_z) / 2


@pytest.mark.parametrize(
    "policy", [None, "rate", "uniform", "confidence", "margin", "entropy", "fixed_order", Confidence(temperature=0.5)]
)
def test_an_order_that_names_no_places_is_taken(policy: Any) -> None:
    check(study(), Case.of(data_of(), None, plan_of(sampler=Sampler(policy=policy))))


@pytest.mark.parametrize(
    ("settings", "plan", "message"),
    [
        ({"num_free": 0}, plan_of(), "num_free = 0"),
        ({"num_free": 37}, plan_of(), "num_free = 37"),
        ({"num_free": 30}, plan_of(), r"\(2\+1\)\^30"),
        ({"images": [300]}, plan_of(), " 300, .* 0 to 299$"),
        ({"images": [3, 3]}, plan_of(), r"\[3, 3\]"),
        ({}, Plan((Guidance(1.0, top_p=0.9),), Sampler(), 10), " temperature .* top_p "),
        ({}, plan_of(sampler=Sampler("event_leaping", events=(18, 18))), r"events = \[18, 18\] .* 36 .* 4: .*events=1"),
        ({"num_free": 3}, plan_of(sampler=Sampler(correction=Correction(size=4))), "size 4 .* 3: .* 3$"),
        ({}, plan_of(sampler=Sampler(policy=FixedOrder(range(36)))), r"fixed_order\(0,1,.* 4 .* confidence$"),
        ({}, plan_of(sampler=Sampler(policy=LaterLikelier())), " 4 .* confidence$"),
        ({}, plan_of(sampler=Sampler(policy=Blocks([range(18), range(18, 36)]))), r"blocks\(0,1,.* 4 .* confidence$"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_any_work(settings: dict[str, Any], plan: Plan, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(study(**settings), Case.of(data_of(), None, plan))
