"""study=best_schedule: the best strength for each number of unmasked coordinates (theory, section 12)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance, LinearRamp
from mdlm_cfg.chain.guidance_schedules import PerCount
from mdlm_cfg.compare.best_schedule import TradeOff, best_schedule, trade_off
from mdlm_cfg.compare.divergence import divergence_from_chain
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.sampling.reference import check_positive_class
from mdlm_cfg.studies.common import TABLE
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_nats, in_tv
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import AtStrength, OfDenoiser, by, where
from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.support.numbers import instead_of, largest, named

OBJECTIVES = ("kl", "tv", "trade_off")
CONSTANT = "constant"
RAMP = "ramp"
BEST = "best"
EXACTS_BEST = "exacts_best"
NOTHING = 1e-6  # a smaller gain counts as none: a descent ends this close to its minimum
ROUNDING = 1e-12
READING = """\
A schedule gives one strength for each number of coordinates that are already unmasked. The constant schedule has \
strength w throughout. The ramp goes from 0, for the first coordinate, to w for the last. The best schedule minimises \
{aim}; it is the best one found by a search from several starts with the exact gradient.

All distributions are those of the guided chain in continuous time, one coordinate after another{order}. They are \
computed exactly: nothing is sampled."""
SCHEDULE = f'"{CONSTANT}", "{RAMP}", "{BEST}", or "{EXACTS_BEST}": on learned conditionals, the best one for exact ones'


@dataclass(frozen=True)
class ScheduleRow(OfDenoiser):
    """The terminal distribution of the guided chain under one schedule."""

    schedule: str = col("schedule", SCHEDULE, index=True)
    objective: float = col("objective", "what the best schedule minimises; in nats, except for tv")
    tv_tilted: float = in_tv("TV to the tilted distribution", "total variation")
    kl_tilted: float = in_nats("KL from the tilted distribution", "KL(tilted || distribution); may be inf")


@dataclass(frozen=True)
class StrengthRow(OfDenoiser):
    """The best strength at one number of unmasked coordinates."""

    unmasked: int = col("unmasked", "coordinates that are already unmasked", index=True)
    strength: float = col("best strength", "w_j while j coordinates are unmasked", digits=3)


@dataclass(frozen=True)
class TransferRow(AtStrength):
    """How well the best schedule for exact conditionals serves learned ones."""

    gain: float = col(
        "gain", "gain in the objective of the best schedule for learned conditionals over the constant one"
    )
    share_kept: float | None = col(
        "share of the gain",
        "share that the best schedule for exact conditionals achieves on learned ones; absent without a gain",
    )


@dataclass(frozen=True)
class BestScheduleStudy:
    """For each w the best strengths w_0, ..., w_{D-1}, compared with the constant w and a ramp from 0 to w.

    Args:
        objective: what the best schedule minimises: "kl", KL(tilted || distribution); "tv", the total variation
            between the two; "trade_off", -E ln p(z | x) - entropy_weight * entropy of the distribution, in nats,
            which does not depend on the tilted distribution.
        entropy_weight: for "trade_off": the nats of the class's log posterior that a nat of entropy is worth.

    Raises:
        UserError: an unknown objective, or a weight that is negative or not finite.
    """

    objective: str = "kl"
    entropy_weight: float = 1.0
    name: ClassVar[str] = "best_schedule"
    needs: ClassVar[Needs] = Needs(**TABLE, one_class=True, numbers=True, one_kind=True, unfiltered=True, guided=True)
    rows: ClassVar[Rows] = {"schedules": ScheduleRow, "strengths": StrengthRow, "transfer": TransferRow}

    def __post_init__(self) -> None:
        one_of("study.objective", self.objective, OBJECTIVES)
        if not 0 <= self.entropy_weight < math.inf:
            raise UserError(f"study.entropy_weight = {self.entropy_weight} is not allowed: it must be at least 0")

    @property
    def aim(self) -> str:
        """The objective in words."""
        if self.objective == "trade_off":
            return f"-E ln p(z | x) - {self.entropy_weight:g} times the entropy"
        return {"kl": "KL(tilted || guided)", "tv": "total variation to the tilted distribution"}[self.objective]

    @property
    def unit(self) -> str:
        """Of the objective, after a number."""
        return "" if self.objective == "tv" else " nats"

    def check(self, case: Case) -> None:
        """Refuse a class without weight, and distributions too large to differentiate."""
        if not case.is_enumerable:
            raise UserError(
                f"{case.data.name} has ({case.data.num_tokens}+1)^{case.num_dims} partial states, too many to "
                "differentiate its distributions: choose smaller data"
            )
        check_positive_class(case.target, case.one_class)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """One piece for each strength and denoiser. Pieces of learned conditionals use those of exact ones."""
        for g, who in case.by_denoiser():
            label = f"the best strengths for {who} conditionals at w = {g.label}"
            yield case.piece(self._reached, g, who, label=label)

    def _goal(self, case: Case) -> str | TradeOff:
        if self.objective == "trade_off":
            return trade_off(case.target, case.one_class, self.entropy_weight)
        return self.objective

    def _reached(self, case: Case, guidance: Guidance, who: str) -> dict[str, tuple[list[float], Tensor]]:
        """Strengths and terminal distribution of each schedule, computed independently of the differentiated one."""
        w = guidance.constant
        z = case.one_class
        policy = case.plan.sampler.policy
        denoiser = case.denoiser(who)
        ramp = Guidance(LinearRamp(0.0, w)).table(denoiser.num_dims)
        strengths = {CONSTANT: [w] * denoiser.num_dims, RAMP: list(ramp)}
        if who == LEARNED and EXACT in case.denoisers:
            strengths[EXACTS_BEST] = case.made.of(self._reached, guidance, EXACT)[BEST][0]
        starts = [strengths[EXACTS_BEST]] if EXACTS_BEST in strengths else []
        how: Any = {"kind": guidance.kind, "policy": policy, "denoiser": denoiser, "more_starts": starts}
        strengths[BEST] = list(best_schedule(case.target, w, z, self._goal(case), **how).strengths.values)
        return {
            name: (values, terminal_law(denoiser, Guidance(PerCount(tuple(values)), guidance.kind), z, policy))
            for name, values in strengths.items()
        }

    def findings(self, case: Case, made: Made) -> Findings:
        """Every schedule by its distance to the tilted distribution, and the best strengths."""
        schedules: list[ScheduleRow] = []
        strengths: list[StrengthRow] = []
        arrays: dict[str, np.ndarray] = {}
        z = case.one_class
        for g in case.plan.guidances:
            tilted = tilted_law(case.target, g.constant, z)
            arrays[f"tilted_{g.identifier}"] = tilted.numpy()
            for who in case.denoisers:
                reached = made.of(self._reached, g, who)
                for name, (values, law) in reached.items():
                    tv = total_variation(tilted, law)
                    given = Guidance(PerCount(tuple(values)), g.kind)
                    kl = divergence_from_chain(tilted, law, case.denoiser(who), given, z, case.plan.sampler.policy)
                    schedules.append(ScheduleRow(g, who, name, self._value(case, law, tv, kl), tv, kl))
                    arrays[f"{who}_{name}_{g.identifier}"] = law.numpy()
                strengths += [StrengthRow(g, who, k, strength) for k, strength in enumerate(reached[BEST][0])]
        transfers = transfers_of(schedules) if case.has_learned else []
        blocks = [*self._main(case, schedules, strengths), _transfer_block(transfers)]
        weight = self.entropy_weight if self.objective == "trade_off" else None
        facts = {"target_class": z, "objective": {"name": self.objective, "entropy_weight": weight}}
        return Findings(case.plan, blocks, self.verdict_of(schedules, transfers), facts, arrays)

    def _value(self, case: Case, law: Tensor, tv: float, kl: float) -> float:
        goal = self._goal(case)
        return goal.value(law) if isinstance(goal, TradeOff) else {"tv": tv, "kl": kl}[goal]

    def _main(self, case: Case, schedules: Sequence[ScheduleRow], strengths: Sequence[StrengthRow]) -> list[Block]:
        policy = case.plan.sampler.policy
        order = "" if policy is None else f", in the order {policy}"
        text = f"Class {case.class_name(case.one_class)}. {READING.format(aim=self.aim, order=order)}"
        lead = ["w", "denoiser"] if case.has_learned else ["w"]
        note = "Total variation to the tilted distribution."
        if case.has_learned:
            note += f" {EXACTS_BEST}: the best schedule for exact conditionals, used with the learned ones."
        caption = "Total variation to the tilted distribution against w."
        views: list[View] = [
            Table(lead, ["tv_tilted"], "schedule", note),
            Curve("w", "tv_tilted", ["schedule"], caption, "denoiser", dashed={"schedule": EXACTS_BEST}),
        ]
        if self.objective != "tv":
            note = f"The objective, {self.aim}, in{self.unit}."
            views.append(Table(lead, ["objective"], "schedule", note, title="Objective"))
        note = "The best strength, by the number of coordinates that are already unmasked."
        caption = "The best strength by the number of unmasked coordinates."
        shown: list[View] = [
            Table(lead, ["strength"], "unmasked", note),
            Curve("unmasked", "strength", ["w"], caption, "denoiser"),
        ]
        title = "Distance to the tilted distribution"
        return [
            Block("schedules", schedules, title, text, (), views, ["tv_tilted"], group="", printed=True),
            Block("strengths", strengths, "The best strengths", views=shown, group="Best strengths", printed=True),
        ]

    def verdict_of(self, rows: Sequence[ScheduleRow], transfers: Sequence[TransferRow]) -> list[str]:
        """Whether a schedule helps, and whether the one for exact conditionals serves a network."""
        said = [sentence for who, own in by(rows, "denoiser") for sentence in self._of_denoiser(own, who)]
        return [*said, *carried_over(transfers)]

    def _of_denoiser(self, rows: Sequence[ScheduleRow], who: str) -> list[str]:
        infinite = [w for w, own in by(rows, "w") if min(row.objective for row in own) == math.inf]
        rest = [row for row in rows if row.w not in infinite]
        said = [self._gains(rest, who)] if rest else []
        if infinite:
            said.append(
                f"With {who} conditionals, {self.aim} is infinite for every schedule at w = "
                f"{named([w.label for w in infinite])}: they {self._lacking}."
            )
        return said

    @property
    def _lacking(self) -> str:
        """The reason for an infinite objective, as text."""
        if self.objective == "kl":
            return "give probability 0 to states of the tilted distribution"
        return "give probability to states that are impossible under the class"

    def _gains(self, rows: Sequence[ScheduleRow], who: str) -> str:
        gains = {row.w: _gain(rows, row.w, who) for row in rows}
        most = largest(list(gains), lambda w: gains[w], NOTHING)
        if gains[most[0]] <= NOTHING:
            return f"With {who} conditionals, no schedule was found that improves on the constant w in {self.aim}."
        constant, best = (where(rows, w=most[0], schedule=name)[0].objective for name in (CONSTANT, BEST))
        return (
            f"With {who} conditionals, the best schedule gains most over the constant w at w = "
            f"{named([w.label for w in most])}. At w = {most[0].label}, {self.aim} is "
            f"{instead_of(best, constant)}{self.unit}."
        )


def _transfer_block(rows: Sequence[TransferRow]) -> Block:
    note = "Share of the gain in the objective that the best schedule for learned conditionals has over the constant w."
    table = Table(["w"], ["gain", "share_kept"], note=note)
    title = "The best schedule for exact conditionals, used with learned ones"
    return Block("transfer", rows, title, views=[table], logged=["share_kept"], group="Best strengths")


def _objectives(rows: Sequence[ScheduleRow], w: Guidance, who: str) -> dict[str, float]:
    return {row.schedule: row.objective for row in where(rows, w=w, denoiser=who)}


def _gain(rows: Sequence[ScheduleRow], w: Guidance, who: str) -> float:
    """The constant schedule's objective minus that of the best one; 0 if both are infinite."""
    of = _objectives(rows, w, who)
    return of[CONSTANT] - of[BEST] if of[CONSTANT] > of[BEST] else 0.0


