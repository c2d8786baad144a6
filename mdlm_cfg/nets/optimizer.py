"""Optimisers of a network: AdamW alone, or Muon for the transformer's matrices and AdamW for everything else.

An optimiser that a configuration names is called with the network and its settings, and is a torch.optim.Optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mdlm_cfg.nets.muon import Muon
from mdlm_cfg.support.errors import UserError


def adamw(
    net: nn.Module, lr: float = 3e-3, betas: Sequence[float] = (0.9, 0.99), weight_decay: float = 0.0
) -> torch.optim.AdamW:
    """torch.optim.AdamW of all parameters.

    Raises:
        UserError: a learning rate that is not positive, betas outside [0, 1), or a negative weight decay.
    """
    return _adamw(list(net.parameters()), lr, betas, weight_decay)


def _adamw(parameters: Sequence[Tensor], lr: float, betas: Sequence[float], weight_decay: float) -> torch.optim.AdamW:
    _check_rate(lr)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"betas {betas} must be two numbers, at least 0 and below 1")
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"weight_decay {weight_decay} must be finite and not negative")
    first, second = betas
    # on a CPU one loop over all parameters; on a GPU torch's own choice, which works with every precision
    fused = True if all(p.device.type == "cpu" and p.is_floating_point() for p in parameters) else None
    return torch.optim.AdamW(parameters, lr, (first, second), weight_decay=weight_decay, fused=fused)


def allow_clipping(optimizer: torch.optim.Optimizer) -> None:
    """Take the fused step away from an optimiser whose gradients Lightning is to clip in mixed precision.

    A fused optimiser says that it unscales gradients itself, and Lightning refuses to clip those.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        for group in optimizer.param_groups:
            group["fused"] = None


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes it: a weight matrix inside a transformer block; no embedding, norm, bias or convolution."""
    return ".blocks." in f".{name}" and parameter.ndim == 2


class MuonAdamW(torch.optim.Optimizer):
    """`Muon` on the block matrices of a network, and AdamW on the rest, stepped together.

    Args:
        net: with its transformer blocks under `blocks`.
        lr: of AdamW. muon_lr: of Muon.
        betas: of AdamW. weight_decay: decoupled, of both.
        precision: of Muon's iteration: "auto" (what is fast on the device, as measured), "float32", "bfloat16".

    Raises:
        UserError: a network without such matrices, or a setting that AdamW or Muon does not allow.
    """

    def __init__(
        self,
        net: nn.Module,
        lr: float = 3e-3,
        muon_lr: float = 2e-2,
        betas: Sequence[float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        precision: str = "auto",
    ) -> None:
        named = list(net.named_parameters())
        matrices = [p for name, p in named if is_matrix(name, p)]
        others = [p for name, p in named if not is_matrix(name, p)]
        _check_rate(muon_lr)
        if not matrices:
            raise UserError(
                "Muon needs a network with matrices under `blocks`, and this one has none: give optimizer=adamw"
            )
        self.parts: dict[str, torch.optim.Optimizer] = {
            "adamw": _adamw(others, lr, betas, weight_decay),
            "muon": Muon(matrices, muon_lr, weight_decay, precision=precision),
        }
        super().__init__([*others, *matrices], {})
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
        """The state of each part, by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of each part.

        Raises:
            UserError: the state of another optimiser.
        """
        if set(state_dict) != set(self.parts):
            raise UserError(
                "the state belongs to another optimiser: resume with the optimiser with which training began"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._share_groups()


def _check_rate(lr: float) -> None:
    if not 0 < lr < math.inf:
        raise UserError(f"the learning rate {lr} must be positive and finite")
