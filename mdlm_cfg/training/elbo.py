"""The continuous-time negative ELBO in nats, drawn, pooled over a batch, and averaged (theory, section 9).

In its schedule-free form: draw the number of masked coordinates m uniformly from 1..D, mask a uniform subset of that
size, and weight the summed cross entropy of the masked coordinates by D / m.

Everything here follows the device of the data, and nothing waits for it there (on a CPU, where waiting costs nothing,
work without effect is left out). A network is called as it is; the rest is exact, under autocast too (`exactly`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import comb

import torch
from torch import Tensor

from mdlm_cfg.chain.lattice import flat_index, points_at, strides
from mdlm_cfg.chain.masking import mask_uniform, stratified_counts
from mdlm_cfg.support.errors import UserError

Net = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def exactly(net: Net, device: torch.device) -> Iterator[Net]:
    """Autocast off inside, and for the network alone what it was outside.

    Under autocast every matrix product is rounded to half precision: in the network this is intended, but
    in targets and weights it would be a bias larger than the error of the network to be reached.
    """
    enabled = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type)

    def ask(tokens: Tensor, classes: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=enabled):
            log_probs = net(tokens, classes)
        return log_probs if log_probs.dtype == torch.float64 else log_probs.float()

    with torch.autocast(device.type, enabled=False):
        yield ask


def smoothed(log_probs: Tensor, tokens: Tensor, share: float) -> Tensor:
    """Log-probabilities whose cross entropy is that of targets mixed with a share of the uniform distribution.

    The cross entropy is linear in log p, so targets (1 - s) q + s / N are the same as (1 - s) log p + s mean log p.
    Without it nothing says how small a probability outside the support is, and guidance, which raises the ratio of
    two such numbers to the power w, blows up on what the two conditionals happen to have left there.

    Args:
        log_probs: (B, D, N).
        tokens: int64 (B, D); rows of unmasked coordinates are left alone.
        share: s, the label smoothing.
    """
    if share == 0:
        return log_probs
    mixed = (1 - share) * log_probs + share * log_probs.mean(dim=-1, keepdim=True)
    return torch.where((tokens == log_probs.shape[-1])[..., None], mixed, log_probs)


def smoothed_targets(conditional: Tensor, null: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The null class mixed with a share of the uniform distribution, and the class with a share of that mixture.

    p' = (1 - s) p + s / N and p_z' = (1 - s) p_z + s p'. Where the data have no probability the ratio p_z' / p',
    which guidance amplifies, is s, and guidance does not go there. If both are mixed with the uniform distribution
    (`smoothed`) the ratio is 1 there, and the network has to learn it from two numbers as small as s / N.

    Args:
        conditional: p(x_i = v | x_U, z), (B, D, N). null: p(x_i = v | x_U), likewise.
        share: s, the label smoothing.
    """
    null = (1 - share) * null + share / null.shape[-1]
    return (1 - share) * conditional + share * null, null


def drop_labels(classes: Tensor, null_class: int, probability: float, generator: torch.Generator | None) -> Tensor:
    """The classes, each replaced by the null class with `probability`: int64 (B,), a new tensor."""
    drop = torch.rand(classes.shape, generator=generator, device=classes.device) < probability
    return classes.masked_fill(drop, null_class)


def nelbo(net: Net, x: Tensor, classes: Tensor, mask_id: int, generator: torch.Generator | None = None) -> Tensor:
    """One unbiased draw of the negative ELBO of every sample, in nats (theory, section 9).

    Args:
        net: (tokens, classes) -> log-probs (B, D, N); rows of unmasked coordinates do not count.
        x: clean data, int64 (B, D).
        classes: int64 (B,), the null class included.
        mask_id: N.
        generator: of the masks, on the device of `x`.

    Returns:
        (B,), in nats per sample; its expectation bounds -log p(x | class) from above.
    """
    tokens, counts = masked(x, mask_id, generator)
    with exactly(net, x.device) as ask:
        return weighted_cross_entropy(ask(tokens, classes), x, tokens, counts)


