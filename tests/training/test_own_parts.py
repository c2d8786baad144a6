"""An objective and a network of one's own: what would not be trained, or not be saved, is refused before it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdlm_cfg import UserError
from mdlm_cfg.nets import check_network
from mdlm_cfg.training.build import build_optimizer
from mdlm_cfg.training.objectives import Objective, check_losses

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


def test_a_network_of_no_parameters_is_refused() -> None:
    with pytest.raises(UserError):
        build_optimizer(nn.Identity(), {"_target_": "mdlm_cfg.nets.optimizer.adamw", "lr": 0.1})
