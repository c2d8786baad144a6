"""Likelihoods of a denoiser, side by side (theory, section 14).

For one set of conditionals p_theta: the NLL of the law of its uniform-order chain, -E ln (1/D!) sum over orders prod
p_theta; bounds from k orders, -E ln (1/k) sum over k random orders; and the NELBO, which is the bound from one. They
fall with k, and NELBO - NLL is the order gap: 0 exactly where all orders agree. All in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, check_class, check_labels, conditionals, conditionals_under, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.masking import mask_uniform
from mdlm_cfg.chain.policies import Policy, policy_of
from mdlm_cfg.compare.images import draw_counts
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.support.arguments import Integers, Reals, checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.targets.table import TableMixture

NEG_INF = float("-inf")
MAX_ROWS = 4096  # partial states per call of a denoiser
NextOf = Callable[[int, Tensor, Tensor], Tensor]  # (place, tokens, log-probs) -> the coordinate of every row, (B,)


@dataclass(frozen=True)
class Bound:
    """An upper bound on the NLL in nats per sample, with its standard error over the samples."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, values: Tensor) -> Bound:
        """The mean over samples, (n,), and its standard error."""
        return cls(float(values.mean()), float(values.std(correction=1)) / math.sqrt(len(values)))

    def bits_per_dim(self, num_dims: int) -> Bound:
        """The same in bits per dimension."""
        unit = num_dims * math.log(2)
        return Bound(self.value / unit, self.standard_error / unit)


@dataclass(frozen=True)
class Likelihood:
    """Bounds on the NLL from k orders of every sample.

    Attributes:
        log_probs: ln prod of p_theta along every order, in nats, float64 (n, k).
        bounds: by number of orders 1, 2, 4, ..., k; all from the same orders, in groups.
    """

    log_probs: Tensor
    bounds: dict[int, Bound]

    @classmethod
    def of(cls, log_probs: Tensor) -> Likelihood:
        """All the bounds that orders of these log-probabilities give, (n, k)."""
        orders = log_probs.shape[1]
        sizes = dict.fromkeys([*(2**j for j in range(orders.bit_length())), orders])
        return cls(log_probs, {size: Bound.of(_of_each(log_probs, size)) for size in sizes})

    @property
    def nelbo(self) -> Bound:
        """The bound from one order."""
        return self.bounds[1]

    def of_each(self, size: int) -> Tensor:
        """-ln (1/size) sum over `size` orders, the mean over as many groups of orders as there are: (n,) in nats."""
        return _of_each(self.log_probs, size)

    def fall(self, size: int) -> Bound:
        """How far the bound from `size` orders is below the bound from one; variation between samples cancels."""
        return Bound.of(self.of_each(1) - self.of_each(size))


