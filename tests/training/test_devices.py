"""Batches and training steps stay on their device and never wait for it: shown on a fake GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from mdlm_cfg.nets import GridTransformer
from mdlm_cfg.nets.optimizer import MuonAdamW, adamw
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.sequences import motif_in_noise
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training import averaged, objectives
from mdlm_cfg.training.callbacks import average_
from mdlm_cfg.training.data import ExampleData, ImageData, TargetData
from mdlm_cfg.training.data.base import DiffusionData, shared_batches
from mdlm_cfg.training.data.levels import binarize
from mdlm_cfg.training.objectives import Averaged, Objective, Pooled, Sampled


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


SHAPE = (5, 3, 2)  # N, D, K


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Under it mixed devices raise, and so does all that would wait: .item(), bool(tensor), boolean indexing."""
    objective = averaged.AveragedObjective(*SHAPE)  # made once, before training, and on the CPU
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for name, value in list(vars(objective).items()):
            if isinstance(value, torch.Tensor):
                setattr(objective, name, mode.from_tensor(value).to("cuda"))
        monkeypatch.setattr(objectives, "averaged_objective", lambda *shape: objective)
        yield mode


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(64, 3, dtype=torch.int64, device="cuda"), torch.zeros(64, dtype=torch.int64, device="cuda")


@pytest.mark.parametrize(
    "objective", [Averaged(0.3, 0.1), Pooled(0.3, 0.1, rows=16), Sampled(0.3, 0.1), Sampled(0.3, 0.1, paired=False)]
)
@pytest.mark.parametrize("make", [adamw, lambda net: MuonAdamW(net, precision="bfloat16")])
def test_a_step_stays_on_the_device(mode: FakeTensorMode, objective: Objective, make: Any) -> None:
    with torch.device("cuda"):
        net = GridTransformer(SHAPE[0], (3,), SHAPE[2], width=8, depth=2, num_heads=2)
    optimizer = make(net)
    average = [p.detach().clone() for p in net.parameters()]
    losses = objective.loss(net, *batch(), FakeGenerator())
    assert all(value.device.type == "cuda" for value in losses.values())
    for p in net.parameters():  # autograd itself needs the device
        p.grad = torch.ones_like(p)
    optimizer.step()
    average_(average, list(net.parameters()), 0.9, 3)
    assert {p.device.type for p in (*average, *net.parameters())} == {"cuda"}
