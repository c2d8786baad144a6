"""The rows of the benchmark: every result, and the rankings that follow from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mdlm_cfg.studies.benchmark.entries import Entry
from mdlm_cfg.studies.benchmark.judge import REFERENCES
from mdlm_cfg.studies.common import calls_of
from mdlm_cfg.studies.findings import Findings, col, in_nats, in_tv
from mdlm_cfg.support.errors import UserError

RANKED = (4, 16)  # numbers of calls in verdicts and tables
TIE = 1e-9  # mean TVs closer than this share a place: they differ by rounding


def _kl(reference: str) -> Any:
    about = "KL(reference || entry); absent for entries that are evaluated by samples"
    return in_nats(f"KL from the {reference}", about, default=None)


def _end(reference: str, head: str, which: str) -> Any:
    return in_tv(f"TV to the {reference}, {head}", f"{which} end of the 95% interval", default=None)


def _floor(reference: str) -> Any:
    about = "mean TV of the same number of perfect samples"
    return in_tv(f"noise floor, {reference}", about, default=None)


@dataclass(frozen=True)
class ResultRow:
    """One entry on one target at one strength and number of calls; only samples have intervals and floors."""

    entry: str = col("entry", "name of the entry", index=True)
    target: str = col("target", "name of the target", index=True)
    w: float = col("w", "guidance strength", index=True)
    calls: int = col("calls", "calls of the denoiser that are allowed, for each of the two conditionals", index=True)
    used: float = col("calls made", "calls that are made; their expected number where it depends on the draws")
    tv_class: float = in_tv("TV to the class", "total variation to p(. | z)")
    tv_chain: float = in_tv("TV to the chain", "total variation to the guided chain of the entry's kind at constant w")
    tv_tilted: float = in_tv("TV to the tilted distribution", "total variation to p_{z,w}")
    kl_class: float | None = _kl("class")
    kl_chain: float | None = _kl("chain")
    kl_tilted: float | None = _kl("tilted distribution")
    tv_class_low: float | None = _end("class", "low", "lower")
    tv_class_high: float | None = _end("class", "high", "upper")
    tv_chain_low: float | None = _end("chain", "low", "lower")
    tv_chain_high: float | None = _end("chain", "high", "upper")
    tv_tilted_low: float | None = _end("tilted", "low", "lower")
    tv_tilted_high: float | None = _end("tilted", "high", "upper")
    noise_floor_class: float | None = _floor("class")
    noise_floor_chain: float | None = _floor("chain")
    noise_floor_tilted: float | None = _floor("tilted")

    def tv(self, against: str) -> tuple[float, float, float]:
        """The TV to a reference, with the interval for the TV of the sampled distribution: TV, low, high."""
        tv = float(getattr(self, f"tv_{against}"))
        low, high = (getattr(self, f"tv_{against}_{end}") for end in ("low", "high"))
        return (tv, tv, tv) if low is None else (tv, low, high)


@dataclass(frozen=True)
class RankingRow:
    """An entry's rank for one reference and one number of calls."""

    against: str = col("to", 'reference: "tilted", "chain" or "class"', index=True)
    calls: int = col("calls", "calls that are allowed", index=True)
    entry: str = col("entry", "name of the entry", index=True)
    own: bool = col("own", "whether the entry is yours (not built in)")
    rank: int | None = col(
        "rank", "1 is best, ties share a rank; absent where the entry needs more calls on some target"
    )
    error: float | None = in_tv("mean TV", "TV to the reference, mean over all targets and strengths")
    low: float | None = in_tv("low", "mean of the lower ends of the entry's intervals")
    high: float | None = in_tv("high", "mean of the upper ends of the entry's intervals")
    best: int | None = col("best rank", "rank of the entry with the mean TV of low")
    worst: int | None = col("worst rank", "rank of the entry with the mean TV of high")


@dataclass(frozen=True)
class MeanRow:
    """The mean of an entry over all targets at one strength."""

    against: str = col("to", 'reference: "tilted", "chain" or "class"', index=True)
    w: float = col("w", "guidance strength", index=True)
    entry: str = col("entry", "name of the entry", index=True)
    calls: int = col("calls", "calls that are allowed", index=True)
    used: float = col("calls made", "calls that are made, mean over targets")
    tv: float = col("mean total variation", "TV to the reference, mean over targets")


