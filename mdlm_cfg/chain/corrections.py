"""Correctors: mask a few coordinates of a finished state and refill them by the guided chain (theory, section 19).

With one coordinate at a time this is Gibbs sampling of the tilted law: with all others known, rho_i(v) / Z_i is its
conditional, for every kind of guidance. With more it is not, unless moves are accepted or rejected. A fill has the
weight W, the product of the Z_i of the coordinates it unmasked, along its order (theory, section 11). An order for the
present values is drawn by running the policy with these values forced, which gives W_old; a proposed fill gives W_new,
and is accepted with probability min(1, W_new / W_old). On paths this is the Metropolis ratio of the target
prod pi_i T(x) and the proposal prod pi_i rho_i / Z_i, so the tilted law is stationary for every size, kind and policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.checks import raise_where
from mdlm_cfg.chain.denoiser import Denoiser, check_shape, name_state
from mdlm_cfg.chain.forms import Unreadable, read_form, whole
from mdlm_cfg.chain.guidance import Guidance, effective_guidance
from mdlm_cfg.chain.guidance_schedules import parts_of
from mdlm_cfg.chain.policies import KindPolicy, Policy, tiers
from mdlm_cfg.chain.policy_names import parse_policy
from mdlm_cfg.chain.reductions import unrolled_logsumexp
from mdlm_cfg.chain.selections import Selection, uniform
from mdlm_cfg.chain.steps import EventStep, SelectFirstStep, draw_values, normalized
from mdlm_cfg.support.arguments import Integers, check_fields, checked
from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.support.numeric import whole_number

NEG_INF = float("-inf")
SCANS = ("random", "sequential", "lowest_confidence")


@dataclass(frozen=True)
class Correction:
    """Moves that follow a sampler: each masks `size` coordinates and refills them by the guided chain.

    Args:
        size: k, the number of coordinates that are masked together, at least 1.
        moves: m, the number of moves.
        accept: whether a refill is accepted or rejected, so that the tilted law is stationary for every size.
        scan: which coordinates a move masks. "random": k of them, uniformly. "sequential": the next k in
            order, cyclically. "lowest_confidence": the k with the lowest probability rho_i(x_i) / Z_i of their own
            value given all others, ties in random order (after informed correctors, arXiv 2407.21243; there the
            network gives these probabilities in one call, here they take D rows).
        policy: the order in which they are refilled, one at a time; None is that of the kind of guidance.
        parallel: refill all k from one call, independently.

    Raises:
        UserError: another scan or policy, numbers out of range, or parallel with accept or a policy.
    """

    size: int = 1
    moves: int = 1
    accept: bool = False
    scan: str = "random"
    policy: Policy | None = None
    parallel: bool = False

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("moves", 0)):
            object.__setattr__(self, name, whole_number(f"a correction's {name}", getattr(self, name), least))
        check_fields(self, "accept", "parallel")
        one_of("a correction's scan", self.scan, SCANS)
        if self.policy is not None:
            object.__setattr__(self, "policy", parse_policy(self.policy))
        if self.parallel and (self.accept or self.policy is not None):
            raise UserError(
                "a correction that refills in parallel has no order of coordinates, so it takes neither accept nor a "
                "policy"
            )

    @property
    def is_invariant(self) -> bool:
        """Whether it leaves the tilted law invariant, for exact conditionals, one w, and no temperature or top-p.

        Moves of one coordinate do, and moves with accept. A choice of coordinates that depends on their own
        values ("lowest_confidence") does not.
        """
        return (self.size == 1 or self.accept) and self.scan != "lowest_confidence"

    @property
    def label(self) -> str:
        """The correction as text, and whether it leaves the tilted law invariant."""
        invariant = (
            "leaves the tilted law invariant" if self.is_invariant else "does not leave the tilted law invariant"
        )
        return f"{self} ({invariant})"

    def __str__(self) -> str:
        parts = [f"size={self.size}", f"moves={self.moves}"]
        parts += [name for name in ("accept", "parallel") if getattr(self, name)]
        parts += [f"scan={self.scan}"] if self.scan != "random" else []
        parts += [f"policy={self.policy}"] if self.policy is not None else []
        return f"correction({', '.join(parts)})"

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "size": self.size,
            "moves": self.moves,
            "accept": self.accept,
            "scan": self.scan,
            "policy": None if self.policy is None else str(self.policy),
            "parallel": self.parallel,
            "is_invariant": self.is_invariant,
        }

    def calls(self, num_dims: int) -> int:
        """Denoiser rows that all moves need, per sample and conditional."""
        one = 1 if self.parallel else (2 if self.accept else 1) * self.size
        return self.moves * (one + (num_dims if self.scan == "lowest_confidence" else 0))

    def check(self, num_dims: int, num_free: int | None = None) -> None:
        """Raise UserError unless the correction fits D coordinates, of which at least `num_free` are free."""
        free = num_dims if num_free is None else num_free
        if self.size > free:
            raise UserError(
                f"a correction of size {self.size} needs at least that many free coordinates, and there are {free}: "
                f"choose a size of at most {free}"
                if free
                else "there is no free coordinate to correct: leave the correction out"
            )
        if self.policy is not None:
            self.policy.check(num_dims)

    def order_of(self, guidance: Guidance) -> Policy:
        """The policy of its refills."""
        return KindPolicy(guidance.kind) if self.policy is None else self.policy

    @checked
    def draw(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        x: Integers,
        free: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        made: int = 0,
    ) -> Tensor:
        """The states after all moves.

        Args:
            x: finished states, int64 (B, D). free: bool (B, D), which coordinates may change, at least `size` in every
                row; None is all. made: the number of earlier moves, from which a sequential scan continues.

        Returns:
            int64 (B, D). A refill that leaves a mask, because no value is possible there, is undone.
        """
        check_shape(x, denoiser.num_dims)
        check_finished(x, denoiser.num_tokens)
        given = effective_guidance(guidance, self.order_of(guidance))
        filling = _Filling(
            self,
            EventStep(1, self.order_of(guidance)),
            given.rates_of(denoiser, target_class),
            denoiser.num_tokens,
            generator,
        )
        able = torch.ones_like(x, dtype=torch.bool) if free is None else free
        if able.dtype != torch.bool or able.shape != x.shape:
            raise UserError(
                f"free has shape {tuple(able.shape)} and type {able.dtype}, and must hold true or false for every "
                f"coordinate: give a tensor of shape {tuple(x.shape)} and type torch.bool"
            )
        first = whole_number("made", made, 0)
        for number in range(first, first + self.moves):
            x = filling.move(x, filling.chosen(x, able, number))
        return x


def check_finished(x: Tensor, num_tokens: int) -> None:
    """Raise UserError for states that are not values 0..N-1, such as those with a mask."""

    def explain(row: int, state: Tensor) -> str:
        return (
            "a correction needs finished states without masks, and was given "
            f"{name_state(state.tolist(), num_tokens)}: values are 0 to {num_tokens - 1}"
        )

    raise_where((x < 0) | (x >= num_tokens), explain, x)


@dataclass(frozen=True)
class _Filling:
    """The moves of one correction, with the parts of the chain that they need."""

    correction: Correction
    step: SelectFirstStep
    log_rates: Callable[[Tensor], Tensor]
    mask_id: int
    generator: torch.Generator | None

    def chosen(self, x: Tensor, free: Tensor, number: int) -> Tensor:
        """Which coordinates move `number` (from 0) masks: bool (B, D), `size` in every row."""
        size = self.correction.size
        if self.correction.scan == "sequential":
            place = free.cumsum(dim=1) - 1
            return free & ((place - number * size) % free.sum(dim=1, keepdim=True).clamp(min=1) < size)
        weight = torch.zeros_like(x, dtype=torch.float64).masked_fill(~free, NEG_INF)
        tier = None
        if self.correction.scan == "lowest_confidence":
            tier = tiers((-self.confidence(x)).masked_fill(~free, NEG_INF))
        return Selection(size, tier, weight).draw(self.generator)

    def confidence(self, x: Tensor) -> Tensor:
        """ln rho_i(x_i | all others) / Z_i, float64 (B, D)."""
        each = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        states = x[:, None].masked_fill(each, self.mask_id).flatten(0, 1)
        log_rates = self.log_rates(states).unflatten(0, x.shape).diagonal(dim1=1, dim2=2).transpose(1, 2)
        return log_own_value(log_rates, x)

    def move(self, x: Tensor, chosen: Tensor) -> Tensor:
        """The states after the chosen coordinates have been refilled, or not."""
        emptied = x.masked_fill(chosen, self.mask_id)
        if self.correction.parallel:
            log_rates = self.log_rates(emptied)
            drawn = draw_values(log_rates, unrolled_logsumexp(log_rates, dim=-1), self.generator)
            movable = (log_rates > NEG_INF).any(dim=-1)
            filled = torch.where(movable, drawn, emptied)
            log_new = None
        else:
            filled, log_new = self.fill(emptied)
        keep = (filled == self.mask_id).any(dim=1)
        if self.correction.accept:
            assert log_new is not None  # parallel refills are never accepted or rejected
            forced, log_old = self.fill(emptied, x)
            log_u = uniform(keep.shape, self.generator, x.device).log()
            keep |= (forced == self.mask_id).any(dim=1) | (log_u >= log_new - log_old)
        return torch.where(keep[:, None], x, filled)

    def fill(self, x: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The masked coordinates filled one at a time, and the logarithm of W, (B,).

        Args:
            values: int64 (B, D), the values to fill in; None draws them. W is 0 where one is impossible.
        """
        log_weight = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        places = torch.arange(x.shape[1], device=x.device)
        for _ in range(self.correction.size):
            before = x
            log_rates = self.log_rates(x)
            log_z = unrolled_logsumexp(log_rates, dim=-1)
            if values is None:
                x = self.step.draw(before, log_rates, self.generator)
            else:
                log_r = normalized(log_rates, log_z)
                next_one = self.step.selection(log_z, log_r.clone, places).draw(self.generator)
                x = torch.where(next_one, values, before)
                log_z = torch.where(log_own_value(log_rates, values) == NEG_INF, NEG_INF, log_z)
            log_weight += torch.where(x != before, log_z, 0.0).sum(dim=1)
        return x, log_weight


