"""Conditionals of masked coordinates, by level: the rows that fits of strengths sum over (theory, section 21)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import raise_where
from mdlm_cfg.chain.denoiser import Denoiser, conditionals, conditionals_under, name_class, name_state, rounding_of
from mdlm_cfg.chain.reductions import unrolled_logsumexp, unrolled_sum
from mdlm_cfg.chain.rules import refuse_infinite
from mdlm_cfg.compare.levels import MAX_ROWS, MaskedSamples, level_sums, level_totals
from mdlm_cfg.compare.path_kl import ideal_denoiser
from mdlm_cfg.laws.terminal import tilted_law
from mdlm_cfg.targets.table import TableMixture

NEG_INF = float("-inf")
EQUAL = 1e-9  # log-ratios of a row that differ by less are equal: they say nothing about a strength
ROUNDINGS = 8.0  # roundings by which equal log-probabilities of class and mixture may differ


@dataclass(frozen=True)
class LevelRows:
    """Both conditionals of masked coordinates, one row each, by number of unmasked coordinates.

    Attributes:
        log_cond: log p(v | x_S, z), float64 (R, N).
        log_ratio: log p(v | x_S, z) - log p(v | x_S) less that of the most frequent value of the data, 0 where
            impossible: what the other values add to a slope then keeps its digits, however improbable they are. Also 0
            where class and mixture differ only by the denoiser's rounding, which would otherwise decide a strength.
        own_log_cond, own_ratio: the expectations of both for the values of the data, (R,).
        weight: (R,), summing to 1 in each level. level: int64 (R,). state: the partial state of each row, int64 (R,).
    """

    log_cond: Tensor
    log_ratio: Tensor
    own_log_cond: Tensor
    own_ratio: Tensor
    weight: Tensor
    level: Tensor
    state: Tensor

    @classmethod
    def join(cls, parts: list[LevelRows], num_dims: int, rounding: float) -> LevelRows:
        """All parts as one, with weights that sum to 1 in each level; rounding is the denoiser's, of `rounding_of`."""
        names = ("log_cond", "log_ratio", "own_log_cond", "own_ratio", "weight", "level", "state")
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        totals = level_totals(joined["weight"], joined["level"], num_dims)
        joined["weight"] = joined["weight"] / totals[joined["level"]]
        equal = _are_equal(joined["log_cond"], joined["log_ratio"], rounding)
        joined["log_ratio"] = joined["log_ratio"].masked_fill(equal[:, None], 0.0)
        joined["own_ratio"] = joined["own_ratio"].masked_fill(equal, 0.0)
        return cls(**joined)

    def each_cross_entropy(self, strengths: Tensor) -> Tensor:
        """-ln r_i(x_i | x_S; s) of every row at the strength of its level, (R,) in nats."""
        s = strengths[self.level]
        own = self.own_log_cond + torch.where(s == 0, 0.0, s * self.own_ratio)
        return unrolled_logsumexp(self._log_values(strengths), dim=1) - own

    def cross_entropies(self, strengths: Tensor) -> Tensor:
        """E[-ln r_i(x_i | x_S; s)] of every level at its strength, (D,) in nats."""
        return level_sums(self.weight * self.each_cross_entropy(strengths), self.level, len(strengths))

    def slopes(self, strengths: Tensor) -> tuple[Tensor, Tensor]:
        """The first derivative of -ln r_i(x_i | x_S; s) in s, and its second, of every row: (R,) each.

        They are the expectation of the log-ratio under r_i less that of the data, and its variance under r_i.
        """
        log_values = self._log_values(strengths)
        r = (log_values - unrolled_logsumexp(log_values, dim=1)[:, None]).exp_()
        mean = unrolled_sum(r * self.log_ratio, dim=1)
        variance = unrolled_sum(r * (self.log_ratio - mean[:, None]).square_(), dim=1)
        return mean - self.own_ratio, variance

    def informative(self, num_dims: int) -> Tensor:
        """Which levels have a row whose values differ in their log-ratio, bool (D,)."""
        differs = (self.log_ratio != 0).any(dim=1) & (self.weight > 0)
        return level_sums(differs.double(), self.level, num_dims) > 0

    def _log_values(self, strengths: Tensor) -> Tensor:
        return self.log_cond + strengths[self.level][:, None] * self.log_ratio


def _are_equal(log_cond: Tensor, log_ratio: Tensor, rounding: float) -> Tensor:
    """Rows whose class and mixture are equal but for rounding, bool (R,), from `LevelRows.log_cond` and `log_ratio`."""
    impossible = log_cond == NEG_INF
    high = log_ratio.masked_fill(impossible, NEG_INF).amax(dim=1)
    low = log_ratio.masked_fill(impossible, -NEG_INF).amin(dim=1)
    size = 1 + log_cond.masked_fill(impossible, 0.0).abs().amax(dim=1)
    return high - low <= (ROUNDINGS * rounding * size).clamp(min=EQUAL)


