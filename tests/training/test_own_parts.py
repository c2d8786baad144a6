"""An objective and a network of one's own: what would not be trained, or not be saved, is refused before it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from mdlm_cfg import UserError
from mdlm_cfg.app.report_cache import cache_in
from mdlm_cfg.nets import NetDenoiser, check_network
from mdlm_cfg.training.build import build_optimizer
from mdlm_cfg.training.objectives import Objective, check_losses
from mdlm_cfg.training.unfinished import is_same

WEIGHT = torch.ones(3, requires_grad=True)
LOSSES: dict[str, Any] = {
    "nothing": None,
    "a number": 1.0,
    "a tensor": WEIGHT.sum(),
    "no loss": {"nelbo": WEIGHT.sum()},
    "a loss that is no tensor": {"loss": 1.0},
    "a loss of each data point": {"loss": 2 * WEIGHT},
    "a loss of no parameter": {"loss": WEIGHT.sum().detach()},
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_cannot_be_trained_on_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        check_losses(LOSSES[name], "Mine")


def test_losses_that_can_are_taken_and_an_objective_without_them_is_none() -> None:
    check_losses(Objective().weigh(WEIGHT.sum(), WEIGHT.mean()), "Mine")
    with pytest.raises(UserError):
        Objective().loss(nn.Linear(1, 1), torch.zeros(1, 1), torch.zeros(1), torch.Generator())


class Net(nn.Module):
    """A network whose second layer is held by what `hold` makes of a list."""

    def __init__(self, hold: Any) -> None:
        super().__init__()
        self.num_tokens = 3
        self.num_dims = 2
        self.num_classes = 2
        self.first = nn.Embedding(3, 6)
        self.layers = hold([nn.Embedding(3, 6)])

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        second = next(iter(self.layers.values() if isinstance(self.layers, dict) else self.layers))
        return (self.first(classes) + second(classes)).unflatten(1, (2, 3)).log_softmax(dim=-1)


@pytest.mark.parametrize("hold", [list, tuple, lambda layers: {"one": layers[0]}])
def test_layers_that_torch_does_not_see_are_refused(hold: Any) -> None:
    with pytest.raises(UserError):
        check_network(Net(hold), "Net")


def test_layers_that_torch_sees_are_taken_also_where_a_list_names_them_again() -> None:
    net = Net(nn.ModuleList)
    net.again = [net.first]
    check_network(net, "Net")
    assert math.prod(net.layers[0].weight.shape) == 18


ODD = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "without data": lambda: torch.empty(2, device="meta"),
    "expanded": lambda: torch.ones(1).expand(5),
    "lazy": nn.parameter.UninitializedBuffer,
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("kind", ODD)
def test_buffers_that_cannot_be_averaged_or_compared_are_refused(kind: str) -> None:
    net = Net(nn.ModuleList)
    net.register_buffer("odd", ODD[kind]())
    with pytest.raises(UserError):
        check_network(net, "Net")


@pytest.mark.parametrize(
    "value", [torch.ones(2, dtype=torch.bfloat16), torch.ones(2).to(torch.float8_e4m3fn), {"a": 1}]
)
def test_pieces_of_a_network_are_told_apart_by_all_of_its_state(value: Any, tmp_path: Path) -> None:
    class Stateful(Net):
        state: Any = None

        def get_extra_state(self) -> Any:
            return self.state

    keys = []
    for state in (torch.zeros(2), value, value):
        torch.manual_seed(0)
        net = Stateful(nn.ModuleList)
        net.state = state
        keys.append(cache_in(tmp_path, {}, NetDenoiser(net)).about)
    assert keys[0] != keys[1] == keys[2]


def test_a_setting_that_is_nan_is_the_same_one_again(tmp_path: Path) -> None:
    config = {"net": {"_target_": "mine.Net", "missing": [math.nan], "other": math.nan}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert is_same(path, config)
    assert not is_same(path, {"net": {**config["net"], "other": 1.0}})


class Lazy(Net):
    """A network that makes a table at its first call, as rotary embeddings do."""

    table: Tensor | None = None

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0.5, 1.5, 6)
        return (self.first(classes) * self.table).unflatten(1, (2, 3)).log_softmax(dim=-1)


def test_what_a_network_keeps_of_its_first_call_can_be_trained_with() -> None:
    net = Lazy(nn.ModuleList)
    check_network(net, "Lazy")
    net(torch.full((2, 2), 3), torch.tensor([0, 1])).square().sum().backward()
    assert bool((net.first.weight.grad != 0).any())


def test_a_network_of_no_parameters_is_refused() -> None:
    with pytest.raises(UserError):
        build_optimizer(nn.Identity(), {"_target_": "mdlm_cfg.nets.optimizer.adamw", "lr": 0.1})