def masked(x: Tensor, mask_id: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Partial states of the data, int64 (B, D), and how many coordinates of each are masked, int64 (B,)."""
    counts = stratified_counts(len(x), x.shape[1], generator).to(x.device)
    return mask_uniform(x, counts, mask_id, generator), counts


def weighted_cross_entropy(log_probs: Tensor, x: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
    """D / m times the cross entropy of the m masked coordinates of each sample, (B,) in nats."""
    own = log_probs.gather(2, x[..., None]).squeeze(2)
    cross_entropy = -torch.where(tokens == log_probs.shape[-1], own, 0.0).sum(dim=1)
    return cross_entropy * (x.shape[1] / counts.to(cross_entropy))


def class_cross_entropy(
    classify: Callable[[Tensor], Tensor],
    x: Tensor,
    classes: Tensor,
    mask_id: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """-log q(class | x_U) of one partial state of every sample, m of whose coordinates are masked, m uniform on 0..D.

    Args:
        classify: one-hot rows (B, D, N + 1), the mask last, to log-probabilities (B, K).
        x: clean data, int64 (B, D). classes: int64 (B,), values 0..K-1. mask_id: N.
        generator: of the masks, on the device of `x`.

    Returns:
        (B,), in nats.
    """
    counts = stratified_counts(len(x), x.shape[1] + 1, generator).to(x.device) - 1
    tokens = mask_uniform(x, counts, mask_id, generator)
    log_probs = classify(one_hot_of(tokens, mask_id + 1))
    return -log_probs.gather(1, classes[:, None])[:, 0]


def paired_nelbo(
    net: Net, x: Tensor, classes: Tensor, mask_id: int, null_class: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """`nelbo` with the class and without it, on the same masks: conditional and null, (B,) each, in nats."""
    tokens, counts = masked(x, mask_id, generator)
    with exactly(net, x.device) as ask:
        both = ask(tokens.repeat(2, 1), torch.cat([classes, torch.full_like(classes, null_class)])).chunk(2)
        conditional, null = (weighted_cross_entropy(log_probs, x, tokens, counts) for log_probs in both)
    return conditional, null


def pooled_nelbo(
    net: Net,
    x: Tensor,
    classes: Tensor,
    mask_id: int,
    null_class: int,
    rows: Tensor,
    generator: torch.Generator | None = None,
    *,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`nelbo` with the class and without it, on the same masks, each with the whole batch for its target.

    Given the batch and a partial state, the value of a masked coordinate is distributed as among those points of the
    batch that agree with the partial state: putting that distribution in place of the one value of the point that was
    masked leaves the expectation as it is, and takes its noise away (Rao and Blackwell). The target depends on the
    partial state and the label alone, so the points that are masked may be chosen by any rule
    (`mdlm_cfg.training.tilting`): the exact conditionals still have the least expectation.

    Args:
        net: (tokens, classes) -> log-probs (B, D, N).
        x: clean data, int64 (B, D); many points that are few different ones, or nothing is gained.
        classes: int64 (B,), values 0..K-1.
        mask_id: N. null_class: K.
        rows: the points that are masked, int64 (R,).
        smoothing: of the targets (`smoothed_targets`).

    Returns:
        conditional and null, (R,) each, in nats per sample: draws of the NELBO where the rows are a random sample.
    """
    x_own = x[rows]
    own = classes[rows]
    tokens, counts = masked(x_own, mask_id, generator)
    labels = torch.cat([own, torch.full_like(own, null_class)])
    tokens = tokens.repeat(2, 1)
    with exactly(net, x.device) as ask:
        targets = pooled_conditionals(tokens, labels, x, classes, mask_id, null_class)
        if smoothing:
            with_class, without = targets.chunk(2)
            targets = torch.cat(smoothed_targets(with_class, without, smoothing))
        cost = cross_entropy_of(targets * (tokens == mask_id)[..., None], ask(tokens, labels))
        conditional, null = (cost * (x.shape[1] / counts.repeat(2).to(cost))).chunk(2)
    return conditional, null


def cross_entropy_of(targets: Tensor, log_probs: Tensor) -> Tensor:
    """-sum q log p over the last two axes, (B,) from (B, D, N) each: 0 where q is 0, also where log p is -inf."""
    live = targets > 0
    return -torch.where(live, targets * torch.where(live, log_probs, 0.0), 0.0).sum(dim=(1, 2))


def pooled_conditionals(
    tokens: Tensor, labels: Tensor, x: Tensor, classes: Tensor, num_tokens: int, null_class: int
) -> Tensor:
    """p(x_i = v | x_U, z) among the points of a batch, float32 (R, D, N); NaN where none agrees.

    Args:
        tokens: partial states, int64 (R, D). labels: z, int64 (R,), the null class included.
        x: the batch, int64 (B, D), and its classes, int64 (B,).

    Raises:
        UserError: more states than an int64 can number.
    """
    n = num_tokens
    d = x.shape[1]
    if null_class * n**d >= 2**63:
        raise UserError(f"N^D = {n}^{d} states are too many to pool a batch by; use objective=sampled")
    with torch.autocast(x.device.type, enabled=False):
        cells = classes * n**d + flat_index(x, n)
        counts = torch.ones_like(cells)
        if x.device.type == "cpu":  # the different points alone: elsewhere to count them is to wait for the device
            cells, counts = torch.unique(cells, return_counts=True)
        values = one_hot_of(points_at(cells, n, d), n).flatten(1)  # (S, D * N), of the S points
        known = one_hot_of(tokens, n).flatten(1)
        agree = known @ values.T == (tokens != n).sum(dim=1, keepdim=True)
        agree &= (labels[:, None] == cells // n**d) | (labels == null_class)[:, None]
        found = ((agree * counts.float()) @ values).unflatten(1, (d, n))  # whole numbers: float32 is exact
        return found / found.sum(dim=2, keepdim=True)


def one_hot_of(tokens: Tensor, num_tokens: int) -> Tensor:
    """float32 (..., N) from (...); 0 everywhere for a mask."""
    return (tokens[..., None] == torch.arange(num_tokens, device=tokens.device)).float()


class AveragedObjective:
    """The negative ELBO averaged exactly over every mask, every partial state and every label, null included.

    Where (N+1)^D is small, the network is evaluated once a step on all partial states with a mask and all K + 1
    labels, and the cross entropies are weighted by the batch's histogram. Its cost does not depend on the batch size,
    and nothing but the batch is left random.

    Args:
        num_tokens, num_dims, num_classes: N, D, K.
        device: of the data and the network.
    """

    def __init__(self, num_tokens: int, num_dims: int, num_classes: int, device: torch.device | str = "cpu") -> None:
        n, d, k = self.num_tokens, self.num_dims, self.num_classes = num_tokens, num_dims, num_classes
        device = torch.device(device)
        self.dtype = torch.float32 if device.type == "mps" else torch.float64  # which that device does not have
        states = torch.arange((n + 1) ** d)
        tokens = points_at(states, n + 1, d)
        is_masked = tokens == n
        states, tokens, is_masked = (t[is_masked.any(dim=1)] for t in (states, tokens, is_masked))
        # (D, N): how far unmasking coordinate i to v goes
        moves = (torch.arange(n) - n) * strides(n + 1, d)[:, None]
        children = (states[:, None, None] + moves).masked_fill(~is_masked[..., None], 0)
        num_masked = is_masked.sum(dim=1)
        # count m has probability 1/D, a subset of it 1/C(D, m), and its cross entropy the weight D/m
        subsets = torch.tensor([comb(d, m) for m in range(d + 1)])
        weights = is_masked / (num_masked * subsets[num_masked])[:, None].double()
        self.states = states.to(device)
        self.children = children.to(device)
        self.weights = weights.to(self.dtype).to(device)[..., None]
        self.tokens = tokens.repeat(k + 1, 1).to(device)  # (L, D), of all pairs of a label and a partial state
        self.classes = torch.arange(k + 1).repeat_interleave(len(tokens)).to(device)
        self.num_evaluations = len(self.tokens)

    def histogram(self, x: Tensor, classes: Tensor) -> Tensor:
        """The batch's distribution over labels and points, float64 (K, N, ..., N), summing to 1."""
        n = self.num_tokens
        d = self.num_dims
        k = self.num_classes
        cells = classes * n**d + flat_index(x, n)
        counts = torch.zeros(k * n**d, dtype=self.dtype, device=x.device)
        counts.scatter_add_(0, cells, torch.ones_like(cells, dtype=self.dtype))
        return (counts / len(x)).reshape(k, *[n] * d)

    def __call__(self, net: Net, histogram: Tensor) -> tuple[Tensor, Tensor]:
        """The expected NELBO under `histogram`: (conditional, null) in nats; train on a weighted sum of the two.

        Args:
            net: (tokens, classes) -> log-probs (B, D, N).
            histogram: float64 (K, N, ..., N): of a batch, or a known distribution itself.
        """
        ((conditional, null),) = self.under(net, histogram, [histogram])
        return conditional, null

    def under(self, net: Net, histogram: Tensor, visited: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The expected cross entropy where partial states are those of other distributions than the targets are.

        It is smallest for the conditionals of `histogram`, whatever is visited; where that is the histogram itself it
        is the NELBO.

        Args:
            net: (tokens, classes) -> log-probs (B, D, N).
            histogram: float64 (K, N, ..., N), whose conditionals are the targets.
            visited: of the same shape, each 0 where the histogram is.

        Returns:
            (conditional, null) in nats, for each of `visited`.
        """
        with exactly(net, histogram.device) as ask:
            shares = labelled_marginals(histogram.to(self.dtype))
            weights = torch.stack([labelled_marginals(law.to(self.dtype))[:, self.states] for law in visited])
            given = shares[:, self.states]
            likely = given > 0
            targets = shares[:, self.children] / torch.where(likely, given, 1.0)[..., None, None] * self.weights
            targets = targets.flatten(0, 1)  # (L, D, N)
            weights = weights.flatten(1)
            tokens = self.tokens
            classes = self.classes
            if histogram.device.type == "cpu":  # a pair without probability has no weight
                rows = likely.flatten().nonzero().squeeze(1)
                targets, weights, tokens, classes = targets[rows], weights[:, rows], tokens[rows], classes[rows]
            cost = weights * cross_entropy_of(targets, ask(tokens, classes))
            is_null = classes == self.num_classes
            conditional = cost.masked_fill(is_null, 0.0).sum(dim=1)
            null = cost.masked_fill(~is_null, 0.0).sum(dim=1)
            return list(zip(conditional, null, strict=True))


def labelled_marginals(joint: Tensor) -> Tensor:
    """The probability of every partial state with every label, null last, (K + 1, (N+1)^D), from (K, N, ..., N)."""
    return all_marginals(torch.cat([joint, joint.sum(dim=0, keepdim=True)]))


def all_marginals(pmfs: Tensor) -> Tensor:
    """The probability of every partial state, (K, (N+1)^D) in C order, from pmfs (K, N, ..., N)."""
    for axis in range(1, pmfs.ndim):
        pmfs = torch.cat([pmfs, pmfs.sum(dim=axis, keepdim=True)], dim=axis)
    return pmfs.flatten(1)


@lru_cache(maxsize=4)
def averaged_objective(
    num_tokens: int, num_dims: int, num_classes: int, device: torch.device | str = "cpu"
) -> AveragedObjective:
    """An `AveragedObjective`, made once for each shape and device."""
    return AveragedObjective(num_tokens, num_dims, num_classes, device)
