"""Where the moves of a correction arrive at partial states without rates (theory, sections 19 and 20)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mdlm_cfg.chain.bound_rules import Refused
from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.chain.selections import Subset
from mdlm_cfg.laws.refills import Choice


@dataclass(frozen=True)
class Arrivals:
    """The states without rates that masking a set of coordinates may lead to, over all finished states x in C order.

    Attributes:
        correction: whose moves. choices: the transitions of every set of coordinates, to follow a refill.
        refused: for the sets that have such states, the states x with the set masked.
    """

    correction: Correction
    choices: dict[Subset, Choice]
    refused: dict[Subset, Refused]

    def check_sets(self, law: Tensor) -> None:
        """Raise UserError where the confidences that choose a set need a state without rates."""
        if self.refused and self.correction.scan == "lowest_confidence":
            for subset, refused in self.refused.items():
                if len(subset) == 1:
                    refused.where(law > 0)

    def check_refill(self, subset: Subset, mass: Tensor) -> None:
        """Raise UserError where a refill of a set arrives at a state without rates.

        Args:
            mass: of the states from which it is refilled, (N,)*D.
        """
        self._follow(subset, _anywhere(mass > 0, subset), drawn=True)
        if self.correction.accept:  # the forced path to the present values needs rates too
            self._follow(subset, mass > 0, drawn=False)

    def _follow(self, subset: Subset, start: Tensor, drawn: bool) -> None:
        """Check all states with masks that a refill passes through, by the set that is still masked.

        Args:
            start: bool (N,)*D, of the states whose coordinates `subset` are masked.
            drawn: whether values are drawn, or are those of the state.
        """
        arrives = {subset: start}
        for masks in range(len(subset), 0, -1):
            for rest in [one for one in arrives if len(one) == masks]:
                here = arrives[rest]
                if rest in self.refused:
                    self.refused[rest].where(here)
                if self.correction.parallel or masks == 1:
                    continue
                choice = self.choices[rest]
                chance = choice.pi * choice.value if drawn else choice.pi
                for j, possible in enumerate(chance > 0):
                    left = rest[:j] + rest[j + 1 :]
                    there = here & possible.view(here.shape)
                    there = _anywhere(there, left) if drawn else there
                    arrives[left] = there | arrives[left] if left in arrives else there


def _anywhere(states: Tensor, subset: Subset) -> Tensor:
    """States that agree with a flagged one outside a set of coordinates, bool (N,)*D."""
    found = states
    for axis in subset:
        found = found.any(dim=axis, keepdim=True)
    return found.expand(states.shape)
