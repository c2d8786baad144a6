r"""Rules of guidance: how rates rho_i(v | x) are made from conditionals (theory, section 20).

A product rule takes powers of the conditionals of some denoisers p_j, each under its own class or none,

$$ \rho_i(v \mid x) = \prod_j p_j(v \mid x)^{c_j}, \qquad T(x) = \prod_j P_j(x)^{c_j}, $$

and its tilted distribution is in proportion to T. A value is possible if and only if every p_j with c_j > 0 allows it.
Where that is so and a p_j with c_j < 0 gives it probability 0, its rate is infinite, and a chain that arrives there is
refused (`mdlm_cfg.chain.bound_rules`).

A rule may also be any other rho_i(v | x). Laws, policies and samplers need no more; what needs a T refuses such a rule.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import constant_on, known_within, raise_where
from mdlm_cfg.chain.denoiser import Denoiser, check_class, conditionals, conditionals_under, name_class, name_state
from mdlm_cfg.support.by_value import ByValue, exact_number, value_key
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.numeric import is_number

NEG_INF = float("-inf")
LARGEST = sys.float_info.max
MOST_POWER = 1e5  # of a conditional: that power of its rounding, about 1e-15, stays below 1e-9
NUM_PROBES = 16  # partial states at which a denoiser or a classifier is evaluated, for a key


@dataclass(frozen=True)
class Term:
    """A conditional to a power: p(v | x, target_class)^power.

    Attributes:
        power: c. target_class: the class, or None for no class.
        denoiser: whose conditional; None is the denoiser that is guided.
    """

    power: float
    target_class: int | None
    denoiser: Denoiser | None = None


class Rule(ByValue, ABC):
    """How a strength w combines conditionals. Equal by type and fields; `str` is the short form on the command line.

    Attributes:
        has_tilted: whether prod rho telescopes to a T(x): a tilted distribution and weights exist.
        telescopes: whether rho is that of classifier-free guidance, for which laws of tables are faster.
    """

    has_tilted: bool = True
    telescopes: bool = False

    @abstractmethod
    def bind(self, denoiser: Denoiser, target_class: int | None, table: Sequence[float]) -> Callable[[Tensor], Tensor]:
        """log rho_i(v | x) of every coordinate, as a function of partial states.

        What does not depend on the states may be computed here, once.

        Args:
            denoiser: the one that is guided.
            target_class: z; None is no class.
            table: w for 0, ..., D - 1 unmasked coordinates.

        Returns:
            A function of partial states, int64 (B, D), to float64 (B, D, N); +inf is an infinite rate, and is refused
            in states where a chain arrives. Values at unmasked coordinates are arbitrary.

        Raises:
            UserError: a denoiser or a class that the rule cannot use; here or in the function.
        """

    @abstractmethod
    def log_tilted(self, denoiser: Denoiser, w: float, target_class: int | None) -> Tensor:
        """log T of all finished states in C order, (N^D,), where the denoiser gives marginals of one joint.

        Raises:
            UserError: a rule without a T, or conditionals without a known joint.
        """

    @property
    def has_tilted_law(self) -> bool:
        """Whether `log_tilted` exists for the denoiser of a table: other denoisers in the rule may have no joint."""
        return self.has_tilted

    def check(self, denoiser: Denoiser, target_class: int | None) -> None:
        """Raise UserError where the rule cannot use a denoiser or a class; most rules can use any."""
        return

    def of_infinite_rate(self, state: str, target_class: int | None, table: Sequence[float]) -> str:
        """The error message for a state, given as text, in which a rate is infinite; other arguments as in `bind`."""
        return (
            f"the rule {self} under {name_class(target_class)} gives an infinite rate in the partial state {state}: a "
            "conditional with a negative power is 0 where the others are positive"
        )

    def rows(self, table: Sequence[float], num_dims: int) -> int:
        """How many rows (partial state, label) of the guided denoiser one state needs."""
        return 2

    @property
    def key(self) -> str:
        """What identifies the rule, as text."""
        return value_key(self)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return super().__repr__()


@dataclass(frozen=True, eq=False, repr=False)
class CFG(Rule):
    """Classifier-free guidance: p(v | x)^(-w) p(v | x, z)^(1+w) (theory, section 3)."""

    telescopes = True

    def bind(self, denoiser: Denoiser, target_class: int | None, table: Sequence[float]) -> Callable[[Tensor], Tensor]:
        """See `Rule.bind`."""
        if target_class is None or not any(table):
            return lambda tokens: conditionals(denoiser, tokens, target_class)
        w_of = by_count(table, denoiser.num_tokens)

        def log_rho(tokens: Tensor) -> Tensor:
            log_cond, log_uncond = conditionals_under(denoiser, tokens, (target_class, None))
            return geometric_mean(log_cond, log_uncond, w_of(tokens))

        return log_rho

    def of_infinite_rate(self, state: str, target_class: int | None, table: Sequence[float]) -> str:
        """See `Rule.of_infinite_rate`."""
        return of_infinite_strength(f"w = {','.join(map(exact_number, dict.fromkeys(table)))}", state, target_class)

    def log_tilted(self, denoiser: Denoiser, w: float, target_class: int | None) -> Tensor:
        """See `Rule.log_tilted`."""
        log_uncond = log_joint(denoiser, None, self)
        log_cond = log_uncond if target_class is None else log_joint(denoiser, target_class, self)
        return geometric_mean(log_cond, log_uncond, w)

    def rows(self, table: Sequence[float], num_dims: int) -> int:
        """See `Rule.rows`."""
        return 2 if any(table) else 1

    def __str__(self) -> str:
        return "cfg"


class ProductRule(Rule):
    """A product of powers of conditionals: subclasses say which."""

    @abstractmethod
    def terms(self, w: float, target_class: int | None) -> list[Term]:
        """The conditionals and their powers at strength w: the same conditionals for every w, in the same order."""

    @property
    def has_tilted_law(self) -> bool:
        """See `Rule.has_tilted_law`."""
        others = [term.denoiser for term in self.terms(0.0, None) if term.denoiser is not None]
        return all(hasattr(denoiser, "log_marginals") for denoiser in others)

    def checked_terms(self, w: float, target_class: int | None) -> list[Term]:
        """The terms.

        Raises:
            UserError: no terms, different terms in two calls, or a power above `MOST_POWER`, which would
                amplify the rounding of its conditional too much.
        """
        terms, again = (self.terms(w, target_class) for _ in range(2))
        is_list = isinstance(terms, list | tuple) and len(terms) > 0
        if not (is_list and all(isinstance(term, Term) and is_number(term.power) for term in terms)):
            raise UserError(
                f"{self}.terms must return a list of at least one Term(power, class), and returns {shown(terms)}"
            )
        if [(a.power, a.target_class) for a in terms] != [(b.power, b.target_class) for b in again]:
            raise UserError(
                f"{self}.terms returns different terms when it is called again: it must depend on w and the class alone"
            )
        powers = [term.power for term in terms if not abs(term.power) <= MOST_POWER]
        if powers:
            raise UserError(
                f"the rule {self} at w = {exact_number(w)} takes a conditional to the power {powers[0]:.6g}, and a "
                f"power is at most {MOST_POWER:g}: give smaller weights, a higher temperature or a smaller w"
            )
        return terms

    def check(self, denoiser: Denoiser, target_class: int | None) -> None:
        """Raise UserError if a class does not exist, or a denoiser is defined on another space."""
        self._check_terms(self.checked_terms(0.0, target_class), denoiser)

    def _check_terms(self, terms: Sequence[Term], denoiser: Denoiser) -> None:
        for term in terms:
            check_class(term.target_class, denoiser.num_classes)
            if term.denoiser is not None:
                check_same_space(term.denoiser, denoiser, self)

    def bind(self, denoiser: Denoiser, target_class: int | None, table: Sequence[float]) -> Callable[[Tensor], Tensor]:
        """See `Rule.bind`."""
        mask_id = denoiser.num_tokens
        terms_at = {w: self.checked_terms(w, target_class) for w in dict.fromkeys(table)}
        for terms in terms_at.values():
            self._check_terms(terms, denoiser)
        powers = list(zip(*([term.power for term in terms_at[w]] for w in table)))
        used = [k for k, of_term in enumerate(powers) if any(of_term)]
        terms = [terms_at[table[0]][k] for k in used]
        power_of = [by_count(powers[k], mask_id) for k in used]

        def log_rho(tokens: Tensor) -> Tensor:
            return powers_of(_conditionals_of(denoiser, tokens, terms), [power(tokens) for power in power_of])

        return log_rho

    def log_tilted(self, denoiser: Denoiser, w: float, target_class: int | None) -> Tensor:
        """See `Rule.log_tilted`."""
        terms = self.checked_terms(w, target_class)
        self._check_terms(terms, denoiser)
        terms = [term for term in terms if term.power]
        logs = [log_joint(term.denoiser or denoiser, term.target_class, self) for term in terms]
        return powers_of(logs, [term.power for term in terms])

    def rows(self, table: Sequence[float], num_dims: int) -> int:
        """See `Rule.rows`."""
        own = [term for term in zip(*(self.terms(w, None) for w in table)) if term[0].denoiser is None]
        return sum(any(at_w.power for at_w in term) for term in own)


def by_count(table: Sequence[float], mask_id: int) -> Callable[[Tensor], float | Tensor]:
    """The number of a table that a state's count of unmasked coordinates selects, with entries for 0, ..., D - 1.

    Returns:
        A function of partial states (B, D) to (B, 1, 1), or to one number if all entries are equal; otherwise finished
        states, which have no entry, get 0.
    """
    if len(set(table)) == 1:
        return lambda tokens: table[0]
    numbers = (*table, 0.0)
    return lambda tokens: constant_on(numbers, tokens.device)[(tokens != mask_id).sum(dim=1)][:, None, None]


def geometric_mean(log_cond: Tensor, log_uncond: Tensor, w: float | Tensor) -> Tensor:
    """log [p^(-w) p_z^(1+w)] = log p_z + w (log p_z - log p), with explicit supports: no epsilon, no NaN.

    In this form nothing cancels: for a large w, (1+w) log p_z - w log p would lose digits.
    A value that is impossible under the class stays impossible for every w >= -1: w = -1 is the limit from above, the
    mixture's conditional on the support of the class (the whole mixture itself is target_class=None).

    Args:
        log_cond: log p(. | z), any shape, may hold -inf.
        log_uncond: log p, same shape; must be finite wherever `log_cond` is (a class lies inside its mixture).
        w: guidance strength, >= -1, a number or a tensor that broadcasts; gamma = 1 + w in other codebases.

    Returns:
        +inf where w > 0, the class has probability and the mixture has none: an infinite rate.
    """
    moved = log_cond - log_uncond
    if isinstance(w, Tensor):
        moved = torch.where(w == 0, 0.0, w * moved)
    elif w == 0:
        return log_cond.clone()
    elif w > 0:  # an impossible value stays impossible; where both are 0, the ratio is NaN and counts as 0
        return moved.nan_to_num_(nan=0.0, posinf=math.inf, neginf=NEG_INF).mul_(w).add_(log_cond)
    else:
        moved *= w
    return moved.add_(log_cond).masked_fill_(log_cond == NEG_INF, NEG_INF)


def powers_of(log_probs: Sequence[Tensor], powers: Sequence[float | Tensor]) -> Tensor:
    """sum_j c_j log p_j with explicit supports; a power of 0 leaves its conditional out.

    Returns:
        -inf where a p_j with c_j > 0 is 0; else +inf where one with c_j < 0 is: an infinite rate.
    """
    total = torch.zeros_like(log_probs[0])
    impossible = torch.zeros_like(total, dtype=torch.bool)
    infinite = torch.zeros_like(impossible)
    for log_p, power in zip(log_probs, powers, strict=True):
        zero = log_p == NEG_INF
        total = total + power * log_p.masked_fill(zero, 0.0)
        impossible |= zero & (power > 0)
        infinite |= zero & (power < 0)
    return total.masked_fill(infinite, float("inf")).masked_fill(impossible, NEG_INF)


def refuse_infinite(log_rho: Tensor, tokens: Tensor, mask_id: int, target_class: int | None, label: str) -> None:
    """Raise UserError where a rate is infinite, naming the first state that has one.

    Args:
        log_rho: (B, ...). tokens: the state of every row, (B, D).
    """

    def explain(row: int, state: Tensor) -> str:
        return of_infinite_strength(f"w = {label}", name_state(state.tolist(), mask_id), target_class)

    if not known_within(log_rho, NEG_INF, LARGEST):
        raise_where(torch.isposinf(log_rho), explain, tokens)


def of_infinite_strength(strength: str, state: str, target_class: int | None) -> str:
    """Why a rate of classifier-free guidance is infinite; `strength` and `state` in words: "w = 2", "(1, mask)"."""
    return (
        f"{strength} gives an infinite rate in the partial state {state}: {name_class(target_class)} has probability "
        "where the mixture has none; give every class that is guided a positive weight"
    )


def no_tilted(rule: object) -> UserError:
    """The error of what needs a T, for a rule without one."""
    return UserError(
        f"the rule {rule} has no tilted distribution, and so no weights or accepted corrections, because its rates "
        "are not a product of powers; distributions, policies and samplers accept it"
    )


def check_same_space(own: Denoiser, other: Denoiser, rule: object) -> None:
    """Raise UserError unless two denoisers are on the same values, coordinates and classes."""
    ours, theirs = ((d.num_tokens, d.num_dims, d.num_classes) for d in (own, other))
    if ours != theirs:
        raise UserError(
            f"the denoiser of the rule {rule} has (values, dimensions, classes) = {ours}, and the guided one {theirs}"
        )


def probes(num_tokens: int, num_dims: int, device: Any = None) -> Tensor:
    """A few partial states at which outputs identify an object, int64 (NUM_PROBES, D), always the same."""
    rows = torch.arange(NUM_PROBES)[:, None] + 1
    mixed = (rows * 7919 + torch.arange(num_dims) * 104729) * rows % 1_000_003
    tokens = mixed % (num_tokens + 1)
    tokens[0] = num_tokens
    return tokens.to(device or "cpu")


def _conditionals_of(denoiser: Denoiser, tokens: Tensor, terms: Sequence[Term]) -> list[Tensor]:
    """The conditionals of the terms, (B, D, N) each; those of the guided denoiser in one call."""
    found: dict[int, Tensor] = {}
    own = [k for k, term in enumerate(terms) if term.denoiser is None]
    if own:
        found |= dict(zip(own, conditionals_under(denoiser, tokens, [terms[k].target_class for k in own])))
    for k, term in enumerate(terms):
        if term.denoiser is not None:
            there = getattr(term.denoiser, "device", tokens.device)
            found[k] = conditionals(term.denoiser, tokens.to(there), term.target_class).to(tokens.device)
    return [found[k] for k in range(len(terms))]


def log_joint(denoiser: Denoiser, target_class: int | None, rule: Rule) -> Tensor:
    """log P(x | z) of all finished states, (N^D,)."""
    if not hasattr(denoiser, "log_marginals"):
        raise UserError(
            f"the rule {rule} uses a denoiser whose conditionals have no known joint distribution, so it has no "
            "tilted distribution; `tilted_weights` gives the order-averaged one"
        )
    return denoiser.log_marginals(target_class)[-1].flatten()
