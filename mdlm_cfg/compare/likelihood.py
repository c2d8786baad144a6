"""Likelihoods of a denoiser, side by side (theory, section 14).

For one set of conditionals p_theta: the NLL of the law of its uniform-order chain, -E ln (1/D!) sum over orders prod
p_theta; bounds from k orders, -E ln (1/k) sum over k random orders; and the NELBO, which is the bound from one. They
fall with k, and NELBO - NLL is the incoherence: 0 exactly where all orders agree. All in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, check_class, conditionals, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture

MAX_ROWS = 4096  # partial states a denoiser is asked for at a time


@dataclass(frozen=True)
class Bound:
    """An upper bound of the NLL in nats per sample, with its standard error over the samples."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Likelihood:
    """Bounds of the NLL from k random orders of every sample.

    Attributes:
        log_probs: ln prod of p_theta along every order, in nats, float64 (n, k).
        bounds: by number of orders 1, 2, 4, ..., k; all from the same orders, in groups.
    """

    log_probs: Tensor
    bounds: dict[int, Bound]

    @property
    def nelbo(self) -> Bound:
        """The bound from one order."""
        return self.bounds[1]

    @property
    def best(self) -> Bound:
        """The bound from all orders: the lowest."""
        return self.bounds[max(self.bounds)]

    def bits_per_dim(self, num_dims: int) -> dict[int, Bound]:
        """The bounds in bits per dimension."""
        unit = num_dims * math.log(2)
        return {k: Bound(b.value / unit, b.standard_error / unit) for k, b in self.bounds.items()}


def likelihood(
    denoiser: Denoiser,
    x: Tensor,
    target_class: int | Tensor | None,
    orders: int = 1,
    *,
    generator: torch.Generator | None = None,
) -> Likelihood:
    """Upper bounds of the NLL of samples, from k random orders each (theory, section 14).

    A product along an order needs D answers of the denoiser: n * k * D rows in all.

    Args:
        x: int64 (n, D), at least 2 samples, nothing masked.
        target_class: z of all, or int64 (n,) of each; None is the whole mixture.
        orders: k.
        generator: of the orders, on the denoiser's device.

    Raises:
        UserError: samples that hold masks, fewer than two, no orders, or a class that does not exist.
    """
    if orders < 1:
        raise UserError(f"orders = {orders}, and there must be at least 1")
    if x.ndim != 2 or x.shape[1] != denoiser.num_dims or len(x) < 2:
        raise UserError(f"x has shape {tuple(x.shape)}, and must hold at least 2 samples of {denoiser.num_dims} values")
    if not bool(((x >= 0) & (x < denoiser.num_tokens)).all()):
        raise UserError(f"samples must hold values 0..{denoiser.num_tokens - 1}, and no masks")
    x = x.to(device_of(denoiser))
    log_probs = torch.empty(len(x), orders, dtype=torch.float64, device=x.device)
    for rows, k in _by_class(x, target_class):
        check_class(k, denoiser.num_classes)
        for chunk in rows.split(max(1, MAX_ROWS // orders)):
            repeated = x[chunk].repeat_interleave(orders, dim=0)
            log_probs[chunk] = _along_random_orders(denoiser, repeated, k, generator).view(-1, orders)
    sizes = [size for size in (2**j for j in range(orders.bit_length())) if size < orders] + [orders]
    return Likelihood(log_probs, {size: _bound(log_probs, size) for size in sizes})


def _by_class(x: Tensor, target_class: int | Tensor | None) -> list[tuple[Tensor, int | None]]:
    """The rows of every class."""
    if not isinstance(target_class, Tensor):
        return [(torch.arange(len(x), device=x.device), target_class)]
    classes = target_class.to(x.device)
    return [((classes == k).nonzero().squeeze(1), k) for k in classes.unique().tolist()]


def _along_random_orders(
    denoiser: Denoiser, x: Tensor, target_class: int | None, generator: torch.Generator | None
) -> Tensor:
    """ln prod_j p_theta(x_{s_j} | those before it in the order) for one random order s of every row, (B,)."""
    order = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float64).argsort(dim=1)
    tokens, total = torch.full_like(x, denoiser.num_tokens), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    for place in range(x.shape[1]):
        i = order[:, place]
        value = x[rows, i]
        total += conditionals(denoiser, tokens, target_class)[rows, i, value]
        tokens = tokens.scatter(1, i[:, None], value[:, None])
    return total


def _bound(log_probs: Tensor, size: int) -> Bound:
    """-E ln (1/size) sum over `size` orders, from as many groups of orders as there are."""
    groups = log_probs[:, : log_probs.shape[1] // size * size].unflatten(1, (-1, size))
    each = -(groups.logsumexp(dim=2) - math.log(size)).mean(dim=1)
    return Bound(float(each.mean()), float(each.std(correction=1)) / math.sqrt(len(each)))


@dataclass(frozen=True)
class ExactLikelihood:
    """Exact expectations over a known distribution, in nats per sample.

    Attributes:
        nll: of the law of the uniform-order chain, or of the policy given. nelbo: the bound from one uniform order.
        entropy: of the data: what both are for exact conditionals.
    """

    nll: float
    nelbo: float
    entropy: float

    @property
    def incoherence(self) -> float:
        """NELBO - NLL: 0 where all orders agree (under the uniform order)."""
        return self.nelbo - self.nll


def exact_likelihood(
    target: TableMixture, denoiser: Denoiser, target_class: int | None, policy: Policy | str = "uniform"
) -> ExactLikelihood:
    """NLL, NELBO and incoherence of a denoiser on p(x | z), exactly (theory, section 14).

    Args:
        policy: whose NLL; of a deterministic order it is the likelihood of that decoding (arXiv 2603.01367).

    Raises:
        UserError: as `terminal_law`.
    """
    pmf = target.class_pmf(target_class)
    law = terminal_law(denoiser, Guidance(0.0), target_class, policy)
    nll = -torch.where(pmf > 0, pmf * law.log(), 0.0).sum()
    return ExactLikelihood(float(nll), _exact_nelbo(target, denoiser, target_class), target.entropy(target_class))


def _exact_nelbo(target: TableMixture, denoiser: Denoiser, target_class: int | None) -> float:
    """sum over l of the mean over subsets U of size l and masked i of E -ln p_theta(x_i | x_U)."""
    own, lattice = target.denoiser(), target.denoiser().lattice
    total = 0.0
    for level, marginal in enumerate(lattice.marginals(target.class_pmf(target_class))[:-1]):
        p = marginal.flatten()
        tokens, p = lattice.tokens(level)[p > 0], p[p > 0]
        cost = 0.0
        for chunk, weight in zip(tokens.split(MAX_ROWS), p.split(MAX_ROWS)):
            exact, ours = (conditionals(d, chunk, target_class) for d in (own, denoiser))
            terms = torch.where(exact > float("-inf"), exact.exp() * -ours, 0.0)
            here = (chunk == lattice.num_tokens)[..., None]
            cost += float(weight @ torch.where(here, terms, 0.0).sum(dim=(1, 2)))
        total += cost / len(marginal) / (lattice.num_dims - level)
    return total
