"""The brute force of `mdlm_cfg.verify.oracle`, asked with denoisers and answering with tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from mdlm_cfg.verify.oracle import chains
from mdlm_cfg.verify.oracle.chains import (
    Ask,
    State,
    alpha,
    event_counts,
    fractions,
    grid_fractions,
    guided,
    jump_probability,
    put,
)

__all__ = [
    "Chain",
    "State",
    "alpha",
    "ask_of",
    "divided_difference",
    "event_counts",
    "fractions",
    "grid_fractions",
    "guided",
    "jump_probability",
    "put",
    "tilted",
]


def ask_of(denoiser: Any, z: int | None) -> Ask:
    """Both conditionals of a denoiser, one state at a time; of no class, the mixture's twice."""

    def ask(state: State) -> Any:
        labels = (denoiser.num_classes if z is None else z, denoiser.num_classes)
        tokens = torch.tensor([state])
        return tuple(denoiser(tokens, torch.tensor([label]))[0].double().exp().tolist() for label in labels)

    return ask


def as_tensors(value: Any) -> Any:
    """Arrays as tensors, and functions that give arrays as functions that give tensors."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return (lambda *args: as_tensors(value(*args))) if callable(value) else value


class Chain:
    """The guided chain of a denoiser; see `mdlm_cfg.verify.oracle.chains.Chain`.

    Args:
        denoiser: asked one state at a time. w: a number, or a function of progress. kind: "rate" or "normalized".
        z: the class; None is no class, and no guidance.
    """

    def __init__(self, denoiser: Any, w: float | Callable[[float], float], kind: str, z: int | None) -> None:
        n = denoiser.num_tokens
        d = denoiser.num_dims
        self.numbers = chains.Chain(ask_of(denoiser, z), n, d, 0.0 if z is None else w, kind)

    def __getattr__(self, name: str) -> Any:
        return as_tensors(getattr(self.numbers, name))

    def law_at(self, tau: float) -> Tensor:
        """The law over partial states at clock time tau, (N+1,)*D: the matrix exponential (rates up to about 1e6)."""
        exponential = scipy.linalg.expm(tau * self.numbers.generator())  # torch's is right to 1e-11 only
        return torch.from_numpy(self.numbers.dense(exponential[self.index[self.start]]))

    def law_at_by_paths(self, tau: float) -> Tensor:
        """The same for any rates: over all paths, prod rate times the divided difference of exp(-tau x), 120 digits."""
        law = [mpmath.mpf(0)] * len(self.states)

        def follow(state: State, chance: mpmath.mpf, exits: list[mpmath.mpf]) -> None:
            exits = [*exits, self._exit(state) + len(exits) * mpmath.mpf(10) ** -25]  # no two are equal
            law[self.index[state]] += chance * divided_difference(exits, tau)
            for i, rates in self.rates[state].items():
                for v, rate in enumerate(rates):
                    if rate > 0:
                        follow(put(state, i, v), chance * rate, exits)

        with mpmath.workdps(120):
            follow(self.start, mpmath.mpf(1), [])
            return torch.from_numpy(self.numbers.dense(np.array([float(mass) for mass in law])))

    def _exit(self, state: State) -> mpmath.mpf:
        return mpmath.fsum(rate for rates in self.rates[state].values() for rate in rates)


def divided_difference(exits: list[mpmath.mpf], tau: float) -> mpmath.mpf:
    """sum_i exp(-tau x_i) / prod_{j != i} (x_j - x_i): the chance, over the rates, of having left all but the last."""
    terms = []
    for i, x in enumerate(exits):
        others = [y - x for j, y in enumerate(exits) if j != i]
        terms.append(mpmath.exp(-tau * x) / mpmath.fprod(others))
    return mpmath.fsum(terms)


def tilted(pmf: Tensor, class_pmf: Tensor, w: float) -> Tensor:
    """p^(-w) p_z^(1+w), normalised, cell by cell."""
    return torch.from_numpy(chains.tilted(pmf.numpy(), class_pmf.numpy(), w))
