"""Mixtures given by a table of class pmfs, and their exact denoiser (theory, section 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.blocks import BlockedLattice, blocks_of
from mdlm_cfg.chain.denoiser import by_label, check_class, check_query
from mdlm_cfg.chain.lattice import flat_index, lattice_of, points_at, strides
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.support.arguments import Reals, checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.targets.checks import checked_names, hash_of, normalised

KEPT_STATES = 10**6  # partial states up to which a denoiser keeps its marginals
MOST_LISTED = 10**5  # states up to which samples are looked up in a list of them
MOST_SQUARED = 64  # the largest power that is taken by squaring
MAX_LOG_RANGE = 600.0  # of weights T as numbers: products and quotients of two then neither overflow nor underflow


class TableMixture:
    """p(x) = sum_k a_k p(x | k) on {0..N-1}^D, given by its class pmfs.

    Args:
        class_pmfs: (K, N, ..., N), non-negative, each class summing to 1; kept as float64 and normalised exactly.
        class_weights: (K,), non-negative, summing to 1.
        class_names: K names for reports; value_names: N names, the same on every axis.

    Raises:
        UserError: wrong shapes, negative or non-finite entries, sums that are not 1, or names too few or many.
    """

    @checked
    def __init__(
        self,
        class_pmfs: Reals,
        class_weights: Reals,
        *,
        class_names: Sequence[str] | None = None,
        value_names: Sequence[str] | None = None,
    ) -> None:
        shape = class_pmfs.shape
        if len(shape) < 2 or len(set(shape[1:])) != 1 or 0 in shape:
            raise UserError(f"class_pmfs must have shape (K, N, ..., N), got {tuple(shape)}")
        pmfs = class_pmfs.flatten(1)
        self.class_pmfs = normalised("class_pmfs", pmfs, pmfs.shape).reshape(shape)
        self.class_weights = normalised("class_weights", class_weights, shape[:1])
        self.num_classes = shape[0]
        self.num_tokens = shape[1]
        self.num_dims = len(shape) - 1
        self.class_names = checked_names("class_names", class_names, self.num_classes)
        self.value_names = checked_names("value_names", value_names, self.num_tokens)
        self._drawn: dict[tuple[int | None, torch.device], Any] = {}  # see `_drawn_from`

    @property
    def pmf(self) -> Tensor:
        """The whole mixture p, float64 (N,)*D."""
        return torch.tensordot(self.class_weights, self.class_pmfs, dims=1)

    @checked
    def class_pmf(self, target_class: int | None) -> Tensor:
        """p(x | z), float64 (N,)*D; None is the whole mixture.

        Raises:
            UserError: a class that does not exist.
        """
        if target_class is None:
            return self.pmf
        check_class(target_class, self.num_classes)
        return self.class_pmfs[target_class]

    @checked
    def sample(
        self,
        num: int,
        generator: torch.Generator | None = None,
        target_class: int | None = None,
        stratified: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Draws (x, class): int64 (num, D) and int64 (num,); of one class if `target_class` is given.

        They are independent, or `stratified`: each is distributed as before, and their order is random, but every state
        comes as often as its probability says, up to rounding. They are made on the generator's device.
        """
        num = whole_number("num", num, 0)
        device = torch.device("cpu") if generator is None else generator.device
        ends, total, states = self._drawn_from(target_class, device)
        uniform = torch.rand(num, generator=generator, dtype=torch.float64, device=device)
        if stratified:  # one in each stratum: in ascending order cells are counted, not looked up one by one
            strata = torch.randperm(num, generator=generator, device=device)
            ascending = torch.arange(num, dtype=torch.float64, device=device).scatter_add_(0, strata, uniform)
            counts = torch.searchsorted(ascending.mul_(total / max(num, 1)), ends).diff()
            cells = torch.repeat_interleave(counts, output_size=num).index_select(0, strata)
        else:
            # right=True: the first cell whose end exceeds the draw, so cells of probability 0 are never drawn
            cells = torch.searchsorted(ends[1:], uniform * total, right=True)
        if states is None:
            return self._split(cells, target_class)
        drawn = states.gather(1, cells.expand(self.num_dims + 1, num))
        return drawn[:-1].T, drawn[-1]

    def _split(self, cells: Tensor, target_class: int | None) -> tuple[Tensor, Tensor]:
        """The point, int64 (n, D), and the class, int64 (n,), of a class's states, or of (class, state), by number."""
        per_class = self.num_tokens**self.num_dims
        classes = cells // per_class if target_class is None else torch.full_like(cells, target_class)
        return points_at(cells, self.num_tokens, self.num_dims), classes

    def _drawn_from(self, target_class: int | None, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """The tables that samples of a class, or of the whole mixture, are drawn from, on a device.

        They are made once and copied there once, since a copy in every batch would wait for it.

        Returns:
            ends: of the cells of the cdf of the S states, or of all (class, state): 0, and the cdf with infinity in
            place of its last number, (S + 1,). total: that number, (). states: `_split` of them all, the points
            coordinate by coordinate as samples are used, and the classes, int64 (D + 1, S); None if there are more than
            `MOST_LISTED`.
        """
        if (target_class, device) not in self._drawn:
            if target_class is None:
                joint = (self.class_weights[:, None] * self.class_pmfs.flatten(1)).flatten()
            else:
                joint = self.class_pmf(target_class).flatten()
            cdf = joint.cumsum(0)
            ends = torch.cat([cdf.new_zeros(1), cdf[:-1], cdf.new_full((1,), math.inf)])
            states = None
            if len(joint) <= MOST_LISTED:
                points, classes = self._split(torch.arange(len(joint)), target_class)
                states = torch.cat([points.T, classes[None]]).to(device)
            self._drawn[target_class, device] = (ends.to(device), cdf[-1].to(device), states)
        return self._drawn[target_class, device]

    @checked
    def entropy(self, target_class: int | None = None) -> float:
        """Entropy in nats of p(. | z), or of the whole mixture: the best NELBO any denoiser can have."""
        return entropy_of(self.class_pmf(target_class))

    def class_posterior(self, target_class: int) -> Tensor:
        """p(z | x) of every state x, float64 (N,)*D; 0 where the mixture has no such state."""
        joint = self.class_weights[target_class] * self.class_pmf(target_class)
        return torch.where(self.pmf > 0, joint / self.pmf, 0.0)

    def conditional_entropy(self) -> float:
        """H(x | class) in nats: the best class-conditional NELBO on samples of the whole mixture."""
        return sum(a * self.entropy(k) for k, a in enumerate(self.class_weights.tolist()))

    def fingerprint(self) -> str:
        """A short hash of the numbers themselves: tells whether two tables are the same distribution."""
        return hash_of(tuple(self.class_pmfs.shape), self.class_pmfs, self.class_weights)

    def denoiser(self) -> TableDenoiser:
        """The exact posterior of this mixture."""
        return TableDenoiser(self)


def entropy_of(law: Tensor) -> float:
    """The entropy of a distribution of any shape, in nats."""
    return -float(torch.special.xlogy(law, law).sum())


@dataclass(frozen=True)
class Marginals:
    """The marginals of a class, and of the mixture beside them, at every partial state.

    Attributes:
        blocks: the layout of the states. cond: p(x_U | z), (rows, columns).
        uncond: p(x_U), the same shape; None for the whole mixture, which is not guided.
        has_zeros: whether some state has probability 0 under the class.
        span: the least and the largest of log p(x_U | z), and of log p(x_U | z) - log p(x_U), where the class has
            probability.
    """

    blocks: BlockedLattice
    cond: Tensor
    uncond: Tensor | None
    has_zeros: bool
    span: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def of(cls, target: TableMixture, target_class: int | None) -> Marginals:
        """Those of a table.

        A marginal is a sum over finished states: where the class has all of them, the ratios of marginals lie within
        the range of their ratios.
        """
        blocks = blocks_of(target.num_tokens, target.num_dims, target.class_pmfs.device)
        pmf = target.class_pmf(target_class)
        low = float(pmf.min())
        has_zeros = low == 0
        if has_zeros:
            low = float(pmf[pmf > 0].min())
        cond = blocks.marginals(pmf)
        span = math.log(low), 0.0
        if target_class is None:
            return cls(blocks, cond, None, has_zeros, (span, (0.0, 0.0)))
        mixture = target.pmf
        uncond = blocks.marginals(mixture)
        where = blocks.pieces(cond, uncond) if has_zeros else [(pmf, mixture)]
        ends = [torch.stack(torch.aminmax(_ratio(own, other, has_zeros))) for own, other in where]
        least, largest = torch.aminmax(torch.stack(ends).log())
        return cls(blocks, cond, uncond, has_zeros, (span, (float(least), float(largest))))

    def weights(self, w: float, in_place: bool = False) -> Tensor | None:
        """T = p^(-w) p_z^(1+w) of every partial state; None where it may span more than float64 does.

        Args:
            in_place: whether T takes the place of these marginals, which are then lost: with many states,
                allocating memory takes as long as the computation.
        """
        (low, high) = self.span[0]
        ends = [w * end for end in self.span[1] if w]
        low = low + min(ends, default=0.0)
        high = high + max(ends, default=0.0)
        if not -MAX_LOG_RANGE < low <= high < MAX_LOG_RANGE or high - low > MAX_LOG_RANGE:
            return None
        if self.uncond is None or w == 0:
            return self.cond if in_place else self.cond.clone()
        weights = self.uncond if in_place else torch.empty_like(self.uncond)
        for cond, uncond, own in self.blocks.pieces(self.cond, self.uncond, weights):
            _raise(_ratio(cond, uncond, self.has_zeros, own), w).mul_(cond)
        return weights


def _ratio(cond: Tensor, uncond: Tensor, has_zeros: bool, out: Tensor | None = None) -> Tensor:
    """p(x_U | z) / p(x_U); 1 where the class has no probability."""
    ratio = torch.div(cond, uncond, out=out)
    return ratio.masked_fill_(cond == 0, 1.0) if has_zeros else ratio


def _raise(values: Tensor, power: float) -> Tensor:
    """values^power in place, for positive numbers whose power fits in float64.

    Whole powers by squaring: a logarithm and an exponential take twenty times as long as a product. Powers of 2 take a
    third of the time of powers of e.
    """
    if not (power >= 1 and power.is_integer() and power <= MOST_SQUARED):
        return values.log2_().mul_(power).exp2_()
    digits = f"{int(power):b}"[1:]
    factor = values.clone() if "1" in digits else values
    for digit in digits:
        values.mul_(values)
        if digit == "1":
            values.mul_(factor)
    return values


class TableDenoiser:
    """log p(x_i = v | x_U, z) read off the marginals of a table.

    For a partial state of probability 0 under the class it gives the conditionals of the whole mixture, and uniform
    ones where that is 0 too (docs/design.md, "The denoiser's contract").
    """

    def __init__(self, target: TableMixture) -> None:
        self.target = target
        self.device = target.class_pmfs.device
        self.num_tokens = target.num_tokens
        self.num_dims = target.num_dims
        self.num_classes = target.num_classes
        self.lattice = lattice_of(target.num_tokens, target.num_dims, self.device)
        self._dense: dict[int, Tensor] = {}
        self._log_marginals: dict[int | None, list[Tensor]] = {}
        self._in_blocks: dict[int | None, Marginals] = {}

    def log_marginals(self, target_class: int | None) -> list[Tensor]:
        """log p(x_U | z) of every partial state, by level; None is the whole mixture. Do not modify it."""
        if target_class in self._log_marginals:
            return self._log_marginals[target_class]
        levels = [level.log() for level in self.lattice.marginals(self.target.class_pmf(target_class))]
        if self.keeps_marginals:
            self._log_marginals[target_class] = levels
        return levels

    def marginals_in_blocks(self, target_class: int | None) -> Marginals:
        """p(x_U | z) of every partial state, and p(x_U). Not to be modified where they are kept."""
        if target_class not in self._in_blocks:
            found = Marginals.of(self.target, target_class)
            if not self.keeps_marginals:
                return found
            self._in_blocks[target_class] = found
        return self._in_blocks[target_class]

    @property
    def keeps_marginals(self) -> bool:
        """Whether marginals are kept; those of more states are computed at every call, and belong to the caller."""
        return self.lattice.num_states <= KEPT_STATES

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `mdlm_cfg.chain.denoiser.Denoiser`."""
        check_query(self, tokens, classes)
        if classes is None:
            log_probs = self._of_label(tokens, self.num_classes)
        else:
            log_probs = by_label(tokens, classes, self.num_classes + 1, self._of_label)
        return copy_unmasked(log_probs, tokens)

    def _of_label(self, tokens: Tensor, k: int) -> Tensor:
        """Class k's conditionals; where it has none the whole mixture's, and where that has none the uniform ones."""
        own = self._lookup(tokens, k)
        if k == self.num_classes:
            return torch.where(own.isnan(), -math.log(self.num_tokens), own)
        return torch.where(own.isnan(), self._of_label(tokens, self.num_classes), own)

    def _lookup(self, tokens: Tensor, k: int) -> Tensor:
        """log p(x_U, x_i = v | k) - log p(x_U | k), (B, D, N); NaN where p(x_U | k) = 0; arbitrary for unmasked i."""
        if k not in self._dense:
            pmf = self.target.class_pmf(None if k == self.num_classes else k)
            self._dense[k] = self.lattice.to_dense(self.lattice.marginals(pmf)).log().flatten()
        table = self._dense[k]
        n = self.num_tokens
        state = flat_index(tokens, n + 1)
        far = torch.arange(n, device=self.device) - tokens[..., None]
        moves = far * strides(n + 1, self.num_dims, self.device)[:, None]
        return table[state[:, None, None] + moves] - table[state][:, None, None]
