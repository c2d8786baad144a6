"""Mixtures of product Bernoullis: exact conditionals given any partial image, in any dimension.

Given the component, pixels are independent, so a partial image matters only through its posterior over components, and
log p(x_U | c) of every component is two matrix products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding

from mdlm_cfg.chain.denoiser import CPU, by_label, check_class, check_query
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.targets.checks import hash_of, normalised

NEG_INF = float("-inf")
ONE_HOT = torch.eye(3, 2, dtype=torch.float64)  # of the values 0 and 1, and the mask
CHUNK = 4096  # samples drawn at a time
UNDERFLOW = 1e-280  # a sum of products below this may have lost terms: it is computed again in logarithms


class BernoulliMixture:
    """p(x) = sum_k a_k sum_c w_kc prod_i Bernoulli(x_i; p_kci) on {0,1}^D.

    Args:
        probabilities: p, of a pixel being 1, (K, C, D) in [0, 1]; kept as float64.
        component_weights: w, (K, C), each class summing to 1.
        class_weights: a, (K,), summing to 1.

    Raises:
        UserError: wrong shapes, numbers that are not probabilities, or sums that are not 1.
    """

    num_tokens = 2
    class_names: tuple[str, ...] | None = None
    value_names: tuple[str, ...] | None = None

    def __init__(self, probabilities: Tensor, component_weights: Tensor, class_weights: Tensor) -> None:
        self.probabilities = torch.as_tensor(probabilities).to(torch.float64)
        if self.probabilities.ndim != 3 or 0 in self.probabilities.shape:
            raise UserError(f"probabilities must have shape (K, C, D), got {tuple(self.probabilities.shape)}")
        if not bool(((self.probabilities >= 0) & (self.probabilities <= 1)).all()):
            raise UserError("probabilities of a pixel being 1 must lie between 0 and 1, and some do not")
        self.num_classes, self.num_components, self.num_dims = self.probabilities.shape
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}  # see `_drawn_from`
        shape = self.probabilities.shape
        self.component_weights = normalised("component_weights", component_weights, shape[:2])
        self.class_weights = normalised("class_weights", class_weights, shape[:1])
        p = self.probabilities.flatten(0, 1)
        self._of_values = torch.stack([1 - p, p], dim=2).flatten(1)
        # logarithms with zeros replaced: `log_likelihood` counts impossible values instead
        self._log_of_values = torch.where(self._of_values > 0, self._of_values, 1.0).log()
        self._impossible = (self._of_values == 0).double()
        self._has_zeros = bool(self._impossible.any())

    def _rows(self, target_class: int | None) -> slice:
        """The components of a class among all K * C; of every class for None."""
        if target_class is None:
            return slice(None)
        check_class(target_class, self.num_classes)
        return slice(target_class * self.num_components, (target_class + 1) * self.num_components)

    def weights(self, target_class: int | None) -> Tensor:
        """The weight of every component of a class, (C,); of the whole mixture, (K * C,), for None."""
        if target_class is None:
            return (self.class_weights[:, None] * self.component_weights).flatten()
        return self.component_weights.flatten()[self._rows(target_class)]

    def component_probabilities(self, target_class: int | None) -> Tensor:
        """p of every component of a class, (C, D); of the whole mixture, (K * C, D), for None."""
        return self.probabilities.flatten(0, 1)[self._rows(target_class)]

    def value_probabilities(self, target_class: int | None) -> Tensor:
        """P(x_i = v | component) of every component of a class, (C, D * 2) with v the last; (K * C, D * 2) for None."""
        return self._of_values[self._rows(target_class)]

    @checked
    def log_likelihood(self, tokens: Tensor, target_class: int | None = None) -> Tensor:
        """log p(x_U | component), float64 (B, C), or (B, K * C) for None.

        Args:
            tokens: partial states, int64 (B, D), values 0, 1 and the mask 2.
        """
        rows = self._rows(target_class)
        seen = embedding(tokens, ONE_HOT).flatten(1)
        log_p = seen @ self._log_of_values[rows].T
        if self._has_zeros:
            log_p = log_p.masked_fill(seen @ self._impossible[rows].T > 0, NEG_INF)
        return log_p

    def log_joint(self, tokens: Tensor, target_class: int | None = None) -> Tensor:
        """log [weight of the component * p(x_U | component)], shapes as `log_likelihood`."""
        return self.log_likelihood(tokens, target_class) + self.weights(target_class).log()

    def component_posterior(self, tokens: Tensor, target_class: int | None = None) -> Tensor:
        """P(component | x_U, z), float64 (B, C), or (B, K * C) for None; NaN where p(x_U | z) = 0."""
        return self.log_joint(tokens, target_class).softmax(dim=1)

    @checked
    def log_prob(self, tokens: Tensor, classes: Tensor | None = None) -> Tensor:
        """log p(x_U | z) in nats, float64 (B,): of images, or the marginal of partial ones.

        Args:
            tokens: int64 (B, D), values 0, 1 and the mask 2.
            classes: int64 (B,), values 0..K with K the whole mixture; None is the whole mixture for all.
        """
        if classes is None:
            return self.log_joint(tokens).logsumexp(dim=1)
        return self.under_labels(lambda rows, k: self.log_joint(rows, k).logsumexp(dim=1), tokens, classes)

    def under_labels(self, ask: Callable[[Tensor, int | None], Tensor], tokens: Tensor, classes: Tensor) -> Tensor:
        """The values of `ask` for the rows of each label 0..K; for K, the whole mixture, it is called with None."""
        k_null = self.num_classes
        return by_label(tokens, classes, k_null + 1, lambda rows, k: ask(rows, None if k == k_null else k))

    def sample_components(
        self, num: int, generator: torch.Generator | None = None, target_class: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Independent draws on the generator's device: x int64 (num, D), classes and components int64 (num,)."""
        num = whole_number("num", num, 0)
        device = torch.device("cpu") if generator is None else generator.device
        rows = self._rows(target_class)
        (probabilities, weights) = self._drawn_from(device)
        cdf = (weights if target_class is None else self.weights(target_class).to(device)).cumsum(0)
        uniform = torch.rand(num, generator=generator, dtype=torch.float64, device=device) * cdf[-1]
        # right=True: the first index whose cdf exceeds the draw, so components of weight 0 are never drawn
        index = torch.searchsorted(cdf, uniform, right=True).clamp_(max=len(cdf) - 1) + (rows.start or 0)
        x = torch.empty(num, self.num_dims, dtype=torch.int64, device=device)
        for out, chunk in zip(x.split(CHUNK), index.split(CHUNK)):
            p = probabilities[chunk]
            out.copy_(torch.rand(p.shape, generator=generator, dtype=torch.float64, device=device) < p)
        return x, index // self.num_components, index % self.num_components

    def _drawn_from(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """p, (K * C, D), and the components' weights, (K * C,), on a device: copied there once."""
        if device not in self._on:
            self._on[device] = (self.probabilities.flatten(0, 1).to(device), self.weights(None).to(device))
        return self._on[device]

    @checked
    def sample(
        self, num: int, generator: torch.Generator | None = None, target_class: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Independent draws (x, class), int64 (num, D) and (num,); of one class if it is given."""
        x, classes, _ = self.sample_components(num, generator, target_class)
        return x, classes

    def mean(self, target_class: int | None = None) -> Tensor:
        """E[x | z], float64 (D,)."""
        return self.weights(target_class) @ self.component_probabilities(target_class)

    def covariance(self, target_class: int | None = None) -> Tensor:
        """Cov[x | z], float64 (D, D): that of the components' means, plus diag sum_c w_c p_c (1 - p_c)."""
        weights = self.weights(target_class)
        p = self.component_probabilities(target_class)
        centred = p - self.mean(target_class)
        return (weights[:, None] * centred).T @ centred + torch.diag(weights @ (p * (1 - p)))

    def fingerprint(self) -> str:
        """A short hash of the numbers themselves: tells whether two mixtures are the same distribution."""
        shape = tuple(self.probabilities.shape)
        return hash_of(shape, self.probabilities, self.component_weights, self.class_weights)

    def denoiser(self) -> BernoulliDenoiser:
        """The exact posterior of this mixture."""
        return BernoulliDenoiser(self)


class BernoulliDenoiser:
    """log p(x_i = v | x_U, z) = log sum_c P(c | x_U, z) Bernoulli(v; p_ci): exact, in any dimension.

    For a partial state of probability 0 under the class it gives the conditionals of the whole mixture, and uniform
    ones where that is 0 too (docs/design.md, "The denoiser's contract").
    """

    device = CPU

    def __init__(self, target: BernoulliMixture) -> None:
        self.target = target
        self.num_tokens = 2
        self.num_dims = target.num_dims
        self.num_classes = target.num_classes

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `mdlm_cfg.chain.denoiser.Denoiser`."""
        check_query(self, tokens, classes)
        if classes is None:
            return copy_unmasked(self._conditionals(tokens, None), tokens)
        return copy_unmasked(self.target.under_labels(self._conditionals, tokens, classes), tokens)

    def _conditionals(self, tokens: Tensor, k: int | None) -> Tensor:
        """log p(x_i = v | x_U, k) of every coordinate, (B, D, 2); rows of unmasked coordinates are arbitrary."""
        log_joint = self.target.log_joint(tokens, k)
        log_prob = log_joint.logsumexp(dim=1, keepdim=True)
        dead = log_prob.isneginf()[:, 0]
        log_posterior = log_joint - log_prob.masked_fill(log_prob.isneginf(), 0.0)
        log_probs = _log_mean(log_posterior, self.target.value_probabilities(k)).view(*tokens.shape, 2)
        if bool(dead.any()):
            uniform = torch.full_like(log_probs[dead], 0.5).log()
            log_probs[dead] = uniform if k is None else self._conditionals(tokens[dead], None)
        return log_probs


def _log_mean(log_weights: Tensor, values: Tensor) -> Tensor:
    """log sum_c exp(log_weights[b, c]) * values[c, i], without underflow.

    A matrix product, and sums in logarithms for the few entries that are too small for one.

    Args:
        log_weights: (B, C), may hold -inf.
        values: (C, D), not negative.

    Returns:
        (B, D); -inf where every term is 0.
    """
    means = log_weights.exp() @ values
    if float(means.min()) >= UNDERFLOW:
        return means.log_()
    out = means.log()
    possible = (log_weights > NEG_INF).double() @ (values > 0).double()
    for rows, columns in zip(*(i.split(CHUNK) for i in ((means < UNDERFLOW) & (possible > 0)).nonzero(as_tuple=True))):
        out[rows, columns] = (log_weights[rows] + values.T[columns].log()).logsumexp(dim=1)
    return out
