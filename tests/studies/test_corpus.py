"""Sequences known by examples only: what is said of them, counted by hand on examples of a table; how they look."""

from __future__ import annotations

import math
from collections import Counter
from copy import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import block_of, conclusion, decimals, found_by, random_target

from mdlm_cfg import FunctionDenoiser, Guidance, Sampler, TableMixture
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.studies.aligned import listing, symbols_of
from mdlm_cfg.studies.common import LONGER
from mdlm_cfg.studies.corpus import SEQUENCE, STATISTICS, Corpus, verdict_of
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.simple_models import of_recognised
from mdlm_cfg.training.data import ExampleData, token_file

N = 3
D = 4
NUM = 150
STUDY = Corpus(num_classified=300, num_draws=30)


@pytest.fixture(scope="module")
def target() -> TableMixture:
    return random_target(N, D, seed=5)


@pytest.fixture(scope="module")
def data(target: TableMixture, tmp_path_factory: pytest.TempPathFactory) -> ExampleData:
    x, y = (part.numpy() for part in target.sample(1400, torch.Generator().manual_seed(0)))
    path = tmp_path_factory.mktemp("corpus") / "t.npz"
    parts = {"tokens": x[:800], "labels": y[:800], "test_tokens": x[800:], "test_labels": y[800:]}
    np.savez(path, **parts, value_names=list("abc"), class_names=["up", "down"])
    module = token_file(path)
    module.setup()
    return module


def plan_of(*strengths: float, kind: str = "rate", classes: tuple[int, ...] | None = None, n: int = NUM) -> Plan:
    return Plan(tuple(Guidance(w, kind) for w in strengths), Sampler(), n, 3, classes)


def found(data: ExampleData, target: TableMixture, plan: Plan, study: Corpus = STUDY) -> Findings:
    return found_by(study, data, target.denoiser(), plan)


@pytest.fixture(scope="module")
def findings(data: ExampleData, target: TableMixture) -> Findings:
    return found(data, target, plan_of(0.0, 2.0))


def row_of(findings: Findings, w: float | str, target_class: int | None = None) -> Any:
    """The row of one strength (or of held-out sequences), of all classes or of one."""
    rows = block_of(findings, "distances" if target_class is None else "by_class")
    return next(
        row
        for row in rows
        if (row.w if isinstance(row.w, str) else row.w.constant) == w
        and (target_class is None or row.target_class == target_class)
    )


def grams(rows: torch.Tensor, n: int) -> Counter:
    found = Counter(tuple(row[i : i + n]) for row in rows.tolist() for i in range(D - n + 1))
    return Counter({gram: count / found.total() for gram, count in found.items()})


@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_every_number_is_the_one_counted_by_hand(data: ExampleData, target: TableMixture, kind: str) -> None:
    guidance = Guidance(1.5, kind)
    plan = plan_of(1.5, kind=kind, classes=(1, 0))
    of = found(data, target, plan)
    for at, k in enumerate((1, 0)):
        x = plan.sampler.draw(target.denoiser(), guidance, k, NUM, plan.generator("samples", guidance, k))
        assert torch.equal(torch.from_numpy(of.arrays["w1.5"][at]).long(), x)
        own = data.train_x[data.train_labels == k]
        row = row_of(of, 1.5, k)
        differ = (x[:, None] != x).double().mean(dim=2)
        assert row.diversity == pytest.approx(float(differ.sum()) / (NUM * (NUM - 1)))
        nearest = [min(sum(a != b for a, b in zip(one, other)) for other in own.tolist()) for one in x.tolist()]
        assert row.nearest_train == pytest.approx(sum(nearest) / (NUM * D))
        for n in (1, 2, 3):
            a = grams(x, n)
            b = grams(own, n)
            assert getattr(row, f"tv_{n}") == pytest.approx(sum(abs(a[gram] - b[gram]) for gram in {*a, *b}) / 2)


def test_the_network_sees_the_class_that_bayes_does(findings: Findings, target: TableMixture) -> None:
    """An exact denoiser's NELBO is -ln p(x | z) on average: the class that it names is the likeliest."""
    for k in (0, 1):
        for w in (0.0, 2.0):
            cells = tuple(torch.from_numpy(findings.arrays[f"w{w:g}"][k]).long().T)
            likely = target.class_pmf(k)[cells] > target.class_pmf(1 - k)[cells]
            assert row_of(findings, w, k).accuracy == pytest.approx(float(likely.double().mean()), abs=0.08)
    assert row_of(findings, 2.0).accuracy > row_of(findings, 0.0).accuracy + 0.05


