"""Any denoiser as a table: asked once for every partial state, and looked up from then on."""

from __future__ import annotations

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, conditionals, device_of
from mdlm_cfg.chain.lattice import Lattice, flat_index
from mdlm_cfg.support.kept import Keep, keep_nothing


class TabulatedDenoiser:
    """The same conditionals as `denoiser`, held in memory for all (N+1)^D partial states.

    A law of a network asks for every partial state under two labels; laws at several strengths and classes ask again
    for the same. Every label is tabulated when it is first asked for.

    Args:
        denoiser: on {0..N-1}^D with (N+1)^D small.
        keep: has the answers of work that was interrupted. about: what tells this denoiser from others there.
    """

    def __init__(self, denoiser: Denoiser, keep: Keep = keep_nothing, about: object = "") -> None:
        # of a table already made, share what it holds: nothing is asked or copied again
        self.denoiser: Denoiser = denoiser.denoiser if isinstance(denoiser, TabulatedDenoiser) else denoiser
        self.num_tokens, self.num_dims = denoiser.num_tokens, denoiser.num_dims
        self.num_classes, self.device = denoiser.num_classes, device_of(denoiser)
        self._keep, self._about = keep, about
        self._tables: dict[int, Tensor] = denoiser._tables if isinstance(denoiser, TabulatedDenoiser) else {}

    @property
    def num_states(self) -> int:
        """(N+1)^D."""
        return Lattice(self.num_tokens, self.num_dims).num_states

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """float64 log-probabilities (B, D, N), see `mdlm_cfg.chain.denoiser.Denoiser`."""
        states = flat_index(tokens, self.num_tokens + 1)
        if classes is None:
            return self._table(self.num_classes)[states]
        log_probs = torch.empty(*tokens.shape, self.num_tokens, dtype=torch.float64)
        for k in classes.unique().tolist():
            rows = classes == k
            log_probs[rows] = self._table(k)[states[rows]]
        return log_probs

    def _table(self, k: int) -> Tensor:
        """Log-probabilities of all states in C order under class k, ((N+1)^D, D, N)."""
        if k not in self._tables:
            values = torch.cartesian_prod(*[torch.arange(self.num_tokens + 1)] * self.num_dims)
            tokens = values.reshape(-1, self.num_dims)
            self._tables[k] = self._keep(
                ("conditionals", self._about, k),
                lambda: conditionals(self.denoiser, tokens, None if k == self.num_classes else k),
            )
        return self._tables[k]
