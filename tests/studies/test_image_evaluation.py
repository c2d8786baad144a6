"""Samples of images judged beside held-out data: an exact denoiser on small images, and the report's pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mdlm_cfg import Guidance, Sampler, TableMixture, UserError
from mdlm_cfg.chain.guidance import linear_ramp
from mdlm_cfg.reports.image_report import image_sections
from mdlm_cfg.studies.images.findings import BY_CLASSIFIER, STATISTICS, ImageEvaluation
from mdlm_cfg.studies.images.study import Images, evaluate_images
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.training.classifier import ClassifierSettings, ImageClassifier, train_classifier
from mdlm_cfg.training.data import BinaryImageData

SETTINGS = ClassifierSettings(channels=(4, 8), num_features=8, epochs=5, batch_size=50, learning_rate=0.02, dropout=0.0)


def target() -> BernoulliMixture:
    """Three classes of 4 x 5 images, two components each."""
    g = torch.Generator().manual_seed(0)
    p = torch.sigmoid(3 * torch.randn(3, 2, 20, generator=g, dtype=torch.float64))
    return BernoulliMixture(p, torch.full((3, 2), 0.5), torch.full((3,), 1 / 3))


@pytest.fixture(scope="module")
def data() -> BinaryImageData:
    """Training and test images drawn from the target itself."""
    module = BinaryImageData()
    x, module.train_labels = target().sample(1500, torch.Generator().manual_seed(1))
    module.train_images = (255 * x).to(torch.uint8)
    test, classes = target().sample(600, torch.Generator().manual_seed(2))
    module._test = test.to(torch.uint8), classes
    module.grid_shape, module.num_classes, module._ready = (4, 5), 3, True
    return module


@pytest.fixture(scope="module")
def classifier(data: BinaryImageData) -> ImageClassifier:
    return train_classifier(data.train_images, data.train_labels, (4, 5), 3, SETTINGS)


def plan_of(*guidances: Guidance, n: int = 120, classes: tuple[int, ...] | None = None, seed: int = 0) -> Plan:
    return Plan(guidances, Sampler(), n, seed, classes)


@pytest.fixture(scope="module")
def evaluation(data: BinaryImageData, classifier: ImageClassifier) -> ImageEvaluation:
    plan = plan_of(Guidance(0.0), Guidance(2.0))
    return evaluate_images(data, target().denoiser(), classifier, plan, num_classified=100, num_draws=20)


def test_unguided_exact_samples_score_like_held_out_data(evaluation: ImageEvaluation) -> None:
    own, floor = evaluation.judged[0.0].pooled, evaluation.held_out.pooled
    for name in ("accuracy", "precision", "recall"):
        assert own[name] == pytest.approx(floor[name], abs=0.06)
    for name in ("mean_rms", "covariance"):
        assert own[name] == pytest.approx(floor[name], rel=0.3)
    assert own["diversity"] == pytest.approx(floor["diversity"], rel=0.05)
    assert abs(own["energy_pixels"]) < 0.02


def test_guidance_moves_samples_away_from_the_data(evaluation: ImageEvaluation) -> None:
    guided, own = evaluation.judged[2.0].pooled, evaluation.judged[0.0].pooled
    assert guided["mean_rms"] > 1.15 * own["mean_rms"]
    assert guided["energy_pixels"] > own["energy_pixels"]
    assert guided["accuracy"] >= own["accuracy"]
    assert evaluation.nelbo is not None and evaluation.nelbo.accuracy > 0.8


def test_samples_are_those_of_the_plans_generators_judged_by_hand(
    data: BinaryImageData, classifier: ImageClassifier
) -> None:
    """Another kind, sampler and schedule than the default, other classes than all: what was asked for is what ran."""
    guidance = Guidance(1.5, "normalized")
    plan = Plan((guidance,), Sampler("event_leaping", 3, "linear"), 40, seed=7, classes=(2, 1))
    found = evaluate_images(data, target().denoiser(), classifier, plan, num_classified=0)
    assert found.kind == "normalized" and found.classes == [2, 1] and found.nelbo is None
    for at, k in enumerate((2, 1)):
        x = plan.sampler.draw(target().denoiser(), guidance, k, 40, plan.generator("samples", guidance, k))
        assert torch.equal(found.samples[1.5][at].long(), x)
        pairs = (x[:, None] != x).sum(dim=2).double()
        row = found.judged[1.5].by_class[at]
        assert row["diversity"] == pytest.approx(float(pairs.sum() / (40 * 39)))
        assert row["accuracy"] == float((classifier.predict(x) == k).double().mean())
    assert torch.allclose(found.sample_means[1.5], found.samples[1.5].double().mean(dim=1))
    assert torch.allclose(found.mean_changes[1.5] + found.data_means, found.sample_means[1.5])
    pooled = found.judged[1.5].pooled
    assert found.mistaken() == ([1 - pooled["accuracy"]], 1 - found.held_out.pooled["accuracy"])
    assert found.against_w("recall") == [pooled["recall"]]
    # the means of training images are those of the mixture, within four standard errors of 500 images
    exact = torch.stack([target().mean(k) for k in (2, 1)])
    assert float((found.data_means - exact).abs().max()) < 4 * (0.25 / 450) ** 0.5


def test_rows_are_flat_and_everything_is_json(evaluation: ImageEvaluation) -> None:
    rows = evaluation.rows()
    assert len(rows) == 3 * 4
    assert all(set(row) == {"w", "kind", "class", *STATISTICS} for row in rows)
    assert [(row["w"], row["kind"]) for row in rows[::4]] == [(0.0, "rate"), (2.0, "rate"), ("data", None)]
    assert evaluation.samples[2.0].shape == (3, 120, 20)
    assert all(math.isfinite(value) for value in evaluation.numbers().values())
    plain = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert plain["plan"] == evaluation.plan.describe()
    assert plain["distances"] == rows
    assert plain["data"]["classes"] == [0, 1, 2] and plain["data"]["grid_shape"] == [4, 5]
    assert plain["nelbo_classification"]["num_images"] == 100


def test_a_strengths_samples_do_not_depend_on_the_others(
    data: BinaryImageData, classifier: ImageClassifier, evaluation: ImageEvaluation
) -> None:
    plan = plan_of(Guidance(2.0), classes=(1,))
    alone = evaluate_images(data, target().denoiser(), classifier, plan, num_classified=0)
    assert torch.equal(alone.samples[2.0][0], evaluation.samples[2.0][1])
    assert alone.judged[2.0].by_class[0] == evaluation.judged[2.0].by_class[1]
    other = evaluate_images(
        data, target().denoiser(), classifier, plan_of(Guidance(2.0), classes=(1,), seed=1), num_classified=0
    )
    assert not torch.equal(alone.samples[2.0], other.samples[2.0])


def test_the_study_says_beforehand_what_it_draws(data: BinaryImageData, classifier: ImageClassifier) -> None:
    seen: list[Any] = []

    def keep(key: Any, make: Any) -> Any:
        seen.append(key)
        return make()

    plan = plan_of(Guidance(0.0), Guidance(2.0), n=3)
    evaluate_images(data, target().denoiser(), classifier, plan, keep=keep, num_classified=0)
    draws = Images().draws(data, target().denoiser(), plan)
    assert [draw.key for draw in draws] == seen and len(seen) == 2 * 3


def test_the_report_has_a_section_for_everything(evaluation: ImageEvaluation, tmp_path: Path) -> None:
    sections = image_sections(evaluation, tmp_path / "report")
    assert [s.title for s in sections] == [
        "Samples",
        "Samples against data",
        "Accuracy by class",
        "Pixel means and covariances",
    ]
    pictures = [picture.path for section in sections for picture in section.pictures]
    assert len(pictures) == 7 and all(path.stat().st_size > 1000 for path in pictures)
    assert sections[1].table is not None and len(sections[1].table.rows) == 3
    shown = sections[1].table.rows[1]
    assert shown[:2] == ["2", f"{evaluation.judged[2.0].pooled['accuracy']:.4f}"]
    assert "by first_hitting, guidance of the kind “rate”" in sections[0].text


def test_the_images_beside_samples_are_test_images_of_their_class(
    data: BinaryImageData, evaluation: ImageEvaluation
) -> None:
    assert evaluation.shown.shape == (3, 10, 20)
    for k, images in zip(evaluation.classes, evaluation.shown):
        own = {tuple(x) for x in data.test_x[data.test_classes == k].tolist()}
        assert all(tuple(x) in own for x in images.tolist())
    for w, found in evaluation.sample_components.items():
        variances = torch.stack([torch.linalg.eigvalsh(x.double().T.cov())[-1] for x in evaluation.samples[w]])
        torch.testing.assert_close(found.square().sum(dim=1), variances)
        assert bool(((found * evaluation.data_components).sum(dim=1) >= 0).all())


def test_a_class_of_a_single_test_image_is_not_judged(data: BinaryImageData, classifier: ImageClassifier) -> None:
    few = BinaryImageData()
    vars(few).update(vars(data))
    few._test = data.test_x[:1], data.test_classes[:1]
    plan = plan_of(Guidance(0.0), n=5, classes=(int(few.test_classes[0]),))
    found = evaluate_images(few, target().denoiser(), classifier, plan, num_classified=5, num_draws=2)
    assert found.num_held_out == 1 and found.nelbo is not None and found.nelbo.num_images == 1
    assert all(math.isnan(value) for value in found.held_out.pooled.values())
    assert all(math.isfinite(value) for value in found.judged[0.0].pooled.values())


def grey_target() -> TableMixture:
    """Two classes of 2 x 3 images of three shades: grey ones, and black and white ones."""
    each = torch.tensor([[0.1, 0.8, 0.1], [0.5, 0.1, 0.4]], dtype=torch.float64)
    pmfs = torch.stack([torch.einsum("a,b,c,d,e,f->abcdef", *[p] * 6) for p in each])
    return TableMixture(pmfs, torch.full((2,), 0.5))


def test_grey_levels_are_judged_by_their_shades(tmp_path: Path) -> None:
    grey, known = BinaryImageData(levels=3), grey_target()
    x, grey.train_labels = known.sample(1000, torch.Generator().manual_seed(1))
    test, classes = known.sample(200, torch.Generator().manual_seed(2))
    grey.train_images, grey._test = x.to(torch.uint8), (test.to(torch.uint8), classes)
    grey.grid_shape, grey.num_classes, grey._ready, grey.class_names = (2, 3), 2, True, ("dull", "sharp")
    trained = train_classifier(grey.train_images, grey.train_labels, (2, 3), 2, SETTINGS, num_tokens=3)
    assert trained.accuracy(grey.test_x, grey.test_classes) > 0.8
    found = evaluate_images(grey, known.denoiser(), trained, plan_of(Guidance(1.0), n=40), num_classified=0)
    drawn = found.samples[1.0][1].double() / 2
    row = found.judged[1.0].by_class[1]
    own = grey.train_images[grey.train_labels == 1].double() / 2
    pairs = (drawn[:, None] - drawn).square().sum(dim=2)
    assert row["diversity"] == pytest.approx(float(pairs.sum() / (40 * 39)))
    nearest = (drawn[:, None] - own).square().sum(dim=2).min(dim=1).values
    assert row["nearest_train"] == pytest.approx(float(nearest.mean()), abs=1e-6)
    assert row["mean_rms"] == pytest.approx(float((drawn.mean(0) - own.mean(0)).square().mean().sqrt()))
    energy = 2 * torch.cdist(drawn, own).mean() - pairs.sqrt().sum() / (40 * 39)
    energy -= torch.cdist(own, own).sum() / (len(own) * (len(own) - 1))
    assert row["energy_pixels"] == pytest.approx(float(energy), abs=1e-6)
    assert torch.allclose(found.data_means[1], own.mean(0))
    assert torch.allclose(found.sample_means[1.0][1], drawn.mean(0))
    sections = image_sections(found, tmp_path)
    assert "the square of the difference between their shades" in sections[1].text
    assert sections[2].table is not None and list(sections[2].table.columns) == ["w", "dull", "sharp"]


def test_what_cannot_be_evaluated_is_refused(data: BinaryImageData, classifier: ImageClassifier) -> None:
    denoiser, one = target().denoiser(), Guidance(1.0)
    other = BernoulliMixture(torch.full((3, 1, 9), 0.5), torch.ones(3, 1), torch.full((3,), 1 / 3))
    grey = BinaryImageData(levels=4)
    grey.grid_shape, grey.num_classes = (4, 5), 3
    for images, used, plan, words in [
        (data, denoiser, plan_of(one, n=1), "at least 2 per class"),
        (data, denoiser, plan_of(one, classes=(3,)), "class 3 is out of range"),
        (data, denoiser, plan_of(one, classes=(1, 1)), "each be given once"),
        (data, denoiser, plan_of(Guidance(linear_ramp(0.0, 1.0))), "needs one number w"),
        (data, denoiser, plan_of(one, Guidance(1.0, "normalized")), "takes one kind"),
        (data, other.denoiser(), plan_of(one), "other data"),
        (grey, denoiser, plan_of(one), "other data"),
    ]:
        with pytest.raises(UserError, match=words):
            evaluate_images(images, used, classifier, plan)


def test_without_a_classifier_its_numbers_are_absent_and_the_others_the_same(
    data: BinaryImageData, evaluation: ImageEvaluation, tmp_path: Path
) -> None:
    plan = plan_of(Guidance(0.0), Guidance(2.0))
    found = evaluate_images(data, target().denoiser(), None, plan, num_classified=0)
    for with_one, without in ((evaluation.judged[w], found.judged[w]) for w in (0.0, 2.0)):
        for full, row in zip([*with_one.by_class, with_one.pooled], [*without.by_class, without.pooled]):
            assert set(full) - set(row) == set(BY_CLASSIFIER)
            assert row == {name: value for name, value in full.items() if name not in BY_CLASSIFIER}
    shown = json.dumps([found.numbers(), found.to_dict(), found.rows()])
    assert not [name for name in (*BY_CLASSIFIER, "classifier_accuracy") if f'"{name}' in shown]
    sections = image_sections(found, tmp_path)
    assert "Accuracy by class" not in [section.title for section in sections]
    text = " ".join([section.text for section in sections] + found.verdict)
    assert "No classifier was asked" in text and "%" not in text
    assert not [path.name for path in tmp_path.iterdir() if path.name in ("accuracy.png", "precision_recall.png")]
