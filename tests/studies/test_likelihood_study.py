"""The study of likelihoods: exact of tables, bounds with honest errors of everything else."""

from __future__ import annotations

import json
import math
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from helpers import Inconsistent, random_target
from torch import Tensor

from mdlm_cfg import Guidance, Sampler, TableMixture, UserError, terminal_law
from mdlm_cfg.compare.likelihood import exact_likelihood
from mdlm_cfg.reports.pages import sections_of
from mdlm_cfg.studies.likelihood import LikelihoodStudy
from mdlm_cfg.studies.likelihood.findings import BoundsFindings, TableLikelihoodFindings
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture

PLAN = Plan((Guidance(0.0),), Sampler())


def quiet(line: str) -> None:
    """Progress that nobody reads."""


class Drawn:
    """As much of a data module as the study may rely on where the target is unknown, or is no table."""

    def __init__(self, x: Tensor, classes: Tensor, target: Any = None) -> None:
        self.name, self.target, self.x, self.classes = "drawn", target, x, classes

    def test_examples(self) -> tuple[Tensor, Tensor]:
        return self.x.to(torch.uint8), self.classes


def bound(target: TableMixture, denoiser: Inconsistent, orders: int, k: int | None) -> float:
    """-E ln mean of prod p over `orders` random orders, by summing over all of them."""
    total, pmf, label = 0.0, target.class_pmf(k), target.num_classes if k is None else k
    for x in product(range(target.num_tokens), repeat=target.num_dims):
        logs = []
        for order in permutations(range(target.num_dims)):
            state, log_prob = [denoiser.num_tokens] * len(x), 0.0
            for i in order:
                log_prob += float(denoiser(torch.tensor([state]), torch.tensor([label]))[0, i, x[i]])
                state[i] = x[i]
            logs.append(log_prob)
        draws = list(product(logs, repeat=orders))
        total -= float(pmf[x]) * sum(math.log(sum(map(math.exp, d)) / len(d)) for d in draws) / len(draws)
    return total


def test_of_a_table_all_is_exact_and_bounds_keep_to_their_errors(tmp_path: Path) -> None:
    target, learned = random_target(2, 3, seed=0), Inconsistent(2, 3, 2, seed=0)
    study, data = LikelihoodStudy(orders=4), SimpleNamespace(name="table", target=target)
    study.check(data, PLAN)
    findings = study.run(data, learned, PLAN, quiet)
    assert isinstance(findings, TableLikelihoodFindings)
    assert [(e.scores, e.label) for e in findings.entries] == [
        ("exact", "conditional"), ("exact", "null"), ("learned", "conditional"), ("learned", "null"),
    ]  # fmt: skip
    for e in findings.of("exact"):
        for value in (e.nll, e.nelbo, *(b.value for b in e.bounds.values()), *e.policies.values()):
            assert value == pytest.approx(e.entropy, abs=1e-12)
    weights = target.class_weights.tolist()
    for e in findings.of("learned"):
        parts: list[tuple[float, int | None]] = [(1.0, None)]
        if e.label == "conditional":
            parts = [(a, k) for k, a in enumerate(weights)]
        assert e.nll == pytest.approx(sum(a * exact_likelihood(target, learned, k).nll for a, k in parts), abs=1e-12)
        assert e.nelbo == pytest.approx(sum(a * bound(target, learned, 1, k) for a, k in parts), abs=1e-12)
        ordered = [terminal_law(learned, Guidance(0.0), k, "fixed_order").log() for _, k in parts]
        by_order = -sum(a * float((target.class_pmf(k) * law).sum()) for (a, k), law in zip(parts, ordered))
        assert e.policies["fixed_order"] == pytest.approx(by_order, abs=1e-12)
        assert list(e.bounds) == [1, 2, 4]
        for orders in (1, 2):
            exact, found = sum(a * bound(target, learned, orders, k) for a, k in parts), e.bounds[orders]
            assert abs(found.value - exact) < 5 * found.standard_error and 1e-4 < found.standard_error < 0.03
        assert e.nll < e.bounds[4].value < e.bounds[1].value
    assert "the incoherence" in findings.verdict[1]
    pictures = [picture.path.name for section in sections_of(findings, tmp_path) for picture in section.pictures]
    assert pictures == ["bounds.png"]
    assert findings.verdict[0].startswith("With exact scores NLL, NELBO and every order agree")