def transfers_of(rows: Sequence[ScheduleRow]) -> list[TransferRow]:
    """For each w, the share of the gain on learned conditionals that the best schedule for exact ones achieves."""
    found = []
    for w, _ in by(rows, "w"):
        gain = _gain(rows, w, LEARNED)
        of = _objectives(rows, w, LEARNED)
        has_share = NOTHING < gain < math.inf and of[EXACTS_BEST] < math.inf
        found.append(TransferRow(w, gain, (of[CONSTANT] - of[EXACTS_BEST]) / gain if has_share else None))
    return found


def carried_over(transfers: Sequence[TransferRow]) -> list[str]:
    """Whether the best schedule for exact conditionals serves learned ones, where there is anything to gain."""
    kept = {row.w.label: row.share_kept for row in transfers if row.share_kept is not None}
    if not kept:
        return []
    head = "With learned conditionals, the best schedule for exact conditionals"
    least = largest(list(kept), lambda w: -kept[w], ROUNDING)
    at = f"at w = {named(least)}"
    if kept[least[0]] < -ROUNDING:
        return [f"{head} is worse than the constant w {at}: find the schedule with the network itself."]
    down = math.floor(1000 * kept[least[0]] + ROUNDING) / 10
    return [f"{head} achieves at least {down:.1f}% of the gain of their own best schedule (least {at})."]