@dataclass(frozen=True)
class BenchmarkFindings(Findings):
    """The benchmark's findings, and rankings computed from them."""

    def ranking(self, calls: int | None = None, against: str = "tilted") -> list[RankingRow]:
        """Entries by their mean TV to a reference, with equal weight on all targets and strengths, best first.

        The mean is arithmetic: TV is the largest error in the probability of any event, on the same scale from 0 to 1
        everywhere, so a failure counts in full. A geometric mean would be dominated by the many results that are
        nearly 0, and would hide a failure behind them.

        Args:
            calls: allowed calls; None is 16, or else the largest evaluated number below it.
            against: "tilted", "chain" or "class".

        Returns:
            all entries; those that need more calls on some target come last, without a rank.

        Raises:
            UserError: calls or a reference that were not evaluated.
        """
        evaluated = sorted({row.calls for row in self._rankings})
        if calls is None:
            calls = ranked_of(evaluated)[-1]
        if calls not in evaluated or against not in REFERENCES:
            raise UserError(
                f"there is no ranking against {against!r} at {calls} calls: choose against from "
                f"{', '.join(REFERENCES)}, and calls from {', '.join(map(str, evaluated))}"
            )
        return [row for row in self._rankings if (row.calls, row.against) == (calls, against)]

    @property
    def _rankings(self) -> Sequence[RankingRow]:
        return self.blocks[0].rows

    def table(self) -> str:
        """Rank and mean TV to the tilted distribution and to the chain, in Markdown."""
        calls = ranked_of(sorted({row.calls for row in self._rankings}))
        kinds = [(against, most) for against in ("tilted", "chain") for most in calls]
        rankings = [{row.entry: row for row in self.ranking(most, against)} for against, most in kinds]
        heads = ["entry", *(f"to {against}, {calls_of(most)}" for against, most in kinds)]
        rows = [[name, *(shown_place(ranking[name]) for ranking in rankings)] for name in rankings[0]]
        return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *rows])

    def numbers(self) -> dict[str, float]:
        """Mean TVs by reference, calls and entry, such as "tilted_16/first_hitting_rate"."""
        calls = ranked_of(sorted({row.calls for row in self._rankings}))
        return {
            f"{row.against}_{row.calls}/{row.entry.replace(', ', '_')}": row.error
            for row in self._rankings
            if row.error is not None and row.calls in calls
        }


def ranked_of(calls: Sequence[int]) -> list[int]:
    """The numbers of calls that verdicts and tables report, in order."""
    return [most for most in RANKED if most in calls] or [calls[-1]]


def shown_place(row: RankingRow) -> str:
    """Rank and mean TV as text, with the range of ranks that its samples allow; "-" without a rank."""
    if row.rank is None or row.error is None:
        return "-"
    between = "" if row.best == row.worst else f" ({row.best}-{row.worst})"
    return f"{row.rank}{between}: {row.error:.4f}"


def rankings_of(
    results: Sequence[ResultRow], entries: Sequence[Entry], calls: Sequence[int], num_each: int
) -> list[RankingRow]:
    """Every ranking, each from the best entry to the last.

    Args:
        num_each: the number of results of an entry that needs no more calls on any target: targets times strengths.
    """
    found: defaultdict[tuple[str, int], list[ResultRow]] = defaultdict(list)
    for row in results:
        found[row.entry, row.calls].append(row)
    rankings = []
    for against in reversed(REFERENCES):
        for most in calls:
            own = {entry.name: found[entry.name, most] for entry in entries}
            means = {name: _means(rows, against) for name, rows in own.items() if len(rows) == num_each}
            rankings += _ranking(entries, means, against, most)
    return rankings


def _means(rows: Sequence[ResultRow], against: str) -> tuple[float, ...]:
    return tuple(fmean(values) for values in zip(*(row.tv(against) for row in rows)))


def _ranking(
    entries: Sequence[Entry], means: Mapping[str, tuple[float, ...]], against: str, calls: int
) -> list[RankingRow]:
    places = []
    for entry in entries:
        values: Sequence[float | None] = means.get(entry.name, (None, None, None))
        others = [error for name, (error, *_) in means.items() if name != entry.name]
        ranks = [None if value is None else 1 + sum(error < value - TIE for error in others) for value in values]
        place = {"rank": ranks[0], "best": ranks[1], "worst": ranks[2]}
        error, low, high = values
        row = RankingRow(against, calls, entry.name, entry.own, error=error, low=low, high=high, **place)
        places.append(row)
    return sorted(places, key=lambda row: (row.rank is None, row.rank))


def means_of(results: Sequence[ResultRow], num_targets: int) -> list[MeanRow]:
    """The mean over the targets for every entry that needs no more than the allowed calls on any of them."""
    found: defaultdict[tuple[float, str, int], list[ResultRow]] = defaultdict(list)
    for row in results:
        found[row.w, row.entry, row.calls].append(row)
    return [
        MeanRow(against, *key, fmean(row.used for row in rows), _means(rows, against)[0])
        for against in reversed(REFERENCES)
        for key, rows in found.items()
        if len(rows) == num_targets
    ]
