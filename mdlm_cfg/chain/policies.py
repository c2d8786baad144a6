"""Unmasking policies: which coordinate comes next (theory, section 10).

Guidance decides what a masked coordinate becomes: v with probability r_i(v) = rho_i(v) / Z_i. A policy decides which
coordinate is unmasked, and sees Z_i, r_i and the coordinates' positions. It returns a score and a weight: the highest
score comes first; equal scores (under rate and uniform all are equal) are drawn in proportion to their weights. Several
at a time are drawn one by one, without replacement, with the state frozen.

A policy chooses first and draws afterwards, so at w = 0 it does not change the law of consistent conditionals. The
usual confidence decoders draw first and choose afterwards, which does: `mdlm_cfg.chain.decoders`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import constant_on, raise_where
from mdlm_cfg.chain.kinds import Kind, log_rate_of
from mdlm_cfg.chain.nucleus import noise_temperature
from mdlm_cfg.support.arguments import check_fields
from mdlm_cfg.support.by_value import ByValue, exact_number, value_key
from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.support.instantiate import is_ours
from mdlm_cfg.support.numeric import whole_number

NEG_INF = float("-inf")
Preference = tuple[Tensor | None, Tensor]  # scores, None where all are equal; and the logs of weights
TIE = 1e-11  # scores closer than this are equal: rounding must not decide an order (they are of order 1)

EXAMINED: WeakSet[Policy] = WeakSet()  # user-defined policies that passed the checks of `_check_preference`
MANY = 50  # copies of the states in one call, whose result is compared with that of each state alone
ROUNDING = 1e-6  # of a probability, for policies that compute in float32


class Policy(ByValue, ABC):
    """Which masked coordinate is unmasked next: a distribution pi(i | x_U). Equal by type and fields."""

    @abstractmethod
    def preference(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Preference:
        """The order of preference, and how ties are drawn.

        Args:
            log_z: log Z_i of m coordinates, (..., m).
            log_r: gives log r_i(v), (..., m, N), when called.
            coordinates: which coordinates these are, int64, broadcasts to (..., m).

        Returns:
            score: (..., m), higher first; None where no coordinate goes before another. log_weight: (..., m), the
            logarithms, up to a constant, of the probabilities of the draw among equals. (Probabilities p in their place
            would be read as the weights exp(p), which no check can detect.)
        """

    def check(self, num_dims: int) -> None:
        """Raise UserError if this policy does not fit D coordinates; most fit any D."""
        return

    def choice(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Preference:
        """`preference` with ranks for scores: (tier, log_weight), both (..., m); tier int64, 0 first, or None.

        Coordinates without a possible value (log Z = -inf; unmasked ones too) come last, with weight 0.
        """
        found = self.preference(log_z.clone(), log_r, coordinates)  # it may write over its copy
        nowhere = log_z == NEG_INF
        if log_z.numel() and not is_ours(type(self)):
            self._check_preference(found, log_z, log_r, coordinates)
        score, log_weight = found
        log_weight = log_weight.to(log_z.dtype).expand_as(log_z).masked_fill(nowhere, NEG_INF)
        if score is None:
            return None, log_weight
        return tiers(score.to(log_z.dtype).expand_as(log_z).masked_fill(nowhere, NEG_INF)), log_weight

    def _check_preference(self, found: Any, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> None:
        """Raise UserError if a user-defined policy returns invalid scores or weights, or others when called again."""
        is_pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Tensor)
        if not (is_pair and isinstance(found[0], Tensor | None)):
            raise UserError(f"{self}.preference must return two tensors, the scores (or None) and the logs of weights")
        for what, part in zip(("scores", "logs of weights"), found):
            if part is not None and not _broadcasts(part.shape, log_z.shape):
                raise UserError(
                    f"{self}.preference returns {what} of shape {tuple(part.shape)} for log Z of shape "
                    f"{tuple(log_z.shape)}: it must give one for every coordinate"
                )

        def explain(row: int, wrong: Tensor) -> str:
            return (
                f"{self}.preference gives coordinate {int(wrong.int().argmax()) + 1} of the masked ones a score that "
                "is NaN, or a log weight that is NaN or inf: scores and logs of weights must be numbers or -inf"
            )

        score, log_weight = found
        bad = log_weight.isnan() | log_weight.isposinf() | (False if score is None else score.isnan())
        bad = (bad & (log_z != NEG_INF)).reshape(-1, log_z.shape[-1])
        raise_where(bad, explain, bad)
        if self in EXAMINED:
            return
        before = value_key(self)
        again = self.preference(log_z.clone(), log_r, coordinates)
        if not all(map(_is_same, found, again)) or value_key(self) != before:
            raise UserError(
                f"{self}.preference returns different values when it is called again, or changes its fields: it must "
                "depend on its arguments alone, because laws sum over it; equal scores are drawn at random, by weight"
            )
        if not self._answers_each_state(log_z, log_r(), coordinates.expand_as(log_z)):
            raise UserError(
                f"{self}.preference must depend on one state at a time: it changes with the other states in the call, "
                "with the places of coordinates in the tensor, or with coordinates that have no possible value "
                "(log Z = -inf); `coordinates` has the numbers of the coordinates"
            )
        EXAMINED.add(self)

    def _answers_each_state(self, log_z: Tensor, log_r: Tensor, coordinates: Tensor) -> bool:
        """Whether pi(i | x_U) is the same for a state alone, with coordinates reordered, and without known ones.

        Laws pass the masked coordinates of many states, samplers all coordinates of a few.
        """

        def choice(*given: Tensor) -> Tensor:
            z, r, i = (one.clone() for one in given)
            score, log_weight = self.preference(z.clone(), lambda: r, i)
            nowhere = z == NEG_INF
            tier = None if score is None else tiers(score.double().expand_as(z).masked_fill(nowhere, NEG_INF))
            return log_first(tier, log_weight.double().expand_as(z).masked_fill(nowhere, NEG_INF)).exp()

        m, n = log_r.shape[-2:]
        shaped = log_z.reshape(-1, m), log_r.reshape(-1, m, n), coordinates.reshape(-1, m)
        states = [torch.cat([one[:2]] * MANY) for one in shaped]
        whole = choice(*states)
        rows = range(len(whole) // MANY)
        alone = torch.cat([choice(*(one[k : k + 1] for one in states)) for k in rows] * MANY)
        turned = choice(*(one.flip(1) for one in states)).flip(1)
        known = states[0].clone()
        known[:, -1] = NEG_INF
        padded = choice(known, *states[1:])[:, :-1]
        short = choice(*(one[:, :-1] for one in states)) if m > 1 else padded
        pairs = (whole, alone), (whole, turned), (padded, short)
        return all(torch.allclose(one, other, rtol=0, atol=ROUNDING) for one, other in pairs)

    def log_choice(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Tensor:
        """log pi(i | x_U), (..., m): -inf where i is not next, and everywhere where nothing can move."""
        return log_first(*self.choice(log_z, log_r, coordinates))


def _broadcasts(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a tensor of one shape can be expanded to another."""
    return len(shape) <= len(wanted) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(wanted)))


