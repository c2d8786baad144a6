"""The policies of `mdlm_cfg.verify.oracle`, asked with denoisers and answering with tensors."""

from __future__ import annotations

import torch
from oracle import ask_of, guided
from torch import Tensor

from mdlm_cfg import Guidance
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.verify.oracle import policies
from mdlm_cfg.verify.oracle.policies import picks, preferences

__all__ = ["law_by_paths", "picks", "preferences", "rho_of"]


def rho_of(denoiser: Denoiser, guidance: Guidance, z: int, state: tuple[int, ...]) -> dict[int, list[float]]:
    """rho_i(v | x_U) of every masked coordinate, in numbers."""
    n = denoiser.num_tokens
    d = len(state)
    w = guidance.table(d)[sum(s != n for s in state)]
    cond, uncond = ask_of(denoiser, z)(state)
    return {i: guided(cond[i], uncond[i], w, "rate") for i in range(d) if state[i] == n}


def law_by_paths(
    denoiser: Denoiser, guidance: Guidance, z: int, policy: str, k: int = 1, order: list[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over all paths: the law, E[W; x] and E[W^2; x], float64 (N,)*D each; W is for k = 1."""
    n = denoiser.num_tokens
    d = denoiser.num_dims
    laws = policies.law_by_paths(lambda state: rho_of(denoiser, guidance, z, state), n, d, policy, k, order)
    return tuple(map(torch.from_numpy, laws))  # type: ignore[return-value]
