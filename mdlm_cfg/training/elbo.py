"""Monte Carlo estimates of the continuous-time negative ELBO in nats (theory, section 9).

In its schedule-free form: draw the number of masked coordinates m uniformly from 1..D, mask a uniform subset of that
size, and weight the summed cross entropy of the masked coordinates by D / m.

`pooled` takes its targets from a whole batch, `averaged` is its expectation.

Everything here runs on the device of the data, and never synchronises with it (on a CPU, where that costs nothing,
work without effect is skipped). The network runs in its own precision; the rest is exact even under autocast
(`exactly`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from mdlm_cfg.chain.masking import mask_uniform, stratified_counts
from mdlm_cfg.nets.wrapper import of_labels

Net = Callable[..., Tensor]  # (tokens, classes) -> log-probs


@contextmanager
def exactly(net: Net, device: torch.device) -> Iterator[Net]:
    """Disable autocast inside, except for the network, which keeps the outer setting and gets copies of its arguments.

    Under autocast every matrix product is rounded to half precision: in the network this is intended, but
    in targets and weights it would be a bias larger than the error that the network should reach.
    """
    enabled = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type)

    def ask(tokens: Tensor, classes: Tensor | None) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=enabled):
            log_probs = net(tokens.clone(), None if classes is None else classes.clone())
        return log_probs if log_probs.dtype == torch.float64 else log_probs.float()

    with torch.autocast(device.type, enabled=False):
        yield ask


def smoothed(log_probs: Tensor, tokens: Tensor, share: float) -> Tensor:
    """Log-probabilities whose cross entropy is that of targets mixed with a share of the uniform distribution.

    The cross entropy is linear in log p, so targets (1 - s) q + s / N are the same as (1 - s) log p + s mean log p.
    Without smoothing, nothing fixes how small a probability outside the support is, and guidance, which raises the
    ratio of two such numbers to the power w, amplifies whatever the two conditionals happen to have there.

    Args:
        log_probs: (..., D, N).
        tokens: int64 (..., D); rows of unmasked coordinates are left alone.
        share: s, the label smoothing.
    """
    if share == 0:
        return log_probs
    mixed = (1 - share) * log_probs + share * log_probs.mean(dim=-1, keepdim=True)
    return torch.where((tokens == log_probs.shape[-1])[..., None], mixed, log_probs)


def smoothed_targets(conditional: Tensor, null: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The null class mixed with a share of the uniform distribution, and the class with a share of that mixture.

    p' = (1 - s) p + s / N and p_z' = (1 - s) p_z + s p'. Where the data have probability 0, the ratio p_z' / p'
    that guidance amplifies is s, so guidance avoids these values. If both are mixed with the uniform distribution
    (`smoothed`), the ratio is 1 there, and the network has to learn it from two numbers as small as s / N.

    Args:
        conditional: p(x_i = v | x_U, z), (B, D, N). null: p(x_i = v | x_U), likewise.
        share: s, the label smoothing.
    """
    null = (1 - share) * null + share / null.shape[-1]
    return (1 - share) * conditional + share * null, null


def drop_labels(classes: Tensor, null_class: int, probability: float, generator: torch.Generator | None) -> Tensor:
    """The classes, each replaced by the null class with `probability`: int64 (B,), a new tensor."""
    uniform = torch.rand(classes.shape, generator=generator, dtype=torch.float32, device=classes.device)
    return classes.masked_fill(uniform < probability, null_class)


def nelbo(
    net: Net,
    x: Tensor,
    classes: Tensor,
    mask_id: int,
    generator: torch.Generator | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """One unbiased draw of the negative ELBO of every sample, in nats (theory, section 9).

    Args:
        net: (tokens, classes) -> log-probs (B, D, N); rows of unmasked coordinates are ignored.
        x: clean data, int64 (B, D).
        classes: int64 (B,), the null class included.
        mask_id: N.
        generator: of the masks, on the device of `x`.
        smoothing: share of the uniform distribution in the targets (`smoothed`).

    Returns:
        (B,), in nats per sample; its expectation bounds -log p(x | class) from above.
    """
    tokens, counts = masked(x, mask_id, generator)
    with exactly(net, x.device) as ask:
        return weighted_cross_entropy(smoothed(ask(tokens, classes), tokens, smoothing), x, tokens, counts)


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
    net: Net,
    x: Tensor,
    classes: Tensor,
    mask_id: int,
    null_class: int,
    generator: torch.Generator | None = None,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`nelbo` with the class and without it, on the same masks: conditional and null, (B,) each, in nats.

    A network with label heads is evaluated once for both.
    """
    tokens, counts = masked(x, mask_id, generator)
    with exactly(partial(of_labels, net), x.device) as ask:
        both = ask(tokens, torch.stack([classes, torch.full_like(classes, null_class)], dim=1))
        parts = smoothed(both, tokens[:, None], smoothing).unbind(1)
        conditional, null = (weighted_cross_entropy(log_probs, x, tokens, counts) for log_probs in parts)
    return conditional, null


def stratified_draws(weights: Tensor, num: int, generator: torch.Generator | None = None) -> Tensor:
    """Indices of cells, int64 (num,), in ascending order: each in proportion to its weight (C,), up to rounding."""
    uniform = torch.rand(num, generator=generator, dtype=weights.dtype, device=weights.device)
    ends = weights.cumsum(0)
    places = (torch.arange(num, device=weights.device) + uniform) / num * ends[-1]
    return torch.searchsorted(ends, places, right=True).clamp_(max=len(ends) - 1)  # never a cell of weight 0


def cross_entropy_of(targets: Tensor, log_probs: Tensor) -> Tensor:
    """-sum q log p over the last two axes, (...) from (..., D, N) each: 0 where q is 0, even if log p is -inf."""
    live = targets > 0
    return -torch.where(live, targets * torch.where(live, log_probs, 0.0), 0.0).sum(dim=(-2, -1))


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device without float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def one_hot_of(tokens: Tensor, num_tokens: int) -> Tensor:
    """float32 (..., N) from (...); 0 everywhere for a mask."""
    return (tokens[..., None] == torch.arange(num_tokens, device=tokens.device)).float()
