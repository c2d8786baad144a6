"""The data of a report's interactive panel: distributions over a range of strengths, for every class and kind.

Every number of the panel is computed here; the page's script looks it up and draws it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS, Kind
from mdlm_cfg.chain.rules import CFG
from mdlm_cfg.compare.decay import waiting
from mdlm_cfg.compare.geometry import Region, region_mass, regions
from mdlm_cfg.compare.metrics import mean_and_covariance, total_variation
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import LEARNED, Case, Piece

MAX_STATES = 1024  # of a shown distribution: 32 x 32, or 1024 values in one dimension
MAX_NUMBERS = 250_000  # probabilities in a panel, not counting their differences
MAX_LAWS = 400  # distributions in a panel; if all classes need more, only the plan's class is shown
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # in addition to the plan's own
TAUS = torch.logspace(-2, 1, 25, dtype=torch.float64)
COST = 0.02  # of one distribution, relative to a piece that samples
PAIRS = (("exact", "class"), ("exact", "tilted"), ("learned", "exact"))  # which distributions are compared
DIGITS = 8  # significant digits of the numbers in the page


@dataclass(frozen=True)
class PanelLaw:
    """One class at one guidance.

    Attributes:
        guidance: strength and kind.
        laws: "class" and "exact"; "tilted", except for a schedule; "learned", if there is one: float64 (N,)*D.
        still_masked: P(something is still masked), which is TV to the terminal distribution, of the exact chain at
            `TAUS`, (T,); None with a policy, a temperature or a top-p, for which time is undefined.
    """

    guidance: Guidance
    laws: Mapping[str, Tensor]
    still_masked: Tensor | None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs in `PAIRS` whose two distributions exist."""
        return [pair for pair in PAIRS if set(pair) <= set(self.laws)]

    def tv(self, first: str, second: str) -> float:
        """TV between two of the distributions."""
        return total_variation(self.laws[first], self.laws[second])


@dataclass(frozen=True)
class InteractivePanel:
    """The contents of a panel.

    Attributes:
        case: of the report.
        laws: by class and kind of guidance, the plan's first: numbers ascending, then schedules.
    """

    case: Case
    laws: Mapping[tuple[int, Kind], Sequence[PanelLaw]]

    def data(self) -> dict[str, Any]:
        """The script's input as JSON types; it starts at the plan's class, kind and largest strength."""
        target = self.case.target
        z = self.case.one_class
        kinds = list(dict.fromkeys(kind for _, kind in self.laws))
        parts = {k: regions(target, k) for k, _ in self.laws}
        slider = [law.guidance for law in self.laws[z, kinds[0]]]
        strengths = [guidance.label for guidance in slider]
        arrays = Arrays()
        return {
            "dims": target.num_dims,
            "n": target.num_tokens,
            "value_names": target.value_names,
            "pairs": [list(pair) for pair in PAIRS],
            "classes": [self._class(k, own, arrays) for k, own in parts.items()],
            "kinds": [str(kind) for kind in kinds],
            "strengths": strengths,
            "w": [None if guidance.is_schedule else guidance.one_strength for guidance in slider],
            "laws": {
                f"{k}/{kind}": [_plain(law, parts[k], arrays) for law in own] for (k, kind), own in self.laws.items()
            },
            "largest": {f"{k}/{kind}": _largest(own) for (k, kind), own in self.laws.items()},
            "arrays": arrays.texts,
            "tau": TAUS.tolist(),
            "start": {"class": z, "kind": str(kinds[0]), "strength": strengths.index(self.case.plan.strongest.label)},
        }

    def rows(self) -> list[dict[str, Any]]:
        """The distances behind the panel, for panel.csv: TV to the exact distribution."""
        return [
            {"class": k, **law.guidance.describe()}
            | {f"tv_exact_{b if a == 'exact' else a}": law.tv(a, b) for a, b in law.pairs}
            for (k, _), own in self.laws.items()
            for law in own
        ]

    def _class(self, k: int, parts: Sequence[Region], arrays: Arrays) -> dict[str, Any]:
        law = self.case.target.class_pmf(k)
        region = torch.full(law.shape, -1, dtype=torch.int8)
        for place, part in enumerate(parts):
            region[part.mask] = place
        return {
            "id": k,
            "name": self.case.class_name(k),
            "law": arrays.place_of(law),
            "moments": _moments(law),
            "masses": _masses(law, parts),
            "region": base64.b64encode(region.numpy().tobytes()).decode(),
            "regions": [
                {"name": part.name, "shared": part.shared, "meaning": part.meaning, "middle": _middle(part.mask)}
                for part in parts
            ],
        }


