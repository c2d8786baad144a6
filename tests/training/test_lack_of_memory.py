"""What there is not enough memory for is never called damaged: nobody is told to delete or train anew what is whole."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from harness import small_data, small_module, small_trainer

from mdlm_cfg.app.errors import sentence
from mdlm_cfg.nets import GridTransformer
from mdlm_cfg.support.checked_io import store
from mdlm_cfg.targets import files
from mdlm_cfg.training import classifier
from mdlm_cfg.training.classifier import ClassifierSettings, classifier_for
from mdlm_cfg.training.data.huggingface import load_saved
from mdlm_cfg.training.fit import train
from mdlm_cfg.training.runs import CHECKPOINT, load_run

Patch = pytest.MonkeyPatch
LACKS = [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("CUDA out of memory.")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    small_trainer(folder, epochs=1).fit(small_module(small_data()), datamodule=small_data())
    return folder / CHECKPOINT


def reading(patch: Patch, error: Exception, checkpoint: Path, folder: Path) -> None:
    patch.setattr(torch, "load", Mock(side_effect=error))
    load_run(checkpoint)


def taking_weights(patch: Patch, error: Exception, checkpoint: Path, folder: Path) -> None:
    patch.setattr(GridTransformer, "load_state_dict", Mock(side_effect=error))
    load_run(checkpoint)


def going_on(patch: Patch, error: Exception, checkpoint: Path, folder: Path) -> None:
    patch.setattr(torch.optim.AdamW, "load_state_dict", Mock(side_effect=error))
    train(small_module(small_data()), small_data(), small_trainer(folder, epochs=2), checkpoint)


def a_classifier(patch: Patch, error: Exception, checkpoint: Path, folder: Path) -> None:
    patch.setattr(classifier, "classifier_path", lambda *_: checkpoint)
    patch.setattr(torch, "load", Mock(side_effect=error))
    classifier_for(Mock(grid_shape=(4, 4), num_classes=2, num_tokens=2), ClassifierSettings(), folder)


def a_mixture(patch: Patch, error: Exception, checkpoint: Path, folder: Path) -> None:
    np.savez(folder / "mix.npz", class_pmfs=np.full((2, 3), 1 / 3), class_weights=np.ones(2) / 2)
    patch.setattr(files, "_read_array", Mock(side_effect=error))
    files.load_table(folder / "mix.npz")


def a_saved_data_set(patch: Patch, error: Exception, checkpoint: Path, folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    patch.setattr(datasets, "load_from_disk", Mock(side_effect=error))
    load_saved(folder, "image", "label")


OF_TORCH = (reading, taking_weights, going_on, a_classifier)
OF_OTHERS = (a_mixture, a_saved_data_set)


@pytest.mark.parametrize(("use", "error"), [*product(OF_TORCH, LACKS), *product(OF_OTHERS, LACKS[:1])])
def test_a_lack_of_memory_is_told_as_such(
    use: Callable[..., None], error: Exception, checkpoint: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as found:
        use(monkeypatch, error, checkpoint, tmp_path)
    said = sentence(found.value)
    assert said is not None and "not enough memory" in said


def test_a_disk_that_cannot_be_read_is_told_as_such(tmp_path: Path, monkeypatch: Patch) -> None:
    store({}, tmp_path / "last.ckpt")
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError) as found:
        load_run(tmp_path / "last.ckpt")
    assert sentence(found.value) == (
        f"{tmp_path / 'last.ckpt'} cannot be used: Input/output error; choose another place, or repair this one"
    )


def test_other_errors_are_still_told_as_damage(checkpoint: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    other: Any = RuntimeError("Error(s) in loading state_dict")
    for use in OF_TORCH:
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"damaged|do not fit|cannot resume"):
            use(patch, other, checkpoint, tmp_path)
