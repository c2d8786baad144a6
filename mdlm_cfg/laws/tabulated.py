"""Any denoiser as a table: evaluated once on every partial state, and looked up from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, by_label, check_query, conditionals_under, device_of, rounding_of
from mdlm_cfg.chain.lattice import Lattice, flat_index, lattice_of
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.laws.rates import MAX_BATCH
from mdlm_cfg.support.cache import AnyCache, no_cache


@contextmanager
def unseen() -> Iterator[Callable[[float], object]]:
    """A context in which a table is made without showing progress."""
    yield lambda share: None


class TabulatedDenoiser:
    """The same conditionals as `denoiser`, held in memory for all (N+1)^D partial states.

    A law of a network evaluates every partial state under two labels; laws at several strengths and classes would
    repeat this. Every label is tabulated when it is first needed, the null class in the same calls as one other; no
    state is evaluated twice, and none without a mask. A network's last digits depend on what is in the same call.

    Args:
        denoiser: on {0..N-1}^D with (N+1)^D small.
        cache: holds the results of interrupted work. about: what identifies this denoiser there.
        shown: a context that is entered while the denoiser is called; it gives a function of the share done, 0 to 1.
        device: where the table is, and with it its laws; the denoiser is called where it is itself.
        beside: the class that is tabulated with the null class; None is the first one that is needed, which may
            be another one after an interruption.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        cache: AnyCache = no_cache,
        about: object = "",
        shown: Callable[[], AbstractContextManager[Callable[[float], object]]] = unseen,
        device: torch.device | str = "cpu",
        beside: int | None = None,
    ) -> None:
        # share the tables of a tabulated denoiser: nothing is computed or copied again
        self.denoiser: Denoiser = denoiser.denoiser if isinstance(denoiser, TabulatedDenoiser) else denoiser
        self.num_tokens = denoiser.num_tokens
        self.num_dims = denoiser.num_dims
        self.num_known = getattr(denoiser, "num_known", 0)  # of a slice
        self.num_classes = denoiser.num_classes
        self.device = torch.device(device)
        self._cache = cache
        self._about = about
        self._shown = shown
        self._beside: int | None = denoiser._beside if isinstance(denoiser, TabulatedDenoiser) else beside
        self._tables: dict[int, Tensor] = denoiser._tables if isinstance(denoiser, TabulatedDenoiser) else {}

    @property
    def rounding(self) -> float:
        """Of the denoiser, see `mdlm_cfg.chain.denoiser.rounding_of`: the table is in float64."""
        return rounding_of(self.denoiser)

    @property
    def lattice(self) -> Lattice:
        """Of the partial states."""
        return lattice_of(self.num_tokens, self.num_dims, self.device)

    @property
    def num_states(self) -> int:
        """(N+1)^D."""
        return self.lattice.num_states

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """float64 log-probabilities (B, D, N), see `mdlm_cfg.chain.denoiser.Denoiser`."""
        check_query(self, tokens, classes)
        states = flat_index(tokens, self.num_tokens + 1)
        if classes is None:
            return self._table(self.num_classes)[states]
        return by_label(states, classes, self.num_classes + 1, lambda rows, k: self._table(k)[rows])

    def _table(self, k: int) -> Tensor:
        """Log-probabilities of all states in C order under class k, ((N+1)^D, D, N)."""
        if k not in self._tables:
            if self._beside is None:
                self._beside = k
            pair = (self._beside, self.num_classes)
            needed = dict.fromkeys(pair if k in pair else (k,))
            labels = tuple(label for label in needed if label not in self._tables)
            made = self._cache(("conditionals", self._about, *labels), lambda: self._ask(labels))
            self._tables |= zip(labels, made)
        return self._tables[k]

    def _ask(self, labels: tuple[int, ...]) -> Tensor:
        """The tables of some labels, (labels, (N+1)^D, D, N), all labels in one call."""
        n = self.num_tokens
        d = self.num_dims
        lattice = self.lattice
        full = lattice.tokens(d)
        masked = torch.cat([lattice.tokens(level) for level in range(d)])
        tables = torch.empty(len(labels), lattice.num_states, d, n, dtype=torch.float64, device=self.device)
        tables[:, flat_index(full, n + 1)] = copy_unmasked(full.new_zeros(*full.shape, n, dtype=torch.float64), full)
        done = 0
        there = device_of(self.denoiser)
        with self._shown() as show:
            for chunk in masked.split(MAX_BATCH // len(labels)):
                answers = conditionals_under(self.denoiser, chunk.to(there), labels)
                tables[:, flat_index(chunk, n + 1)] = answers.to(self.device)
                done += len(chunk)
                show(done / len(masked))
        return tables
