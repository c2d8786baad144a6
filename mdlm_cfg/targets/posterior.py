"""The exact posterior of the class, as a classifier of partial states (theory, section 20).

All compute log p(k | x_U) = log a_k + log p(x_U | k) - log p(x_U), for partial states and between them. Between
discrete states p(x_U | k) is replaced by its multilinear extension: with rows e_i on the values and the mask,

    p(e | k) = sum_x p(x | k) prod_i (e_{i, x_i} + e_{i, mask}).

A state of probability 0 under all classes has no posterior: its row is all -inf.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import check_states
from mdlm_cfg.support.arguments import Integers, checked
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import TableMixture

NEG_INF = float("-inf")


class Posterior(ABC):
    """The exact posterior of a target's class.

    Args:
        target: has `class_weights`, (K,), and `num_tokens`, `num_dims` and `num_classes`.
    """

    def __init__(self, target: Any) -> None:
        if not isinstance(getattr(target, "class_weights", None), Tensor):
            raise UserError(f"target = {shown(target)} is not allowed: it must be a mixture, such as a TableMixture")
        self.target = target
        self.num_tokens = target.num_tokens
        self.num_dims = target.num_dims
        self.num_classes = target.num_classes

    @checked
    def __call__(self, tokens: Integers) -> Tensor:
        """Log-probabilities (B, K) of partial states, int64 (B, D)."""
        check_states(tokens, self.num_tokens, self.num_dims)
        return self.of_one_hot(torch.nn.functional.one_hot(tokens, self.num_tokens + 1).double())

    def of_one_hot(self, one_hot: Tensor) -> Tensor:
        """Log-probabilities (B, K) from float64 (B, D, N + 1), the mask last."""
        return self._normalized(self.log_likelihoods(one_hot))

    @abstractmethod
    def log_likelihoods(self, one_hot: Tensor) -> Tensor:
        """log p(e | k) of every class, float64 (B, K)."""

    def _normalized(self, log_likelihoods: Tensor) -> Tensor:
        """Log-probabilities of the classes from log p(x_U | k), (B, K) each."""
        log_joint = log_likelihoods + self.target.class_weights.to(log_likelihoods.device).log()
        impossible = (log_joint == NEG_INF).all(dim=1, keepdim=True)
        return log_joint.masked_fill(impossible, 0.0).log_softmax(dim=1).masked_fill(impossible, NEG_INF)


class TablePosterior(Posterior):
    """The posterior of a table, which must be small: every state needs all N^D numbers."""

    def log_likelihoods(self, one_hot: Tensor) -> Tensor:
        """See `Posterior.log_likelihoods`."""
        pmfs = self.target.class_pmfs.to(one_hot.device)
        factors = one_hot[..., :-1] + one_hot[..., -1:]
        mass = torch.tensordot(factors[:, -1], pmfs, dims=([1], [pmfs.ndim - 1]))  # (B, K, N, ..., N)
        for i in range(self.num_dims - 2, -1, -1):
            mass = (mass * factors[:, i].reshape(len(mass), *[1] * (mass.ndim - 2), self.num_tokens)).sum(dim=-1)
        return _log(mass)


class BernoulliPosterior(Posterior):
    """The posterior of a mixture of product Bernoullis, in any dimension."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Posterior.__call__`; two matrix products in place of a product over all coordinates."""
        log_joint = self.target.log_likelihood(tokens.cpu()).unflatten(1, self.target.component_weights.shape)
        log_p = (log_joint + self.target.component_weights.log()).logsumexp(dim=2)
        return self._normalized(log_p).to(tokens.device)

    def log_likelihoods(self, one_hot: Tensor) -> Tensor:
        """See `Posterior.log_likelihoods`."""
        p = self.target.component_probabilities(None).to(one_hot.device)  # (K * C, D)
        off, on, mask = (row[:, None] for row in one_hot.unbind(dim=2))
        log_joint = _log(off * (1 - p) + on * p + mask).sum(dim=2).unflatten(1, self.target.component_weights.shape)
        log_joint = log_joint + self.target.component_weights.to(one_hot.device).log()
        return _logsumexp(log_joint, dim=2)


class HiddenMarkovPosterior(Posterior):
    """The posterior of a mixture of hidden Markov models, by the forward recursion."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Posterior.__call__`."""
        return self._normalized(self.target.log_class_probs(tokens.cpu())).to(tokens.device)

    def log_likelihoods(self, one_hot: Tensor) -> Tensor:
        """See `Posterior.log_likelihoods`."""
        laws = (self.target.emission, self.target.initial, self.target.transition)
        emission, initial, transition = (law.to(one_hot.device) for law in laws)
        seen = torch.einsum("bdn,ksn->dbks", one_hot[..., :-1], emission) + one_hot[..., -1].T[..., None, None]
        log_law = initial.log() + _log(seen[0])  # in logarithms: a state that fades may be the only one at the end
        for i in range(1, self.num_dims):
            log_law = _logsumexp(log_law[..., None] + transition.log(), dim=2) + _log(seen[i])
        return _logsumexp(log_law, dim=2)


def _log(x: Tensor) -> Tensor:
    """log x, with no gradient where x is 0: an impossible class stays so, whatever a masked coordinate becomes."""
    return torch.where(x > 0, x, 1.0).log().masked_fill(x == 0, NEG_INF)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """log sum exp x, with no gradient where x is -inf, as in `_log`: torch's gradient is NaN where all are."""
    top = x.detach().amax(dim=dim, keepdim=True).nan_to_num(neginf=0.0)
    return top.squeeze(dim) + _log((x - top).exp().sum(dim=dim))


POSTERIORS: dict[type, type[Posterior]] = {
    TableMixture: TablePosterior,
    BernoulliMixture: BernoulliPosterior,
    HiddenMarkovMixture: HiddenMarkovPosterior,
}


def posterior_of(target: Any) -> Posterior:
    """The exact posterior of the class of a target.

    Raises:
        UserError: a target for which none is known.
    """
    for kind, posterior in POSTERIORS.items():
        if isinstance(target, kind):
            return posterior(target)
    raise UserError(
        f"no exact posterior of the class is known for a {type(target).__name__}: give a trained classifier"
    )