def test_bounds_of_all_examples_from_a_few_that_are_taken_apart(tmp_path: Path) -> None:
    target, learned = random_target(2, 3, seed=0), Inconsistent(2, 3, 2, seed=0)
    x, classes = target.sample(20_000, generator_for("test"))
    study = LikelihoodStudy(orders=2, num_images=3000)
    findings = study.run(Drawn(x, classes), learned, PLAN, quiet)
    assert isinstance(findings, BoundsFindings)
    assert (findings.num_images, findings.num_test, findings.scores) == (3000, 20_000, "learned")
    weights = target.class_weights.tolist()
    for label, found in findings.by_label.items():
        parts: list[tuple[float, int | None]] = [(1.0, None)]
        if label == "conditional":
            parts = [(a, k) for k, a in enumerate(weights)]
        for orders in (1, 2):
            exact, got = sum(a * bound(target, learned, orders, k) for a, k in parts), found.bound(orders)
            assert abs(got.value - exact) < 4 * got.standard_error and got.standard_error < 0.02
            assert abs(found.alone[orders].value - exact) < 4 * found.alone[orders].standard_error
            assert got.standard_error < found.alone[orders].standard_error
        assert found.falls[1].value == 0 and found.falls[2].value > 5 * found.falls[2].standard_error
        ordered = [terminal_law(learned, Guidance(0.0), k, "fixed_order").log() for _, k in parts]
        by_order = -sum(a * float((target.class_pmf(k) * law).sum()) for (a, k), law in zip(parts, ordered))
        got = found.bound("fixed_order")
        assert abs(got.value - by_order) < 4 * got.standard_error
        assert found.truth is None
    rows = {(row["label"], row["policy"], row["orders"]): row for row in findings.rows()}
    assert len(rows) == 2 * (2 + 2)
    two = rows["null", "uniform", 2]
    assert two["bits_per_dim"] == pytest.approx(two["nats"] / 3 / math.log(2))
    assert [section.title for section in sections_of(findings, tmp_path)] == ["Likelihoods", "The examples taken apart"]


def test_orders_are_the_same_with_the_class_and_without() -> None:
    blind = Inconsistent(2, 3, 2, seed=0)
    blind.table = blind.table[:1].expand(3, -1, -1, -1).clone()  # it answers the same for every class and for none
    x, classes = random_target(2, 3).sample(200, generator_for("test"))
    found = LikelihoodStudy(orders=3, num_images=20).run(Drawn(x, classes), blind, PLAN, quiet).by_label
    assert found["conditional"] == found["null"]


def test_exact_scores_in_many_dimensions_need_one_order() -> None:
    g = generator_for("bits")
    probabilities = torch.rand(2, 3, 6, generator=g, dtype=torch.float64)
    target = BernoulliMixture(probabilities, torch.ones(2, 3) / 3, torch.tensor([0.3, 0.7]))
    x, classes = target.sample(2000, g)
    findings = LikelihoodStudy(orders=2, num_images=20).run(Drawn(x, classes, target), None, PLAN, quiet)
    assert isinstance(findings, BoundsFindings) and findings.scores == "exact"
    for label, found in findings.by_label.items():
        assert all(abs(fall.value) < 1e-9 for fall in found.falls.values())
        own = -target.log_prob(x, classes if label == "conditional" else None)
        assert found.truth is not None and found.truth.value == pytest.approx(float(own.mean()))
        assert abs(found.nelbo.value - found.truth.value) < 4 * found.nelbo.standard_error
    assert any("own distribution has" in sentence for sentence in findings.verdict)


def test_what_it_cannot_answer_is_refused() -> None:
    for settings, message in (({"orders": 0}, "at least 1"), ({"num_images": 1}, "at least 2")):
        with pytest.raises(UserError, match=message):
            LikelihoodStudy(**settings)
    data = SimpleNamespace(name="table", target=random_target(2, 2))
    for plan, message in (
        (Plan((Guidance(0.0),), Sampler(), classes=(0,)), "give target_class=null"),
        (Plan((Guidance(0.0, temperature=0.5),), Sampler()), "leave temperature and top_p away"),
    ):
        with pytest.raises(UserError, match=message):
            LikelihoodStudy().check(data, plan)


def test_the_command_writes_what_the_study_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, out = random_target(3, 2, seed=4), tmp_path / "out"
    np.savez(tmp_path / "t.npz", class_pmfs=target.class_pmfs.numpy(), class_weights=target.class_weights.numpy())
    arguments = ("data=table", f"data.path={tmp_path / 't.npz'}", "study.orders=4", f"out={out}")
    assert run("eval", "experiment=likelihood", "denoiser=exact", *arguments) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["version"] == 2 and len(report["likelihoods"]) == 2
    assert report["likelihoods"][0]["nll"] == pytest.approx(target.conditional_entropy())
    assert report["likelihoods"][1]["bound_4"] == pytest.approx(target.entropy())
    assert set(report["files"]) == {path.name for path in out.iterdir()}
    said = " ".join(capsys.readouterr().out.split())
    assert all(sentence in said for sentence in report["verdict"])
