"""Convolutions around a transformer, for details that are finer than a patch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}  # by axes of the grid


class ConvStem(nn.Module):
    """Convolutional features of the coordinates, channels last: (B, *grid, in) to (B, *grid, channels)."""

    def __init__(self, in_channels: int, channels: int, depth: int, axes: int = 2) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[axes](in_channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ConvBlock(channels, axes) for _ in range(depth))

    def forward(self, pixels: Tensor) -> Tensor:
        h = self.conv(pixels.movedim(-1, 1))
        for block in self.blocks:
            h = block(h)
        return h.movedim(1, -1)


class ConvHead(nn.Module):
    """Logits of the coordinates, channels last: (B, *grid, channels) to (B, *grid, out)."""

    def __init__(self, channels: int, out_channels: int, depth: int, axes: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(channels, axes) for _ in range(depth))
        self.conv = CONVOLUTIONS[axes](channels, out_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        h = pixels.movedim(-1, 1)
        for block in self.blocks:
            h = block(h)
        return self.conv(F.gelu(h)).movedim(1, -1)


class ConvBlock(nn.Module):
    """A residual pair of convolutions, 3 cells wide, without normalisation, the identity at first."""

    def __init__(self, channels: int, axes: int = 2) -> None:
        super().__init__()
        self.conv_in = CONVOLUTIONS[axes](channels, channels, 3, padding=1)
        self.conv_out = CONVOLUTIONS[axes](channels, channels, 3, padding=1)
        start_at_zero(self.conv_out)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.conv_out(F.gelu(self.conv_in(F.gelu(h))))


def start_at_zero(layer: nn.Module) -> None:
    """Set all parameters of a layer to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