def _of_each(log_probs: Tensor, size: int) -> Tensor:
    """See `Likelihood.of_each`."""
    groups = log_probs[:, : log_probs.shape[1] // size * size].unflatten(1, (-1, size))
    return -(groups.logsumexp(dim=2) - math.log(size)).mean(dim=1)


@checked
def likelihood(
    denoiser: Denoiser,
    x: Integers,
    target_class: int | Integers | None,
    orders: int = 1,
    *,
    policy: Policy | str | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[float], None] | None = None,
) -> Likelihood:
    """Upper bounds on the NLL of samples, from k orders each (theory, section 14).

    A product along an order needs D evaluations of the denoiser: n * k * D rows in all. Random orders do not
    depend on classes: with and without them they are the same for equal generators.

    Args:
        x: int64 (n, D), at least 2 samples, nothing masked.
        target_class: z of all, or int64 (n,) of each; None is the whole mixture.
        orders: k.
        policy: draws the orders, at w = 0: prod p_theta along an order has the mean q(x), with q the law of the policy,
            and is q(x) itself if the policy is deterministic (arXiv 2603.01367). None is random orders: `uniform`.
        generator: draws the orders; on the denoiser's device.
        progress: called from time to time with the share done.

    Raises:
        UserError: samples that hold masks, fewer than two, no orders, a policy or a class that does not exist.
    """
    orders = _checked_orders(denoiser, x, orders)
    made = None if policy is None else policy_of(policy)
    if made is not None:
        made.check(denoiser.num_dims)
    x = x.to(device_of(denoiser))
    done_rows = 0
    labels = _labels(denoiser, target_class, len(x)).to(x.device)
    log_probs = torch.empty(len(x), orders, dtype=torch.float64, device=x.device)

    def tell(rows: int) -> None:
        nonlocal done_rows
        done_rows += rows
        if progress is not None:
            progress(done_rows / (len(x) * orders * x.shape[1]))

    for part in torch.arange(len(x), device=x.device).split(max(1, MAX_ROWS // orders)):
        repeated = x[part].repeat_interleave(orders, dim=0)
        order = torch.rand(repeated.shape, generator=generator, device=x.device, dtype=torch.float64).argsort(dim=1)
        next_of = _in_order(order) if made is None else _by_policy(made, denoiser.num_tokens, generator)
        found = _log_prob_along(denoiser, repeated, labels[part].repeat_interleave(orders), next_of, tell)
        log_probs[part] = found.view(-1, orders)
    return Likelihood.of(log_probs)


def _checked_orders(denoiser: Denoiser, x: Tensor, orders: int) -> int:
    if x.ndim != 2 or x.shape[1] != denoiser.num_dims or len(x) < 2:
        raise UserError(f"x has shape {tuple(x.shape)}, and must hold at least 2 samples of {denoiser.num_dims} values")
    if not bool(((x >= 0) & (x < denoiser.num_tokens)).all()):
        raise UserError(f"samples must hold values 0..{denoiser.num_tokens - 1}, and no masks")
    return whole_number("orders", orders)


def _labels(denoiser: Denoiser, target_class: int | Tensor | None, num: int) -> Tensor:
    """The class of every sample, int64 (num,), K being no class."""
    if not isinstance(target_class, Tensor):
        check_class(target_class, denoiser.num_classes)
        return torch.full((num,), denoiser.num_classes if target_class is None else target_class)
    check_labels(target_class, denoiser.num_classes, num)
    return target_class


def _in_order(order: Tensor) -> NextOf:
    """Coordinates in orders given beforehand, (B, D)."""
    return lambda place, tokens, log_probs: order[:, place]


def _by_policy(policy: Policy, mask_id: int, generator: torch.Generator | None) -> NextOf:
    """Coordinates as a policy draws them at w = 0, where Z_i = 1 and r_i is the conditional itself."""

    def next_of(place: int, tokens: Tensor, log_probs: Tensor) -> Tensor:
        log_z = log_probs.new_zeros(tokens.shape).masked_fill(tokens != mask_id, NEG_INF)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        log_choice = policy.log_choice(log_z, log_probs.clone, places)
        uniform = torch.rand(log_z.shape, generator=generator, device=log_z.device, dtype=torch.float64)
        return (log_choice - uniform.neg().log1p().neg().log()).argmax(dim=1)  # the first of exponential clocks

    return next_of


def _log_prob_along(
    denoiser: Denoiser, x: Tensor, classes: Tensor, next_of: NextOf, tell: Callable[[int], None]
) -> Tensor:
    """ln prod_j p_theta(x_{s_j} | those before it in the order) for one order s of every row, (B,)."""
    tokens = torch.full_like(x, denoiser.num_tokens)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    for place in range(x.shape[1]):
        log_probs = conditionals(denoiser, tokens, classes)
        i = next_of(place, tokens, log_probs)
        value = x[rows, i]
        total += log_probs[rows, i, value]
        tokens = tokens.scatter(1, i[:, None], value[:, None])
        tell(len(x))
    return total


@checked
def nelbo_bound(
    denoiser: Denoiser,
    x: Integers,
    classes: Integers | None,
    num_draws: int = 4,
    generator: torch.Generator | None = None,
) -> Bound:
    """The NELBO by random masks: what `likelihood` estimates by one order, at num_draws rows per sample instead of D.

    Args:
        x: int64 (n, D), at least 2 samples. classes: int64 (n,); None is no class.
        num_draws: masks per sample, stratified in their number.
        generator: draws the masks; on the CPU.
    """
    num_draws = _checked_orders(denoiser, x, num_draws)
    labels = _labels(denoiser, classes, len(x)).cpu()
    device = device_of(denoiser)
    costs = []
    size = max(1, MAX_ROWS // num_draws)
    for part, part_labels in zip(x.cpu().split(size), labels.split(size)):
        counts = draw_counts(len(part), num_draws, denoiser.num_dims, generator).flatten()
        clean, drawn = (v.repeat_interleave(num_draws, dim=0) for v in (part, part_labels))
        tokens = mask_uniform(clean, counts, denoiser.num_tokens, generator)
        own = conditionals(denoiser, tokens.to(device), drawn.to(device)).cpu().gather(2, clean[..., None]).squeeze(2)
        cost = -torch.where(tokens == denoiser.num_tokens, own, 0.0).sum(dim=1) * (denoiser.num_dims / counts)
        costs.append(cost.view(-1, num_draws).mean(dim=1))
    return Bound.of(torch.cat(costs))


@checked
def class_posterior(
    denoiser: Denoiser, state: Integers, class_weights: Reals, generator: torch.Generator | None = None
) -> Tensor:
    """p(z | x_U) given the unmasked part of a state, for every class z, float64 (K,): Bayes' rule.

    p(x_U | z) is the product of the conditionals along one random order of U. For exact conditionals every order gives
    the same; for those of a network this is what its conditionals say along that order (theory, section 14).

    Args:
        state: int64 (D,), with the mask N where nothing is known.
        class_weights: p(z), float64 (K,).
        generator: draws the order; on the CPU.
    """
    for what, found, count in (
        ("state", state, denoiser.num_dims),
        ("class_weights", class_weights, denoiser.num_classes),
    ):
        if found.shape != (count,):
            raise UserError(f"{what} has shape {tuple(found.shape)}, and must have ({count},)")
    state = state.to(device_of(denoiser))
    known = (state != denoiser.num_tokens).nonzero().squeeze(1)
    order = known[torch.randperm(len(known), generator=generator).to(known.device)]
    place = torch.arange(len(order), device=state.device)
    turn = torch.full_like(state, len(order)).index_copy(0, order, place)
    tokens = torch.where(turn < place[:, None], state, denoiser.num_tokens)  # a row for each turn: what came before it
    log_probs = torch.zeros(denoiser.num_classes, dtype=torch.float64)
    for rows in place.split(max(1, MAX_ROWS // denoiser.num_classes)) if len(place) else ():
        answers = conditionals_under(denoiser, tokens[rows], range(denoiser.num_classes))
        log_probs += answers[:, place[: len(rows)], order[rows], state[order[rows]]].sum(dim=1).cpu()
    return (log_probs + class_weights.log()).softmax(dim=0)


@dataclass(frozen=True)
class ExactLikelihood:
    """Exact expectations over a known distribution, in nats per sample.

    Attributes:
        nll: of the law of the uniform-order chain, or of the policy given. nelbo: the bound from one uniform order.
        entropy: of the data: the value of both for exact conditionals.
    """

    nll: float
    nelbo: float
    entropy: float

    @property
    def order_gap(self) -> float:
        """NELBO - NLL: 0 where all orders agree (under the uniform order)."""
        return self.nelbo - self.nll


@checked
def exact_likelihood(
    target: TableMixture, denoiser: Denoiser, target_class: int | None, policy: Policy | str = "uniform"
) -> ExactLikelihood:
    """NLL, NELBO and order gap of a denoiser on p(x | z), exactly (theory, section 14).

    Args:
        policy: whose NLL; of a deterministic order it is the likelihood of that decoding (arXiv 2603.01367).

    Raises:
        UserError: as `terminal_law`.
    """
    nll = exact_nll(target, denoiser, target_class, policy)
    return ExactLikelihood(nll, _exact_nelbo(target, denoiser, target_class), target.entropy(target_class))


@checked
def exact_nll(
    target: TableMixture, denoiser: Denoiser, target_class: int | None, policy: Policy | str = "uniform"
) -> float:
    """-E ln q(x) over p(x | z), with q the law of a policy's chain at w = 0; in nats, see `exact_likelihood`."""
    pmf = target.class_pmf(target_class)
    law = terminal_law(denoiser, Guidance(0.0), target_class, policy)
    return -float(torch.where(pmf > 0, pmf * law.log(), 0.0).sum())


def _exact_nelbo(target: TableMixture, denoiser: Denoiser, target_class: int | None) -> float:
    """sum over l of the mean over subsets U of size l and masked i of E -ln p_theta(x_i | x_U)."""
    own = target.denoiser()
    lattice = target.denoiser().lattice
    total = 0.0
    for level, marginal in enumerate(lattice.marginals(target.class_pmf(target_class))[:-1]):
        p = marginal.flatten()
        tokens = lattice.tokens(level)[p > 0]
        p = p[p > 0]
        cost = 0.0
        for chunk, weight in zip(tokens.split(MAX_ROWS), p.split(MAX_ROWS)):
            exact, ours = (conditionals(d, chunk, target_class) for d in (own, denoiser))
            terms = torch.where(exact > NEG_INF, exact.exp() * -ours, 0.0)
            here = (chunk == lattice.num_tokens)[..., None]
            cost += float(weight @ torch.where(here, terms, 0.0).sum(dim=(1, 2)))
        total += cost / len(marginal) / (lattice.num_dims - level)
    return total
