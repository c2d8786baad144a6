"""A step that cannot fit into memory is refused before any work, and a lack of memory is never called damage."""

from __future__ import annotations

import errno
import re
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
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets import files
from mdlm_cfg.training import classifier, step_memory
from mdlm_cfg.training.classifier import ClassifierSettings, classifier_for
from mdlm_cfg.training.data import ExampleData
from mdlm_cfg.training.data.examples import Examples
from mdlm_cfg.training.data.huggingface import load_saved
from mdlm_cfg.training.fit import train
from mdlm_cfg.training.objectives import Averaged, Objective, Pooled, Sampled
from mdlm_cfg.training.runs import load_run
from mdlm_cfg.training.step_memory import check_step_memory


def data(values: int, dims: int, **loading: int) -> ExampleData:
    x = torch.zeros(4, dims, dtype=torch.int64)
    x[0, 0] = values - 1
    module = ExampleData(lambda: Examples(x, torch.tensor([0, 0, 1, 1]), x, torch.tensor([0, 0, 1, 1])), "x", **loading)
    module.setup()
    return module


@pytest.mark.parametrize(
    ("loading", "key"), [({}, "eval_batch_size"), ({"batch_size": 250, "eval_batch_size": 1}, "batch_size")]
)
def test_a_large_vocabulary_is_refused_with_a_batch_size_that_fits(loading: dict[str, int], key: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{key}=\d+") as error:
        check_step_memory(data(50_000, 32, **loading), Sampled(), "cpu")
    proposed = {name: int(size) for name, size in re.findall(r"data\.(\w+)=(\d+)", str(error.value))}
    assert 16 <= proposed[key] < 250
    check_step_memory(data(50_000, 32, **(loading | proposed)), Sampled(), "cpu")


def test_ordinary_data_pass_and_the_averaged_objective_is_bounded_elsewhere() -> None:
    check_step_memory(data(27, 128), Sampled(), "cpu")
    check_step_memory(data(256, 784), Sampled(), "cpu")
    check_step_memory(data(2, 9, batch_size=2**24, eval_batch_size=4096), Averaged(), "cpu")


@pytest.mark.parametrize(
    ("objective", "rows"), [(Averaged(), 0), (Pooled(rows=512), 1024), (Sampled(), 2000), (Sampled(paired=False), 1000)]
)
def test_objectives_say_how_many_rows_they_ask(objective: Objective, rows: int) -> None:
    assert objective.num_rows(1000) == rows


def test_little_memory_refuses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_memory, "memory_allowed", lambda: 2**28)
    with pytest.raises(UserError, match=r"data\.batch_size=\d+ data\.eval_batch_size="):
        check_step_memory(data(256, 784), Sampled(), "cpu")


Patch = pytest.MonkeyPatch
LACKS = [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("CUDA out of memory.")]


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
    datasets.Dataset.from_dict({"image": [[0, 1]], "label": [0]}).save_to_disk(str(folder))
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
    assert sentence(found.value) == sentence(MemoryError()) != sentence(ValueError())


def test_a_disk_that_cannot_be_read_is_told_as_such(tmp_path: Path, monkeypatch: Patch) -> None:
    store({}, tmp_path / "last.ckpt")
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError) as found:
        load_run(tmp_path / "last.ckpt")
    assert re.match(rf"{tmp_path}/last\.ckpt .*Input/output error", sentence(found.value) or "")


def test_other_errors_are_still_told_as_damage(checkpoint: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    other: Any = RuntimeError("Error(s) in loading state_dict")
    for use in OF_TORCH:
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=str(checkpoint)):
            use(patch, other, checkpoint, tmp_path)
