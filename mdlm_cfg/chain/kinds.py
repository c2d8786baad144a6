"""Kinds of guidance: how guidance affects when coordinates are unmasked (theory, section 3).

A kind says at which total rate each masked coordinate jumps, given Z_i = sum_v rho_i(v); everything that depends on it
is a method of it, so that a new kind cannot fall through to another's numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mdlm_cfg.support.by_value import ByValue, value_key
from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.support.instantiate import calling, is_ours

NEG_INF = float("-inf")
PROBES = ((-3.0, 0.2, 1.5), (0.0, 0.7, -0.4))  # log Z of coordinates of two states, at which a kind is looked at
ROUNDING = 1e-9
FOLLOWS_FROM_RATE = ("deciding_ratio", "decay_statement")  # methods that hold for one log_rate alone


class Kind(ByValue, ABC):
    """A kind of guidance. Two kinds are equal if their types and fields are equal; the name is only a label.

    A subclass that gives no name is called by its class's. One that changes the rate of a kind gives everything else
    that follows from the rate anew, and says again whether its rate is rho.

    Attributes:
        name: for people.
        guides_time: whether w changes when a coordinate is unmasked, and not only what it becomes.
        is_rho: whether the rate of a jump is rho_i(v) itself: the total rate is then Z_i, for every Z_i.
    """

    name: str
    guides_time: bool
    is_rho: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls)
        if "name" not in own:
            cls.name = cls.__name__.lower()
        if "log_rate" not in own:
            return
        missing = [part for part in FOLLOWS_FROM_RATE if part not in own]
        if missing:
            raise TypeError(f"{cls.__name__} has its own log_rate and must define {' and '.join(missing)} with it")
        if "is_rho" not in own:
            cls.is_rho = False

    @abstractmethod
    def log_rate(self, log_z: Tensor) -> Tensor:
        """The log of the total jump rate of every masked coordinate on the clock tau.

        Args:
            log_z: log Z_i, any shape; -inf where coordinate i has nowhere to go (or is unmasked).

        Returns:
            the same shape; -inf where log Z_i is.
        """

    @abstractmethod
    def deciding_ratio(self, best: Tensor) -> Tensor:
        """The log-ratio that a jump must have to survive as w goes to infinity.

        Args:
            best: max_v log p(v | x_U, z) / p(v | x_U) of every masked coordinate, (C, m, S).

        Returns:
            (C, m, S).
        """

    @abstractmethod
    def decay_statement(self, num_dims: int, growth: str, neutral: str) -> str:
        """In one sentence, how TV to the terminal law decays in w (theory, section 5).

        Args:
            num_dims: D.
            growth: how -ln TV grows as w does, by the exit rates and by how often neutral states are visited:
                "exponential", "linear" or "bounded".
            neutral: says which reachable partial states are neutral, and which of them the chain visits in the limit of
                infinite w; empty where there are none.
        """

    @property
    def key(self) -> str:
        """What decides it, as text: the name of a built-in kind; else its type and fields."""
        return self.name if KINDS.get(self.name) == self else value_key(self)

    def __str__(self) -> str:
        return self.name


class Rate(Kind):
    """Coordinate i jumps to v at rate rho_i(v): w changes when as well as what (arXiv 2506.10971; Nisonoff et al.)."""

    name = "rate"
    guides_time = True
    is_rho = True

    def log_rate(self, log_z: Tensor) -> Tensor:
        """Z_i itself."""
        return log_z

    def deciding_ratio(self, best: Tensor) -> Tensor:
        """The best of all coordinates: the fastest event outruns every other."""
        return best.amax(dim=1, keepdim=True).expand_as(best)

    def decay_statement(self, num_dims: int, growth: str, neutral: str) -> str:
        """Double-exponential, unless the chain visits neutral states, whose exit rates do not depend on w."""
        if growth == "exponential":
            return (
                "TV decays double-exponentially in w: no reachable partial state is neutral, so every exit rate grows "
                "exponentially."
            )
        if growth == "linear":
            return (
                f"-ln TV grows linearly in w: {neutral}, and the probability that the chain visits such a state falls "
                "exponentially in w."
            )
        return f"The decay saturates: {neutral}."


class Normalized(Kind):
    """Coordinate i jumps to v at rate rho_i(v) / Z_i: w changes only what it becomes (arXiv 2507.08965)."""

    name = "normalized"
    guides_time = False

    def log_rate(self, log_z: Tensor) -> Tensor:
        """1 wherever a value is possible."""
        return torch.zeros_like(log_z).masked_fill(log_z == NEG_INF, NEG_INF)

    def deciding_ratio(self, best: Tensor) -> Tensor:
        """Every coordinate's own: each has its turn whatever the others do."""
        return best

    def decay_statement(self, num_dims: int, growth: str, neutral: str) -> str:
        """TV = 1 - (1 - exp(-tau))^D whatever w is."""
        power = "" if num_dims == 1 else f"^{num_dims}"
        return (
            "TV does not depend on w: every coordinate is unmasked after an Exp(1) time on the clock tau, and TV = "
            f"1 - (1 - exp(-tau)){power} for every w."
        )


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Rate(), Normalized())}


def kind_of(kind: Kind | str) -> Kind:
    """A kind by its name, or itself.

    Raises:
        UserError: an unknown name, or a kind that is called by the name of a built-in one.
    """
    if isinstance(kind, Kind):
        if KINDS.get(kind.name, kind) != kind:
            raise UserError(f"{kind!r} has the name of the built-in kind {kind.name!r}: give it a name of its own")
        if not is_ours(type(kind)):
            _check_rate(kind)
        return kind
    return KINDS[one_of("guidance kind", kind, KINDS)]


def _check_rate(kind: Kind) -> None:
    """Raise UserError unless what a kind of one's own says of its rate goes together, at a few Z."""
    log_z = torch.tensor(PROBES, dtype=torch.float64)
    with calling(f"{type(kind).__name__}.log_rate"):
        rates = [kind.log_rate(z.clone()) for z in (log_z, torch.full_like(log_z, NEG_INF), *log_z.view(-1, 1))]
    if not all(isinstance(rate, Tensor) and rate.dtype == torch.float64 for rate in rates):
        raise UserError(f"the log_rate of the kind {kind.name!r} must return a float64 tensor, as it is given")
    rate, nowhere, *alone = rates
    if not bool(rate.isfinite().all()) or not bool((nowhere == NEG_INF).all()):
        raise UserError(f"the log_rate of the kind {kind.name!r} must be a number where log Z is, and -inf where it is")
    if not torch.allclose(rate.flatten(), torch.cat(alone), rtol=0, atol=ROUNDING):
        raise UserError(
            f"the log_rate of the kind {kind.name!r} must be a function of every log Z by itself: it changes with the "
            "other coordinates or states that are given beside it"
        )
    if kind.is_rho and not torch.allclose(rate, log_z, rtol=0, atol=ROUNDING):
        raise UserError(f"the kind {kind.name!r} says that its rate is rho (is_rho), and its log_rate is not log Z")