class Arrays:
    """Distributions and differences as stored in the page: float32 in base64, equal ones once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        """The arrays, in order."""
        return list(self._places)

    def place_of(self, values: Tensor) -> int:
        """The index of an array in `texts`, to which it is added if it is new."""
        text = base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()
        return self._places.setdefault(text, len(self._places))


def panel_pieces(case: Case) -> Iterable[Piece]:
    """One piece for each class; none where a table has no panel."""
    guidances = _guidances(case.plan)
    for k in _classes(case):
        label = f"interactive panel, class {case.class_name(k)}"
        yield case.piece(_laws_of_class, k, guidances, label=label, cost=COST * len(guidances))


def panel_of(case: Case) -> InteractivePanel | None:
    """The panel, assembled from its pieces; None if the table has none."""
    guidances = _guidances(case.plan)
    laws: dict[tuple[int, Kind], list[PanelLaw]] = {}
    for k in _classes(case):
        for g, one in zip(guidances, case.made.of(_laws_of_class, k, guidances)):
            laws.setdefault((k, g.kind), []).append(PanelLaw(g, one["laws"], one["still_masked"]))
    return InteractivePanel(case, laws) if laws else None


def _classes(case: Case) -> list[int]:
    """The classes of the panel; none for tables with more than two dimensions or many states, or under other rules."""
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

    Under a policy, which replaces a kind's timing, only the plan's own kinds are included.
    """
    kinds = list(dict.fromkeys(guidance.kind for guidance in plan.guidances))
    if plan.sampler.policy is None:
        kinds += [kind for kind in KINDS.values() if kind not in kinds]
    return [replace(guidance, kind=kind) for kind in kinds for guidance in _strengths(plan)]


def _strengths(plan: Plan) -> list[Guidance]:
    """The plan's numbers among others, ascending, and then its schedules; other options as in its first guidance."""
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


def _plain(law: PanelLaw, parts: Sequence[Region], arrays: Arrays) -> dict[str, Any]:
    """The page's data for one class at one guidance; `_class` gives those of the class's own distribution."""
    others = {name: p for name, p in law.laws.items() if name != "class"}
    return {
        "laws": {name: arrays.place_of(p) for name, p in others.items()},
        "differences": {f"{a}-{b}": arrays.place_of(law.laws[a] - law.laws[b]) for a, b in law.pairs},
        "tv": {f"{a}-{b}": _rounded(law.tv(a, b)) for a, b in law.pairs},
        "moments": {name: _moments(p) for name, p in others.items()},
        "masses": {name: _masses(p, parts) for name, p in others.items()},
        "still_masked": None if law.still_masked is None else [_rounded(v) for v in law.still_masked.tolist()],
    }


def _largest(laws: Sequence[PanelLaw]) -> dict[str, float]:
    """The largest value of every distribution and every difference over all strengths, where its scale ends."""
    found: dict[str, float] = {}
    for law in laws:
        shown = dict(law.laws) | {f"{a}-{b}": law.laws[a] - law.laws[b] for a, b in law.pairs}
        for name, values in shown.items():
            found[name] = max(found.get(name, 0.0), _rounded(float(values.abs().max())))
    return found


def _moments(law: Tensor) -> dict[str, Any]:
    """Mean, eigenvalues of the covariance, descending, and in two dimensions the angle of the first axis (degrees)."""
    mean, covariance = mean_and_covariance(law)
    eigenvalues, axes = torch.linalg.eigh(covariance)
    found: dict[str, Any] = {
        "mean": [_rounded(v) for v in mean.tolist()],
        "eigenvalues": [_rounded(max(v, 0.0)) for v in eigenvalues.flip(0).tolist()],
    }
    if law.ndim == 2:
        first = axes[:, -1]
        found["angle"] = _rounded(math.degrees(math.atan2(float(first[1]), float(first[0]))))
    return found


def _masses(law: Tensor, parts: Sequence[Region]) -> list[float]:
    return [_rounded(region_mass(law, part)[0]) for part in parts]


def _middle(mask: Tensor) -> list[int]:
    """The state of a region nearest to the mean of its states, where its name is written."""
    states = mask.nonzero()
    away = (states - states.double().mean(0)).square().sum(1)
    place: list[int] = states[away.argmin()].tolist()
    return place


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
