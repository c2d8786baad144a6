"""Samples of a hidden Markov mixture: long sequences whose conditionals are exact."""

from __future__ import annotations

from typing import Any

from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.training.data.base import Loading
from mdlm_cfg.training.data.tables import TargetData

LOADING: dict[str, Any] = {"batch_size": 64, "eval_batch_size": 250, "num_val": 500, "num_test": 1000}


class HiddenMarkovData(TargetData):
    """Independent sequences of a class-conditional hidden Markov model, fresh ones in every batch.

    Args:
        target: the mixture.
        name: what to call it.
        steps_per_epoch: training steps that make an epoch.
        loading: see `Loading`; default batches of 64 and 250, 500 sequences to validate on, 1,000 to test on.

    Raises:
        UserError: a count below 1.
    """

    def __init__(
        self, target: HiddenMarkovMixture, name: str, steps_per_epoch: int = 250, **loading: Any
    ) -> None:
        super().__init__(name, steps_per_epoch, Loading(**(LOADING | loading)))
        self._mixture = target

    def _build(self) -> HiddenMarkovMixture:
        return self._mixture
