"""Sequences known by examples only: what is said of them, counted by hand on examples of a table."""

from __future__ import annotations

import json
from collections import Counter
from copy import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, UserError
from mdlm_cfg.compare.sequences import nearest_sequence
from mdlm_cfg.reports.aligned import listing, symbols_of
from mdlm_cfg.reports.corpus_report import corpus_sections
from mdlm_cfg.studies.corpus import Corpus
from mdlm_cfg.studies.corpus.findings import CorpusFindings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.training.data import ExampleData, TableData, token_file

N, D, NUM = 3, 4, 150
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


def studied(data: ExampleData, target: TableMixture, plan: Plan, study: Corpus = STUDY) -> CorpusFindings:
    return study.run(data, target.denoiser(), plan, lambda line: None)


@pytest.fixture(scope="module")
def findings(data: ExampleData, target: TableMixture) -> CorpusFindings:
    return studied(data, target, plan_of(0.0, 2.0))


def grams(rows: torch.Tensor, n: int) -> Counter:
    found = Counter(tuple(row[i : i + n]) for row in rows.tolist() for i in range(D - n + 1))
    return Counter({gram: count / found.total() for gram, count in found.items()})


@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_every_number_is_the_one_counted_by_hand(data: ExampleData, target: TableMixture, kind: str) -> None:
    found = studied(data, target, plan_of(1.5, kind=kind, classes=(1, 0)))
    assert found.kind == kind and found.classes == [1, 0] and found.grams == [1, 2, 3]
    for at, k in enumerate((1, 0)):
        guidance, plan = Guidance(1.5, kind), found.plan
        x = plan.sampler.draw(target.denoiser(), guidance, k, NUM, plan.generator("samples", guidance, k))
        assert torch.equal(found.samples[1.5][at], x)
        own, row = data.train_x[data.train_labels == k], found.judged[1.5][at]
        differ = (x[:, None] != x).double().mean(dim=2)
        assert row["diversity"] == pytest.approx(float(differ.sum()) / (NUM * (NUM - 1)))
        nearest = [min(sum(a != b for a, b in zip(one, other)) for other in own.tolist()) for one in x.tolist()]
        assert row["nearest_train"] == pytest.approx(sum(nearest) / (NUM * D))
        for n in (1, 2, 3):
            a, b = grams(x, n), grams(own, n)
            assert row[f"tv_{n}"] == pytest.approx(sum(abs(a[gram] - b[gram]) for gram in {*a, *b}) / 2)


def test_the_network_sees_the_class_that_bayes_does(findings: CorpusFindings, target: TableMixture) -> None:
    """An exact denoiser's NELBO is -ln p(x | z) on average: the class that it takes a sequence for is the likeliest."""
    for at, k in enumerate(findings.classes):
        for w in findings.strengths:
            cells = tuple(findings.samples[w][at].T)
            likely = target.class_pmf(k)[cells] > target.class_pmf(1 - k)[cells]
            assert findings.judged[w][at]["accuracy"] == pytest.approx(float(likely.double().mean()), abs=0.08)
    assert findings.mean(2.0, "accuracy") > findings.mean(0.0, "accuracy") + 0.05


def test_unguided_exact_samples_are_like_held_out_ones(findings: CorpusFindings) -> None:
    for name in ("accuracy", "tv_2", "diversity", "nearest_train"):
        assert findings.mean(0.0, name) == pytest.approx(findings.mean(None, name), abs=0.11), name
    assert findings.mean(2.0, "tv_2") > 1.2 * findings.mean(None, "tv_2")
    assert findings.num_held_out == NUM and findings.examples[0].shape == (4, D)


def test_a_strengths_samples_do_not_depend_on_the_others(data, target, findings: CorpusFindings) -> None:
    alone = studied(data, target, plan_of(2.0, classes=(1,)), Corpus(1, 1))
    assert torch.equal(alone.samples[2.0][0], findings.samples[2.0][1])
    assert torch.equal(alone.aligned[1][2.0], findings.aligned[1][2.0])


