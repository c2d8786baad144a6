"""A tiny hidden Markov mixture: the study's figures against the laws of the table of the same mixture."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers import Blurred, block_of, chi_square_p_value, conclusion, decimals, found_by as study_found
from torch import Tensor

from mdlm_cfg import Guidance, HiddenMarkovMixture, Sampler, UserError, terminal_law
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.sequences import gram_histogram, gram_law
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.studies import sequence_rows
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, check
from mdlm_cfg.studies.sequence_rows import NOISE_DRAWS, OrderRow, _of_orders
from mdlm_cfg.studies.sequences import Sequences, others
from mdlm_cfg.targets.data import KnownData
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


def found(share: float | None, plan: Plan, study: Sequences | None = None) -> Findings:
    target = mixture()
    denoiser = None if share is None else Blurred(target, share)
    return study_found(study or Sequences(), data_of(target), denoiser, plan)


def at(findings: Findings, w: float, name: str) -> Any:
    """The row of one set."""
    return next(row for row in block_of(findings, "distances") if (row.w.constant, row.set) == (w, name))


def drawn(findings: Findings, name: str) -> Tensor:
    return torch.from_numpy(findings.arrays[name]).long()


@pytest.fixture(scope="module")
def blurred() -> Findings:
    return found(0.4, plan_of(Guidance(0.0), Guidance(3.0), classes=(1,)))


def test_guided_samples_follow_the_exact_laws_of_the_table(blurred: Findings) -> None:
    table = mixture().table()
    target = mixture()
    for w in (0.0, 3.0):
        law = terminal_law(table.denoiser(), Guidance(w), 1)
        for name in ("exact", "floor"):
            assert chi_square_p_value(drawn(blurred, f"{name}_w{w:g}"), law) > 1e-4
        states = torch.cartesian_prod(*[torch.arange(3)] * 4)
        values_of = {"posterior": target.class_posterior(states)[:, 1], "log_prob": target.log_prob(states, 1)}
        for name, values in values_of.items():
            row = at(blurred, w, "exact")
            expected = float(law.flatten() @ values)
            assert abs(getattr(row, name) - expected) < 4.5 * getattr(row, f"{name}_se")
    assert chi_square_p_value(drawn(blurred, "class"), table.class_pmf(1)) > 1e-4
    assert chi_square_p_value(drawn(blurred, "learned_w3"), law) < 1e-6  # a wrong denoiser is found out


def test_every_order_draws_its_own_exact_law(blurred: Findings) -> None:
    table = mixture().table().denoiser()
    target = mixture()
    rows = [row for row in block_of(blurred, "samplers") if row.w.constant == 3 and row.denoiser == "exact"]
    assert [row.sampler for row in rows] == others(4) and len(rows) == 4
    states = torch.cartesian_prod(*[torch.arange(3)] * 4)
    for row in rows:
        expected = float(row.sampler.law(table, Guidance(3.0), 1).flatten() @ target.log_prob(states, 1))
        assert abs(row.log_prob - expected) < 4.5 * row.log_prob_se


def test_long_sequences_are_drawn_in_few_calls_too() -> None:
    labels = {s.label: s.calls(128) for s in others(128)}
    assert sorted(labels.values()) == [8, 8, 8, 32, 32, 32, 128, 128, 128, 128]
    assert labels["event_leaping, 8 steps, cosine, confidence"] == 8 and labels["first_hitting, fixed_order"] == 128


def test_the_conditionals_error_is_the_excess_over_all_partial_states(blurred: Findings) -> None:
    target = mixture()
    exact = exact_nelbos(Blurred(target, 0.4), target.table())
    for row, name in zip(block_of(blurred, "conditionals_error"), ("excess", "excess_null"), strict=True):
        assert (
            abs(row.conditionals_kl - exact[name]) < 4.5 * row.conditionals_kl_se
            and row.conditionals_kl > 20 * row.conditionals_kl_se
        )
        assert abs(row.conditionals_error - exact[name]) < 4.5 * row.conditionals_error_se
        assert row.num_examples == 600  # all that the test set has
    nothing = found(0.0, plan_of(Guidance(0.0), n=10), Sequences(compare=False))
    assert all(abs(row.conditionals_kl) < 1e-15 for row in block_of(nothing, "conditionals_error"))
    row = block_of(nothing, "conditionals_error")[0]
    assert decimals(nothing.verdict[0]) == [f"{row.nelbo:.2f}", f"{row.exact_nelbo:.2f}"]  # and no error


def test_distances_are_those_of_the_sets(blurred: Findings) -> None:
    target = mixture()
    for w, name in product((0.0, 3.0), ("exact", "learned")):
        row = at(blurred, w, name)
        x = drawn(blurred, f"{name}_w{w:g}")
        exact = drawn(blurred, f"exact_w{w:g}")
        own = gram_histogram(x, 3, 2)
        assert row.tv_class_2 == pytest.approx(total_variation(gram_law(target, 2, 1), own))
        distance = pytest.approx(total_variation(own, gram_histogram(exact, 3, 2)))
        assert row.tv_exact_2 == (None if name == "exact" else distance)
    assert at(blurred, 3.0, "learned").tv_exact_2 > 3 * at(blurred, 3.0, "noise floor").tv_exact_2
    assert at(blurred, 3.0, "exact").posterior > at(blurred, 0.0, "exact").posterior + 0.05


def test_the_noise_is_a_mean_over_draws_and_its_expectation(blurred: Findings) -> None:
    """One draw may be lucky: the mean over many is near that over many others, which one draw is not always."""
    target = mixture()
    num = 2000
    law = gram_law(target, 2, 1)
    draws = [target.sample(num, torch.Generator().manual_seed(k), 1)[0] for k in range(60)]
    grams = [gram_histogram(x, 3, 2) for x in draws]
    to_class = [total_variation(law, found) for found in grams]
    pairs = [total_variation(a, b) for a, b in zip(grams[::2], grams[1::2])]
    own, floor = (at(blurred, 0.0, name) for name in ("class", "noise floor"))
    for mean, expected in ((own.tv_class_2, to_class), (floor.tv_exact_2, pairs)):
        values = torch.tensor(expected, dtype=torch.float64)
        error = float(values.std()) * (1 / len(values) + 1 / NOISE_DRAWS) ** 0.5
        assert abs(mean - float(values.mean())) < 4.5 * error
    assert at(blurred, 3.0, "class").tv_class_2 == own.tv_class_2


def test_sets_are_those_of_the_plans_generators() -> None:
    """Another kind, sampler, schedule and class than the default: what was asked for is what ran."""
    target = mixture()
    guidance = Guidance(1.5, cast(Kind, "normalized"))
    plan = plan_of(guidance, n=40, sampler=Sampler("event_leaping", 3, "linear"), seed=5, classes=(1,))
    of = found(0.4, plan, Sequences(num_test=20))
    for name, used in (("exact", target.denoiser()), ("learned", Blurred(target, 0.4))):
        x = plan.sampler.draw(used, guidance, 1, 40, plan.generator("samples", guidance, 1, name))
        assert torch.equal(drawn(of, f"{name}_w1.5"), x)
    assert not torch.equal(drawn(of, "exact_w1.5"), drawn(of, "floor_w1.5"))
    rows = block_of(of, "samplers")
    assert {row.w for row in rows} == {guidance} and {row.denoiser for row in rows} == {"exact", "learned"}


def test_aligned_sequences_come_first_and_differ_where_guidance_did_it(blurred: Findings, tmp_path: Path) -> None:
    again = found(None, plan_of(Guidance(0.0), Guidance(1e-9), n=10, classes=(1,)), Sequences(compare=False)).arrays
    assert (again["aligned_exact_w0"] == again["aligned_exact_w1e-09"]).all()  # no guidance, no difference
    sections = sections_of(blurred, tmp_path)
    blocks = sections[0].listing.split("\n\n")
    assert len(blocks) == 8
    for k, block in enumerate(blocks):
        rows = [blurred.arrays[f"aligned_{('exact', 'learned')[k // 4]}_w{w}"][k % 4].tolist() for w in (0, 3)]
        _, plain, guided, *marks = block.split("\n")
        words = ["".join("abc"[v] for v in row) for row in rows]
        assert plain == f"w = 0  {words[0]}" and guided[7:] == words[1]
        marked = (marks[0] if marks else "").ljust(11)[7:]
        assert [mark == "^" for mark in marked] == [a != b for a, b in zip(*rows)]
    assert "^" in sections[0].listing
    pictures = [picture.path for section in sections for picture in section.pictures]
    assert len(pictures) == len(set(pictures)) >= 4 and all(path.is_file() for path in pictures)


def test_a_class_of_weight_0_is_refused() -> None:
    even = torch.full((2, 1, 2), 0.5)
    coin = HiddenMarkovMixture(torch.ones(2, 1), torch.ones(2, 1, 1), even, torch.tensor([1.0, 0.0]), num_dims=2)
    with pytest.raises(UserError):
        check(Sequences(), Case.of(data_of(coin), None, plan_of(Guidance(1.0), classes=(1,))))


def disjoint() -> HiddenMarkovMixture:
    """Two classes that have no value in common."""
    half = torch.full((2, 2), 0.5, dtype=torch.float64)
    emission = torch.tensor([[[0.6, 0.4, 0.0], [0.2, 0.8, 0.0]], [[0.0, 0.0, 1.0]] * 2], dtype=torch.float64)
    return HiddenMarkovMixture(half, half.expand(2, 2, 2), emission, half[0], num_dims=5)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_network_that_leaves_the_support_of_the_class_is_said_to_be_less_likely(share: float) -> None:
    target = disjoint()
    plan = plan_of(Guidance(1.0), n=200, classes=(0,))
    findings = study_found(Sequences(num_test=20, num_draws=1), data_of(target), Blurred(target, share), plan)
    learned = at(findings, 1.0, "learned")
    outside = (drawn(findings, "learned_w1") == 2).any(dim=1)  # the value of the other class
    assert learned.impossible == pytest.approx(float(outside.double().mean())) and bool(outside.any()) == (share > 0)
    said = findings.verdict[2]
    assert "nan" not in " ".join(findings.verdict)
    assert (sequence_rows.COMPARED[-1].format(sequence_rows.LIKELY) in said) == (share > 0)
    assert (f"{learned.impossible:.1%}" in said) == (share > 0)


def unsure(findings: Findings) -> list[OrderRow]:
    """The rows of orders, with errors that leave no difference clear."""
    return [replace(row, log_prob_se=1e9) for row in block_of(findings, "samplers")]


def test_equal_orders_are_rarely_said_to_differ() -> None:
    """Without guidance every order samples the class: the extremes differ by chance in at most 1 of 20 reports."""
    target = mixture()
    study = Sequences(num_test=2, num_draws=1)
    said = 0
    for seed in range(40):
        plan = plan_of(Guidance(0.0), n=60, classes=(1,), seed=seed)
        of_equal = study_found(study, data_of(target), None, plan)
        said += conclusion(of_equal.verdict[-1]) != conclusion(_of_orders(unsure(of_equal), Guidance(0.0), 60)[0])
    assert said <= 6  # 1 in 140 of 40 trials at 1 in 20


@pytest.mark.parametrize(("error", "clear"), [(0.1, 1), (2.0, 0), (None, 0)])
def test_a_difference_is_clear_only_beside_errors_that_are_known(error: float | None, clear: int) -> None:
    assert sequence_rows._clear(3.0, 1.0, error, 0.1) == clear
    assert sequence_rows._clear(1.0, 3.0, 0.1, error) == -clear
