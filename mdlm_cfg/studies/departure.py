"""study=departure: every guidance rule against the ideal guided conditionals, by level and state (theory, 11)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.chain.policies import POLICIES, Policy, RatePolicy, Uniform
from mdlm_cfg.compare.divergence import divergence_from_chain
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.path_kl import path_kl
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.studies.common import TABLE
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_nats, in_probability, in_tv
from mdlm_cfg.studies.protocol import EXACT, Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import OfDenoiser, by, least_and_most, where
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numbers import largest, named, percent, short

MOST_STATES = 10  # partial states that are listed, the worst first
NOTHING = 1e-12  # nats that are rounding
GROUP = "Departure from the ideal"
SAME = 1e-9  # rules whose path KL differs by less count as equal
PATH_KL = "the path KL to the ideal"
READING = """\
The chain that ends in the tilted distribution without importance weights uses the conditionals of that distribution: \
the ideal guided conditionals. At a partial state, a rule of guidance departs from them by KL(ideal || rule), \
averaged over the next coordinate in the rule's order. The sum over partial states, weighted by how often the ideal \
chain visits them, is the KL divergence between paths. It is an upper bound on the KL divergence from the tilted \
distribution to the distribution in which the rule ends.

In one dimension, and for the last coordinate, guidance with exact conditionals is the ideal."""


@dataclass(frozen=True)
class OfRule(OfDenoiser):
    """One rule at one strength."""

    rule: str = col("rule", "name of a kind of guidance or of an unmasking policy", index=True)

    @property
    def key(self) -> tuple[Guidance, str, str]:
        """The strength, the denoiser and the rule."""
        return (self.w, self.denoiser, self.rule)


@dataclass(frozen=True)
class RuleRow(OfRule):
    """The total departure of one rule from the ideal."""

    tilted_w: float = col("ideal w", "strength of the tilted distribution that the rule is compared with")
    departure: float = in_nats("path KL", "KL(ideal paths || guided paths)")
    kl_tilted: float = in_nats("KL", "KL(tilted || distribution of the rule)")
    tv_tilted: float = in_tv("TV", "total variation between the tilted distribution and that of the rule")


@dataclass(frozen=True)
class LevelRow(OfRule):
    """How far one rule is from the ideal, at one number of unmasked coordinates."""

    level: int = col("unmasked", "coordinates that are already unmasked", index=True)
    kl: float = in_nats("KL to the ideal", "sum over the states of the level of visit probability times KL")


@dataclass(frozen=True)
class StateRow(OfRule):
    """One of the partial states where a rule departs most."""

    state: str = col("partial state", "coordinates of the partial state", index=True)
    visits: float = in_probability("visits", "probability that the ideal chain visits it")
    kl: float = in_nats("KL", "KL(ideal || rule) at that state")
    cost: float = in_nats("visits times KL", "contribution of the state to the path KL")


@dataclass(frozen=True)
class Departures:
    """KL between the paths of the ideal chain, which ends in the tilted distribution, and those of every rule."""

    name: ClassVar[str] = "departure"
    needs: ClassVar[Needs] = Needs(**TABLE, one_class=True, guided=True)
    rows: ClassVar[Rows] = {"departures": RuleRow, "levels": LevelRow, "states": StateRow}

    def check(self, case: Case) -> None:
        """Refuse schedules without a number for comparison."""
        if all(guidance.is_schedule for guidance in case.plan.guidances):
            raise UserError(
                f"w = {case.plan.guidances[0].label} is a schedule, which has no tilted distribution of its own: give "
                "a number among w, whose tilted distribution it is compared with"
            )

    def pieces(self, case: Case) -> Iterable[Piece]:
        """One piece for each strength and denoiser."""
        for g, who in case.by_denoiser():
            label = f"path KL to the ideal, {who} conditionals, w = {g.label}"
            yield case.piece(self._departures, g, who, ideal_w(g, case), label=label)

    def _departures(self, case: Case, guidance: Guidance, name: str, w: float) -> list[tuple[Any, ...]]:
        """For every rule: path KL, KL, TV, KL by level, and the worst states; the ideal is of strength w."""
        target = case.target
        z = case.one_class
        tilted = tilted_law(target, w, z)
        source = case.denoiser(name)
        made = []
        for rule, given, policy in rules_of(guidance, case.plan.sampler.policy):
            found = path_kl(target, given, z, policy, w=w, denoiser=source, most=MOST_STATES)
            law = terminal_law(source, given, z, policy)
            states = [(name_state(list(s.state), target.num_tokens), s.visits, s.kl) for s in found.states]
            kl = divergence_from_chain(tilted, law, source, given, z, policy)
            made.append((rule, found.total, kl, total_variation(tilted, law), list(found.by_level), states))
        return made

    def findings(self, case: Case, made: Made) -> Findings:
        """Where the rules end, and where they depart, by level and by state."""
        rules: list[RuleRow] = []
        levels: list[LevelRow] = []
        states: list[StateRow] = []
        for g, who in case.by_denoiser():
            w = ideal_w(g, case)
            for rule, total, kl, tv, by_level, worst in made.of(self._departures, g, who, w):
                rules.append(RuleRow(g, who, rule, w, total, kl, tv))
                levels += [LevelRow(g, who, rule, k, max(value, 0.0)) for k, value in enumerate(by_level)]
                states += [StateRow(g, who, rule, state, v, value, v * value) for state, v, value in worst]
        blocks = blocks_of(rules, levels, states)
        return Findings(case.plan, blocks, verdict_of(rules, levels, states), {"target_class": case.one_class})


def ideal_w(guidance: Guidance, case: Case) -> float:
    """The strength of the tilted distribution that a guidance is compared with: a schedule with the largest number."""
    given = case.plan.strongest if guidance.is_schedule else guidance
    return given.constant


def blocks_of(rules: Sequence[RuleRow], levels: Sequence[LevelRow], states: Sequence[StateRow]) -> list[Block]:
    """The tables of the page; rules that equal the ideal everywhere are left out of the tables of levels and states."""
    departing = [row.key for row in rules if row.departure > NOTHING]
    strengths = list(dict.fromkeys(w for w, _, _ in departing)) or [row.w for row in rules]
    ideal = dict.fromkeys(row.w.label for row in rules if row.w not in strengths)
    note = "Exact, from the tilted distribution."
    note += f" Every rule is the ideal at w = {', '.join(ideal)}." if ideal else ""
    columns = ["departure", "kl_tilted", "tv_tilted"]
    by_rule = Table(["rule", "denoiser"], columns, note=note, where={"w": strengths})
    by_level = Table(["rule", "denoiser"], ["kl"], "level", "In nats, by the number of unmasked coordinates.")
    curve = Curve("level", "kl", ["rule", "denoiser"], "KL to the ideal by level.")
    listed = Table(["rule", "state"], ["visits", "kl", "cost"])
    shown = [row for row in levels if row.key in departing]
    worst = [row for row in states if row.key in departing and row.cost > NOTHING]
    first = where(levels, rule=rules[0].rule, denoiser=EXACT) if any(row.w.is_schedule for row in rules) else []
    lines: list[View] = [Table(["w"], ["kl"], "level"), Curve("level", "kl", ["w"], "KL to the ideal by level.")]
    return [
        Block(
            "departures", rules, "Where the rules end", READING, ["w"], [by_rule], ["departure"], GROUP, printed=True
        ),
        Block("levels", shown, "Departure by level", "", ["w"], [by_level, curve], group=GROUP),
        Block(
            "states", worst, "The partial states with the largest costs", "", ["w", "denoiser"], [listed], group=GROUP
        ),
        Block("schedules", first, f"All strengths against the same ideal, {rules[0].rule}", views=lines, group=GROUP),
    ]


def verdict_of(rules: Sequence[RuleRow], levels: Sequence[LevelRow], states: Sequence[StateRow]) -> list[str]:
    """How far and how early the rules depart, as sentences."""
    departing = [row for row in rules if row.denoiser == EXACT and row.departure > NOTHING]
    if not departing:
        return ["With exact conditionals every rule equals the ideal guided conditionals."]
    top = max(departing, key=lambda row: (not row.w.is_schedule, row.tilted_w)).w
    here = where(rules, w=top)
    worst = max(where(here, denoiser=EXACT), key=lambda row: row.departure)
    costly = largest([row for row in states if row.key == worst.key], lambda row: row.cost)
    exact, *learned = (
        f"At w = {top.label}, with {who} conditionals, "
        + least_and_most(PATH_KL, own, "departure", "rule", SAME, lambda tied: _share(tied[0], levels))
        for who, own in by(here, "denoiser")
    )
    cost = f"the largest cost of a partial state is {short(costly[0].cost)} nats"
    return [exact, f"For {worst.rule}, {cost}, at {named([row.state for row in costly])}.", *learned]


def _share(row: RuleRow, levels: Sequence[LevelRow]) -> str:
    if row.departure <= NOTHING or math.isinf(row.departure):
        return ""
    share = next(level.kl for level in levels if level.key == row.key) / row.departure
    return f" nats, {percent(share)} of which at the first coordinate"


def rules_of(guidance: Guidance, own: Policy | None) -> list[tuple[str, Guidance, Policy | None]]:
    """Every rule of one strength: the kinds of guidance, the policies that are neither, and the plan's own."""
    kinds = dict.fromkeys([*KINDS.values(), guidance.kind])
    named = [make() for make in POLICIES.values()]
    policies = [policy for policy in named if policy not in (RatePolicy(), Uniform())]  # those are the two kinds
    if own is not None and own not in named:
        policies.append(own)
    return [(str(kind), replace(guidance, kind=kind), None) for kind in kinds] + [
        (str(policy), guidance, policy) for policy in policies
    ]
