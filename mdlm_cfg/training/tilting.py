r"""Training on the partial states that guidance visits, in addition to those of the data (theory, section 9).

The conditional p(x_i | x_U, z) minimises the expected cross entropy under every distribution of the partial state x_U
and the label z, as long as the target is the conditional of the data given both. So partial states may come from
a distribution other than that of the targets, such as a tilted class,

$$ p_f(x \mid z) \propto p(x \mid z) \, \left(\frac{p(x \mid z)}{p(x)}\right)^f, \qquad
   \frac{p(x \mid z)}{p(x)} = \frac{p(z \mid x)}{p(z)}. $$

f = 0 is the class itself. Every class keeps its share, and the null class visits the partial states of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mdlm_cfg.chain.rules import geometric_mean
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import number

MOST = 16.0  # of a tilt


def check_tilts(tilts: Sequence[float]) -> tuple[float, ...]:
    """The tilts f as a tuple.

    Raises:
        UserError: no tilt, or one that is not between 0 and `MOST`.
    """
    if not tilts:
        raise UserError("objective.tilts is empty; [0] takes the partial states of the data")
    return tuple(number("a tilt of objective.tilts", tilt, 0, MOST) for tilt in tilts)


def tilted(joint: Tensor, tilts: Sequence[float]) -> Tensor:
    """The mean over tilts f of p(z) p_f(x | z).

    Args:
        joint: p(z) p(x | z), or a multiple of it, (K, N, ..., N) or (K, S) at some points.

    Returns:
        of the same shape and the same class weights.
    """
    log_joint = joint.flatten(1).log()
    weights = joint.flatten(1).sum(dim=1, keepdim=True)
    log_all = log_joint.logsumexp(dim=0, keepdim=True).expand_as(log_joint)
    possible = log_joint > -math.inf
    total = torch.zeros_like(log_joint)
    for tilt in tilts:  # p(z) is a factor of a whole row, which cancels in the normalisation
        log_tilted = geometric_mean(log_joint, torch.where(possible, log_all, 0.0), tilt)
        total += (log_tilted - log_tilted.logsumexp(dim=1, keepdim=True)).masked_fill(~possible, -math.inf).exp()
    return (total * (weights / len(tilts))).reshape(joint.shape)