def exact_rows(
    target: TableMixture, w: float, target_class: int | None, denoiser: Denoiser | None = None, guided: bool = True
) -> LevelRows:
    """The rows of all partial states of a table that the tilted law reaches, weighted by it.

    Args:
        denoiser: whose conditionals they hold; None is the exact one.
        guided: False leaves the mixture's conditionals out, and log-ratios are 0: strengths then have no effect.

    Raises:
        UserError: a class that does not exist, a class that has probability where the mixture has none, or a w that is
            not allowed.
    """
    exact = target.denoiser()
    own = exact if denoiser is None else denoiser
    d = target.num_dims
    lattice = exact.lattice
    parts = []
    before = 0
    ideal = exact if target_class is None else ideal_denoiser(target, w, target_class)
    for level, marginal in enumerate(lattice.marginals(tilted_law(target, w, target_class))[:-1]):
        probability = marginal.flatten()
        tokens = lattice.tokens(level)[probability > 0]
        probability = probability[probability > 0]
        for chunk, weight in zip(tokens.split(MAX_ROWS), probability.split(MAX_ROWS)):
            state, i = (chunk == lattice.num_tokens).nonzero(as_tuple=True)
            log_cond, log_ratio = _both(own, chunk, target_class, state, i, guided)
            p = conditionals(ideal, chunk, None)[state, i].exp()
            log_ratio = _relative_to(p.argmax(dim=1, keepdim=True), log_cond, log_ratio)
            own_log_cond = torch.where(p > 0, p * log_cond, 0.0).sum(dim=1)
            levels = torch.full_like(state, level)
            means = own_log_cond, (p * log_ratio).sum(dim=1)
            parts.append(LevelRows(log_cond, log_ratio, *means, weight[state], levels, state + before))
            before += len(chunk)
    return LevelRows.join(parts, d, rounding_of(own))


def by_state(rows: LevelRows, each: Tensor, samples: MaskedSamples) -> tuple[Tensor, Tensor]:
    """The mean of a number of each row over the masked coordinates of every partial state, and its level: (S,) each."""
    masked = samples.denoiser.num_dims - rows.level
    means = each.new_zeros(samples.num_states).index_add_(0, rows.state, each / masked)
    return means, rows.level.new_zeros(samples.num_states).index_copy_(0, rows.state, rows.level)


def sampled_rows(samples: MaskedSamples, target_class: int) -> LevelRows:
    """The rows of partial states that are made of samples; see `calibrate`."""
    denoiser = samples.denoiser
    weights = samples.weights
    d = denoiser.num_dims
    mask_id = denoiser.num_tokens

    def explain(row: int, state: Tensor) -> str:
        return (
            f"the denoiser under {name_class(target_class)} gives probability 0 to a sample, given its part "
            f"{name_state(state.tolist(), mask_id)}: give samples that it can produce"
        )

    parts = []
    for batch in samples.batches():
        row, i = (batch.tokens == mask_id).nonzero(as_tuple=True)
        log_cond, log_ratio = _both(denoiser, batch.tokens, target_class, row, i)
        value = batch.clean[row, i][:, None]
        log_ratio = _relative_to(value, log_cond, log_ratio)
        own_log_cond, own_ratio = (part.gather(1, value).squeeze(1) for part in (log_cond, log_ratio))
        weight = (weights[batch.sample] / (d - batch.level))[row]
        impossible = ((own_log_cond == NEG_INF) & (weight > 0)).double()
        raise_where(weight.new_zeros(len(batch.tokens)).index_add_(0, row, impossible) > 0, explain, batch.tokens)
        own_log_cond = own_log_cond.masked_fill(weight == 0, 0.0)
        parts.append(
            LevelRows(log_cond, log_ratio, own_log_cond, own_ratio, weight, batch.level[row], batch.state[row])
        )
    return LevelRows.join(parts, d, rounding_of(denoiser))


def _both(
    denoiser: Denoiser, tokens: Tensor, target_class: int | None, state: Tensor, i: Tensor, guided: bool = True
) -> tuple[Tensor, Tensor]:
    """log p(v | x_S, z) and its log-ratio to the mixture's, (R, N) each, of coordinates i of some of the states."""
    labels = dict.fromkeys((target_class, None if guided else target_class))
    answers = conditionals_under(denoiser, tokens, tuple(labels))
    log_cond = answers[0]
    log_uncond = answers[-1]
    log_ratio = torch.where(log_cond > NEG_INF, log_cond - log_uncond, 0.0)
    # infinite where the class has probability and the mixture has none
    infinite = log_ratio.masked_fill((tokens != denoiser.num_tokens)[..., None], 0.0)
    refuse_infinite(infinite.flatten(1), tokens, denoiser.num_tokens, target_class, "calibrated")
    return log_cond[state, i], log_ratio[state, i]


def _relative_to(value: Tensor, log_cond: Tensor, log_ratio: Tensor) -> Tensor:
    """Log-ratios less that of one value of each row, (R, 1); 0 where impossible."""
    return torch.where(log_cond > NEG_INF, log_ratio - log_ratio.gather(1, value), 0.0)
