r"""Training on the partial states that guidance visits, beside those of the data (theory, section 9).

The conditional p(x_i | x_U, z) minimises the expected cross entropy under every distribution of the partial state x_U
and the label z, as long as the target is the conditional of the data given both. So partial states may be those of
other data than the targets are: of a tilted class,

$$ p_f(x \mid z) \propto p(x \mid z) \, \left(\frac{p(x \mid z)}{p(x)}\right)^f, \qquad
   \frac{p(x \mid z)}{p(x)} = \frac{p(z \mid x)}{p(z)}. $$

f = 0 is the class itself. Every class keeps its share, and the null class sees the partial states of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mdlm_cfg.chain.lattice import flat_index
from mdlm_cfg.chain.rules import geometric_mean
from mdlm_cfg.support.errors import UserError

MOST = 16.0  # of a tilt


def check_tilts(tilts: Sequence[float]) -> tuple[float, ...]:
    """The tilts f as a tuple.

    Raises:
        UserError: no tilt, or one that is not between 0 and `MOST`.
    """
    if not tilts:
        raise UserError("objective.tilts is empty; [0] takes the partial states of the data")
    for tilt in tilts:
        if not 0 <= tilt <= MOST:
            raise UserError(f"objective.tilts holds {tilt}; a tilt must lie between 0 and {MOST:g}")
    return tuple(float(tilt) for tilt in tilts)


def tilted(joint: Tensor, tilts: Sequence[float]) -> Tensor:
    """The mean over tilts f of p(z) p_f(x | z).

    Args:
        joint: p(z) p(x | z), (K, N, ..., N).

    Returns:
        of the same shape and the same class weights.
    """
    log_joint = joint.flatten(1).log()
    weights = joint.flatten(1).sum(dim=1, keepdim=True)
    log_all = log_joint.logsumexp(dim=0, keepdim=True).expand_as(log_joint)
    possible = log_joint > -math.inf
    total = torch.zeros_like(log_joint)
    for tilt in tilts:  # p(z) is a factor of a whole row, which normalising takes away
        log_tilted = geometric_mean(log_joint, torch.where(possible, log_all, 0.0), tilt)
        total += (log_tilted - log_tilted.logsumexp(dim=1, keepdim=True)).masked_fill(~possible, -math.inf).exp()
    return (total * (weights / len(tilts))).reshape(joint.shape)


def tilted_rows(
    x: Tensor,
    classes: Tensor,
    num_tokens: int,
    num_classes: int,
    tilts: Sequence[float],
    num_rows: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, int]:
    """Points of a batch whose partial states are trained on: as many for each tilt, and p is the batch's distribution.

    Args:
        x: a batch in random order, int64 (B, D). classes: int64 (B,).
        num_tokens, num_classes: N, K.
        tilts: f. num_rows: R, at most B.
        generator: on the device of `x`.

    Returns:
        int64 (R,), and how many of the first ones are for f = 0: those are the batch's first points. The others are
        independent draws.
    """
    num_plain = round(num_rows * tilts.count(0) / len(tilts))
    plain = torch.arange(num_plain, device=x.device)
    if num_plain == num_rows:
        return plain, num_plain
    points = flat_index(x, num_tokens)
    pairs = classes * num_tokens ** x.shape[1] + points
    weights = tilted_weights(points, pairs, classes, num_classes, [tilt for tilt in tilts if tilt > 0])
    drawn = weights.multinomial(num_rows - num_plain, replacement=True, generator=generator)
    return torch.cat([plain, drawn]), num_plain


def tilted_weights(points: Tensor, pairs: Tensor, classes: Tensor, num_classes: int, tilts: Sequence[float]) -> Tensor:
    """How often each point of a batch comes under tilts, float64 (B,): 1 for f = 0; those of a class sum to its size.

    Args:
        points: numbers of x, int64 (B,). pairs: of (x, z). classes: z, values 0..num_classes-1.
        tilts: f; the mean over them is taken.
    """
    sizes = occurrences(classes)
    ratios = len(points) * occurrences(pairs) / (sizes.double() * occurrences(points))
    total = torch.zeros_like(ratios)
    for tilt in tilts:
        raised = ratios**tilt
        sums = ratios.new_zeros(num_classes).scatter_add_(0, classes, raised)
        total += raised * sizes / sums[classes]
    return total / len(tilts)


def occurrences(values: Tensor) -> Tensor:
    """How many of the values (B,) are equal to each, int64 (B,)."""
    if values.device.type == "cpu":  # elsewhere to count the different values is to wait for the device
        _, places, counts = torch.unique(values, return_inverse=True, return_counts=True)
        return counts[places]
    ordered = values.sort().values
    return torch.searchsorted(ordered, values, right=True) - torch.searchsorted(ordered, values)
