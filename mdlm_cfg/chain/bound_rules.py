"""A guidance rule bound to a denoiser and a class: its log rho, and the states that a chain must not reach.

A rate may be infinite in a state that no chain reaches, such as one that is impossible under the class. That alone is
no error: samplers and laws refuse such a state only where the chain reaches it with positive probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mdlm_cfg.chain.checks import is_on_cpu, known_within, raise_where
from mdlm_cfg.chain.denoiser import Denoiser, name_state
from mdlm_cfg.chain.rules import LARGEST, NEG_INF, Rule
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.instantiate import is_ours


@dataclass(frozen=True)
class Refused:
    """Partial states without rates.

    Attributes:
        states: which of S states have none, bool (S,). tokens: all S states, int64 (S, D).
        explain: gives the message from a state's number and tokens.
    """

    states: Tensor
    tokens: Tensor
    explain: Callable[[int, Tensor], str]

    def where(self, arrives: Tensor) -> None:
        """Raise UserError where a chain arrives at one of them; `arrives` is bool with S elements."""
        raise_where(self.states & arrives.reshape(-1), self.explain, self.tokens)

    def at(self, rows: slice | Tensor) -> Refused:
        """The same for some of the states, by their numbers."""
        return Refused(self.states[rows], self.tokens[rows], self.explain)


@dataclass(frozen=True)
class BoundRule:
    """log rho of a rule, as a function of partial states.

    Attributes:
        rule, denoiser, target_class, table: see `Rule.bind`.
        log_rho: what `Rule.bind` returned.
    """

    rule: Rule
    denoiser: Denoiser
    target_class: int | None
    table: Sequence[float]
    log_rho: Callable[[Tensor], Tensor]

    def __call__(self, tokens: Tensor) -> Tensor:
        """log rho of partial states that a chain has reached, (B, D, N).

        Raises:
            UserError: a masked coordinate has a rate that is infinite or NaN; it names the first such state. And as
                `anywhere`.
        """
        found = self._checked(self.log_rho(tokens), tokens)
        refused = self._refused(found, tokens)
        if refused is not None:
            raise_where(refused.states, refused.explain, tokens)
        return found

    def anywhere(self, tokens: Tensor) -> tuple[Tensor, Refused | None]:
        """log rho of any partial states, and those without rates, whose log rho is arbitrary; None if there are none.

        Raises:
            UserError: a user-defined rule returns another shape or type.
        """
        found = self._checked(self.log_rho(tokens), tokens)
        refused = self._refused(found, tokens)
        return found if refused is None else found.masked_fill(refused.states[:, None, None], 0.0), refused

    def _refused(self, found: Tensor, tokens: Tensor) -> Refused | None:
        """The states in which a masked coordinate has a rate that is infinite or NaN."""
        if known_within(found, NEG_INF, LARGEST):
            return None
        is_masked = (tokens == self.denoiser.num_tokens)[..., None]
        states = ((found.isposinf() | found.isnan()) & is_masked).flatten(1).any(dim=1)
        return None if is_on_cpu(states) and not bool(states.any()) else Refused(states, tokens, self._explain)

    def _checked(self, found: Tensor, tokens: Tensor) -> Tensor:
        """The output of a rule; that of a user-defined one is checked and converted to float64."""
        if is_ours(type(self.rule)):
            return found
        wanted = (*tokens.shape, self.denoiser.num_tokens)
        if not (isinstance(found, Tensor) and found.is_floating_point() and found.shape == wanted):
            got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else shown(found)
            raise UserError(f"the rule {self.rule} returns {got}, and must return floats of shape {wanted}: log rho")
        return found.double()

    def _explain(self, row: int, state: Tensor) -> str:
        name = name_state(state.tolist(), self.denoiser.num_tokens)
        there = state[None].to(getattr(self.denoiser, "device", state.device))
        if bool((self.log_rho(there).isnan() & (there == self.denoiser.num_tokens)[..., None]).any()):
            return f"the rule {self.rule} gives NaN in the partial state {name}"
        return self.rule.of_infinite_rate(name, self.target_class, self.table)


def bound(rule: Rule, denoiser: Denoiser, target_class: int | None, table: Sequence[float]) -> BoundRule:
    """A rule bound to a denoiser, a class and its strengths.

    Raises:
        UserError: as `Rule.bind`.
    """
    return BoundRule(rule, denoiser, target_class, table, rule.bind(denoiser, target_class, table))
