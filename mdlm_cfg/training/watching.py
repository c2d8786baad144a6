"""Numbers to monitor training: means with standard errors over draws, and exact ones if the data are a table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import Kind, kind_of
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.averaged import averaged_objective

MAX_STATES = 20_000  # partial states up to which exact laws are computed during training
WATCHED_STRENGTHS = (0.0, 1.0, 2.0, 4.0)


class ExactWatch:
    """Compares a network with one table, exactly: NELBOs, their excess over the entropy, and TV of its laws.

    Classes of weight 0 are left out: they occur in no data, and guidance to them has infinite rates where the mixture
    has probability 0.

    Args:
        target: the table; its exact laws are computed when they are first needed, and kept.
        kind: of guidance. strengths: w of the laws.
    """

    def __init__(
        self, target: TableMixture, kind: Kind | str = "rate", strengths: tuple[float, ...] = WATCHED_STRENGTHS
    ) -> None:
        self.target = target
        self.kind = kind_of(kind)
        self.strengths = strengths
        self.classes = [k for k, weight in enumerate(target.class_weights.tolist()) if weight > 0]
        self._laws: dict[tuple[float, int], Tensor] = {}

    def numbers(self, net: nn.Module) -> dict[str, float]:
        """ "exact_nelbo", "excess", ... in nats, and "tv_w0", ...: the largest TV over the classes."""
        denoiser = TabulatedDenoiser(NetDenoiser(net))
        distances = {
            f"tv_w{w:g}": max(self._distance(denoiser, Guidance(w, self.kind), w, k) for k in self.classes)
            for w in self.strengths
        }
        return exact_nelbos(denoiser, self.target) | distances

    def _distance(self, denoiser: Denoiser, guidance: Guidance, w: float, k: int) -> float:
        if (w, k) not in self._laws:
            self._laws[w, k] = terminal_law(self.target.denoiser(), guidance, k)
        return total_variation(terminal_law(denoiser, guidance, k), self._laws[w, k])


def watch_for(target: object, known: ExactWatch | None = None, kind: Kind | str = "rate") -> ExactWatch | None:
    """The `ExactWatch` for a target: the known one if it was made for it; None if nothing exact can be computed."""
    if not isinstance(target, TableMixture) or (target.num_tokens + 1) ** target.num_dims > MAX_STATES:
        return None
    if known is not None and known.target is target and known.kind == kind_of(kind):
        return known
    return ExactWatch(target, kind)


def exact_nelbos(denoiser: Denoiser, target: TableMixture) -> dict[str, float]:
    """The exact NELBO in nats on a table, conditional and null, and the excess of each over the entropy."""
    objective = averaged_objective(target.num_tokens, target.num_dims, target.num_classes)
    joint = target.class_weights.reshape(-1, *[1] * target.num_dims) * target.class_pmfs
    conditional, null = (float(value) for value in objective(denoiser, joint))
    return {
        "exact_nelbo": conditional,
        "exact_nelbo_null": null,
        "excess": conditional - target.conditional_entropy(),
        "excess_null": null - target.entropy(),
    }


def moments(draws: Tensor) -> Tensor:
    """Additive moments of draws (num_draws, B): B, sums of the means and their squares, and of variances."""
    means = draws.mean(dim=0)
    variances = draws.var(dim=0) if len(draws) > 1 else torch.zeros_like(means)
    return torch.stack([torch.ones_like(means), means, means**2, variances]).sum(dim=1)


def mean_and_errors(total: Tensor, num_draws: int) -> tuple[float, float | None, float | None]:
    """Mean, its Monte-Carlo standard error (None for one draw), and that over the data as well (None for one sample).

    The masks of a batch are stratified, so the true Monte-Carlo error is smaller than this estimate.
    """
    count, first, second, variances = total.tolist()
    mean = first / count
    of_masks = math.sqrt(variances / num_draws) / count if num_draws > 1 else None
    of_data = math.sqrt(max(second / count - mean**2, 0.0) / (count - 1)) if count > 1 else None
    return mean, of_masks, of_data