def test_unguided_exact_samples_are_like_held_out_ones(findings: Findings) -> None:
    unguided = row_of(findings, 0.0)
    held = row_of(findings, "data")
    for name in ("accuracy", "tv_2", "diversity", "nearest_train"):
        assert getattr(unguided, name) == pytest.approx(getattr(held, name), abs=0.11), name
    assert row_of(findings, 2.0).tv_2 > 1.2 * held.tv_2
    assert findings.facts["data"]["num_held_out"] == held.num_sequences == NUM


def test_the_page_shows_sequences_first_and_by_their_names(findings: Findings, tmp_path: Path) -> None:
    read, compared, network, by_class = sections_of(findings, tmp_path)
    assert read.listing.startswith("class up: ")
    first = "".join("abc"[v] for v in findings.arrays["aligned_class1_w0"][0].tolist())
    assert f"\nw = 0  {first}" in read.listing.partition("class down: ")[2]
    assert compared.table is not None and [row[0] for row in compared.table.rows] == ["0", "2", "data"]
    assert network.table is not None and len(network.table.rows) == 3
    assert len(compared.pictures) == 3 and by_class.table is not None
    assert [row[1] for row in by_class.table.rows] == ["up", "down"] * 3


def test_grams_on_a_grid_do_not_run_from_one_row_into_the_next(tmp_path: Path) -> None:
    """Every image is 00/11: the pairs are 00 and 11 alone, and never 01."""
    tokens = np.tile([[0, 0], [1, 1]], (40, 1, 1))
    np.savez(tmp_path / "g.npz", tokens=tokens, labels=np.arange(40) % 2)
    grid = token_file(tmp_path / "g.npz")
    grid.setup()
    of = found(grid, random_target(2, 4), plan_of(0.0, n=10), Corpus(2, 1))
    assert row_of(of, "data").tv_2 == 0.0 and row_of(of, 0.0).tv_3 is None
    x = torch.from_numpy(of.arrays["w0"][0])
    pairs = Counter(pair for row in x.reshape(-1, 2).tolist() for pair in pairwise(row))
    expected = 1 - sum(min(pairs[gram] / 20, 0.5) for gram in ((0, 0), (1, 1)))
    assert row_of(of, 0.0, 0).tv_2 == pytest.approx(expected)


def with_held_out(data: ExampleData, up: int, down: int) -> ExampleData:
    """The same data with fewer held-out sequences of each class."""
    few = copy(data)
    (x, labels) = data.test_examples()
    kept = torch.cat([(labels == k).nonzero().flatten()[:num] for k, num in ((0, up), (1, down))])
    few._test = (x[kept], labels[kept])
    return few


def test_samples_and_held_out_sequences_are_means_over_the_same_classes(
    data: ExampleData, target: TableMixture, findings: Findings, tmp_path: Path
) -> None:
    of = found(with_held_out(data, 50, 1), target, plan_of(0.0, 2.0))
    for w in (0.0, 2.0, "data"):
        one = row_of(of, w, 0)
        mean = row_of(of, w)
        assert [getattr(mean, name) for name in STATISTICS] == [getattr(one, name) for name in STATISTICS]
    assert row_of(of, 2.0, 1).accuracy == row_of(findings, 2.0, 1).accuracy  # the class's own samples are measured
    assert row_of(of, "data", 1).accuracy is None
    _, compared, _, by_class = (section.table for section in sections_of(of, tmp_path))
    assert compared is not None and "down" in compared.note  # which class is left out
    assert by_class is not None and by_class.rows[-1][2] == "-"


def test_too_few_to_compare_with_are_not_compared(data: ExampleData, target: TableMixture) -> None:
    of = found(with_held_out(data, 1, 0), target, plan_of(0.0, 1.0), Corpus(1, 1))
    assert row_of(of, "data").accuracy is None and row_of(of, 0.0).tv_2 is not None
    assert "accuracy_data" not in of.numbers() and not any("nan" in said or "None" in said for said in of.verdict)


