"""Partial states: masking data, and numbers of masks (theory, sections 1 and 9)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding

from mdlm_cfg.chain.checks import Promise
from mdlm_cfg.chain.reductions import SHORT

NEG_INF = float("-inf")
copies_unmasked = Promise()  # of networks' methods: rows of unmasked coordinates are those of `copy_unmasked`
MOST_ROWS = 64  # N up to which copying rows of a table of N^2 numbers is faster than making them


def all_masked(num: int, num_dims: int, mask_id: int, device: torch.device | None = None) -> Tensor:
    """The state every reverse chain starts from: int64 (num, D), every coordinate the mask."""
    return torch.full((num, num_dims), mask_id, dtype=torch.int64, device=device)


def device_of_generator(generator: torch.Generator | None) -> torch.device:
    """The device of a generator; the CPU for None."""
    return torch.device("cpu") if generator is None else generator.device


def stratified_counts(num: int, num_dims: int, generator: torch.Generator | None = None) -> Tensor:
    """Numbers of masked coordinates, uniform on 1..D and stratified over the batch (low discrepancy).

    Sample b of the batch draws from the b-th of `num` equal strata of (0, 1); a random permutation hides the
    order. Every count is marginally uniform, and the batch average has less variance than independent draws.

    Returns:
        int64 (num,), values 1..D, on the generator's device.
    """
    device = device_of_generator(generator)
    strata = torch.randperm(num, generator=generator, device=device).double()
    uniform = torch.rand(num, generator=generator, dtype=torch.float64, device=device)
    return 1 + ((strata + uniform) / num * num_dims).long().clamp_(max=num_dims - 1)


def mask_uniform(x: Tensor, counts: Tensor, mask_id: int, generator: torch.Generator | None = None) -> Tensor:
    """Mask a uniformly drawn subset of `counts[b]` coordinates of sample b.

    Args:
        x: clean data, int64 (B, D).
        counts: int64 (B,), values 0..D.
        mask_id: N.

    Returns:
        partial states, int64 (B, D); `x` itself is unchanged.
    """
    device = x.device if generator is None else generator.device
    order = torch.rand(x.shape, generator=generator, dtype=torch.float32, device=device).argsort(dim=1)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(x.shape[1], device=device).expand_as(order))
    return torch.where(ranks.to(x.device) < counts.to(x.device)[:, None], mask_id, x)


def copy_unmasked(log_probs: Tensor, tokens: Tensor, in_place: bool = False) -> Tensor:
    """Log-probabilities with the rows of unmasked coordinates copied: 0 at the token, -inf elsewhere.

    Args:
        log_probs: (..., D, N).
        tokens: int64 (..., D), which broadcasts, values 0..N with N the mask.
        in_place: whether the log-probabilities may be written over.
    """
    n = log_probs.shape[-1]
    if log_probs.stride(-1) != 1 and n <= SHORT:  # in planes: see `in_planes`
        found = log_probs if in_place else log_probs.clone()
        found.masked_fill_((tokens != n)[..., None], NEG_INF)
        own = tokens == torch.arange(n, device=tokens.device).view(-1, *[1] * tokens.ndim)
        return found.masked_fill_(own.movedim(0, -1), 0.0)
    if n <= MOST_ROWS:
        copied = embedding(tokens, torch.eye(n + 1, n, dtype=log_probs.dtype, device=tokens.device).log())
    else:
        copied = log_probs.new_full((*tokens.shape, n), NEG_INF).scatter_(-1, tokens.clamp(max=n - 1)[..., None], 0.0)
    # expanded beforehand: `where` takes several times as long if it broadcasts over a short last axis
    is_masked = (tokens == n)[..., None].expand_as(copied).contiguous()
    return torch.where(is_masked, log_probs, copied)
