"""Kinds of guidance: how guidance affects when coordinates are unmasked (theory, section 3).

A kind gives the total rate at which each masked coordinate jumps, given Z_i = sum_v rho_i(v). Everything else about it
follows from this rate, so a kind cannot contradict itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import raise_where
from mdlm_cfg.support.by_value import ByValue, fields_in_words, value_key
from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.support.instantiate import calling, is_ours

NEG_INF = float("-inf")
PROBES = ((-3.0, 0.2, 1.5), (0.0, 0.7, -0.4))  # log Z of coordinates of two states, at which a kind is checked
FAR = (-300.0, -30.0, -3.0, 0.2, 1.5, 30.0, 300.0)  # log Z at which a rate is compared with a power of Z
ROUNDING = 1e-9


class Kind(ByValue, ABC):
    """A kind of guidance. Two kinds are equal if their types and fields are equal; the name is only a label.

    A subclass without a name gets that of its class, in lower case. In a subclass that overrides `log_rate`, `is_rho`
    is False unless set again.

    Attributes:
        name: shown in reports.
        is_rho: whether the rate of a jump is rho_i(v) itself: the total rate is then Z_i, for every Z_i.
    """

    name: str
    is_rho: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls)
        if "name" not in own:
            cls.name = cls.__name__.lower()
        if "log_rate" in own and "is_rho" not in own:
            cls.is_rho = False

    @abstractmethod
    def log_rate(self, log_z: Tensor) -> Tensor:
        """The log of the total jump rate of every masked coordinate on the clock tau.

        Args:
            log_z: log Z_i, any shape; -inf where coordinate i has no possible value (or is unmasked).

        Returns:
            the same shape; -inf where log Z_i is.
        """

    def power(self) -> float | None:
        """h >= 0 if the rate is c Z_i^h with some c for every Z_i; None for any other rate.

        It decides the limit of infinite strength, and how the chain converges: if h > 0, the coordinate whose Z_i grows
        fastest with w comes first; if h = 0, w does not affect the order.
        """
        log_z = torch.tensor(FAR, dtype=torch.float64)
        log_rate = self.log_rate(log_z.clone())
        h = float((log_rate[-1] - log_rate[0]) / (log_z[-1] - log_z[0]))
        line = log_rate[0] + h * (log_z - log_z[0])
        return h if h >= 0 and torch.allclose(log_rate, line, rtol=ROUNDING, atol=ROUNDING) else None

    @property
    def key(self) -> str:
        """What identifies it, as text: the name of a built-in kind; else its type and fields."""
        return self.name if KINDS.get(self.name) == self else value_key(self)

    def __str__(self) -> str:
        return self.name + fields_in_words(self)


class Rate(Kind):
    """Coordinate i jumps to v at rate rho_i(v): w changes when as well as what (arXiv 2506.10971; Nisonoff et al.)."""

    name = "rate"
    is_rho = True

    def log_rate(self, log_z: Tensor) -> Tensor:
        """Z_i itself."""
        return log_z


class Normalized(Kind):
    """Coordinate i jumps to v at rate rho_i(v) / Z_i: w changes only what it becomes (arXiv 2507.08965)."""

    name = "normalized"

    def log_rate(self, log_z: Tensor) -> Tensor:
        """1 wherever a value is possible."""
        return torch.zeros_like(log_z).masked_fill(log_z == NEG_INF, NEG_INF)


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Rate(), Normalized())}


def log_rate_of(kind: Kind, log_z: Tensor) -> Tensor:
    """`Kind.log_rate`, checked for a user-defined kind: a law would drop or use an invalid rate without notice.

    Raises:
        UserError: a rate that is NaN or infinite, or 0 where Z is not, or vice versa; or another shape.
    """
    found = kind.log_rate(log_z.clone())  # it may write over its copy
    if is_ours(type(kind)):
        return found
    if found.shape != log_z.shape:
        raise UserError(
            f"the log_rate of the kind {kind.name!r} returns the shape {tuple(found.shape)} for log Z of "
            f"shape {tuple(log_z.shape)}: it must give one rate for each"
        )

    def explain(row: int, z: Tensor, rate: Tensor) -> str:
        return (
            f"the log_rate of the kind {kind.name!r} is {float(rate):g} at log Z = {float(z):g}: it must be finite "
            "where log Z is finite, and -inf where log Z is -inf"
        )

    wrong = (found.isnan() | found.isposinf() | ((found == NEG_INF) != (log_z == NEG_INF))) & ~log_z.isnan()
    raise_where(wrong.flatten(), explain, log_z.flatten(), found.flatten())
    return found


def kind_of(kind: Kind | str) -> Kind:
    """A kind by its name, or itself.

    Raises:
        UserError: an unknown name, or a different kind with the name of a built-in one.
    """
    if isinstance(kind, Kind):
        if KINDS.get(kind.name, kind) != kind:
            raise UserError(f"{kind!r} has the name of the built-in kind {kind.name!r}: give it a name of its own")
        if not is_ours(type(kind)):
            _check_rate(kind)
        return kind
    return KINDS[one_of("guidance kind", kind, KINDS)]


def _check_rate(kind: Kind) -> None:
    """Raise UserError unless the rates of a user-defined kind are valid and consistent at a few Z."""
    log_z = torch.tensor(PROBES, dtype=torch.float64)
    with calling(f"{type(kind).__name__}.log_rate"):
        rates = [kind.log_rate(z.clone()) for z in (log_z, torch.full_like(log_z, NEG_INF), *log_z.view(-1, 1))]
    if not all(isinstance(rate, Tensor) and rate.dtype == torch.float64 for rate in rates):
        raise UserError(f"the log_rate of the kind {kind.name!r} must return a float64 tensor, like its argument")
    rate, nowhere, *alone = rates
    if not bool(rate.isfinite().all()) or not bool((nowhere == NEG_INF).all()):
        raise UserError(
            f"the log_rate of the kind {kind.name!r} must be finite where log Z is finite, and -inf where log Z is -inf"
        )
    if not torch.allclose(rate.flatten(), torch.cat(alone), rtol=0, atol=ROUNDING):
        raise UserError(
            f"the log_rate of the kind {kind.name!r} must compute each rate from its own log Z: it changes with the "
            "other coordinates or states in the call"
        )
    if kind.is_rho and not torch.allclose(rate, log_z, rtol=0, atol=ROUNDING):
        raise UserError(f"the kind {kind.name!r} declares that its rate is rho (is_rho), but its log_rate is not log Z")