def test_one_strength_is_said_once_and_a_bad_judge_is_named(
    data: ExampleData, target: TableMixture, findings: Findings
) -> None:
    of = found(data, target, plan_of(1.0))
    assert not any(said.count("w = 1") > 1 for said in of.verdict)
    blind = FunctionDenoiser(
        lambda tokens, classes: torch.full((len(tokens), D, N), -math.log(N), dtype=torch.float64), N, D, 2
    )
    judged = found_by(Corpus(200, 2), data, blind, plan_of(0.0, 1.0))
    said = judged.verdict
    assert decimals(said[0]) == [f"{D * math.log(N):.1f}"] * 2 and said[0].endswith(LONGER)
    assert decimals(said[1]) == [f"{100 * row_of(judged, 'data').accuracy:.1f}", "50.0"]  # no more than guessing
    weak, strong, held = (replace(row_of(findings, of), accuracy=0.5) for of in (0.0, 2.0, "data"))
    changes = [
        of_recognised("network", [weak, replace(strong, accuracy=share)], [300, 300], held, SEQUENCE)
        for share in (0.5, 0.1, 0.9)
    ]
    assert conclusion(said[2]) == conclusion(changes[0]) and len(set(map(conclusion, changes))) == 3


def test_two_sequences_that_are_recognised_do_not_show_that_a_network_can_classify(findings: Findings) -> None:
    """Guessing recognises two of two in 1 of 4 reports."""
    weak, strong, held = (row_of(findings, of) for of in (0.0, 2.0, "data"))
    said = {
        num: len(verdict_of([weak, strong, replace(held, accuracy=1.0, num_classified=num)], 2, [num]))
        for num in (2, 200)
    }
    assert said[2] == said[200] + 1


def test_guessing_on_classes_of_unequal_size_rarely_looks_like_more(findings: Findings) -> None:
    """A mean over classes counts the two sequences of the smallest as much as the sixty of the largest."""
    weak, strong, held = (row_of(findings, of) for of in (0.0, 2.0, "data"))
    nums = [60, 7, 2]
    rng = np.random.default_rng(0)
    shares = (rng.binomial(nums, 1 / 3, size=(400, 3)) / nums).mean(axis=1)
    held = [replace(held, accuracy=share, num_classified=sum(nums)) for share in shares.tolist()]
    fewest = len(verdict_of([weak, strong, replace(held[0], accuracy=1.0)], 3, nums))
    assert np.mean([len(verdict_of([weak, strong, one], 3, nums)) == fewest for one in held]) < 0.06


@pytest.mark.parametrize(("share", "copied"), [(0.4, True), (0.6, False)])
def test_samples_far_nearer_to_the_training_sequences_than_held_out_ones_are_copies(
    findings: Findings, share: float, copied: bool
) -> None:
    weak, strong, held = (row_of(findings, of) for of in (0.0, 2.0, "data"))
    near = replace(strong, nearest_train=share * held.nearest_train)
    said = verdict_of([weak, near, held], 2, [held.num_classified])
    assert (f"{100 * near.nearest_train:.1f}" in decimals(said[-1])) == copied


def test_letters_and_words_stand_below_each_other() -> None:
    rows = {"a": torch.tensor([0, 1, 2]), "bb": torch.tensor([0, 2, 2])}
    assert listing(rows, symbols_of(3, None)) == "a   012\nbb  022\n     ^"
    names = ("x", "word", "<blank>")
    assert symbols_of(3, names) == ["x", "word", "·"]
    assert listing(rows, symbols_of(3, names)) == "a   x word ·\nbb  x ·    ·\n      ^^^^"
    assert listing({"": rows["a"]}, symbols_of(3, None), marked=False, line=2) == "  01\n  2"
    assert symbols_of(63, None)[62] == "62" and symbols_of(2, ("\t", "a")) == ["?", "a"]
    long = listing({"": torch.zeros(300, dtype=torch.int64)}, ["0", "1"], marked=False)
    assert [len(line) for line in long.split("\n")] == [130, 130, 46]


def test_marks_stay_below_what_differs() -> None:
    rows = {"a": torch.tensor([0, 1, 1, 1]), "b": torch.tensor([0, 1, 0, 1])}
    assert listing(rows, ["A", "B"]).split("\n") == ["a  ABBB", "b  ABAB", "     ^"]


def test_a_network_that_looks_at_no_class_recognises_each_by_lot(data: ExampleData) -> None:
    blind = FunctionDenoiser(lambda tokens, classes: torch.full((*tokens.shape, N), -math.log(N)), N, D, 2)
    plan = plan_of(0.0, n=20)
    rows = block_of(found_by(Corpus(num_classified=40, num_draws=2), data, blind, plan), "by_class")
    assert {row.accuracy for row in rows} == {0.5}
