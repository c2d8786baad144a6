"""Checks of the numbers and names that exact targets are given, and the hash that identifies a target."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError, shown

TOLERANCE = 1e-6  # how far from 1 a pmf may sum (files written in float32) before it is refused


def normalised(name: str, values: Tensor, shape: Sequence[int]) -> Tensor:
    """Probabilities as float64, normalised along the last axis.

    Raises:
        UserError: another shape, entries that are negative or not finite, or sums that are not 1.
    """
    rows = torch.as_tensor(values).to(torch.float64)
    if rows.shape != tuple(shape):
        raise UserError(f"{name} must have shape {tuple(shape)}, got {tuple(rows.shape)}")
    wrong = ~rows.isfinite() | (rows < 0)
    if bool(wrong.any()):
        raise UserError(f"{name} holds {rows[wrong][0]:g}: probabilities must be finite and not negative")
    sums = rows.sum(dim=-1, keepdim=True)
    worst = int((sums - 1).abs().argmax())
    total = float(sums.flatten()[worst])
    if abs(total - 1) > TOLERANCE:
        row = f"{name}{[int(i) for i in np.unravel_index(worst, sums.shape)[:-1]] or ''}"
        by = f"it is off by {total - 1:.7g}"  # which six digits may not show
        raise UserError(f"{row} sums to {total:g} and must sum to 1 to within {TOLERANCE:g} ({by}): normalise it")
    return rows / sums


def checked_names(name: str, names: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """Names as a tuple; raises UserError unless there are `count` different ones."""
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(one, str | int) for one in names):
        raise UserError(f"{name} = {shown(names)} is not allowed: it must be a list of texts")
    if len(names) != count or len(set(names)) < count:
        raise UserError(
            f"{name} must be {count} different names, got {len(names)}, of which {len(set(names))} are different"
        )
    return tuple(str(one) for one in names)


def hash_of(about: object, *values: Tensor) -> str:
    """A short hash of the text of `about` and of the numbers themselves: 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(about).encode())
    for one in values:
        digest.update(one.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
