"""What the benchmark found: every cell, the rankings, and all of it as a JSON to cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from mdlm_cfg.studies.benchmark.entries import Entry
from mdlm_cfg.studies.benchmark.judge import REFERENCES, Cell, Distance
from mdlm_cfg.studies.benchmark.targets import VERSION
from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.errors import UserError

RANKED = (4, 16)  # calls that verdicts and tables speak of
TIE = 1e-9  # mean TVs closer than this share a place: they differ by rounding


@dataclass(frozen=True)
class Place:
    """An entry's place in a ranking.

    Attributes:
        entry: by name. own: whether it is somebody's own.
        rank: 1 is best, and ties share one; None where it needs more calls on some target.
        error: the mean TV over all targets and strengths; None likewise.
        low, high: the mean of the intervals of what is known by samples; else `error`.
        best, worst: the ranks that it would have at `low` and at `high`.
    """

    entry: str
    own: bool
    rank: int | None = None
    error: float | None = None
    low: float | None = None
    high: float | None = None
    best: int | None = None
    worst: int | None = None


@dataclass(frozen=True)
class BenchmarkFindings:
    """Every entry on every target at every strength and number of calls.

    Attributes:
        plan: its guidances are the strengths; how many samples were drawn of what has no law, and the seed.
        targets: as they describe themselves, with fingerprints.
        entries: in their order, one's own first.
        calls: numbers of calls per conditional that entries may make.
        cells: what was found.
        complete: whether these are all targets, strengths and calls of this version.
        package: the version of the package.
    """

    plan: Plan
    targets: Sequence[Mapping[str, object]]
    entries: Sequence[Entry]
    calls: Sequence[int]
    cells: Sequence[Cell]
    complete: bool
    package: str

    @property
    def strengths(self) -> list[float]:
        """w."""
        return [guidance.constant for guidance in self.plan.guidances]

    @cached_property
    def _found(self) -> dict[tuple[str, int, float, str], Cell]:
        return {(cell.entry, cell.calls, cell.w, cell.target): cell for cell in self.cells}

    def distances(
        self, entry: str, calls: int, against: str, *, w: float | None = None, target: str | None = None
    ) -> list[Distance] | None:
        """An entry's distances to one reference, on one target or all, at one w or all; None where some are missing."""
        strengths = self.strengths if w is None else [w]
        names = [str(known["name"]) for known in self.targets] if target is None else [target]
        cells = [self._found.get((entry, calls, strength, name)) for strength in strengths for name in names]
        found = [cell.distances[against] for cell in cells if cell is not None]
        return found if len(found) == len(cells) else None

    def mean_tv(
        self, entry: str, calls: int, against: str, *, w: float | None = None, target: str | None = None
    ) -> float | None:
        """The mean TV of `distances`."""
        found = self.distances(entry, calls, against, w=w, target=target)
        return None if found is None else fmean(distance.tv for distance in found)

    def ranking(self, calls: int | None = None, against: str = "tilted") -> list[Place]:
        """Entries by their mean TV to a reference, over all targets and strengths alike, best first.

        A mean, and not a geometric one: TV is the largest error in the probability of any event, on the same scale
        from 0 to 1 everywhere, so that one failure counts for what it costs. A geometric mean would be decided by cells
        that are nearly 0, of which there are many, and would forgive a failure for them.

        Args:
            calls: that entries may make; None is 16, or the most there are up to it.
            against: "tilted", "chain" or "class".

        Returns:
            all entries; those that need more calls on some target come last, without a rank.

        Raises:
            UserError: calls or a reference that were not asked for.
        """
        if calls is None:
            calls = max((most for most in self.calls if most <= RANKED[-1]), default=min(self.calls))
        if calls not in self.calls or against not in REFERENCES:
            raise UserError(
                f"there is no ranking against {against!r} at {calls} calls: choose against of "
                f"{', '.join(REFERENCES)}, and calls of {', '.join(map(str, self.calls))}"
            )
        found = {entry.name: self.distances(entry.name, calls, against) for entry in self.entries}
        errors = {name: fmean(d.tv for d in own) for name, own in found.items() if own is not None}

        def rank(name: str, error: float) -> int:
            return 1 + sum(other < error - TIE for known, other in errors.items() if known != name)

        places = []
        for entry in self.entries:
            own, name = found[entry.name], entry.name
            if own is None:
                places.append(Place(name, entry.own))
                continue
            low, high = fmean(d.low for d in own), fmean(d.high for d in own)
            ranks = [rank(name, error) for error in (errors[name], low, high)]
            places.append(Place(name, entry.own, ranks[0], errors[name], low, high, ranks[1], ranks[2]))
        return sorted(places, key=lambda place: (place.rank is None, place.rank))

    @property
    def ranked(self) -> list[int]:
        """The numbers of calls that verdicts and tables speak of."""
        return [calls for calls in RANKED if calls in self.calls] or [self.calls[-1]]

    def nearest(self, target: str, calls: int, against: str) -> tuple[str, float]:
        """The entry with the smallest mean TV on one target, of ties the first; and that TV."""
        each = ((entry.name, self.mean_tv(entry.name, calls, against, target=target)) for entry in self.entries)
        found = {name: tv for name, tv in each if tv is not None}
        return next((name, tv) for name, tv in found.items() if tv <= min(found.values()) + TIE)

    def standings(self, references: Sequence[str] = ("tilted", "chain")) -> tuple[list[str], list[list[str]]]:
        """Rankings as heads and rows of text: rank and mean TV, for every reference and number of calls.

        In the order of the first column of ranks.
        """
        asked = [(against, calls) for against in references for calls in self.ranked]
        rankings = [{place.entry: place for place in self.ranking(calls, against)} for against, calls in asked]
        heads = ["entry", *(f"to {against}, {calls} call{'s'[: calls > 1]}" for against, calls in asked)]
        rows = [[name, *(_shown(ranking[name]) for ranking in rankings)] for name in rankings[0]]
        return heads, rows

    def table(self) -> str:
        """`standings` in Markdown."""
        heads, rows = self.standings()
        lines = [heads, ["---"] * len(heads), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    @property
    def verdict(self) -> list[str]:
        """Who is nearest, and where one's own stands."""
        sentences = [
            f"Benchmark version {VERSION}{'' if self.complete else ', in part'}: {len(self.entries)} entries on "
            f"{len(self.targets)} target{'s'[: len(self.targets) != 1]} at w = "
            f"{', '.join(f'{w:g}' for w in self.strengths)}."
        ]
        for against, what in (("tilted", "the tilted law"), ("chain", "the guided chain")):
            for calls in self.ranked:
                ranking = [place for place in self.ranking(calls, against) if place.error is not None]
                first = [place for place in ranking if place.rank == 1]
                named = ", ".join(place.entry for place in first[:3]) + (", ..." if len(first) > 3 else "")
                if first:
                    sentences.append(
                        f"With {calls} calls, nearest to {what} is {named} (mean TV {first[0].error:.4f})."
                    )
                sentences += [_of_own(place, calls, what, len(ranking)) for place in ranking if place.own]
        return sentences

    def rows(self) -> list[dict[str, Any]]:
        """One row for every cell."""
        return [cell.row() for cell in self.cells]

    def numbers(self) -> dict[str, float]:
        """Mean TVs by reference, calls and entry, such as "tilted_16/first_hitting_rate"."""
        return {
            f"{against}_{calls}/{place.entry.replace(', ', '_')}": place.error
            for against in REFERENCES
            for calls in self.ranked
            for place in self.ranking(calls, against)
            if place.error is not None
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The JSON to cite (docs/benchmark.md)."""
        rankings = [
            {"calls": calls, "against": against, "places": [vars(place) for place in self.ranking(calls, against)]}
            for calls in self.calls
            for against in REFERENCES
        ]
        return to_plain(
            {
                "version": VERSION,
                "package": self.package,
                "complete": self.complete,
                "plan": {
                    "w": self.strengths, "calls": list(self.calls), "num_samples": self.plan.num_samples,
                    "seed": self.plan.seed,
                },
                "targets": [dict(target) for target in self.targets],
                "entries": [entry.describe() for entry in self.entries],
                "rankings": rankings,
                "results": self.rows(),
                "verdict": self.verdict,
            }
        )  # fmt: skip


def _shown(place: Place) -> str:
    if place.rank is None or place.error is None:
        return "-"
    between = "" if place.best == place.worst else f" ({place.best}-{place.worst})"
    return f"{place.rank}{between}: {place.error:.4f}"


def _of_own(place: Place, calls: int, what: str, of: int) -> str:
    between = "" if place.best == place.worst else f", by its samples {place.best} to {place.worst},"
    return f"{place.entry} is number {place.rank}{between} of {of} to {what} with {calls} calls ({place.error:.4f})."
