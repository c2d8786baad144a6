"""study=correction_moves of images: sets are those of the plan's generators, and are judged as they are by hand."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Blurred, block_of
from scipy.stats import binom, norm
from study_cases import HIDDEN, images
from torch import Tensor

from mdlm_cfg import Correction, Guidance, Sampler, UserError
from mdlm_cfg.app.study_choice import checked_study
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.studies.common import held_out_of
from mdlm_cfg.studies.correction_moves import CorrectionMoves
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.image_moves import (
    HELD_OUT,
    Distance,
    ImageMoves,
    ImageSetRow,
    clearest,
    usage_of,
    verdict_of,
    worth,
)
from mdlm_cfg.studies.images import CLASSIFIER, judging
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, run

Z = 1
W = Guidance(2.0)
START = Sampler("event_leaping", 3, "linear")
STAGES = (0, 2, 7)
STUDY = ImageMoves(sizes=[1, 3], moves=STAGES, starts=[START])


class FirstPixel:
    """A classifier that sees nothing but the first pixel, with features that are the pixels."""

    def features(self, x: Tensor) -> Tensor:
        return x.float()

    def predict(self, x: Tensor) -> Tensor:
        return x[:, 0].long()

    def log_probs(self, x: Tensor) -> Tensor:
        p = 0.2 + 0.6 * x[:, 0].double()
        return torch.stack([1 - p, p], dim=1).log()


def case_of(data: Any, n: int = 10, classes: tuple[int, ...] = (Z,), denoiser: Any = None) -> Case:
    plan = Plan((Guidance(0.0), W), START, n, seed=3, classes=classes)
    case = Case.of(data, denoiser or HIDDEN.denoiser(), plan)
    case.made[CLASSIFIER] = FirstPixel()
    return case


def found(case: Case, study: ImageMoves = STUDY) -> Findings:
    return run(study, case)


def sets_of(findings: Findings, **given: Any) -> list[ImageSetRow]:
    return [row for row in block_of(findings, "sets") if all(getattr(row, k) == v for k, v in given.items())]


def energy(x: Tensor, y: Tensor) -> float:
    """The energy distance, from all pairs."""

    def mean(a: Tensor, b: Tensor, num: int) -> float:
        return float((a[:, None].double() - b.double()).norm(dim=2).sum()) / num

    n = len(x)
    m = len(y)
    return 2 * mean(x, y, n * m) - mean(x, x, n * (n - 1)) - mean(y, y, m * (m - 1))


def moved(case: Case, move: Correction, guidance: Guidance) -> dict[int, Tensor]:
    """The sets of one start after every number of moves, drawn by hand."""
    denoiser = HIDDEN.denoiser()
    plan = case.plan
    drawing = plan.generator("compared", guidance, Z, "learned", START.label, num_dims=6)
    x = START.draw(denoiser, guidance, Z, plan.num_samples, drawing)
    moving = plan.generator("moves", guidance, Z, "learned", START.key, str(move), num_dims=6)
    sets = {}
    for number in range(STAGES[-1] + 1):
        if number in STAGES:
            sets[number] = x
        x = move.draw(denoiser, guidance, Z, x, generator=moving)
    return sets


@pytest.mark.parametrize("move", [Correction(), Correction(size=3, parallel=True)])
def test_sets_are_those_of_the_plans_generators_judged_by_hand(move: Correction) -> None:
    case = case_of(images())
    findings = found(case)
    train = case.data.train_examples(Z, None)
    name = "k = 1" if move.size == 1 else "k = 3, in parallel"
    for guidance in (Guidance(0.0), W):
        for number, x in moved(case, move, guidance).items():
            (row,) = sets_of(findings, w=guidance, move=name, moves=number)
            assert row.calls == 3 + number
            assert row.accuracy == float((x[:, 0] == Z).double().mean())
            pairs = (x[:, None] != x).sum(dim=2).double()
            assert row.diversity == pytest.approx(float(pairs.sum() / (10 * 9)))
            assert row.energy_features == pytest.approx(energy(x, train), abs=1e-6)
            assert row.energy_pixels == pytest.approx(energy(x, train), abs=1e-6)


def test_moves_of_a_known_table_have_the_accuracy_of_its_exact_law() -> None:
    case = case_of(images(), n=4000)
    findings = found(case, replace(STUDY, sizes=[1]))
    for number in STAGES:
        law = replace(START, correction=Correction(moves=number)).law(HIDDEN.denoiser(), W, Z)
        exact = float(law[1].sum())
        (row,) = sets_of(findings, w=W, moves=number, start=START.label)
        assert row.accuracy is not None
        assert abs(row.accuracy - exact) < 5 * math.sqrt(exact * (1 - exact) / 4000)


def test_test_images_are_judged_in_disjoint_sets_and_their_distance_is_chance() -> None:
    case = case_of(images())
    findings = found(case)
    x = held_out_of(case, Z)
    test, labels = case.data.test_examples()
    assert sorted(x.tolist()) == sorted(test[labels == Z].tolist())
    parts = [part for part in x.split(10) if len(part) == 10]
    known = [energy(part, case.data.train_examples(Z, None)) for part in parts]
    assert len(known) > 1
    for row in sets_of(findings, start=HELD_OUT):
        assert row.energy_features == pytest.approx(sum(known) / len(known), abs=1e-6)
        assert row.accuracy == pytest.approx(float((torch.cat(parts)[:, 0] == Z).double().mean()))
    chance = math.sqrt(sum(value**2 for value in known) / len(known))
    assert findings.facts["noise"]["energy_features"] == pytest.approx(chance, rel=1e-3)


def test_a_class_without_test_images_is_left_out_of_samples_and_test_images_alike() -> None:
    data = images()
    x, labels = data.test_examples()
    kept = (labels == Z) | (torch.arange(len(labels)) == int((labels != Z).nonzero()[0]))
    data.test_examples = lambda: (x[kept], labels[kept])
    small = replace(STUDY, sizes=[1], moves=(0, 1))
    both, one = (found(case_of(data, classes=classes), small) for classes in ((1 - Z, Z), (Z,)))
    assert block_of(both, "sets") == block_of(one, "sets")
    assert both.facts["noise"] == one.facts["noise"]
    assert both.verdict == one.verdict


def test_usage_is_that_of_the_posterior_by_bayes_rule_beside_the_training_images() -> None:
    case = case_of(images(), n=40)
    findings = found(case)
    mixture, _ = case.made[("components", Z)]
    p = mixture.probabilities[0]
    weights = mixture.component_weights[0]

    def usage(x: Tensor) -> Tensor:
        joint = weights * torch.where(x[:, None] == 1, p, 1 - p).prod(dim=2)
        return (joint / joint.sum(dim=1, keepdim=True)).mean(dim=0)

    reference = usage(case.data.train_examples(Z, None))
    for number, x in moved(case, Correction(), W).items():
        (row,) = sets_of(findings, w=W, move="k = 1", moves=number)
        found_usage = usage(x)
        assert row.usage_tv == pytest.approx(float((found_usage - reference).abs().sum() / 2), abs=1e-9)
        assert row.components == pytest.approx(math.exp(-float((found_usage * found_usage.log()).sum())))


def test_a_set_of_one_image_uses_fewer_components_than_the_data_and_grey_images_have_none() -> None:
    case = case_of(images())
    (judge,), _ = judging(case, False)
    train = judge.train
    numbers = usage_of(case, judge, train)
    assert numbers["usage_tv"] == 0.0
    alone = usage_of(case, judge, train[:1].repeat(10, 1))
    assert alone["components"] < numbers["components"] and alone["usage_tv"] > 0.2
    assert usage_of(case, judge, train[:0]) == {"usage_tv": None, "components": None}  # a class without test images
    case.data.num_tokens = 3
    assert usage_of(case, judge, train) == {"usage_tv": None, "components": None}


def test_numbers_are_means_over_classes_and_chance_falls_with_them() -> None:
    case = case_of(images(), classes=(0, 1))
    findings = found(case)
    each = [found(case_of(images(), classes=(k,))) for k in (0, 1)]
    (both,) = sets_of(findings, w=W, move="k = 1", moves=7)
    alone = [sets_of(one, w=W, move="k = 1", moves=7)[0] for one in each]
    for name in ("accuracy", "energy_pixels", "diversity"):
        assert getattr(both, name) == pytest.approx(sum(getattr(row, name) for row in alone) / 2, abs=1e-9)
    chances = [one.facts["noise"]["energy_pixels"] for one in each]
    assert findings.facts["noise"]["energy_pixels"] == pytest.approx(math.hypot(*chances) / 2)


SE = 0.06
NOISE = 0.08
MANY = 10**6  # samples, whose errors are as good as known
CHANCE = norm.isf(0.05 / (4 * 3)) * math.hypot(SE, SE, NOISE, NOISE)  # any two of 4 equal sets differ by, 0.373


def row(moves: int, calls: int, far: float, start: str = "a", se: float = SE) -> ImageSetRow:
    return ImageSetRow(W, start, "k = 1", moves, calls, 0.5, 0.5, 0.5, far, se, far, 3.0, 0.2, 5.0)


@pytest.mark.parametrize(
    ("after", "other", "nearer", "pays"),
    [
        (0.1, 0.9, True, True),
        (0.12, 0.9, True, True),
        (0.13, 0.9, False, False),
        (0.1, 0.35, True, False),
        (0.88, 0.95, False, False),
    ],
)
def test_the_verdict_follows_from_the_distances(after: float, other: float, nearer: bool, pays: bool) -> None:
    """A start at 0.5 with 10 calls that moves bring elsewhere, another sampler with as many calls."""
    sets = [row(0, 10, 0.5), row(20, 30, after), row(0, 30, other, "b"), row(20, 50, other, "b")]
    far = Distance("energy_features", NOISE, 4, MANY)
    assert clearest(sets, far) == ((sets[0], sets[1]) if after < 0.5 else (sets[2], sets[3]))
    assert worth(sets, far) == (sets[0 if other > 0.5 else 2], sets[1 if after < other else 3])
    assert [far.clarity(*find(sets, far)) > 1 for find in (clearest, worth)] == [nearer, pays]
    said = verdict_of([row(0, 0, 0.0, HELD_OUT), *sets], {"energy_features": NOISE, "energy_pixels": NOISE}, MANY)
    figures = {f"{value:.4f}" for value in (0.5, after, other, CHANCE)}
    assert set(re.findall(r"\d\.\d{4}", " ".join(said))) <= figures


def test_a_noisy_set_hides_no_clear_change_of_another() -> None:
    """The largest gain is of a set with a large error; a smaller one is beyond chance."""
    sets = [row(0, 10, 1.0), row(20, 30, 0.4), row(40, 50, 0.0, se=5.0)]
    far = Distance("energy_features", NOISE, len(sets), MANY)
    assert clearest(sets, far) == worth(sets, far) == (sets[0], sets[1]) and far.clarity(sets[0], sets[1]) > 1


def test_of_equal_sets_one_is_rarely_said_to_differ() -> None:
    """In 1 of 20 reports at most, however many sets there are: what differs is chance alone."""
    generator = torch.Generator().manual_seed(0)
    said = 0
    for _ in range(200):
        distances = (1 + torch.randn(13, generator=generator)).tolist()
        sets = [row(k, 10 + k, value, se=1.0) for k, value in enumerate(distances)]
        far = Distance("energy_features", 0.0, len(sets), MANY)
        said += any(far.clarity(*find(sets, far)) > 1 for find in (clearest, worth))
    assert said <= binom.isf(1e-5, 200, 0.05)


def test_without_a_classifier_pixels_judge(tmp_path: Path) -> None:
    case = case_of(images())
    findings = found(case, replace(STUDY, classifier=False))
    assert all(row.accuracy is None and row.energy_pixels is not None for row in block_of(findings, "sets"))
    assert findings.verdict and findings.facts["noise"]["energy_features"] is None
    assert sections_of(findings, tmp_path)


@pytest.mark.parametrize("given", [True, False])
def test_the_setting_for_all_studies_leaves_the_classifier_out(given: bool) -> None:
    case = case_of(images())
    study = checked_study(case.data, case.plan, None, CorrectionMoves(), given, case.denoisers["learned"])
    assert study.classifier is given


@pytest.mark.parametrize("num_test", [0, 2, 5])
def test_few_test_images_are_no_error(num_test: int, tmp_path: Path) -> None:
    findings = found(case_of(images(num_test)))
    assert findings.verdict and sections_of(findings, tmp_path, "none")


def test_the_page_shows_samples_before_and_after(tmp_path: Path) -> None:
    case = case_of(images())
    sections = sections_of(found(case), tmp_path)
    assert any(section.pictures for section in sections)
    (block,) = [block for block in found(case).blocks if block.name == "shown"]
    shown = block.views[1].images  # type: ignore[union-attr]
    x = moved(case, Correction(), W)
    assert torch.equal(torch.tensor(shown["7 moves"][0]).flatten(1), x[7][:8].double())
    assert list(shown) == [HELD_OUT, "0 moves", "2 moves", "7 moves"]


def test_images_are_one_of_the_data_of_the_study_and_need_a_network() -> None:
    case = case_of(images(), denoiser=Blurred(HIDDEN, 0.1))
    asked = CorrectionMoves(sizes=[1, 3], moves=STAGES, starts=[START])
    assert asked.study(case) == STUDY
    assert CorrectionMoves().study(case) == ImageMoves()
    assert [str(move) for move in ImageMoves().corrections(case)] == ["correction(size=1, moves=1)"]
    alone = replace(case, denoisers={})
    with pytest.raises(UserError):
        asked.check(alone)