def test_everything_is_plain(findings: CorpusFindings) -> None:
    plain = json.loads(json.dumps(findings.to_dict(), allow_nan=False))
    assert plain["distances"] == findings.rows() and len(findings.rows()) == 3 * 3
    assert [(row["w"], row["class"]) for row in findings.rows()[::3]] == [(0.0, 0), (2.0, 0), ("data", 0)]
    assert findings.numbers()["tv_2_data"] == findings.mean(None, "tv_2")
    assert len(findings.verdict) == 3 and "taken for their class by the network itself" in findings.verdict[0].lower()
    held = findings.arrays()
    assert (
        held["w2"].shape == (2, NUM, D) and held["w2"].dtype == np.uint8 and held["aligned_class1_w0"].shape == (4, D)
    )


def test_the_page_shows_sequences_by_their_names(findings: CorpusFindings, tmp_path: Path) -> None:
    read, compared, by_class = corpus_sections(findings, tmp_path)
    assert read.listing.startswith("class up: held-out sequences")
    first = "".join("abc"[v] for v in findings.aligned[1][0.0][0].tolist())
    assert f"class down: sample 1\nw = 0  {first}" in read.listing
    assert compared.table is not None and [row[0] for row in compared.table.rows] == ["0", "2", "held-out sequences"]
    assert "judged by the network itself" in compared.text
    assert len(compared.pictures) == 3 and all(picture.path.stat().st_size > 1000 for picture in compared.pictures)
    assert by_class.table is not None and list(by_class.table.columns) == ["w", "up", "down"]


def test_grams_on_a_grid_do_not_run_from_one_row_into_the_next(tmp_path: Path) -> None:
    """Every image is 00/11: the pairs are 00 and 11 alone, and never 01."""
    tokens = np.tile([[0, 0], [1, 1]], (40, 1, 1))
    np.savez(tmp_path / "g.npz", tokens=tokens, labels=np.arange(40) % 2)
    grid = token_file(tmp_path / "g.npz")
    grid.setup()
    found = studied(grid, random_target(2, 4), plan_of(0.0, n=10), Corpus(2, 1))
    assert found.grams == [1, 2] and found.held_out[0]["tv_2"] == 0.0
    x = found.samples[0.0][0]
    pairs = Counter(pair for row in x.reshape(-1, 2).tolist() for pair in pairwise(row))
    expected = 1 - sum(min(pairs[gram] / 20, 0.5) for gram in ((0, 0), (1, 1)))
    assert found.judged[0.0][0]["tv_2"] == pytest.approx(expected)


def test_too_few_to_judge_are_not_judged(data: ExampleData, target: TableMixture, tmp_path: Path) -> None:
    few = copy(data)
    few._test = (few._test[0][:1], few._test[1][:1])
    found = studied(few, target, plan_of(0.0, 1.0), Corpus(1, 1))
    assert "held-out sequences too few to say" in found.verdict[0] and "accuracy_data" not in found.numbers()
    assert corpus_sections(found, tmp_path)


def test_what_cannot_be_studied_is_refused(data: ExampleData, target: TableMixture) -> None:
    table = TableData(target, "toy")
    table.setup()
    for study, used, plan, words in [
        (STUDY, table, plan_of(0.0), "needs data that are examples, such as data=text, and toy are none"),
        (STUDY, data, plan_of(0.0, n=1), "at least 2 per class"),
        (STUDY, data, plan_of(0.0, classes=(2,)), "class 2 is out of range"),
    ]:
        with pytest.raises(UserError, match=words):
            study.check(used, plan)
    with pytest.raises(UserError, match="train a network"):
        STUDY.run(data, None, plan_of(0.0), print)
    with pytest.raises(UserError, match="made for other data"):
        STUDY.run(data, random_target(2, 4).denoiser(), plan_of(0.0), print)
    with pytest.raises(UserError, match="both must be at least 1"):
        Corpus(num_draws=0)


def test_the_nearest_sequence_is_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_cfg.compare.sequences.CELLS", 30)
    x, reference = (torch.randint(3, (n, 5), generator=torch.Generator().manual_seed(n)) for n in (7, 4))
    assert torch.equal(nearest_sequence(x, reference), (x[:, None] != reference).double().mean(dim=2).amin(dim=1))


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
