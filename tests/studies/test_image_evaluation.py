"""Samples of images judged beside held-out data: an exact denoiser on small images, and the report's pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from mdlm_cfg.reports.image_report import image_sections
from mdlm_cfg.studies.images.evaluation import STATISTICS, ImageEvaluation, evaluate_images
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
    test, module.test_classes = target().sample(600, torch.Generator().manual_seed(2))
    module.test_x = test.to(torch.uint8)
    module.grid_shape, module.num_classes, module._ready = (4, 5), 3, True
    return module


@pytest.fixture(scope="module")
def classifier(data: BinaryImageData) -> ImageClassifier:
    return train_classifier(data.train_images, data.train_labels, (4, 5), 3, SETTINGS)


@pytest.fixture(scope="module")
def evaluation(data: BinaryImageData, classifier: ImageClassifier) -> ImageEvaluation:
    return evaluate_images(
        data, target().denoiser(), classifier, [0, 2], sampler="first_hitting", steps=None,
        num_samples_per_class=120, num_classified=100, num_draws=20,
    )  # fmt: skip


def test_unguided_exact_samples_score_like_held_out_data(evaluation: ImageEvaluation) -> None:
    own, floor = evaluation.pooled_rows[0.0], evaluation.held_out
    for name in ("accuracy", "precision", "recall"):
        assert own[name] == pytest.approx(floor[name], abs=0.06)
    for name in ("mean_rms", "covariance"):
        assert own[name] == pytest.approx(floor[name], rel=0.3)
    assert own["diversity"] == pytest.approx(floor["diversity"], rel=0.05)
    assert abs(own["energy_pixels"]) < 0.02


def test_guidance_moves_samples_away_from_the_data(evaluation: ImageEvaluation) -> None:
    guided, own = evaluation.pooled_rows[2.0], evaluation.pooled_rows[0.0]
    assert guided["mean_rms"] > 1.15 * own["mean_rms"]
    assert guided["energy_pixels"] > own["energy_pixels"]
    assert guided["accuracy"] >= own["accuracy"]
    assert evaluation.nelbo_accuracy is not None and evaluation.nelbo_accuracy > 0.8


def test_rows_are_flat_and_everything_is_json(evaluation: ImageEvaluation) -> None:
    rows = evaluation.rows()
    assert len(rows) == 3 * 4
    assert set(rows[0]) == {"w", "class", *STATISTICS}
    assert {row["w"] for row in rows} == {0.0, 2.0, "data"}
    assert evaluation.samples[2.0].shape == (3, 120, 20)
    assert all(math.isfinite(value) for value in evaluation.numbers().values())
    json.dumps(evaluation.to_dict(), allow_nan=False)


def test_a_strengths_samples_do_not_depend_on_the_others(
    data: BinaryImageData, classifier: ImageClassifier, evaluation: ImageEvaluation
) -> None:
    alone = evaluate_images(
        data, target().denoiser(), classifier, [2], sampler="first_hitting", steps=None,
        num_samples_per_class=120, classes=[1], num_classified=0,
    )  # fmt: skip
    assert torch.equal(alone.samples[2.0][0], evaluation.samples[2.0][1])
    assert alone.class_rows[2.0][0] == evaluation.class_rows[2.0][1]
    assert alone.nelbo_accuracy is None


def test_the_report_has_a_section_for_everything(evaluation: ImageEvaluation, tmp_path: Path) -> None:
    sections = image_sections(evaluation, tmp_path / "report")
    assert [s.title for s in sections] == ["Samples", "Samples against data", "Accuracy by class", "Pixel means"]
    pictures = [picture.path for section in sections for picture in section.pictures]
    assert len(pictures) == 6 and all(path.stat().st_size > 1000 for path in pictures)
    assert sections[1].table is not None and len(sections[1].table.rows) == 3


def test_what_cannot_be_evaluated_is_refused(data: BinaryImageData, classifier: ImageClassifier) -> None:
    denoiser = target().denoiser()
    with pytest.raises(ValueError, match="each given once"):
        evaluate_images(data, denoiser, classifier, [1, 1])
    with pytest.raises(ValueError, match="at least 2"):
        evaluate_images(data, denoiser, classifier, [1], num_samples_per_class=1)
    with pytest.raises(ValueError, match="class"):
        evaluate_images(data, denoiser, classifier, [1], classes=[3])
    other = BernoulliMixture(torch.full((3, 1, 9), 0.5), torch.ones(3, 1), torch.full((3,), 1 / 3))
    with pytest.raises(ValueError, match="other data"):
        evaluate_images(data, other.denoiser(), classifier, [1])