def _is_same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two outputs are the same, with NaN equal to NaN."""
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def tiers(score: Tensor) -> Tensor:
    """The rank of every score along the last axis, int64: 0 for the highest, equal for ties (within `TIE`)."""
    ordered, index = score.detach().sort(dim=-1, descending=True)
    falls = (ordered[..., :-1] - ordered[..., 1:]) > TIE  # -inf minus -inf is NaN: no fall
    places = torch.cat([torch.zeros_like(index[..., :1]), falls.cumsum(dim=-1)], dim=-1)
    return torch.empty_like(index).scatter_(-1, index, places)


def log_first(tier: Tensor | None, log_weight: Tensor) -> Tensor:
    """The log-probability that each coordinate is the first, from its tier and weight; over the last axis."""
    if tier is not None:
        log_weight = log_weight.masked_fill(tier > tier.amin(dim=-1, keepdim=True), NEG_INF)
    top = log_weight.amax(dim=-1, keepdim=True)
    relative = log_weight - top.masked_fill(top == NEG_INF, 0.0)  # a log Z of 1e8 would lose its last digits
    total = relative.logsumexp(dim=-1, keepdim=True)
    return relative - total.masked_fill(total == NEG_INF, 0.0)


@dataclass(frozen=True, eq=False)
class KindPolicy(Policy):
    """The default order of a kind of guidance: in proportion to the kind's total rates."""

    kind: Kind

    def preference(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Preference:
        """See `Policy.preference`."""
        return None, log_rate_of(self.kind, log_z)

    def __str__(self) -> str:
        return str(self.kind)


@dataclass(frozen=True, eq=False)
class RatePolicy(Policy):
    """pi = Z_i / Lambda: the order of `rate` guidance (arXiv 2506.10971)."""

    def preference(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Preference:
        """See `Policy.preference`."""
        return None, log_z

    def choice(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Preference:
        """See `Policy.choice`: coordinates without a possible value have weight 0 already, except in subclasses."""
        return (None, log_z) if type(self) is RatePolicy else super().choice(log_z, log_r, coordinates)

    def __str__(self) -> str:
        return "rate"


@dataclass(frozen=True, eq=False)
class Uniform(Policy):
    """pi = 1 / number of masked coordinates: the order of `normalized` guidance (arXiv 2507.08965)."""

    def preference(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Preference:
        """See `Policy.preference`."""
        return None, torch.zeros_like(log_z)

    def __str__(self) -> str:
        return "uniform"


@dataclass(frozen=True, eq=False)
class FixedOrder(Policy):
    """One coordinate after another, in an order given beforehand.

    Args:
        order: coordinates 0..D-1, the first to be unmasked first; None is from left to right.

    Raises:
        UserError: not a permutation of 0..D-1.
    """

    order: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "order")
        if self.order is not None:
            object.__setattr__(self, "order", _coordinates(self.order))
            _check_all_once("order", self.order, len(self.order))

    def check(self, num_dims: int) -> None:
        """See `Policy.check`."""
        if self.order is not None:
            _check_all_once("order", self.order, num_dims)

    def preference(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Preference:
        """See `Policy.preference`."""
        place = coordinates
        if self.order is not None:
            place = constant_on(tuple(self.order), coordinates.device, torch.int64).argsort()[coordinates]
        return -place.to(log_z.dtype), torch.zeros_like(log_z)

    def __str__(self) -> str:
        return "fixed_order" if self.order is None else f"fixed_order({','.join(map(str, self.order))})"


@dataclass(frozen=True, eq=False)
class Blocks(Policy):
    """One block after another, by another policy inside each block: semi-autoregressive, as in block diffusion.

    LLaDA decodes in blocks too, but chooses within a block by the values it has drawn: `Sampler("sampled_confidence",
    policy=Blocks(...))`.

    Args:
        blocks: sets of coordinates, the first to be unmasked first; together 0..D-1, each once.
        within: the policy inside a block, a name or an object; default uniform.

    Raises:
        UserError: a coordinate that is missing or comes twice.
    """

    blocks: Sequence[Sequence[int]]
    within: Policy = field(default_factory=Uniform)  # a name is replaced by its policy

    def __post_init__(self) -> None:
        check_fields(self, "blocks")
        object.__setattr__(self, "blocks", tuple(map(_coordinates, self.blocks)))
        object.__setattr__(self, "within", policy_of(self.within))
        self.check(sum(len(block) for block in self.blocks))

    def check(self, num_dims: int) -> None:
        """See `Policy.check`."""
        _check_all_once("blocks", [i for block in self.blocks for i in block], num_dims)
        self.within.check(num_dims)

    def preference(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Preference:
        """See `Policy.preference`."""
        block_of = {i: place for place, block in enumerate(self.blocks) for i in block}
        places = constant_on(tuple(block_of[i] for i in range(len(block_of))), coordinates.device, torch.int64)
        tier, log_weight = self.within.choice(log_z, log_r, coordinates)
        place = (places[coordinates] * log_z.shape[-1]).expand_as(log_z)
        return -(place if tier is None else place + tier).to(log_z.dtype), log_weight

    def __str__(self) -> str:
        return f"blocks({'|'.join(','.join(map(str, block)) for block in self.blocks)}; {self.within})"


@dataclass(frozen=True, eq=False)
class _Best(Policy):
    """The coordinate with the highest score of its guided values.

    Args:
        temperature: of Gumbel noise added to the scores (theory, section 10): the coordinate is then drawn in
            proportion to exp(score / temperature), which is the same in law. 0 is the best, with ties broken uniformly.
    """

    temperature: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", noise_temperature("a policy's temperature", self.temperature))

    @abstractmethod
    def score(self, log_r: Tensor) -> Tensor:
        """(..., m) from log r_i(v), (..., m, N)."""

    def preference(self, log_z: Tensor, log_r: Callable[[], Tensor], coordinates: Tensor) -> Preference:
        """See `Policy.preference`."""
        score = self.score(log_r())
        if self.temperature:
            return None, score / self.temperature
        return score, torch.zeros_like(log_z)

    def __str__(self) -> str:
        name = type(self).__name__.lower()
        return f"{name}(temperature={exact_number(self.temperature)})" if self.temperature else name


@dataclass(frozen=True, eq=False)
class Confidence(_Best):
    """The coordinate with the largest max_v r_i(v), scored by its logarithm; its value is drawn afterwards.

    MaskGIT (arXiv 2202.04200) and LLaDA (arXiv 2502.09992) do the opposite: they draw a value for every coordinate, and
    keep those whose drawn value was probable. That is `Sampler("sampled_confidence")`, and has another law.
    """

    def score(self, log_r: Tensor) -> Tensor:
        """ln max_v r_i(v)."""
        return log_r.amax(dim=-1)


@dataclass(frozen=True, eq=False)
class Margin(_Best):
    """The largest difference of the two largest r_i(v) (Kim et al., arXiv 2502.06768); then its value is drawn."""

    def score(self, log_r: Tensor) -> Tensor:
        """r_i's largest minus its second largest."""
        if log_r.shape[-1] == 1:
            return log_r[..., 0].exp()
        best = log_r.topk(2, dim=-1).values.exp()
        return best[..., 0] - best[..., 1]


@dataclass(frozen=True, eq=False)
class Entropy(_Best):
    """The smallest entropy of r_i first, one coordinate at a time; the sampler "entropy_bound" unmasks several."""

    def score(self, log_r: Tensor) -> Tensor:
        """sum_v r_i(v) ln r_i(v), in nats."""
        return (log_r.exp() * log_r.clamp(min=-1e300)).sum(dim=-1)  # 0 where r is, not NaN


POLICIES: dict[str, Callable[[], Policy]] = {
    "rate": RatePolicy,
    "uniform": Uniform,
    "fixed_order": FixedOrder,
    "confidence": Confidence,
    "margin": Margin,
    "entropy": Entropy,
}


def policy_of(policy: Policy | str) -> Policy:
    """A policy by its name, or itself; "fixed_order" is from left to right.

    Raises:
        UserError: an unknown name, or a different policy with the name of a built-in one.
    """
    if isinstance(policy, Policy):
        namesake = POLICIES.get(str(policy))
        if namesake is not None and not isinstance(policy, KindPolicy) and policy != namesake():
            raise UserError(f"{policy!r} has the name of the built-in policy {policy}: give it a name of its own")
        return policy
    return POLICIES[one_of("policy", policy, POLICIES)]()


def _coordinates(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(whole_number("a coordinate of a policy", i, 0) for i in order)


def _check_all_once(what: str, coordinates: Sequence[int], num_dims: int) -> None:
    if sorted(coordinates) != list(range(num_dims)):
        raise UserError(
            f"the {what} of a policy holds coordinates {list(coordinates)[:20]}, and must hold each of "
            f"0..{num_dims - 1} once"
        )
