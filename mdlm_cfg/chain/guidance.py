"""Classifier-free guidance of the reverse chain, in log space (theory, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.support.errors import UserError

NEG_INF = float("-inf")
KINDS = ("rate", "normalized")


def geometric_mean(log_cond: Tensor, log_uncond: Tensor, w: float | Tensor) -> Tensor:
    """log [p^(-w) p_z^(1+w)], with explicit supports: no epsilon, no NaN.

    A value that is impossible under the class stays impossible for every w >= -1: w = -1 is the limit from above, the
    mixture's conditional on the support of the class (the whole mixture itself is target_class=None).

    Args:
        log_cond: log p(. | z), any shape, may hold -inf.
        log_uncond: log p, same shape; must be finite wherever `log_cond` is (a class lies inside its mixture).
        w: guidance strength, >= -1, a number or a tensor that broadcasts; gamma = 1 + w in other codes.

    Raises:
        UserError: w > 0 where the class has probability and the mixture has none: an infinite rate.
    """
    log_rho = _power(1 + w, log_cond) + _power(-w, log_uncond)
    log_rho = log_rho.masked_fill(log_cond == NEG_INF, NEG_INF)
    if torch.isposinf(log_rho).any():
        raise UserError(
            f"w = {w} gives an infinite rate: the class has probability where the mixture has none; "
            "give every class that is guided a positive weight"
        )
    return log_rho


def _power(exponent: float | Tensor, log_p: Tensor) -> Tensor:
    """log p^exponent, with 0^0 = 1."""
    if isinstance(exponent, Tensor):
        return torch.where(exponent == 0, 0.0, exponent * log_p)
    return exponent * log_p if exponent != 0 else torch.zeros_like(log_p)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of strength w.

    The guided jump rates on the clock tau are rho_i(v | x_U) = p(v | x_U)^(-w) p(v | x_U, z)^(1+w) for kind
    "rate" (arXiv 2506.10971; Nisonoff et al. 2024), and rho_i / sum_v rho_i for kind "normalized"
    (arXiv 2507.08965): then w changes what a coordinate becomes, not when.

    Args:
        w: guidance strength in the paper's convention: -1 is the whole mixture (on the class's support), 0 the class,
            above 0 is guided. Codes that write gamma (or a guidance scale s) mean gamma = 1 + w. A callable gives w
            as a function of progress, the fraction of coordinates already unmasked (0, 1/D, ..., (D-1)/D).
        kind: "rate" or "normalized".

    Raises:
        UserError: w < -1 or not finite, or an unknown kind.
    """

    w: float | Callable[[float], float]
    kind: str = "rate"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"guidance kind {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if not callable(self.w):
            _check_strength(self.w)

    def strength(self, num_unmasked: int, num_dims: int) -> float:
        """w when `num_unmasked` of `num_dims` coordinates are unmasked."""
        if not callable(self.w):
            return float(self.w)
        return _check_strength(self.w(num_unmasked / num_dims))

    def strengths(self, num_unmasked: Tensor, num_dims: int) -> Tensor:
        """`strength` of every sample: float64, the shape of `num_unmasked`."""
        table = [self.strength(k, num_dims) for k in range(num_dims)] + [0.0]  # nothing is left to guide at the end
        return torch.tensor(table, dtype=torch.float64)[num_unmasked]

    def log_rates(self, denoiser: Denoiser, tokens: Tensor, target_class: int | None) -> Tensor:
        """Guided log jump rates on the clock tau of every masked coordinate (theory, section 3).

        Args:
            denoiser: gives both conditionals.
            tokens: partial states, int64 (B, D).
            target_class: z; None or K (no class) has nothing to guide to, and gives the whole mixture.

        Returns:
            float64 (B, D, N): exp sums over the last axis to Z_i ("rate") or to 1 ("normalized"); rows of unmasked
            coordinates are -inf: they do not jump.
        """
        classes = torch.full((len(tokens),), denoiser.num_classes if target_class is None else target_class)
        masked = tokens == denoiser.num_tokens
        w = self.strengths((~masked).sum(dim=1), denoiser.num_dims)
        if bool((w == 0).all()):
            log_rho = denoiser(tokens, classes)
        else:
            log_rho = geometric_mean(denoiser(tokens, classes), denoiser(tokens, None), w[:, None, None])
        return self.normalize(log_rho).masked_fill(~masked[..., None], NEG_INF)

    def normalize(self, log_rho: Tensor) -> Tensor:
        """The rates of this kind from log rho: themselves ("rate"), or divided by Z_i ("normalized")."""
        if self.kind == "rate":
            return log_rho
        log_z = log_rho.logsumexp(dim=-1, keepdim=True)
        return log_rho - torch.where(log_z == NEG_INF, 0.0, log_z)


def _check_strength(w: float) -> float:
    if not (-1 <= w < float("inf")):
        raise UserError(f"guidance strength w = {w} is not allowed: w must be finite and at least -1")
    return float(w)


def linear_ramp(start: float, end: float) -> Callable[[float], float]:
    """w(progress) going linearly from `start` (all masked) to `end` (all unmasked)."""
    return lambda progress: start + (end - start) * progress


def interval(w: float, begin: float, end: float, outside: float = 0.0) -> Callable[[float], float]:
    """w(progress) equal to `w` for begin <= progress < end, and to `outside` elsewhere."""
    return lambda progress: w if begin <= progress < end else outside
