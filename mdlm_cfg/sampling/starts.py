"""Initial states of samples: all masked, or given partial states (theory, section 13)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mdlm_cfg.chain.checks import raise_where
from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.masking import all_masked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number


class Start(NamedTuple):
    """The states of samples before the first step.

    Attributes:
        x: int64 (n, D), values 0..N with N the mask, on the denoiser's device.
        most, fewest: masked coordinates of a state, 0..D.
    """

    x: Tensor
    most: int
    fewest: int


def starts(denoiser: Denoiser, num_samples: int, start: Tensor | None = None) -> Start:
    """The states of n samples before the first step.

    Args:
        start: int64 (D,) or (n, D), values 0..N with N the mask; None is all masked.

    Raises:
        UserError: no whole number of samples, another shape, or values that are neither tokens nor the mask.
    """
    num_samples = whole_number("num_samples", num_samples)
    d = denoiser.num_dims
    mask_id = denoiser.num_tokens
    if start is None:
        return Start(all_masked(num_samples, d, mask_id, device_of(denoiser)), d, d)  # no wait for a device
    if start.shape not in ((d,), (num_samples, d)):
        raise UserError(f"start has shape {tuple(start.shape)}, and must have ({d},) or ({num_samples}, {d})")
    if not bool(((start >= 0) & (start <= mask_id)).all()):
        raise UserError(f"start holds values outside 0..{mask_id}: tokens are 0..{mask_id - 1}, and the mask {mask_id}")
    masked = (start == mask_id).sum(dim=-1)
    most, fewest = (int(masked.max()), int(masked.min())) if start.numel() else (0, 0)
    return Start(start.to(device_of(denoiser)).expand(num_samples, d).clone(), most, fewest)


def refuse_masks(x: Tensor, mask_id: int, label: str) -> None:
    """Raise UserError where finished samples, int64 (n, D), hold masks."""
    refuse_unfinished((x == mask_id).any(dim=1), label)


def refuse_stuck(before: Tensor, after: Tensor, mask_id: int, label: str) -> None:
    """Raise UserError where a step of one event has left masks and changed nothing: states int64 (n, D)."""
    refuse_unfinished((after == before).all(dim=1) & (after == mask_id).any(dim=1), label)


def refuse_unfinished(unfinished: Tensor, label: str) -> None:
    """Raise UserError where samples end with masks, bool (n,)."""

    def explain(row: int, left: Tensor) -> str:
        return (
            f"{int(left)} of {len(unfinished)} samples of {label} end with masks: the denoiser gave them no "
            "possible value, or your policy gave no coordinate a weight"
        )

    raise_where(unfinished.any()[None], explain, unfinished.sum()[None])
