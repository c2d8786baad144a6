"""A network as torch.compile makes it, for training steps."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from mdlm_cfg.nets.wrapper import has_label_heads


class Compiled:
    """A network compiled to fewer and longer kernels, under one label and under several; on a GPU one CUDA graph each.

    Args:
        net: the network to compile, which also provides all other attributes.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._forward = torch.compile(net, mode="reduce-overhead")
        if has_label_heads(net):
            self.under_labels = torch.compile(cast(Any, net.under_labels), mode="reduce-overhead")

    def __call__(self, tokens: Tensor, classes: Tensor | None = None) -> Tensor:
        return cast(Tensor, self._forward(tokens, classes))

    def __getattr__(self, name: str) -> Any:
        if name == "net":  # of a copy that has no attributes yet
            raise AttributeError(name)
        return getattr(self.net, name)


def compiled(net: nn.Module) -> nn.Module:
    """The network compiled for training steps, see `Compiled`, which has all that objectives use."""
    return cast(nn.Module, Compiled(net))
