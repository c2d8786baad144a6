"""The exact posterior of the class of a table, as a classifier of partial states (theory, section 20)."""

from __future__ import annotations

import torch
from torch import Tensor

from mdlm_cfg.targets.table import TableMixture

NEG_INF = float("-inf")


class TablePosterior:
    r"""log p(k | x_U) = log a_k + log p(x_U | k) - log p(x_U), for partial states and between them.

    Between discrete states it is the multilinear extension: with rows $e_i$ on the values and the mask,

    $$ p(e \mid k) = \sum_x p(x \mid k) \prod_i (e_{i, x_i} + e_{i, \text{mask}}). $$

    A state of probability 0 under all classes has none: its row is all -inf.

    Args:
        target: the table; it must be small, since every state asks for all N^D numbers.
    """

    def __init__(self, target: TableMixture) -> None:
        self.target = target
        self.num_tokens = target.num_tokens
        self.num_dims = target.num_dims
        self.num_classes = target.num_classes

    def __call__(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (B, K) of partial states, int64 (B, D)."""
        return self.of_one_hot(torch.nn.functional.one_hot(tokens, self.num_tokens + 1).double())

    def of_one_hot(self, one_hot: Tensor) -> Tensor:
        """Log-probabilities (B, K) from float64 (B, D, N + 1), the mask last."""
        pmfs = self.target.class_pmfs.to(one_hot.device)
        joint = (self.target.class_weights.to(one_hot.device)[:, None] * pmfs.flatten(1)).reshape(pmfs.shape)
        factors = one_hot[..., :-1] + one_hot[..., -1:]
        mass = torch.tensordot(factors[:, -1], joint, dims=([1], [joint.ndim - 1]))  # (B, K, N, ..., N)
        for i in range(self.num_dims - 2, -1, -1):
            mass = (mass * factors[:, i].reshape(len(mass), *[1] * (mass.ndim - 2), -1)).sum(dim=-1)
        total = mass.sum(dim=1, keepdim=True)
        return (mass.log() - total.log()).masked_fill(total == 0, NEG_INF)
