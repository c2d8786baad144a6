"""Products of powers: a negative class, a composition of classes, a weaker denoiser, a temperature of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mdlm_cfg.chain.denoiser import Denoiser, check_denoiser, conditionals_under
from mdlm_cfg.chain.rules import ProductRule, Term, probes
from mdlm_cfg.support.by_value import exact_number, value_key
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.numeric import number, whole_number

MAX_POWER = 1e4  # of a weight, and of 1 / temperature: as for w, the rounding of a log-ratio then stays far below 1e-10
POWERS = (-MAX_POWER, MAX_POWER)


@dataclass(frozen=True, eq=False, repr=False)
class Negative(ProductRule):
    """Steer away from a class z' in place of the whole mixture: p(v | x, z)^(1+w) p(v | x, z')^(-w).

    Args:
        other_class: z'.
    """

    other_class: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "other_class", whole_number("the class of negative", self.other_class, 0))

    def terms(self, w: float, target_class: int | None) -> list[Term]:
        """See `ProductRule.terms`."""
        if target_class == self.other_class:
            raise UserError(f"the rule {self} steers class {target_class} away from itself: give another class")
        return [Term(1 + w, target_class), Term(-w, self.other_class)]

    def __str__(self) -> str:
        return f"negative({self.other_class})"


@dataclass(frozen=True, eq=False, repr=False)
class Compose(ProductRule):
    """Several classes at once: prod_k p(v | x, k)^(c_k) p(v | x)^(1 - sum c), with c_k = (1 + w) weight_k.

    At w = 0 these are the weights as given; Compose({z: 1}) is classifier-free guidance of class z. The composition of
    diffusion models of arXiv 2206.01714, for discrete states. The target class plays no part in it.

    Args:
        weights: the weight of each class, as a mapping or pairs; each class once.

    Raises:
        UserError: no class, one class twice, or a weight that is not a number from -1e4 to 1e4.
    """

    weights: Mapping[int, float] | Sequence[tuple[int, float]]

    def __post_init__(self) -> None:
        try:
            pairs = list(self.weights.items() if isinstance(self.weights, Mapping) else self.weights)
            pairs = [(k, weight) for k, weight in pairs]
        except (TypeError, ValueError):
            raise UserError(
                f"compose takes weights by class, such as {{1: 1.0, 7: 0.5}}, not {self.weights!r}"
            ) from None
        pairs = [
            (whole_number("a class of compose", k, 0), number(f"compose's weight of class {k}", weight, *POWERS))
            for k, weight in pairs
        ]
        classes = [k for k, _ in pairs]
        if not pairs or len(set(classes)) < len(classes):
            raise UserError(f"compose takes at least one class, and each class once, not the classes {classes}")
        object.__setattr__(self, "weights", tuple(sorted(pairs)))

    @property
    def pairs(self) -> tuple[tuple[int, float], ...]:
        """The classes in order, and their weights."""
        return self.weights  # type: ignore[return-value] # since __post_init__

    def terms(self, w: float, target_class: int | None) -> list[Term]:
        """See `ProductRule.terms`."""
        own = [Term((1 + w) * weight, k) for k, weight in self.pairs]
        return [*own, Term(1 - (1 + w) * sum(weight for _, weight in self.pairs), None)]

    def __str__(self) -> str:
        return f"compose({','.join(f'{k}:{exact_number(weight)}' for k, weight in self.pairs)})"


@dataclass(frozen=True, eq=False, repr=False)
class Auto(ProductRule):
    """Auto-guidance, from a weaker denoiser of the same class: strong(v | x, z)^(1+w) weak(v | x, z)^(-w).

    The autoguidance of arXiv 2406.02507, for discrete states.

    Args:
        weak: a smaller network, an earlier checkpoint, or a smoothed table, on the same space.
    """

    weak: Denoiser

    def __post_init__(self) -> None:
        check_denoiser(self.weak)

    def terms(self, w: float, target_class: int | None) -> list[Term]:
        """See `ProductRule.terms`."""
        return [Term(1 + w, target_class), Term(-w, target_class, self.weak)]

    @property
    def key(self) -> str:
        """The rule's name and the outputs of its weak denoiser at a few states."""
        return f"auto({self._answers})"

    @cached_property
    def _answers(self) -> str:
        tokens = probes(self.weak.num_tokens, self.weak.num_dims, getattr(self.weak, "device", None))
        return value_key(conditionals_under(self.weak, tokens, range(self.weak.num_classes + 1)))

    def __str__(self) -> str:
        return "auto"


@dataclass(frozen=True, eq=False, repr=False)
class Tempered(ProductRule):
    """A temperature for the whole product: every power of another product rule is divided by it, so T becomes T^(1/t).

    The `temperature` of `Guidance` changes what a coordinate becomes and not when; this one changes both.

    Args:
        temperature: t, from 1e-4 to 1e4.
        rule: a product rule; None is classifier-free guidance.
    """

    temperature: float
    rule: ProductRule | None = None

    def __post_init__(self) -> None:
        read = number("temperature of tempered", self.temperature, 1 / MAX_POWER, MAX_POWER)
        object.__setattr__(self, "temperature", read)
        if self.rule is not None and not isinstance(self.rule, ProductRule):
            raise UserError(f"the rule of tempered is {shown(self.rule)}: give a product of powers of conditionals")

    def terms(self, w: float, target_class: int | None) -> list[Term]:
        """See `ProductRule.terms`."""
        inner = [Term(1 + w, target_class), Term(-w, None)] if self.rule is None else self.rule.terms(w, target_class)
        return [Term(term.power / self.temperature, term.target_class, term.denoiser) for term in inner]

    @property
    def key(self) -> str:
        """The temperature, and the key of the other rule."""
        return f"tempered({exact_number(self.temperature)};{'cfg' if self.rule is None else self.rule.key})"

    def __str__(self) -> str:
        inner = "" if self.rule is None else f"; {self.rule}"
        return f"tempered({exact_number(self.temperature)}{inner})"
