"""study=geometry: the regions of a class's support, and which of them guidance favours (theory, section 7)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.compare.geometry import Region, limit_law, local_moments, overlap_masks, region_mass, regions
from mdlm_cfg.compare.metrics import mean_and_covariance
from mdlm_cfg.studies.decay import own_kinds
from mdlm_cfg.studies.evaluation import TABLE_NEEDS, TableEvaluation, eigenvalues_of, evaluation_of, evaluation_pieces
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_probability
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case, Made, Needs, Piece, Rows
from mdlm_cfg.support.numbers import SAME, apart, largest, named

MAX_REGIONS = 8  # that are shown
W = "guidance strength, or the name of a schedule; inf for the limit of infinite strength"


@dataclass(frozen=True)
class Limit:
    """Guidance in the limit of infinite strength, of one kind."""

    kind: Kind
    label: ClassVar[str] = "inf"

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {"w": math.inf, "kind": str(self.kind)}


@dataclass(frozen=True)
class OfLaw:
    """A row about one distribution."""

    w: Guidance | Limit = col("w", W, index=True)
    law: str = col("distribution", '"exact" or "learned"', index=True)


@dataclass(frozen=True)
class RegionRow(OfLaw):
    """The mass of one region of the support under one distribution."""

    region: str = col("region", "which coordinates overlap with other classes", index=True)
    states: int = col("states", "number of states in the region")
    mass: float = in_probability("mass", "probability of the region")
    mean_probability: float = in_probability(
        "mean probability per state", "mass divided by the number of states", digits=5
    )


@dataclass(frozen=True)
class SpreadRow(OfLaw):
    """The covariance of one distribution, and its moments inside the private region."""

    eigenvalues: list[float] = col(
        "eigenvalues", "eigenvalues of the covariance, descending, in units of the values squared"
    )
    private_mean: list[float] | None = col(
        "private mean", "mean conditioned on the private region; absent if there is none"
    )
    private_trace: float | None = col("private variance", "trace of the covariance conditioned on the private region")


@dataclass(frozen=True)
class OverlapRow:
    """The mass of one distribution on states with a given number of coordinates that overlap other classes."""

    w: Guidance = col("w", W, index=True)
    law: str = col("distribution", "one of class, tilted, exact, learned, samples", index=True)
    num_overlapping: int = col(
        "overlapping coordinates", "number of coordinates with a value that other classes take too", index=True
    )
    mass: float = in_probability("mass", "probability of all these states")
    mean_probability: float = in_probability(
        "mean probability per state", "mass divided by the number of states", digits=5
    )


@dataclass(frozen=True)
class GeometryStudy:
    """Masses and moments of the regions of a class's support against w, with the limit of infinite strength."""

    name: ClassVar[str] = "geometry"
    needs: ClassVar[Needs] = TABLE_NEEDS
    rows: ClassVar[Rows] = {"geometry": RegionRow, "spread": SpreadRow, "overlap": OverlapRow}

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The distributions, and the limit of infinite strength of every kind."""
        yield from evaluation_pieces(case)
        for kind in _with_limit(case):
            yield case.piece(_limit, kind, label=f"limit of infinite w, {kind}")

    def findings(self, case: Case, made: Made) -> Findings:
        """Rows for every distribution, and curves against w."""
        e = evaluation_of(case)
        found: list[tuple[Guidance | Limit, str, Tensor]] = [
            (r.guidance, who, r.laws[who]) for who in (EXACT, LEARNED) for r in e.results if who in r.laws
        ]
        found += [(Limit(kind), EXACT, made.of(_limit, kind)) for kind in _with_limit(case)]
        parts = regions_of(case)
        masses = [row for one in found for row in _masses(*one, parts)]
        spread = [_spread(*one, parts) for one in found]
        overlap = overlap_of(e) if case.num_dims > 2 else []
        meaning = {part.name: part.meaning for part in parts}
        blocks = [_regions_block(masses, meaning), _spread_block(spread), _overlap_block(overlap)]
        return Findings(case.plan, blocks, verdict_of(masses, meaning))


def _with_limit(case: Case) -> list[Kind]:
    """The kinds whose own chain is studied and has a known limit of infinite strength."""
    return [kind for kind in own_kinds(case.plan) if kind.power() is not None]


def _limit(case: Case, kind: Kind) -> Tensor:
    return limit_law(case.target, case.one_class, kind)


def regions_of(case: Case) -> list[Region]:
    """The regions of the support, private ones first."""
    found = regions(case.target, case.one_class)
    return sorted(found, key=lambda r: (len(r.overlapping) + r.shared, -r.num_states))


def _masses(w: Guidance | Limit, who: str, law: Tensor, parts: Sequence[Region]) -> list[RegionRow]:
    return [RegionRow(w, who, p.name, p.num_states, *region_mass(law, p)) for p in parts]


def _spread(w: Guidance | Limit, who: str, law: Tensor, parts: Sequence[Region]) -> SpreadRow:
    shown = eigenvalues_of(mean_and_covariance(law)[1])
    private = parts[0] if parts and not parts[0].overlapping and not parts[0].shared else None
    if private is None or not region_mass(law, private)[0] > 0:
        return SpreadRow(w, who, shown, None, None)
    mean, covariance = local_moments(law, private)
    return SpreadRow(w, who, shown, mean.tolist(), float(covariance.trace()))


def _regions_block(rows: Sequence[RegionRow], meaning: Mapping[str, str]) -> Block:
    def change(region: str) -> float:
        masses = [row.mass for row in rows if row.region == region]
        return max(masses) - min(masses)

    shown = sorted(sorted(meaning, key=lambda region: -change(region))[:MAX_REGIONS], key=list(meaning).index)
    text = "The support of the class is split by which coordinates take values that other classes take too. "
    text += "; ".join(f"{region}: {meaning[region]}" for region in shown) + "."
    if len(shown) < len(meaning):
        text += f" Of {len(meaning)} regions, the {len(shown)} whose mass changes most are shown."
    where = {"region": shown}
    caption = "Mean probability per state of each region against w."
    views: list[View] = [
        Curve("w", "mean_probability", ["region", "law"], caption, where=where),
        Table(["law", "region", "states"], ["mass"], "w", "Mass of each region.", where=where),
    ]
    if len(meaning) < 2:  # all mass is in it, at every strength
        text, views = "", []
    return Block("geometry", rows, "Which regions guidance favours", text, views=views, group="Geometry")


def _spread_block(rows: Sequence[SpreadRow]) -> Block:
    table = Table(["law", "w"], ["eigenvalues", "private_mean", "private_trace"])
    title = "Covariance"
    text = ""
    if any(row.private_mean is not None for row in rows):
        title = "Covariance, and moments within the private region"
        text = "The private region holds the states in which no coordinate has a value that another class takes."
    return Block("spread", rows, title, text, views=[table], group="Geometry")


def _overlap_block(rows: Sequence[OverlapRow]) -> Block:
    caption = "Mean probability per state of the class's support, by how many coordinates overlap with other classes."
    curve = Curve("num_overlapping", "mean_probability", ["law"], caption, panels="w")
    views: list[View] = [curve] if len({row.num_overlapping for row in rows}) > 1 else []
    return Block(
        "overlap", rows, "Mean probability by the number of overlapping coordinates", views=views, group="Geometry"
    )


def overlap_of(e: TableEvaluation) -> list[OverlapRow]:
    """Every distribution of every guidance by the number of overlapping coordinates."""
    parts = {k: mask for k, mask in enumerate(overlap_masks(e.target, e.target_class)) if bool(mask.any())}
    return [
        OverlapRow(r.guidance, name, k, float(r.laws[name][part].sum()), float(r.laws[name][part].mean()))
        for r in e.results
        for name in e.law_names
        if name in r.laws
        for k, part in parts.items()
    ]


def verdict_of(rows: Sequence[RegionRow], meaning: Mapping[str, str]) -> list[str]:
    """The regions that gain and lose most from the smallest to the largest strength, or why none does.

    Args:
        meaning: of every region, by its name.
    """
    at: dict[Guidance, dict[str, float]] = {}
    for row in rows:
        if row.law == EXACT and isinstance(row.w, Guidance) and not row.w.is_schedule:
            at.setdefault(row.w, {})[row.region] = row.mass
    if len({row.region for row in rows}) == 1:
        return ["All states of the class's support lie in one region, so no region can gain from another."]
    one = next(iter(at), None)
    followed = sorted((g for g in at if one and replace(g, w=one.w) == one), key=lambda g: g.one_strength)
    if len(followed) < 2:
        return ["To see which region guidance favours, give two strengths that are numbers, such as w=[0,4]."]
    weakest, *_, strongest = followed
    first = at[weakest]
    last = at[strongest]
    changes = {region: last[region] - mass for region, mass in first.items()}
    span = f"w = {weakest.label} to w = {strongest.label}"
    if max(changes.values()) < SAME:
        return [f"No region gains or loses mass from {span}."]
    about = {r: f"{r} ({meaning[r]}), from {' to '.join(apart(first[r], last[r]))}" for r in changes}
    gains = named([about[region] for region in largest(list(changes), lambda region: changes[region])])
    loses = named([about[region] for region in largest(list(changes), lambda region: -changes[region])])
    return [f"From {span}, mass grows most in region {gains}, and falls most in {loses}."]
