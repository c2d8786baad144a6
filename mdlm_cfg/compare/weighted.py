"""The distance of weighted samples to a law (theory, section 11)."""

from __future__ import annotations

from torch import Tensor

from mdlm_cfg.chain.lattice import flat_index
from mdlm_cfg.compare.metrics import histogram, total_variation
from mdlm_cfg.sampling.smc import Weighted


def weighted_tv(drawn: Weighted, reference: Tensor) -> tuple[float, float]:
    """The TV of weighted samples to a law (N,)*D, and its standard error by their groups, to first order.

    The error is too large, by up to two thirds, where the samples follow the law, and about right elsewhere.
    """
    num_tokens = reference.shape[0]
    law = histogram(drawn.x, num_tokens, drawn.weights)
    signs = (law - reference.to(law.device)).sign().flatten()[flat_index(drawn.x, num_tokens)]
    return total_variation(law, reference), drawn.error_of(signs / 2)
