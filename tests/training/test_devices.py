"""Batches are made on the device that the data live on, with no wait for it; shown on a fake GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.sequences import motif_in_noise
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.data import ExampleData, ImageData, TargetData
from mdlm_cfg.training.data.base import DiffusionData, shared_batches
from mdlm_cfg.training.data.levels import binarize


class FakeGenerator(torch.Generator):
    """Says that it is a GPU's; fake draws need no more."""

    device = torch.device("cuda", 0)


class Watched(TorchFunctionMode):
    """Counts copies to the GPU, and refuses what a real one would: a draw on another device than its generator's."""

    copies = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:
            assert torch.device(kwargs.get("device") or "cpu") == kwargs["generator"].device
        out = function(*args, **kwargs)
        if function is torch.Tensor.to and args[0].device.type == "cpu" and out.device.type == "cuda":
            self.copies += 1
        return out


def images() -> ExampleData:
    data = ImageData(batch_size=4)
    generator = torch.Generator().manual_seed(0)
    data.train_x = torch.randint(256, (12, 6), dtype=torch.uint8, generator=generator)
    data.train_labels = torch.arange(12) % 3
    data._val = data._test = (data.train_x, data.train_labels)
    return data


def table() -> TargetData:
    data = TargetData(toy_2d_overlap(), "toy", batch_size=4, steps_per_epoch=2)
    data.setup()
    return data


def mixture() -> TargetData:
    target = BernoulliMixture(torch.rand(2, 3, 6), torch.full((2, 3), 1 / 3), torch.tensor([0.5, 0.5]))
    data = TargetData(target, "any", batch_size=4, steps_per_epoch=2)
    data.setup()
    return data


def sequences() -> TargetData:
    data = TargetData(motif_in_noise(num_dims=5), "motif", batch_size=4, steps_per_epoch=2)
    data.setup()
    return data


@pytest.mark.parametrize(("make", "copies"), [(images, 1), (table, 0), (mixture, 0), (sequences, 0)])
def test_batches_are_made_where_the_data_live(make: Any, copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("example_data", "target_data"):
        monkeypatch.setattr(
            f"mdlm_cfg.training.data.{module}.generator_for",
            lambda *key, device="cpu": torch.Generator() if str(device) == "cpu" else FakeGenerator(),
        )
    data: DiffusionData = make()
    # a read of a fake tensor's value, which would wait for the device, is an error
    with FakeTensorMode(allow_non_fake_inputs=True):
        data.place_on("cuda")
        first = list(data._epoch(0, 0, 1))  # what is copied once
        with Watched() as watched:
            again = list(data._epoch(1, 0, 1))
        assert watched.copies == copies, "an epoch's order of images is copied, and nothing else"
        seen = [*first, *again, *(next(shared_batches(*part, 2, 0, 1)) for part in (data._val, data._test))]
    assert len(seen) > 2
    for x, classes in seen:
        assert x.device.type == classes.device.type == "cuda" and x.dtype == torch.int64


@pytest.mark.parametrize("make", [images, table, mixture, sequences])
def test_placing_data_where_they_are_changes_no_batch(make: Any) -> None:
    torch.manual_seed(0)
    one = make()
    torch.manual_seed(0)
    two = make()
    two.place_on("cpu")
    for (x, y), (x2, y2) in zip(one._epoch(3, 0, 1), two._epoch(3, 0, 1), strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_a_generator_of_another_device_keeps_its_draws() -> None:
    grey = torch.randint(256, (5, 6), dtype=torch.uint8)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert binarize(grey.to("cuda"), "static").device.type == "cuda"
