"""Classifier guidance, exact and to first order (theory, section 20)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import constant_on
from mdlm_cfg.chain.denoiser import Denoiser, check_class, conditionals
from mdlm_cfg.chain.rules import Rule, log_joint, no_tilted, probes
from mdlm_cfg.support.arguments import check_fields
from mdlm_cfg.support.by_value import value_key
from mdlm_cfg.support.errors import UserError

NEG_INF = float("-inf")
MAX_NUMBERS = 2**24  # numbers in the states that an exact rule gives the classifier in one call


@runtime_checkable
class Classifier(Protocol):
    """A classifier of partial states: log p(k | x) of every class."""

    num_classes: int

    def __call__(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (B, K) of partial states, int64 (B, D); -inf of classes that a state rules out."""
        ...


@runtime_checkable
class SmoothClassifier(Classifier, Protocol):
    """A classifier that also takes states between the discrete ones, and can be differentiated."""

    def of_one_hot(self, one_hot: Tensor) -> Tensor:
        """Log-probabilities (B, K) from float64 (B, D, N + 1), the mask last; one-hot rows are discrete states."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class ByClassifier(Rule):
    r"""Classifier guidance, p(v | x) [p(z | x_{i=v}) / p(z | x)]^gamma with gamma = 1 + w (arXiv 2406.01572).

    Without `taylor`, the classifier is evaluated for every value of every masked coordinate; with the exact posterior
    this is classifier-free guidance. With `taylor` it is evaluated once, and log p(z | x_{i=v}) is expanded to first
    order in the one-hot input (arXiv 2406.01572, 2412.10193):

    $$ \log p(z \mid x_{i=v}) \approx \log p(z \mid x) + g_{i,v} - g_{i,\text{mask}}, $$

    with g the gradient of log p(z | x).

    The expansion has no T. Where the classifier gives the class probability 0 in a state, only the denoiser is used.

    Args:
        classifier: a classifier of partial states; with `taylor` a `SmoothClassifier`.
        taylor: whether to use the first-order expansion.
    """

    classifier: Classifier
    taylor: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "taylor")
        if not isinstance(self.classifier, Classifier):
            raise UserError(
                f"the rule classifier needs a classifier of partial states, not {type(self.classifier).__name__}: "
                "give an object with num_classes that returns log p(class | tokens)"
            )
        if self.taylor and not isinstance(self.classifier, SmoothClassifier):
            raise UserError("the rule classifier(taylor) needs a classifier that can be differentiated: of_one_hot")
        object.__setattr__(self, "has_tilted", not self.taylor)

    def bind(self, denoiser: Denoiser, target_class: int | None, table: Sequence[float]) -> Callable[[Tensor], Tensor]:
        """See `Rule.bind`."""
        self.check(denoiser, target_class)
        if target_class is None:
            return lambda tokens: conditionals(denoiser, tokens, None)
        change_of = self._expanded if self.taylor else self._exact

        def log_rho(tokens: Tensor) -> Tensor:
            log_p = conditionals(denoiser, tokens, None)
            num_unmasked = (tokens != denoiser.num_tokens).sum(dim=1)
            w = constant_on((*table, -1.0), tokens.device)[num_unmasked][:, None, None]
            change = change_of(denoiser, tokens, target_class)
            found = log_p + torch.where(w == -1, 0.0, (1 + w) * change)
            return found.masked_fill(log_p == NEG_INF, NEG_INF)

        return log_rho

    def check(self, denoiser: Denoiser, target_class: int | None) -> None:
        """Raise UserError if the class does not exist, or the classifier is defined on another space."""
        check_class(target_class, denoiser.num_classes)
        for name, what in (("num_classes", "classes"), ("num_tokens", "values"), ("num_dims", "dimensions")):
            ours = getattr(self.classifier, name, None)
            if ours is not None and ours != getattr(denoiser, name):
                raise UserError(f"the classifier has {ours} {what}, and the denoiser {getattr(denoiser, name)}")

    def _exact(self, denoiser: Denoiser, tokens: Tensor, target_class: int) -> Tensor:
        """log p(z | x_{i=v}) - log p(z | x), (B, D, N); 0 at unmasked coordinates and where z is already impossible."""
        n = denoiser.num_tokens
        most = max(1, MAX_NUMBERS // (n * tokens.shape[1] ** 2))
        return torch.cat([self._exact_part(part, n, target_class) for part in tokens.split(most)])

    def _exact_part(self, tokens: Tensor, n: int, target_class: int) -> Tensor:
        """`_exact` of states few enough for all their neighbours to be classified in one call."""
        (num, d) = tokens.shape
        here = self.classifier(tokens)[:, target_class, None, None]
        filled = tokens[:, None, None].expand(num, d, n, d).clone()
        places = torch.arange(d, device=tokens.device)
        filled[:, places, :, places] = torch.arange(n, device=tokens.device).expand(d, num, n)
        there = self.classifier(filled.reshape(-1, d))[:, target_class].view(num, d, n)
        fixed = (tokens != n)[..., None] | (here == NEG_INF)
        return (there - here.masked_fill(here == NEG_INF, 0.0)).masked_fill(fixed, 0.0)

    def _expanded(self, denoiser: Denoiser, tokens: Tensor, target_class: int) -> Tensor:
        """The first-order expansion of `_exact`."""
        n = denoiser.num_tokens
        slope = self._slope(tokens, n, target_class)
        change = slope[..., :n] - slope[..., n:]
        return change.masked_fill((tokens != n)[..., None], 0.0)

    def _slope(self, tokens: Tensor, n: int, target_class: int) -> Tensor:
        """The gradient of log p(z | x) in the one-hot input, (B, D, N + 1); 0 where z is impossible."""
        assert isinstance(self.classifier, SmoothClassifier)  # since __post_init__
        with torch.enable_grad():
            one_hot = torch.nn.functional.one_hot(tokens, n + 1).double().requires_grad_()
            log_prob = self.classifier.of_one_hot(one_hot)[:, target_class]
            possible = log_prob > NEG_INF
            total = torch.where(possible, log_prob, torch.zeros_like(log_prob)).sum()
            (slope,) = torch.autograd.grad(total, one_hot)
        return slope.masked_fill(~possible[:, None, None], 0.0)

    def log_tilted(self, denoiser: Denoiser, w: float, target_class: int | None) -> Tensor:
        """See `Rule.log_tilted`."""
        if self.taylor:
            raise no_tilted(self)
        self.check(denoiser, target_class)
        log_t = log_joint(denoiser, None, self)
        if target_class is None or w == -1:
            return log_t
        n = denoiser.num_tokens
        d = denoiser.num_dims
        states = torch.cartesian_prod(*[torch.arange(n)] * d).reshape(-1, d).to(log_t.device)
        log_t = log_t + (1 + w) * self.classifier(states)[:, target_class]
        return log_t.masked_fill(log_t.isnan(), NEG_INF)

    def rows(self, table: Sequence[float], num_dims: int) -> int:
        """See `Rule.rows`; calls of the classifier are not counted."""
        return 1

    @property
    def key(self) -> str:
        """The rule's name and the outputs of its classifier at a few states; with `taylor`, also their gradients."""
        return f"{self}({self._answers})"

    @cached_property
    def _answers(self) -> str:
        n, d = (getattr(self.classifier, name, None) for name in ("num_tokens", "num_dims"))
        if n is None or d is None:
            return value_key(self.classifier)
        tokens = probes(n, d, getattr(self.classifier, "device", None))
        found = self.classifier(tokens)
        slopes = [self._slope(tokens, n, k) for k in range(found.shape[1])] if self.taylor else []
        return value_key([found, *slopes])

    def __str__(self) -> str:
        return "classifier(taylor)" if self.taylor else "classifier"
