"""The classifier of binary images: it learns, it is kept, and it leaves the global random state alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from idx_files import write_striped

from mdlm_cfg.training.classifier import (
    ClassifierSettings,
    ImageClassifier,
    classifier_for,
    classifier_path,
    train_classifier,
)
from mdlm_cfg.training.data import BinaryImageData

SMALL = ClassifierSettings(channels=(4, 8), num_features=16, epochs=6, batch_size=30, learning_rate=0.02, dropout=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> BinaryImageData:
    """Images of 9 x 10 whose classes are nearly without noise."""
    folder = tmp_path_factory.mktemp("images")
    write_striped(folder, 300, 60, (9, 10), 60)
    module = BinaryImageData(str(folder), root=str(folder), batch_size=16, num_val=20)
    module.setup()
    return module


def test_it_learns_simple_images_and_reports_progress(data: BinaryImageData) -> None:
    state = torch.random.get_rng_state()
    seen = []
    model = train_classifier(
        data.train_x, data.train_labels, data.grid_shape, 3, SMALL, lambda *line: seen.append(line)
    )
    assert model.hits(data.test_x, data.test_classes).double().mean() > 0.95
    assert [step for step, _, _ in seen] == list(range(1, 61))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training


def test_features_feed_the_head_and_need_no_type(data: BinaryImageData) -> None:
    model = ImageClassifier(data.grid_shape, 3, SMALL)
    features = model.features(data.test_x.long())
    assert features.shape == (60, 16)
    assert torch.equal(features, model.features(data.test_x.bool()))
    assert torch.equal(model.head(features).argmax(1), model.predict(data.test_x))


def test_it_is_trained_once_and_then_loaded(data: BinaryImageData, tmp_path: Path) -> None:
    steps: list[int] = []
    first = classifier_for(data, SMALL, tmp_path, lambda step, *_: steps.append(step))
    trained = len(steps)
    again = classifier_for(data, SMALL, tmp_path, lambda step, *_: steps.append(step))
    assert trained == len(steps) == 60
    assert torch.equal(first.features(data.test_x), again.features(data.test_x))
    other = dataclasses.replace(SMALL, epochs=2)
    assert classifier_path(data, SMALL, tmp_path).is_file()
    assert classifier_path(data, other, tmp_path) != classifier_path(data, SMALL, tmp_path)


def test_one_that_cannot_be_kept_is_used_and_said(
    data: BinaryImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")  # where a folder would have to be
    kept = classifier_for(data, SMALL, tmp_path)
    used = classifier_for(data, SMALL, tmp_path / "file")
    assert torch.equal(kept.features(data.test_x), used.features(data.test_x))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_damaged_file_says_what_to_do(data: BinaryImageData, tmp_path: Path) -> None:
    classifier_path(data, SMALL, tmp_path).write_bytes(b"not a classifier")
    with pytest.raises(ValueError, match=classifier_path(data, SMALL, tmp_path).name):
        classifier_for(data, SMALL, tmp_path)


def test_impossible_settings_and_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs = 0"):
        ClassifierSettings(epochs=0)
    with pytest.raises(ValueError, match=r"\(784,\)"):
        ImageClassifier((784,), 10)


def test_the_file_tells_the_precision_and_auto_is_what_the_cpu_does_fast(
    data: BinaryImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {}
    for fast in (True, False):
        asked: list[object] = []
        monkeypatch.setattr(
            "mdlm_cfg.training.classifier.bf16_is_fast",
            lambda device, fast=fast, asked=asked: asked.append(device) or fast,
        )
        paths[fast] = classifier_path(data, SMALL, tmp_path)
        assert asked == ["cpu"]
        named = dataclasses.replace(SMALL, precision="bfloat16" if fast else "float32")
        assert paths[fast] == classifier_path(data, named, tmp_path)
    assert paths[True] != paths[False]
    with pytest.raises(ValueError, match=r"precision 'half'.*auto, float32, bfloat16"):
        ClassifierSettings(precision="half")


def test_another_measurement_of_the_cpu_trains_no_second_classifier(
    data: BinaryImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SMALL, epochs=1)
    for first in (True, False):
        folder = tmp_path / str(first)
        found = []
        for fast in (first, not first):
            monkeypatch.setattr("mdlm_cfg.training.classifier.bf16_is_fast", lambda device, fast=fast: fast)
            found.append(classifier_for(data, settings, folder).features(data.test_x))
        assert torch.equal(*found)
        assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_are_made_in_the_precision_that_is_asked_for(data: BinaryImageData, precision: str) -> None:
    seen: set[torch.dtype] = set()
    settings = dataclasses.replace(SMALL, precision=precision, epochs=1)
    forward = torch.nn.Linear.forward

    def watched(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        out = forward(self, x)
        seen.add(out.dtype)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", watched)
        train_classifier(data.train_x, data.train_labels, data.grid_shape, 3, settings)
    assert seen == {getattr(torch, precision)}


@pytest.mark.parametrize("steps", range(1, 8))
def test_it_trains_for_any_number_of_steps(data: BinaryImageData, steps: int) -> None:
    settings = dataclasses.replace(SMALL, epochs=steps, batch_size=300)
    train_classifier(data.train_x, data.train_labels, data.grid_shape, 3, settings)
