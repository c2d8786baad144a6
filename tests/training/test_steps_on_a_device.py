"""A training step stays on its device and never waits for it: shown with tensors that claim to be on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mdlm_cfg.nets import GridTransformer
from mdlm_cfg.nets.optimizer import MuonAdamW, adamw
from mdlm_cfg.training import elbo, objectives
from mdlm_cfg.training.callbacks import average_
from mdlm_cfg.training.objectives import Averaged, Objective, Pooled, Sampled

SHAPE = (5, 3, 2)  # N, D, K


class FakeGenerator(torch.Generator):
    """Says that it is a GPU's; fake draws need no more."""

    device = torch.device("cuda", 0)


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Under it mixed devices raise, and so does all that would wait: .item(), bool(tensor), boolean indexing."""
    averaged = elbo.AveragedObjective(*SHAPE)  # made once, before training, and on the CPU
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for name, value in list(vars(averaged).items()):
            if isinstance(value, torch.Tensor):
                setattr(averaged, name, mode.from_tensor(value).to("cuda"))
        monkeypatch.setattr(objectives, "averaged_objective", lambda *shape: averaged)
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


def test_the_test_can_fail(mode: FakeTensorMode) -> None:
    x, _ = batch()
    with pytest.raises(DataDependentOutputException):
        bool(x.sum() > 0)
    with pytest.raises(RuntimeError, match="device"):
        x + torch.zeros(64, 3)
