"""Adaptive classifier-free guidance: the unconditional term sees less (theory, section 20)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mdlm_cfg.chain.checks import constant_on
from mdlm_cfg.chain.denoiser import Denoiser, check_class, conditionals
from mdlm_cfg.chain.policies import tiers
from mdlm_cfg.chain.rules import Rule, no_tilted, powers_of
from mdlm_cfg.support.by_value import exact_number
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import number, whole_number

ROUNDING = 1e-9  # added to a share of coordinates before it is rounded down: 0.42 of 150 is 63


@dataclass(frozen=True, eq=False, repr=False)
class AdaptiveCFG(Rule):
    """A-CFG (arXiv 2505.20199): the -w term sees x with its least confident known coordinates masked again.

    The confidence of a known coordinate is p(x_i | x without i, z), so a state needs D + 2 rows. Ties, defined
    as for policies, are broken by position. The published code reads confidences off the logits of the known tokens
    themselves, which denoisers here do not have (a known coordinate's row is a copy), and masks the prompt in the same
    term; here that term has no class. The rule has no T.

    Args:
        k: how many known coordinates are masked again, at most all; or
        share: which share of them, rounded down.
    """

    k: int | None = None
    share: float | None = None
    has_tilted = False

    def __post_init__(self) -> None:
        if (self.k is None) == (self.share is None):
            raise UserError("a_cfg takes either k, a number of coordinates, or share, a share of them")
        if self.k is not None:
            object.__setattr__(self, "k", whole_number("k of a_cfg", self.k, 0))
        if self.share is not None:
            object.__setattr__(self, "share", number("share of a_cfg", self.share, 0, 1))

    def bind(self, denoiser: Denoiser, target_class: int | None, table: Sequence[float]) -> Callable[[Tensor], Tensor]:
        """See `Rule.bind`."""
        check_class(target_class, denoiser.num_classes)
        if target_class is None or not any(table):
            return lambda tokens: conditionals(denoiser, tokens, target_class)
        if getattr(denoiser, "num_known", 0):
            raise UserError(
                f"the rule {self} masks known coordinates again, but a slice has fixed them: draw samples with start= "
                "instead of computing the distribution of the slice"
            )
        return lambda tokens: self._log_rho(denoiser, tokens, target_class, table)

    def _log_rho(self, denoiser: Denoiser, tokens: Tensor, target_class: int, table: Sequence[float]) -> Tensor:
        """log rho_i(v | x) of partial states (B, D) under a class, (B, D, N)."""
        log_cond = conditionals(denoiser, tokens, target_class)
        mask_id = denoiser.num_tokens
        known = tokens != mask_id
        num_known = known.sum(dim=1)
        confidence = self._confidence(denoiser, tokens, target_class).masked_fill(~known, float("inf"))
        place = tiers(-confidence).argsort(dim=1, stable=True).argsort(dim=1)
        count = self._count(num_known)
        masked_again = tokens.masked_fill(place < count[:, None], mask_id)
        log_base = conditionals(denoiser, masked_again, None)
        # only coordinates masked in both states count; values at others are arbitrary
        w = constant_on((*table, 0.0), tokens.device)[num_known][:, None, None]
        return powers_of([log_cond, log_base.masked_fill(known[..., None], 0.0)], [1 + w, -w])

    def _count(self, num_known: Tensor) -> Tensor:
        """How many of the known coordinates are masked again: the same shape."""
        if self.k is not None:
            return num_known.clamp(max=self.k)
        return (num_known.double() * (self.share or 0.0) + ROUNDING).floor().long()

    def _confidence(self, denoiser: Denoiser, tokens: Tensor, target_class: int) -> Tensor:
        """log p(x_i | x without i, z) at known coordinates, (B, D); arbitrary at masked ones."""
        num, d = tokens.shape
        left_out = tokens[:, None].repeat(1, d, 1)
        left_out.diagonal(dim1=1, dim2=2).fill_(denoiser.num_tokens)
        log_probs = conditionals(denoiser, left_out.view(-1, d), target_class).view(num, d, d, denoiser.num_tokens)
        own = log_probs.diagonal(dim1=1, dim2=2).transpose(1, 2)  # (B, D, N): of i in the state without i
        return own.gather(2, tokens.clamp(max=denoiser.num_tokens - 1)[..., None]).squeeze(2)

    def log_tilted(self, denoiser: Denoiser, w: float, target_class: int | None) -> Tensor:
        """See `Rule.log_tilted`."""
        raise no_tilted(self)

    def rows(self, table: Sequence[float], num_dims: int) -> int:
        """See `Rule.rows`."""
        return num_dims + 2 if any(table) else 1

    def __str__(self) -> str:
        return f"a_cfg(k={self.k})" if self.k is not None else f"a_cfg(share={exact_number(float(self.share or 0))})"
