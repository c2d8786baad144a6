"""How far rules of guidance depart from the ideal guided conditionals: plain numbers by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.ideal import Departure
from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan
from mdlm_cfg.studies.table.strength import strength_key

NOTHING = 1e-12  # nats below this are rounding
SAME = 1e-9  # nats: rules closer than this depart alike


@dataclass(frozen=True)
class RuleRow:
    """One rule of guidance.

    Attributes:
        guidance: its strength. rule: the kind whose order it has, or a policy, by name.
        denoiser: whose guided conditionals these are, "exact" or "learned".
        tilted_w: w of the tilted law whose conditionals are the ideal.
        found: KL(ideal paths || guided paths) by level and by state, in nats.
        kl_tilted: KL(tilted law || terminal law of the rule), in nats: at most `found.total`. tv_tilted: their TV.
    """

    guidance: Guidance
    rule: str
    denoiser: str
    tilted_w: float
    found: Departure
    kl_tilted: float
    tv_tilted: float

    def flat(self) -> dict[str, Any]:
        """Plain numbers, levels under names of their own: "level_0", and so on."""
        strength = {key: value for key, value in self.guidance.describe().items() if key != "kind"}
        levels = {f"level_{level}": value for level, value in enumerate(self.found.by_level)}
        return strength | {
            "rule": self.rule, "denoiser": self.denoiser, "tilted_w": self.tilted_w, "total": self.found.total,
            **levels, "kl_tilted": self.kl_tilted, "tv_tilted": self.tv_tilted,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values: levels as a list, and the worst states."""
        flat = {key: value for key, value in self.flat().items() if not key.startswith("level_")}
        return flat | {"by_level": list(self.found.by_level), "worst_states": [vars(s) for s in self.found.states]}


@dataclass(frozen=True)
class DepartureFindings:
    """Every rule beside the ideal.

    Attributes:
        plan: what was asked for. target_class: z. num_tokens: N. num_dims: D. rules: by guidance, denoiser and rule.
    """

    plan: Plan
    target_class: int
    num_tokens: int
    num_dims: int
    rules: list[RuleRow]

    @property
    def verdict(self) -> list[str]:
        """How far and how early the rules depart, in sentences."""
        departing = [row for row in self.rules if row.denoiser == "exact" and row.found.total > NOTHING]
        if not departing:
            return ["With exact scores no rule departs from the ideal guided conditionals."]
        strongest = max(departing, key=lambda row: (not row.guidance.is_schedule, row.tilted_w)).guidance
        here = [row for row in departing if row.guidance == strongest]
        best, worst = min(here, key=lambda row: row.found.total), max(here, key=lambda row: row.found.total)
        state = worst.found.states[0]
        sentences = [
            f"At w = {strongest.label}, exact scores, {_least_and_most(best, worst)}",
            f"The costliest partial state of {worst.rule} is {name_state(list(state.state), self.num_tokens)}: "
            f"{state.visits * state.kl:.4f} nats.",
        ]
        schedules = [row for row in self.rules if row.denoiser == "exact" and row.guidance.is_schedule]
        if schedules:
            least = min(schedules, key=lambda row: row.found.total)
            sentences.append(
                f"Of the schedules {least.guidance.label} departs least from the ideal of w = {least.tilted_w:g}: "
                f"{least.found.total:.3g} nats, by {least.rule}."
            )
        learned = [row for row in self.rules if row.denoiser == "learned" and row.guidance == strongest]
        if learned:
            least = min(learned, key=lambda row: row.found.total)
            sentences.append(
                f"With learned scores {least.rule} departs least there: {least.found.total:.4f} nats, "
                f"{least.found.by_level[-1]:.4f} of them with the last coordinate, where exact scores never depart."
            )
        return sentences

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for every rule; `set` says which curve over w it is a point of."""
        return [row.flat() | {"set": f"{row.denoiser}, {row.rule}"} for row in self.rules]

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "departure_exact_rate_w2", and so on."""
        return {
            f"departure_{row.denoiser}_{row.rule}_{strength_key(row.guidance)}": row.found.total for row in self.rules
        }

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds (docs/policies.md)."""
        return to_plain(
            {
                "version": REPORT_VERSION,
                "plan": self.plan.describe(self.num_dims),
                "target_class": self.target_class,
                "departures": [row.to_dict() for row in self.rules],
                "verdict": self.verdict,
            }
        )

    def arrays(self) -> Mapping[str, np.ndarray]:
        """None."""
        return {}


def _least_and_most(best: RuleRow, worst: RuleRow) -> str:
    if worst.found.total - best.found.total < SAME:
        return f"every rule departs from the ideal guided conditionals alike: {_path(best)}."
    least = f"{best.rule} departs least from the ideal guided conditionals ({_path(best)})"
    return f"{least}, {worst.rule} most ({_path(worst)})."


def _path(row: RuleRow) -> str:
    share = row.found.by_level[0] / row.found.total
    return f"{row.found.total:.4f} nats along a path, {share:.0%} of them with the first coordinate"
