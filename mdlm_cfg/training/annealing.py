"""How the learning rate changes over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mdlm_cfg.support.numeric import number, whole_number


@dataclass(frozen=True)
class Annealing:
    """A linear warm-up, times a half-cosine decay to a share of the learning rate.

    Attributes:
        warmup_steps: steps of the warm-up; 0 for none.
        final_lr: at the end, as a share of the optimiser's learning rate.

    Raises:
        UserError: a value out of its range.
    """

    warmup_steps: int = 50
    final_lr: float = 1e-3

    def __post_init__(self) -> None:
        whole_number("warmup_steps", self.warmup_steps, 0)
        number("final_lr", self.final_lr, 0, 1)

    def factor(self, step: int, progress: float) -> float:
        """The factor of the learning rate at an optimiser step (from 0), with a share `progress` of the run done."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warm * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))
