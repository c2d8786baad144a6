"""A tiny hidden Markov mixture: the study's figures against the laws of the table of the same mixture."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from helpers import Blurred
from scipy.stats import chi2
from torch import Tensor

from mdlm_cfg import Guidance, Sampler, UserError, terminal_law
from mdlm_cfg.chain.guidance import linear_ramp
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.compare.metrics import histogram, total_variation
from mdlm_cfg.compare.sequences import gram_histogram, gram_law
from mdlm_cfg.reports.page import Section, render_page
from mdlm_cfg.reports.sequence_report import sequence_sections
from mdlm_cfg.reports.tables import Table
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sequences import Sequences
from mdlm_cfg.studies.sequences.findings import SequenceFindings
from mdlm_cfg.studies.sequences.study import others
from mdlm_cfg.targets.data import KnownData
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.training.watching import exact_nelbos


def mixture() -> HiddenMarkovMixture:
    g = torch.Generator().manual_seed(0)

    def rows(*shape: int) -> Tensor:
        values = torch.rand(*shape, generator=g, dtype=torch.float64) ** 2 + 0.02
        return values / values.sum(-1, keepdim=True)

    return HiddenMarkovMixture(
        rows(2, 2), rows(2, 2, 2), rows(2, 2, 3), torch.tensor([0.4, 0.6]), num_dims=4, value_names=tuple("abc")
    )


def data_of(target: HiddenMarkovMixture) -> Any:
    return KnownData(target, "tiny", num_test=600)


def plan_of(*guidances: Guidance, n: int = 2000, **options: Any) -> Plan:
    return Plan(guidances, options.pop("sampler", Sampler()), n, **options)


def found_by(share: float | None, plan: Plan, study: Sequences | None = None) -> SequenceFindings:
    target = mixture()
    denoiser = None if share is None else Blurred(target, share)
    return (study or Sequences()).run(data_of(target), denoiser, plan, lambda line: None)


@pytest.fixture(scope="module")
def blurred() -> SequenceFindings:
    return found_by(0.4, plan_of(Guidance(0.0), Guidance(3.0), classes=(1,)))


@pytest.fixture(scope="module")
def sections(blurred: SequenceFindings, tmp_path_factory: pytest.TempPathFactory) -> list[Section]:
    return sequence_sections(blurred, tmp_path_factory.mktemp("page"))


def p_value(x: Tensor, law: Tensor) -> float:
    expected, counts = len(x) * law.flatten(), len(x) * histogram(x, law.shape[0]).flatten()
    order = expected.argsort(descending=True)
    expected, counts = expected[order], counts[order]
    kept = int((expected >= 5).sum())  # the rest in one cell
    expected, counts = (torch.cat([v[:kept], v[kept:].sum()[None]]) for v in (expected, counts))
    return float(chi2.sf(float(((counts - expected) ** 2 / expected).sum()), kept))


def test_guided_samples_follow_the_exact_laws_of_the_table(blurred: SequenceFindings) -> None:
    table, target = mixture().table(), mixture()
    for w in (0.0, 3.0):
        law = terminal_law(table.denoiser(), Guidance(w), 1)
        for name in ("exact", "floor"):
            assert p_value(blurred.samples[f"{name}_w{w:g}"], law) > 1e-4
        states = torch.cartesian_prod(*[torch.arange(3)] * 4)
        values_of = {"posterior": target.class_posterior(states)[:, 1], "log_prob": target.log_prob(states, 1)}
        for name, values in values_of.items():
            found = blurred.at(w, "exact").statistics
            expected = float(law.flatten() @ values)
            assert abs(getattr(found, name) - expected) < 4.5 * getattr(found, f"{name}_se")
    assert p_value(blurred.samples["class"], table.class_pmf(1)) > 1e-4
    assert p_value(blurred.samples["learned_w3"], law) < 1e-6  # a wrong denoiser is found out


def test_every_order_draws_its_own_exact_law(blurred: SequenceFindings) -> None:
    table = mixture().table().denoiser()
    study_samplers = {one.sampler.label: one for one in blurred.compared if one.w == 3 and one.name == "exact"}  # type: ignore[union-attr]
    assert set(study_samplers) == {s.label for s in others(4)} and len(study_samplers) == 4
    for one in study_samplers.values():
        assert one.sampler is not None
        law = one.sampler.law(table, Guidance(3.0), 1)
        grams = torch.stack([law.sum(dim=[j for j in range(4) if not i <= j < i + 2]) for i in range(3)]).mean(dim=0)
        # places of one sequence depend on each other: at worst all three say the same
        noise = (grams * (1 - grams) / 2000).sqrt()
        assert bool(((one.statistics.grams[2] - grams).abs() < 5 * noise + 1e-12).all())


def test_long_sequences_are_drawn_in_few_calls_too() -> None:
    labels = {s.label: s.calls(128) for s in others(128)}
    assert sorted(labels.values()) == [8, 8, 8, 32, 32, 32, 128, 128, 128, 128]
    assert labels["event_leaping, 8 steps, cosine, confidence"] == 8 and labels["first_hitting, fixed_order"] == 128


def test_the_score_error_is_the_excess_over_all_partial_states(blurred: SequenceFindings) -> None:
    target = mixture()
    exact = exact_nelbos(Blurred(target, 0.4), target.table())
    for label, name in (("conditional", "excess"), ("null", "excess_null")):
        error = blurred.score[label]
        assert abs(error.kl - exact[name]) < 4.5 * error.kl_se and error.kl > 20 * error.kl_se
        assert abs(error.difference - exact[name]) < 4.5 * error.difference_se
    assert blurred.score["conditional"].num_images == 600  # all that the test set has
    nothing = found_by(0.0, plan_of(Guidance(0.0), n=10), Sequences(compare=False)).score
    assert abs(nothing["conditional"].kl) < 1e-15 and abs(nothing["null"].difference) < 1e-15


def test_distances_are_those_of_the_sets(blurred: SequenceFindings) -> None:
    target = mixture()
    for one in blurred.sets:
        x = blurred.samples["class" if one.name == "class" else f"{one.name}_w{one.w:g}"]
        for n in (1, 2, 3):
            own, reference = gram_histogram(x, 3, n), gram_histogram(blurred.samples[f"exact_w{one.w:g}"], 3, n)
            assert one.tv_class[n] == pytest.approx(total_variation(gram_law(target, n, 1), own))
            assert one.tv_exact.get(n, 0.0) == pytest.approx(total_variation(own, reference))
            assert (n in one.tv_exact) == (one.name != "exact")
    learned, floor = (blurred.at(3.0, name).tv_exact[2] for name in ("learned", "floor"))
    assert learned > 3 * floor
    assert blurred.at(3.0, "exact").statistics.posterior > blurred.at(0.0, "exact").statistics.posterior + 0.05


def test_sets_are_those_of_the_plans_generators() -> None:
    """Another kind, sampler, schedule and class than the default: what was asked for is what ran."""
    target, guidance = mixture(), Guidance(1.5, cast(Kind, "normalized"))
    plan = plan_of(guidance, n=40, sampler=Sampler("event_leaping", 3, "linear"), seed=5, classes=(1,))
    found = found_by(0.4, plan, Sequences(num_test=20))
    assert found.kind == "normalized" and found.target_class == 1
    for name, used in (("exact", target.denoiser()), ("learned", Blurred(target, 0.4))):
        x = plan.sampler.draw(used, guidance, 1, 40, plan.generator("samples", guidance, 1, name))
        assert torch.equal(found.samples[f"{name}_w1.5"], x)
    assert not torch.equal(found.samples["exact_w1.5"], found.samples["floor_w1.5"])
    assert {one.w for one in found.compared} == {1.5} and {one.name for one in found.compared} == {"exact", "learned"}


def test_a_strengths_numbers_do_not_depend_on_the_others(blurred: SequenceFindings) -> None:
    alone = found_by(0.4, plan_of(Guidance(3.0), classes=(1,)))
    for name in alone.names:
        assert alone.at(3.0, name).row() == blurred.at(3.0, name).row()
    strongest = [one for one in blurred.compared if one.w == 3.0]
    assert [one.row() for one in alone.compared] == [one.row() for one in strongest]
    assert torch.equal(alone.aligned["learned"][3.0], blurred.aligned["learned"][3.0])


def test_aligned_sequences_differ_where_guidance_did_it(blurred: SequenceFindings, sections: list[Section]) -> None:
    for name in ("exact", "learned"):
        assert set(blurred.aligned[name]) == {0.0, 3.0}
    again = found_by(None, plan_of(Guidance(0.0), Guidance(1e-9), n=10, classes=(1,)), Sequences(compare=False))
    assert torch.equal(again.aligned["exact"][0.0], again.aligned["exact"][1e-9])  # no guidance, no difference
    listing = sections[-1].listing
    blocks = listing.split("\n\n")
    assert len(blocks) == 8
    for k, block in enumerate(blocks):
        rows = [blurred.aligned[("exact", "learned")[k // 4]][w][k % 4].tolist() for w in (0.0, 3.0)]
        head, plain, guided, *marks = block.split("\n")
        assert head.endswith(f"sequence {k % 4 + 1}")
        words = ["".join("abc"[v] for v in row) for row in rows]
        assert plain == f"w = 0  {words[0]}" and guided[7:] == words[1]
        marked = (marks[0] if marks else "").ljust(11)[7:]
        assert [mark == "^" for mark in marked] == [a != b for a, b in zip(*rows)]
    assert "^" in listing


def _columns(table: Table) -> list[tuple[str, ...]]:
    return list(zip(table.columns, *table.rows))


def test_the_report_has_everything(blurred: SequenceFindings, sections: list[Section]) -> None:
    assert [section.title for section in sections] == [
        "Score error", "Guided samples against exact ones", "Variety and n-grams",
        "Which order, and how many at a time", "Sequences to read",
    ]  # fmt: skip
    pictures = [picture.path for section in sections for picture in section.pictures]
    assert len(pictures) == len(set(pictures)) == 8 and all(path.is_file() for path in pictures)
    for section, rows in ((sections[1], blurred.sets), (sections[3], blurred.compared)):
        assert section.table is not None
        for cells, one in zip(section.table.rows, rows, strict=True):
            row = dict(zip(section.table.columns, cells))
            assert row["w"] == f"{one.w:g}" and row["pairs to class"] == f"{one.tv_class[2]:.3f}"
            assert row["p(z | x)"].startswith(f"{one.statistics.posterior:.3f}")
            assert row["ln p(x | z)"].startswith(f"{one.statistics.log_prob:.1f}")
    table = sections[2].table
    assert table is not None
    for cells, one in zip(table.rows, blurred.sets, strict=True):
        row = dict(zip(table.columns, cells))
        assert row["3 to class"] == f"{one.tv_class[3]:.3f}" and row["differ"] == f"{one.statistics.diversity:.3f}"
    for section in sections[:4]:  # all fit a terminal of 80 columns
        assert section.table is not None
        widths = [max(map(len, [*head.split(), *column])) for head, *column in _columns(section.table)]
        assert sum(widths) + 3 * len(widths) <= 80 or section.title == "Score error"
    page = render_page("Tiny", sections)
    assert f"<pre>{sections[-1].listing.splitlines()[0]}" in page


def test_rows_are_flat_and_everything_is_json(blurred: SequenceFindings) -> None:
    plain = json.loads(json.dumps(blurred.to_dict(), allow_nan=False))
    assert plain["plan"] == blurred.plan.describe() and plain["distances"] == blurred.rows()
    assert [(row["w"], row["set"]) for row in blurred.rows()] == [
        (w, name) for w in (0.0, 3.0) for name in ("exact", "floor", "learned", "class")
    ]
    assert plain["score_error"]["null"]["num_sequences"] == 600
    assert [row["policy"] for row in plain["samplers"][:4]] == ["rate", "uniform", "fixed_order", "confidence"]
    assert all(row["calls"] == 4 and row["denoiser"] in ("exact", "learned") for row in plain["samplers"])
    assert blurred.numbers()["posterior_learned_w3"] == blurred.at(3.0, "learned").statistics.posterior
    held = blurred.arrays()
    assert held["learned_w3"].shape == (2000, 4) and held["aligned_exact_w0"].shape == (4, 4)
    assert "The score error is" in blurred.verdict[0] and len(blurred.verdict) == 6


def test_what_was_not_learned_is_absent(tmp_path: Path) -> None:
    exact = found_by(None, plan_of(Guidance(1.0), n=20), Sequences(compare=False))
    assert exact.to_dict()["score_error"] == {} and exact.to_dict()["samplers"] == []
    assert exact.names == ["exact", "floor", "class"] and list(exact.aligned) == ["exact"]
    assert not any("learned" in name or "score" in name for name in exact.numbers())
    assert [section.title for section in sequence_sections(exact, tmp_path)] == [
        "Guided samples against exact ones", "Variety and n-grams",
    ]  # fmt: skip


def test_sequences_that_the_class_does_not_allow_are_said(tmp_path: Path) -> None:
    found = found_by(None, plan_of(Guidance(0.0), n=20), Sequences(compare=False))
    one = dataclasses.replace(
        found.sets[0], statistics=dataclasses.replace(found.sets[0].statistics, impossible=0.25, log_prob=math.nan)
    )
    shown = sequence_sections(dataclasses.replace(found, sets=[one, *found.sets[1:]]), tmp_path)[1].table
    assert shown is not None and shown.columns[-1] == "impossible" and shown.rows[0][-1] == "25.0%"
    assert "left out" in shown.note and "impossible" not in sequence_sections(found, tmp_path)[1].table.columns  # type: ignore[union-attr]


def test_what_cannot_be_studied_is_refused() -> None:
    data, one = data_of(mixture()), Guidance(1.0)
    no_mixture = SimpleNamespace(target=None, name="mnist")
    never = HiddenMarkovMixture(
        torch.ones(2, 1), torch.ones(2, 1, 1), torch.full((2, 1, 2), 0.5), torch.tensor([1.0, 0.0]), num_dims=2
    )
    for given, plan, words in [
        (no_mixture, plan_of(one), "mnist is no hidden Markov mixture"),
        (data, plan_of(one, n=1), "at least 2 per class"),
        (data, plan_of(one, classes=(2,)), "class 2 is out of range"),
        (data, plan_of(one, classes=(0, 1)), "one class at a time"),
        (data, plan_of(Guidance(linear_ramp(0.0, 1.0))), "needs one number w"),
        (data, plan_of(one, Guidance(1.0, cast(Kind, "normalized"))), "takes one kind"),
        (data_of(never), plan_of(one, classes=(1,)), "class 1 of tiny has weight 0"),
    ]:
        with pytest.raises(UserError, match=words):
            Sequences().check(given, plan)
    small = HiddenMarkovMixture(
        torch.ones(2, 1), torch.ones(2, 1, 1), torch.full((2, 1, 2), 0.5), torch.tensor([0.5, 0.5]), num_dims=2
    )
    with pytest.raises(UserError, match="other data"):
        Sequences().run(data, small.denoiser(), plan_of(one), lambda line: None)
    for settings in ({"num_test": 1}, {"num_draws": 0}):
        with pytest.raises(UserError, match="must be at least 2 and 1"):
            Sequences(**settings)