def log_own_value(log_rates: Tensor, x: Tensor) -> Tensor:
    """ln rho_i(x_i) / Z_i of every coordinate, (B, D), from log-rates (B, D, N) and values int64 (B, D)."""
    log_r = normalized(log_rates, unrolled_logsumexp(log_rates, dim=-1))
    return log_r.gather(-1, x.clamp(max=log_r.shape[-1] - 1)[..., None]).squeeze(-1)


ALLOWED = (
    "correction(size=1, moves=10), with accept, parallel, scan=random, sequential or lowest_confidence, or "
    "policy=uniform (any policy) after them"
)


def parse_correction(text: Any) -> Correction:
    """A correction as a user writes it, such as "correction(size=2, moves=10, accept)", or itself.

    Raises:
        UserError: anything else, or values that a correction does not take.
    """
    if isinstance(text, Correction):
        return text
    return read_form("correction", text, {}, {"correction": _read}, ALLOWED)


def _read(inside: str) -> Correction:
    given: dict[str, Any] = {}
    names = [one.name for one in fields(Correction)]
    for part in parts_of(inside) if inside.strip() else []:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in names or name in given:
            raise Unreadable
        if name in ("accept", "parallel"):
            given[name] = {"": True, "true": True, "false": False}.get(value.lower(), value)
        else:
            given[name] = whole(value) if name in ("size", "moves") else value
    return Correction(**given)
