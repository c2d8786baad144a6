"""Guidance of the reverse chain, in log space: a strength, a kind and a rule (theory, sections 3 and 20)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.bound_rules import Refused, bound
from mdlm_cfg.chain.denoiser import Denoiser, check_shape
from mdlm_cfg.chain.guidance_schedules import Calibrated, Interval, LinearRamp, PerCount, schedule_name
from mdlm_cfg.chain.kinds import KINDS, Kind, kind_of, log_rate_of
from mdlm_cfg.chain.nucleus import check_filter, filter_values
from mdlm_cfg.chain.policies import Policy
from mdlm_cfg.chain.reductions import unrolled_logsumexp
from mdlm_cfg.chain.rules import CFG, Rule
from mdlm_cfg.support.arguments import Integers, checked
from mdlm_cfg.support.by_value import exact_number, value_key
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.numeric import is_number, whole_number

__all__ = ["Guidance", "Interval", "LinearRamp", "PerCount"]

NEG_INF = float("-inf")
CLASSIFIER_FREE = CFG()
MAX_STRENGTH = 1e4  # w times the rounding of a log-ratio, about 1e-15, stays far below 1e-10


@dataclass(frozen=True)
class Guidance:
    """Guidance of strength w: classifier-free guidance, or another rule.

    The guided jump rates on the clock tau are rho_i(v | x_U) = p(v | x_U)^(-w) p(v | x_U, z)^(1+w) for kind
    "rate" (arXiv 2506.10971; Nisonoff et al. 2024), and rho_i / sum_v rho_i for kind "normalized"
    (arXiv 2507.08965): then w changes what a coordinate becomes, not when.

    Args:
        w: guidance strength in the paper's convention: -1 is the whole mixture (on the class's support), 0 the class,
            above 0 is guided. Codes that write gamma (or a guidance scale s) mean gamma = 1 + w. A callable gives w
            as a function of progress, the share of the other coordinates that are already unmasked when one is
            unmasked: 0, 1/(D-1), ..., 1; a list gives it for 0, 1, ..., D - 1 unmasked coordinates (`PerCount`).
        kind: "rate", "normalized", or a `Kind` of your own.
        temperature, top_p: applied to the values (theory, section 10): r_i = rho_i / Z_i is sharpened to
            r_i^(1/temperature), with a temperature of at least 1e-4, and then cut to its most probable values, the
            fewest whose total reaches top_p; Z_i is unchanged.
        rule: which conditionals w combines, and how (theory, section 20): `CFG()` as above, `Negative`, `Compose`,
            `Auto`, `Tempered`, `ByClassifier`, `AdaptiveCFG`, or a `Rule` of your own.

    Raises:
        UserError: w < -1, not finite or above `MAX_STRENGTH`, an unknown kind, or a temperature or top_p out of range.
    """

    w: float | Callable[[float], float]
    kind: Kind = KINDS["rate"]  # a name is replaced by its kind
    temperature: float = 1.0
    top_p: float = 1.0
    rule: Rule = CLASSIFIER_FREE

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Rule):
            raise UserError(
                f"the rule of a guidance is {shown(self.rule)}, and must be one such as Negative(3) or CFG()"
            )
        object.__setattr__(self, "kind", kind_of(self.kind))
        check_filter(self.temperature, self.top_p)
        if isinstance(self.w, list | tuple):
            object.__setattr__(self, "w", PerCount(self.w))
        for name, value in self._filters.items():
            object.__setattr__(self, name, float(value))
        if not callable(self.w):
            object.__setattr__(self, "w", _check_strength(self.w))

    @property
    def filters(self) -> bool:
        """Whether the values have a temperature or a top-p."""
        return self.temperature != 1 or self.top_p != 1

    @property
    def has_tilted(self) -> bool:
        """Whether it has a tilted distribution on tables: w is one number, and the rule has a T."""
        return self.rule.has_tilted_law and not self.is_schedule

    @property
    def telescopes(self) -> bool:
        """Whether log rho is a difference of log T, with T made of two marginals: laws of tables are then faster."""
        return self.rule.telescopes and not self.filters

    @checked
    def rows(self, num_dims: int) -> int:
        """The number of denoiser rows (partial state, label) that one state needs."""
        return self.rule.rows(self.table(num_dims), num_dims)

    @property
    def is_schedule(self) -> bool:
        """Whether w changes as coordinates are unmasked: such a strength has no single tilted law."""
        return callable(self.w)

    @property
    def written(self) -> float | str:
        """w as it appears in reports: a number, or the name of a schedule or of w under another rule."""
        if self.rule != CLASSIFIER_FREE:
            return self._named_strength
        return schedule_name(self.w) if callable(self.w) else self.w

    @property
    def _named_strength(self) -> str:
        strength = schedule_name(self.w) if callable(self.w) else exact_number(self.w)
        return strength if self.rule == CLASSIFIER_FREE else f"{strength}, {self.rule}"

    def describe(self) -> dict[str, Any]:
        """As plain values: `w` and `kind`; and `temperature`, `top_p` and `rule` where they are not the default."""
        filters = {name: value for name, value in self._filters.items() if value != 1}
        rule = {} if self.rule == CLASSIFIER_FREE else {"rule": str(self.rule)}
        return {"w": self.written, "kind": str(self.kind), **filters, **rule}

    @property
    def label(self) -> str:
        """The strength as text: "2", or the name of a schedule."""
        label = self._named_strength
        if self.temperature != 1:
            label += f", temperature {exact_number(self.temperature)}"
        return label if self.top_p == 1 else f"{label}, top-p {exact_number(self.top_p)}"

    @property
    def identifier(self) -> str:
        """The strength within names of files, distributions and numbers: "w2", "wramp(0,4)", "w2_temperature0.7"."""
        label = self.label.replace(", temperature ", "_temperature").replace(", top-p ", "_top_p")
        return f"w{label.replace(', ', '_').replace(' ', '').replace(';', '_')}"

    def key(self, num_dims: int | None = None) -> tuple[str, ...]:
        """The values that determine the guidance on D coordinates, without labels: seeds and caches depend on them.

        Returns:
            the kind; the strengths, one for all or one for every number of unmasked coordinates; and the temperature,
            the top-p and the rule where they are not the default. The same in every process.

        Raises:
            UserError: a schedule without a number of dimensions.
        """
        if num_dims is None and self.is_schedule:
            raise UserError(f"the values of the schedule {self.label} depend on the number of coordinates: give it")
        table = self.table(num_dims or 1)
        strengths = exact_number(table[0]) if len(set(table)) == 1 else value_key(table)
        filters = [f"{name}={exact_number(value)}" for name, value in self._filters.items() if value != 1]
        return (self.kind.key, strengths, *filters, *([] if self.rule == CLASSIFIER_FREE else [self.rule.key]))

    @property
    def _filters(self) -> dict[str, float]:
        return {"temperature": self.temperature, "top_p": self.top_p}

    @property
    def constant(self) -> float:
        """w of classifier-free guidance, if it is one number.

        Raises:
            UserError: w is a schedule, or the rule is another.
        """
        if self.rule != CLASSIFIER_FREE:
            raise UserError(f"this takes only classifier-free guidance, and the rule {self.rule} was given")
        return self.one_strength

    @property
    def one_strength(self) -> float:
        """w of any rule, if it is one number.

        Raises:
            UserError: w is a schedule.
        """
        if callable(self.w):
            raise UserError(
                f"the strength {self.label} is a schedule, and this needs a single number w, as the tilted law does"
            )
        return self.w

    @checked
    def strength(self, num_unmasked: int, num_dims: int) -> float:
        """w when `num_unmasked` of `num_dims` coordinates are unmasked."""
        if not callable(self.w):
            return self.w
        if isinstance(self.w, PerCount | Calibrated):
            return _check_strength(self.w.at(num_unmasked, num_dims))
        others = num_dims - 1
        return _check_strength(self.w(num_unmasked / others if others else 1.0))

    @checked
    def table(self, num_dims: int) -> list[float]:
        """w for 0, 1, ..., D - 1 unmasked coordinates."""
        num_dims = whole_number("num_dims", num_dims)
        if not callable(self.w):
            return [self.w] * num_dims
        return [self.strength(count, num_dims) for count in range(num_dims)]

    def table_of(self, denoiser: Denoiser) -> list[float]:
        """w for 0, 1, ... unmasked coordinates of a denoiser; those that a slice has fixed count as unmasked too."""
        known = getattr(denoiser, "num_known", 0)
        return self.table(known + denoiser.num_dims)[known:]

    @checked
    def log_rates(self, denoiser: Denoiser, tokens: Integers, target_class: int | None) -> Tensor:
        """Guided log jump rates on the clock tau of every masked coordinate (theory, section 3).

        Args:
            denoiser: gives both conditionals.
            tokens: partial states, int64 (B, D).
            target_class: z; None is no class: for classifier-free guidance the rates of the whole mixture, unguided.

        Returns:
            float64 (B, D, N): the sum of exp over the last axis is the kind's total rate; rows of unmasked coordinates
            are -inf: they do not jump. A softmax of such a row is NaN: mask it, or use `log_rho`.

        Raises:
            UserError: the denoiser breaks its contract, or a rate is infinite; it names the state and the class.
        """
        check_shape(tokens, denoiser.num_dims)
        return self.rates_of(denoiser, target_class)(tokens)

    @checked
    def log_rho(self, denoiser: Denoiser, tokens: Integers, target_class: int | None) -> Tensor:
        """log rho_i(v | x_U) of every coordinate, float64 (B, D, N); arbitrary at unmasked ones."""
        check_shape(tokens, denoiser.num_dims)
        return self.rho_of(denoiser, target_class)(tokens)

    def rates_of(self, denoiser: Denoiser, target_class: int | None) -> Callable[[Tensor], Tensor]:
        """`log_rates` as a function of partial states alone, for the steps of a chain.

        What does not depend on the states is computed once, and arguments are not checked.

        Raises:
            UserError: as `log_rates`.
        """
        log_rho = self.rho_of(denoiser, target_class)
        mask_id = denoiser.num_tokens

        return lambda tokens: self._rates_from(log_rho(tokens), tokens, mask_id)

    def rates_anywhere(
        self, denoiser: Denoiser, target_class: int | None
    ) -> Callable[[Tensor], tuple[Tensor, Refused | None]]:
        """As `rates_of`, for laws, which evaluate all partial states: see `rho_anywhere`."""
        log_rho = self.rho_anywhere(denoiser, target_class)

        def log_rates(tokens: Tensor) -> tuple[Tensor, Refused | None]:
            found, refused = log_rho(tokens)
            return self._rates_from(found, tokens, denoiser.num_tokens), refused

        return log_rates

    def _rates_from(self, log_rho: Tensor, tokens: Tensor, mask_id: int) -> Tensor:
        return torch.where((tokens == mask_id)[..., None], self.normalize(log_rho), NEG_INF)

    def rho_of(self, denoiser: Denoiser, target_class: int | None) -> Callable[[Tensor], Tensor]:
        """`log_rho` as a function of partial states alone, as `rates_of`."""
        table = self.table_of(denoiser)
        log_rho = bound(self.rule, denoiser, target_class, table)
        return log_rho if not self.filters else lambda tokens: self._filtered(log_rho(tokens), table)

    def rho_anywhere(
        self, denoiser: Denoiser, target_class: int | None
    ) -> Callable[[Tensor], tuple[Tensor, Refused | None]]:
        """`log_rho` as a function of any partial states, and those whose rates are infinite, or None.

        Their values are arbitrary: the caller must refuse them where the chain arrives.
        """
        table = self.table_of(denoiser)
        log_rho = bound(self.rule, denoiser, target_class, table)

        def rates_of(tokens: Tensor) -> tuple[Tensor, Refused | None]:
            found, refused = log_rho.anywhere(tokens)
            return self._filtered(found, table), refused

        return rates_of

    def _filtered(self, log_rho: Tensor, table: Sequence[float]) -> Tensor:
        if not self.filters:
            return log_rho
        return filter_values(log_rho, self.temperature, self.top_p, max(table))

    def normalize(self, log_rho: Tensor) -> Tensor:
        """The log rates of this kind from log rho: its total rate, divided among the values in proportion to rho."""
        if self.kind.is_rho:
            return log_rho
        log_z = unrolled_logsumexp(log_rho, dim=-1)[..., None]
        log_rate = log_rate_of(self.kind, log_z)
        return log_rho - torch.where(log_z == NEG_INF, 0.0, log_z - log_rate)


def effective_guidance(guidance: Guidance, policy: Policy | None) -> Guidance:
    """The guidance that steps use: with a policy, which itself decides the order, rho is not divided by Z_i."""
    return guidance if policy is None else replace(guidance, kind=KINDS["rate"])


def _check_strength(w: float) -> float:
    if not is_number(w):
        raise UserError(f"guidance strength w = {shown(w)} is not a number: give one such as 2.0, or a schedule")
    if not -1 <= w <= MAX_STRENGTH:
        raise UserError(
            f"guidance strength w = {w} is not allowed: w must be at least -1 and at most {MAX_STRENGTH:g}; the limit "
            "of infinite w is mdlm_cfg.limit_law"
        )
    return float(w)
