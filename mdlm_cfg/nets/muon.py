"""Muon: momentum, made orthogonal by a few steps of a Newton-Schulz iteration (K. Jordan, 2024).

torch.optim.Muon iterates in bfloat16 whatever the machine, one matrix at a time; where bfloat16 is emulated that takes
several times as long as everything else in a step. This one iterates in the precision that is fast on the parameters'
device, all matrices of one shape in one product.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.support.machine import fast_dtype

# s -> a s + b s^3 + c s^5 on every singular value s: five times it takes (0.001, 1] to about (0.5, 1.2)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
SMALLEST_NORM = 1e-7
PRECISIONS = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


def orthogonalized(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Matrices with the singular vectors of the given ones and singular values near 1.

    X <- a X + b (X X^T) X + c (X X^T)^2 X, from X of Frobenius norm 1, on the shorter side of the matrices.

    Args:
        matrices: (M, rows, columns), of one shape.
        dtype: the precision of the iteration.

    Returns:
        (M, rows, columns) in `dtype`; singular values of more than 1/1000 of the norm end between about 0.5 and 1.2.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with its defaults, stacked, and in the precision that the device is fast at.

    B <- mu B + (1 - mu) g;  W <- (1 - lr decay) W - lr sqrt(max(1, rows / columns)) orthogonalized((1 - mu) g + mu B).

    Args:
        parameters: matrices (rows, columns).
        lr: learning rate. weight_decay: decoupled.
        momentum: mu.
        precision: of the iteration: "float32", "bfloat16", or "auto": what is fast on the device, as measured.

    Raises:
        UserError: a parameter that is no matrix, or another precision.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        precision: str = "auto",
    ) -> None:
        one_of("optimizer.precision", precision, PRECISIONS)
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.precision = precision
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise UserError(f"Muon takes matrices only, not a parameter of shape {tuple(p.shape)}")

    def dtype(self, device: torch.device) -> torch.dtype:
        """Of the iteration on a device."""
        return PRECISIONS[self.precision] or fast_dtype(device)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; the closure, if there is one, is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape, p.device, p.dtype].append(p)
            for parameters in alike.values():
                self._step_alike(parameters, group)
        return loss

    def _step_alike(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """A step of parameters of one shape, device and type."""
        lr = group["lr"]
        mu = group["momentum"]
        (rows, columns) = parameters[0].shape
        for p in parameters:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        momenta = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - mu)
        ahead = torch._foreach_lerp(gradients, momenta, mu)
        updates = orthogonalized(torch.stack(list(ahead)), self.dtype(parameters[0].device)).to(parameters[0].dtype)
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates.unbind()), alpha=-lr * max(1.0, rows / columns) ** 0.5)
