"""Slices: with all coordinates but a few fixed, laws of large networks are exact (theory, section 13)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, check_query, conditionals_under, device_of
from mdlm_cfg.support.arguments import Integers, checked
from mdlm_cfg.support.errors import UserError

AT_ONCE = 2**22  # log-probabilities of all D coordinates held at a time: a slice keeps few of them


class SliceDenoiser:
    """A denoiser on the free coordinates of a partial state, in their order; all others are known.

    The chain started there is a chain on (N+1)^|S| states, and every law applies to it. A strength that changes with
    progress counts all D coordinates, the known ones as unmasked: as `sample(..., start=state)` does.

    Args:
        denoiser: on D coordinates.
        state: int64 (D,), values 0..N-1 where a coordinate is known, and the mask N where it is free.

    Raises:
        UserError: a state of another shape, with other values, or without free coordinates.
    """

    @checked
    def __init__(self, denoiser: Denoiser, state: Integers) -> None:
        self.denoiser = denoiser
        self.num_tokens = denoiser.num_tokens
        self.num_classes = denoiser.num_classes
        self.device = device_of(denoiser)
        if state.shape != (denoiser.num_dims,):
            raise UserError(
                f"the state of a slice has shape {tuple(state.shape)}, and must hold {denoiser.num_dims} whole numbers"
            )
        if not bool(((state >= 0) & (state <= self.num_tokens)).all()):
            raise UserError(
                f"the state of a slice holds values outside 0..{self.num_tokens}: tokens are 0..{self.num_tokens - 1}, "
                f"and the mask {self.num_tokens}"
            )
        self.state = state.to(self.device)
        self.free = (self.state == self.num_tokens).nonzero().squeeze(1)
        self.num_dims = len(self.free)
        self.num_known = len(self.state) - self.num_dims + getattr(denoiser, "num_known", 0)
        if self.num_dims == 0:
            raise UserError(f"this slice has no free coordinate: put the mask {self.num_tokens} where one should be")

    def fill(self, tokens: Tensor) -> Tensor:
        """Free coordinates (B, |S|) among the known ones: int64 (B, D)."""
        whole = self.state.repeat(len(tokens), 1)
        whole[:, self.free] = tokens.to(self.device)
        return whole

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `mdlm_cfg.chain.denoiser.Denoiser`."""
        check_query(self, tokens, classes)
        rows = self._rows_at_once()
        parts = tokens.split(rows)
        labels = [None] * len(parts) if classes is None else classes.split(rows)
        answers = [self.denoiser(self.fill(part), k)[:, self.free] for part, k in zip(parts, labels)]
        return torch.cat(answers).to(tokens.device)

    def of_labels(self, tokens: Tensor, labels: Sequence[int]) -> Tensor:
        """The same partial states under several labels, (L, B, |S|, N): see `mdlm_cfg.chain.denoiser.Denoiser`."""
        check_query(self, tokens, None)
        parts = tokens.split(self._rows_at_once(len(labels)))
        answers = [conditionals_under(self.denoiser, self.fill(part), labels)[:, :, self.free] for part in parts]
        return torch.cat(answers, dim=1).to(tokens.device)

    def _rows_at_once(self, num_labels: int = 1) -> int:
        return max(1, AT_ONCE // (self.denoiser.num_dims * self.num_tokens * num_labels))


@checked
def slice_denoiser(denoiser: Denoiser, state: Integers) -> SliceDenoiser:
    """The conditionals of the free coordinates given the known ones; see `SliceDenoiser`.

    For an exact denoiser at w = 0 the terminal law of the slice is the Bayes conditional p(x_S | rest, z); of a trained
    network it is the exact law of guided inpainting.
    """
    return SliceDenoiser(denoiser, state)
