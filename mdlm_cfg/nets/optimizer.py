"""Muon for the transformer's matrices, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mdlm_cfg.support.errors import UserError


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes it: a weight matrix inside a transformer block; no embedding, norm, bias or convolution."""
    return ".blocks." in f".{name}" and parameter.ndim == 2


class MuonAdamW(torch.optim.Optimizer):
    """torch.optim.Muon on the block matrices of a network, and AdamW on the rest, stepped together.

    Args:
        net: with its transformer blocks under `blocks`.
        lr: of AdamW. muon_lr: of Muon.
        betas: of AdamW. weight_decay: decoupled, of both.

    Raises:
        UserError: this torch has no Muon (it came with 2.9).
    """

    def __init__(
        self, net: nn.Module, lr: float, muon_lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"torch {torch.__version__} has no Muon: set optimizer.muon_lr=null, or upgrade to 2.9")
        named = list(net.named_parameters())
        matrices = [p for name, p in named if is_matrix(name, p)]
        others = [p for name, p in named if not is_matrix(name, p)]
        self.parts: dict[str, torch.optim.Optimizer] = {
            "muon": torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay),
            "adamw": torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay),
        }
        super().__init__([*matrices, *others], {})
        self._share_groups()

    def _share_groups(self) -> None:
        # the same dicts as the parts', so that a learning rate set here is set there
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Both parts' step; the closure, if there is one, is called once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The parts' own."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The parts' own."""
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._share_groups()


def build_optimizer(
    net: nn.Module, lr: float, muon_lr: float | None, betas: Iterable[float], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, or `MuonAdamW` if there is a `muon_lr`; every group keeps its learning rate as `initial_lr`."""
    first, second = betas
    optimizer: torch.optim.Optimizer
    if muon_lr is None:
        optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(first, second), weight_decay=weight_decay)
    else:
        optimizer = MuonAdamW(net, lr, muon_lr, (first, second), weight_decay)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
