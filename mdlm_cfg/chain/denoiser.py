"""The one seam everything hangs on: a map from a partial state and a class to log-probabilities."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Denoiser(Protocol):
    """Conditionals log p(x_i = v | x_U, z) of a distribution on {0..N-1}^D with K classes.

    Time-agnostic: the optimal denoiser of masked diffusion does not depend on the noise time (theory, section 1).
    """

    num_tokens: int  # N; the mask is token N
    num_dims: int  # D
    num_classes: int  # K; the null class is class K

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """Log-probabilities of every coordinate given the unmasked ones.

        Args:
            tokens: partial states, int64 (B, D), values 0..N with N the mask.
            classes: int64 (B,), values 0..K with K the null class; None is the null class for all.

        Returns:
            float64 (B, D, N): rows of masked coordinates are normalised log-probabilities (nats); rows of unmasked
            coordinates are copied: 0 at the token, -inf elsewhere.
        """
        ...
