"""What the interactive panel of a report shows: distributions over a range of strengths, for every class and kind."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS, Kind
from mdlm_cfg.chain.rules import CFG
from mdlm_cfg.compare.decay import waiting
from mdlm_cfg.compare.geometry import Region, regions
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import LEARNED, Case, Key, Piece
from mdlm_cfg.support.by_value import value_key

MAX_STATES = 1024  # of a distribution that is shown: 32 x 32, or 1024 values in one dimension
MAX_NUMBERS = 250_000  # probabilities of a panel
MAX_LAWS = 400  # distributions of a panel; where all classes need more, it is of the plan's class alone
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # beside the plan's own
TAUS = torch.logspace(-2, 1, 25, dtype=torch.float64)
COST = 0.02  # of one distribution, beside a piece that samples


@dataclass(frozen=True)
class PanelLaw:
    """One class at one guidance.

    Attributes:
        target_class: z. guidance: strength and kind.
        laws: "class" and "exact"; "tilted", except for a schedule; "learned", where there is one: float64 (N,)*D.
        still_masked: P(something is still masked), which is TV to the terminal distribution, of the exact chain at
            `TAUS`, (T,); None where there is a policy, a temperature or a top-p, which say nothing of time.
    """

    target_class: int
    guidance: Guidance
    laws: Mapping[str, Tensor]
    still_masked: Tensor | None

    def tv(self, name: str) -> float | None:
        """TV between the exact distribution and another; None if that is absent."""
        return total_variation(self.laws["exact"], self.laws[name]) if name in self.laws else None


@dataclass(frozen=True)
class InteractivePanel:
    """Everything that a panel shows.

    Attributes:
        classes: which there are. class_names: theirs, for people. value_names: of the N values; None is numbers.
        class_laws: of the classes, float64 (N,)*D. regions: of the support of each.
        kinds: of guidance, the plan's first. strengths: as labels, in the order of the slider; schedules come last.
        laws: for every class, kind and strength, in this order.
    """

    classes: Sequence[int]
    class_names: Sequence[str]
    value_names: Sequence[str] | None
    class_laws: Sequence[Tensor]
    regions: Sequence[Sequence[Region]]
    kinds: Sequence[Kind]
    strengths: Sequence[str]
    laws: Sequence[PanelLaw]

    def at(self, target_class: int, kind: Kind) -> list[PanelLaw]:
        """The distributions of one class and kind, in the order of the strengths."""
        return [law for law in self.laws if (law.target_class, law.guidance.kind) == (target_class, kind)]

    def data(self, plan: Plan) -> dict[str, Any]:
        """What the script reads, in types that JSON has; it starts at the plan's class, kind and largest strength."""
        first = self.class_laws[0]
        numbers = [guidance for guidance in plan.guidances if not guidance.is_schedule]
        shown = max(numbers, key=lambda guidance: guidance.one_strength) if numbers else plan.guidances[0]
        z = plan.classes[0] if plan.classes else 0
        slider = [law.guidance for law in self.at(z, self.kinds[0])]
        return {
            "dims": first.ndim,
            "n": first.shape[0],
            "value_names": self.value_names,
            "classes": [self._class(k) for k in range(len(self.classes))],
            "kinds": [str(kind) for kind in self.kinds],
            "strengths": list(self.strengths),
            "w": [None if guidance.is_schedule else guidance.one_strength for guidance in slider],
            "laws": {
                f"{k}/{kind}": [_plain(law) for law in self.at(k, kind)] for k in self.classes for kind in self.kinds
            },
            "tau": TAUS.tolist(),
            "start": {
                "class": z,
                "kind": str(self.kinds[0]),
                "strength": list(self.strengths).index(shown.label),
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """The distances behind the panel, for panel.csv: TV to the exact distribution."""
        names = ("class", "tilted", "learned")
        return [
            {"class": law.target_class, **law.guidance.describe()}
            | {f"tv_exact_{name}": law.tv(name) for name in names if law.tv(name) is not None}
            for law in self.laws
        ]

    def _class(self, k: int) -> dict[str, Any]:
        region = torch.full(self.class_laws[k].shape, -1, dtype=torch.int8)
        for place, part in enumerate(self.regions[k]):
            region[part.mask] = place
        return {
            "id": self.classes[k],
            "name": self.class_names[k],
            "law": _float32(self.class_laws[k]),
            "region": base64.b64encode(region.numpy().tobytes()).decode(),
            "regions": [
                {"name": part.name, "shared": part.shared, "meaning": part.meaning} for part in self.regions[k]
            ],
        }


def panel_pieces(case: Case) -> Iterable[Piece]:
    """One piece for each class; none where a table has no panel."""
    classes = _classes(case)
    guidances = _guidances(case.plan)
    for k in classes:
        make = partial(_laws_of_class, case, k, guidances)
        label = f"interactive panel, class {case.class_name(k)}"
        yield Piece(_key(case, k, guidances), make, label, cost=COST * len(guidances))


def panel_of(case: Case) -> InteractivePanel | None:
    """The panel, put together from its pieces; None where the table has none."""
    target = case.target
    guidances = _guidances(case.plan)
    classes = _classes(case)
    if not classes:
        return None
    kinds = list(dict.fromkeys(guidance.kind for guidance in guidances))
    laws = []
    for k in classes:
        found = case.made[_key(case, k, guidances)]
        laws += [PanelLaw(k, g, one["laws"], one["still_masked"]) for g, one in zip(guidances, found)]
    return InteractivePanel(
        classes=classes,
        class_names=[case.class_name(k) for k in classes],
        value_names=target.value_names,
        class_laws=[target.class_pmf(k) for k in classes],
        regions=[regions(target, k) for k in classes],
        kinds=kinds,
        strengths=[guidance.label for guidance in guidances[: len(guidances) // len(kinds)]],
        laws=laws,
    )


def _key(case: Case, k: int, guidances: Sequence[Guidance]) -> Key:
    asked = tuple(guidance.key(case.target.num_dims) for guidance in guidances)
    policy = case.plan.sampler.policy
    return ("panel", k, asked, value_key(policy), case.has_learned)


def _classes(case: Case) -> list[int]:
    """The classes of the panel; none of tables in more than two dimensions, of large ones, and under other rules."""
    target = case.target
    states = target.num_tokens**target.num_dims
    if target.num_dims > 2 or states > MAX_STATES or any(g.rule != CFG() for g in case.plan.guidances):
        return []
    classes = [k for k, weight in enumerate(target.class_weights.tolist()) if weight > 0]
    laws = len(classes) * len(_guidances(case.plan))
    names = 3 if case.has_learned else 2
    return [case.one_class] if laws > MAX_LAWS or laws * names * states > MAX_NUMBERS else classes


def _guidances(plan: Plan) -> list[Guidance]:
    """Every kind at every strength of the slider.

    Under a policy, which takes the place of what a kind says of time, the plan's own kinds are the only ones.
    """
    kinds = list(dict.fromkeys(guidance.kind for guidance in plan.guidances))
    if plan.sampler.policy is None:
        kinds += [kind for kind in KINDS.values() if kind not in kinds]
    return [replace(guidance, kind=kind) for kind in kinds for guidance in _strengths(plan)]


def _strengths(plan: Plan) -> list[Guidance]:
    """The plan's numbers among others, ascending, and then its schedules; values as its first guidance has them."""
    first = plan.guidances[0]
    own = [guidance for guidance in plan.guidances if not guidance.is_schedule]
    numbers = {w: replace(first, w=w) for w in STRENGTHS} | {g.one_strength: replace(first, w=g.w) for g in own}
    schedules = [replace(first, w=g.w) for g in plan.guidances if g.is_schedule]
    return [numbers[w] for w in sorted(numbers)] + schedules


def _laws_of_class(case: Case, k: int, guidances: Sequence[Guidance]) -> list[dict[str, Any]]:
    return [_laws(case, k, guidance) for guidance in guidances]


def _laws(case: Case, k: int, guidance: Guidance) -> dict[str, Any]:
    policy = case.plan.sampler.policy
    target = case.target
    exact = target.denoiser()
    laws = {"class": target.class_pmf(k), "exact": terminal_law(exact, guidance, k, policy)}
    if guidance.has_tilted:
        laws["tilted"] = tilted_law(target, guidance, k)
    learned = case.table(LEARNED) if case.has_learned else None
    if learned is not None:
        laws["learned"] = terminal_law(learned, guidance, k, policy)
    timed = policy is None and not guidance.filters
    still = waiting(exact, guidance, k, len(TAUS)).log_still_masked(TAUS).exp() if timed else None
    return {"laws": laws, "still_masked": still}


def _plain(law: PanelLaw) -> dict[str, Any]:
    still = None if law.still_masked is None else [float(f"{v:.6g}") for v in law.still_masked.tolist()]
    return {"laws": {name: _float32(p) for name, p in law.laws.items() if name != "class"}, "still_masked": still}


def _float32(values: ArrayLike) -> str:
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()
