"""Probabilities that do not sum to 1 are refused with the difference, which six digits do not show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import TableMixture

OFF = 1 + 2.5e-6
HALF = torch.full((2, 2), 0.5, dtype=torch.float64)
ONE = torch.tensor([0.5, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TableMixture(OFF * HALF, ONE),
        lambda: TableMixture(HALF, OFF * ONE),
        lambda: BernoulliMixture(torch.full((2, 2, 3), 0.5), OFF * HALF, ONE),
        lambda: HiddenMarkovMixture(HALF, torch.full((2, 2, 2), OFF / 2), torch.full((2, 2, 2), 0.5), ONE, num_dims=3),
    ],
)
def test_the_difference_from_1_is_printed(make: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"2\.5\d*e-06"):
        make()
