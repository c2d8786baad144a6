"""Kinds of guidance: what a rule of guidance does beside choosing values (theory, section 3).

A kind says at which total rate each masked coordinate jumps, given Z_i = sum_v rho_i(v); everything that depends on it
is a method of it, so that a new kind cannot fall through to another's numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError

NEG_INF = float("-inf")


class Kind(ABC):
    """A kind of guidance. It equals its name, so that rows and users can say it as a word."""

    name: str
    guides_time: bool  # whether w changes when a coordinate is unmasked, and not only what it becomes

    @abstractmethod
    def log_rate(self, log_z: Tensor) -> Tensor:
        """The log of the total jump rate of every masked coordinate on the clock tau.

        Args:
            log_z: log Z_i, any shape; -inf where coordinate i has nowhere to go (or is unmasked).

        Returns:
            the same shape; -inf where log Z_i is.
        """

    @abstractmethod
    def share(self, z: Tensor) -> Tensor:
        """pi_i / Z_i: the chance that coordinate i is next, over Z_i, where Z is known up to a factor of the state.

        Args:
            z: (C, m, S), the coordinates along axis 1; not negative.

        Returns:
            (C, m, S), or (C, 1, S) where all coordinates have the same; anything where Z is 0.
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
    def decay_statement(self, num_dims: int, certain: str | None) -> str:
        """In one sentence, how TV to the terminal law decays in w (theory, section 5).

        Args:
            num_dims: D.
            certain: which reachable partial states are certain of their class; None where there are none.
        """

    @property
    def is_rho(self) -> bool:
        """Whether the rate of a jump is rho_i(v) itself: the total rate is then Z_i, for every Z_i."""
        probe = torch.zeros(1)
        return self.log_rate(probe) is probe

    def __eq__(self, other: object) -> bool:
        return self.name == (other.name if isinstance(other, Kind) else other)

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Rate(Kind):
    """Coordinate i jumps to v at rate rho_i(v): w changes when as well as what (arXiv 2506.10971; Nisonoff et al.)."""

    name = "rate"
    guides_time = True

    def log_rate(self, log_z: Tensor) -> Tensor:
        """Z_i itself."""
        return log_z

    def share(self, z: Tensor) -> Tensor:
        """(Z_i / sum_k Z_k) / Z_i."""
        return 1 / z.sum(dim=1, keepdim=True)

    def deciding_ratio(self, best: Tensor) -> Tensor:
        """The best of all coordinates: the fastest event outruns every other."""
        return best.amax(dim=1, keepdim=True).expand_as(best)

    def decay_statement(self, num_dims: int, certain: str | None) -> str:
        """Double-exponential, unless a state that is certain of its class holds the rest up."""
        if certain is None:
            return (
                "TV decays double-exponentially in w: no reachable partial state is certain of its class, so every "
                "exit rate grows exponentially."
            )
        return f"The decay saturates: {certain}."


class Normalized(Kind):
    """Coordinate i jumps to v at rate rho_i(v) / Z_i: w changes only what it becomes (arXiv 2507.08965)."""

    name = "normalized"
    guides_time = False

    def log_rate(self, log_z: Tensor) -> Tensor:
        """1 wherever there is somewhere to go."""
        return torch.zeros_like(log_z).masked_fill(log_z == NEG_INF, NEG_INF)

    def share(self, z: Tensor) -> Tensor:
        """1 / (number of masked coordinates * Z_i)."""
        return 1 / (z * z.shape[1])

    def deciding_ratio(self, best: Tensor) -> Tensor:
        """Every coordinate's own: each has its turn whatever the others do."""
        return best

    def decay_statement(self, num_dims: int, certain: str | None) -> str:
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
        UserError: an unknown name.
    """
    if isinstance(kind, Kind):
        return kind
    if kind not in KINDS:
        raise UserError(f"guidance kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    return KINDS[kind]
