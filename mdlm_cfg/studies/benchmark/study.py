"""study=benchmark: all samplers and kinds of guidance on fixed targets, by exact laws (docs/benchmark.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any, ClassVar, cast

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.laws.stepped import kernel_entries
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.benchmark.entries import Entry, built_in, entry_of
from mdlm_cfg.studies.benchmark.judge import Bench, Cell
from mdlm_cfg.studies.benchmark.ranking import (
    BenchmarkFindings,
    MeanRow,
    RankingRow,
    ResultRow,
    means_of,
    ranked_of,
    rankings_of,
)
from mdlm_cfg.studies.benchmark.targets import TARGETS, VERSION, Target, TargetRow, target_of
from mdlm_cfg.studies.common import calls_of
from mdlm_cfg.studies.findings import Block, Curve, Table, View
from mdlm_cfg.studies.plan import Plan, refuse_namesakes
from mdlm_cfg.studies.protocol import Case, Key, Made, Needs, Piece, Rows, Settings, run, wholes
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numbers import named, short
from mdlm_cfg.support.progress import silent
from mdlm_cfg.targets.data import KnownData
from mdlm_cfg.targets.toys import toy_1d_overlap
from mdlm_cfg.training.checkpoints import stamp

STRENGTHS = (0.0, 1.0, 2.0, 4.0)
CALLS = (1, 2, 4, 8, 16, 32, 64)
NOTHING = 1e-13
DRAWN = (  # built-in entries in curves: one of each family, so that lines stay readable
    "tau_leaping, rate, linear",
    "event_leaping, rate, cosine",
    "event_leaping, rate, ramp",
    "event_leaping, corrected",
    "policy confidence",
    "sampled_confidence",
    "entropy_bound 0.1",
    "remdm cap(0.2)",
)
WHAT = {"tilted": "the tilted distribution", "chain": "the guided chain"}
READING = """\
Entries are ranked by their mean total variation over all targets and strengths, between exact distributions. The \
tilted distribution is what guidance is often believed to sample. The guided chain is that of the entry's own kind of \
guidance in continuous time, at constant w. Calls are of the denoiser, for each of its two conditionals; for a \
decoder whose number of calls depends on its draws, the expected number counts."""
BY_SAMPLES = """

Entries that can only draw are evaluated by samples: their best and worst ranks are those \
that the interval of their total variation allows."""
LEARNED_TARGET = """\
The conditionals of learned_rotation are those of a small network and belong to no joint distribution. Its class \
distribution is that of the data that the network learned, and its tilted distribution is the mean over all orders of \
unmasking."""


@checked
def benchmark(
    *own: Any,
    targets: Sequence[Target | str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    calls: Sequence[int] = CALLS,
    num_samples: int = 10_000,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> BenchmarkFindings:
    """Evaluate samplers, policies, guidance rules and schedules beside all built-in ones (docs/benchmark.md).

    At every strength and number of denoiser calls: the exact TV and KL of an entry's distribution to the class, to the
    guided chain in continuous time, and to the tilted distribution.

    Args:
        own: each a `Sampler` (such as one with your own jump rule or correction), a `Policy`, a `Kind`, a `Rule`, a
            function of w that makes a `Guidance`: judged by exact distributions; or a function (denoiser, guidance,
            target_class, num_samples, generator) that draws int64 (num_samples, D): judged by its samples, and its
            calls are counted. If it has an argument `calls`, it gets the allowed number; `SchedulerSampler` and
            `GenerateSampler` are such functions. An `Entry` gives any of them another name or guidance. Without any,
            only the built-in entries are judged.
        targets: names in `TARGETS`, or `Target`s of your own; None is all.
        strengths: w. calls: of the denoiser, per conditional, that an entry may make.
        num_samples: drawn from a function, on every target at every strength.
        seed: of those draws.
        progress: called with one short line before every piece of work.

    Raises:
        UserError: something that cannot be judged, two entries of one name, unknown targets, or calls below 1.
    """
    plan = Plan(tuple(map(Guidance, strengths)), Sampler(), num_samples, seed)
    study = Benchmark(list(own), None if targets is None else list(targets), calls)
    data = KnownData(toy_1d_overlap(), "benchmark")  # not used: the benchmark has its own
    found = run(study, Case.of(data, None, plan), progress or silent)
    return cast(BenchmarkFindings, found)


def entries_of(own: Sequence[Any]) -> list[Entry]:
    """The user's own entries, then the built-in ones.

    Raises:
        UserError: something that is not an entry, or two of one name.
    """
    entries = [*(entry_of(one) for one in own), *built_in()]
    refuse_namesakes("entries", {k: entry.name for k, entry in enumerate(entries)})
    return entries


@dataclass(frozen=True)
class Benchmark(Settings):
    """The benchmark as a study; it uses its own targets and ignores the data.

    Args:
        own: what `benchmark` takes, or several; None: only built-in entries. On the command line a name,
            study.own=my_package.my_sampler, settings that make one, study.own={_target_:my_package.Mine,share:0.5}, or
            a list of these.
        targets: names; None is all. calls: of the denoiser, per conditional, that an entry may make.
    """

    own: Any = None
    targets: list[Any] | None = None
    calls: Sequence[int] = wholes(CALLS)
    needs: ClassVar[Needs] = Needs(learned="never", numbers=True, unfiltered=True)
    rows: ClassVar[Rows] = {
        "rankings": RankingRow,
        "means": MeanRow,
        "targets": TargetRow,
        "results": ResultRow,
    }

    def check(self, case: Case) -> None:
        """Refuse what `benchmark` refuses, and settings that it would ignore."""
        _ = self._entries  # building them refuses wrong ones
        if not self._targets:
            raise UserError("no target was given: give names of targets, or leave targets out for all")
        refuse_namesakes("targets", {k: target.name for k, target in enumerate(self._targets)})
        plan = case.plan
        given = {
            "sampler, steps, schedule, policy and events": plan.sampler != Sampler(),
            "guidance": any(g.kind != KINDS["rate"] for g in plan.guidances),
            "target_class": plan.classes is not None,
        }
        if any(given.values()):
            names = " and ".join(name for name, changed in given.items() if changed)
            raise UserError(f"the benchmark sets these itself: leave {names} as they are")

    def pieces(self, case: Case) -> Iterable[Piece]:
        """One piece for each target and strength: the results of all entries."""
        has_own = any(entry.own for entry in self._entries)
        for target, guidance in product(self._targets, case.plan.guidances):
            make = partial(_results, target, guidance, case.plan, self._entries, sorted(self.calls))
            label = f"benchmark: {target.name}, w = {guidance.label}"
            yield Piece(self._key(target, guidance), make, label, _cost(target), cached=not has_own)

    def _key(self, target: Target, guidance: Guidance) -> Key:
        """The version stands for the built-in entries; the user's own are not cached."""
        return ("benchmark", VERSION, astuple(target.row), guidance.constant, tuple(sorted(self.calls)))

    def findings(self, case: Case, made: Made) -> BenchmarkFindings:
        """Rankings, the error against calls, the targets, and all results."""
        entries = self._entries
        calls = sorted(self.calls)
        strengths = [guidance.constant for guidance in case.plan.guidances]
        keys = [self._key(*pair) for pair in product(self._targets, case.plan.guidances)]
        results = [ResultRow(**cell) for key in keys for cell in made[key]]
        rankings = rankings_of(results, entries, calls, len(self._targets) * len(strengths))
        own = [entry.name for entry in entries if entry.own]
        blocks = [
            _ranking_block(rankings, calls),
            _means_block(means_of(results, len(self._targets)), own),
            _targets_block(self._targets),
            Block("results", results, "All results", "Every result is a row of results.csv and of report.json."),
        ]
        names = [target.name for target in self._targets]
        complete = (names, tuple(calls), tuple(strengths)) == (list(TARGETS), CALLS, STRENGTHS)
        facts = {
            "benchmark_version": VERSION,
            "package": stamp()["version"],
            "complete": complete,
            "plan": {"w": strengths, "calls": calls, "num_samples": case.plan.num_samples, "seed": case.plan.seed},
            "entries": [entry.describe() for entry in entries],
        }
        said = [*verdict_of(rankings, calls), _scope(len(entries), names, strengths, complete)]
        return BenchmarkFindings(case.plan, blocks, said, facts)

    @cached_property
    def _targets(self) -> list[Target]:
        return [target_of(target) for target in (TARGETS if self.targets is None else self.targets)]

    @cached_property
    def _entries(self) -> list[Entry]:
        own = self.own if isinstance(self.own, list | tuple) else [self.own]
        return entries_of([one for one in own if one is not None])


def _results(
    target: Target, guidance: Guidance, plan: Plan, entries: Sequence[Entry], calls: Sequence[int]
) -> list[Cell]:
    """The results of one target at one strength, as plain values."""
    bench = Bench(target, guidance, plan)
    return [cell for entry in entries for cell in bench.judge(entry, calls)]


def _cost(target: Target) -> float:
    """Proportional to the time of a target, for estimates: kernel entries, plus a constant."""
    return kernel_entries(target.denoiser.num_tokens, target.num_dims) + 20_000.0


def _ranking_block(rankings: Sequence[RankingRow], calls: Sequence[int]) -> Block:
    by_samples = any(row.low != row.high for row in rankings)
    values = ["rank", "error", "best", "worst"] if by_samples else ["rank", "error"]
    shown = {"calls": ranked_of(calls)}
    note = "Ties share a rank; an entry without one needs more calls on some target."
    views = [
        Table(
            ["entry"], values, "calls", note, title=f"Ranking by distance to {what}", where={"against": [to], **shown}
        )
        for to, what in WHAT.items()
    ]
    text = READING + (BY_SAMPLES if by_samples else "")
    return Block("rankings", rankings, views[0].title, text, views=views, group="", printed=True)


def _means_block(means: Sequence[MeanRow], own: Sequence[str]) -> Block:
    views: list[View] = []
    for to, what in WHAT.items():
        where = {"against": [to], "entry": [*own, *DRAWN][: max(len(own), len(DRAWN))]}  # as many as there are colours
        far = {row.entry for row in means if row.against == to and row.tv > NOTHING}
        if far.isdisjoint(where["entry"]):
            continue
        caption = f"Mean total variation over the targets to {what}, against the calls made; a panel for each w."
        curve = Curve("used", "tv", ["entry"], caption, panels="w", log_x=True, log_y=True, where=where)
        views.append(curve)
    title = "Error against calls"
    return Block("means", means, title, views=views, group=title)


def _targets_block(targets: Sequence[Target]) -> Block:
    rows = [target.row for target in targets]
    text = LEARNED_TARGET if any(row.name == "learned_rotation" for row in rows) else ""
    columns = ["num_tokens", "num_dims", "num_classes", "target_class", "fingerprint"]
    return Block("targets", rows, "Targets", text, views=[Table(["name"], columns)], group="Targets")


def verdict_of(rankings: Sequence[RankingRow], calls: Sequence[int]) -> list[str]:
    """The nearest entries to each reference, and the ranks of the user's own."""
    said = []
    for against, what in WHAT.items():
        for most in ranked_of(calls):
            rows = [row for row in rankings if (row.against, row.calls) == (against, most)]
            said += _nearest([row for row in rows if row.rank is not None], most, what)
            said += [_place_of(row, rows, what) for row in rows if row.own]
    return said


def _nearest(placed: Sequence[RankingRow], calls: int, what: str) -> list[str]:
    if not placed:
        return []
    first = named([row.entry for row in placed if row.rank == 1], ";")
    mean = f"mean total variation {short(placed[0].error)}"
    return [f"With {calls_of(calls)}, rank 1 of {len(placed)} by the distance to {what} ({mean}): {first}."]


def _place_of(row: RankingRow, rows: Sequence[RankingRow], what: str) -> str:
    head = f"With {calls_of(row.calls)}, {row.entry}"
    if row.rank is None:
        return f"{head} has no rank by its distance to {what}: it needs more calls on some target."
    placed = sum(other.rank is not None for other in rows)
    between = "" if row.best == row.worst else f" (by its samples {row.best} to {row.worst})"
    return f"{head} has rank {row.rank} of {placed}{between} by its distance to {what} ({short(row.error)})."


def _scope(num_entries: int, targets: Sequence[str], strengths: Sequence[float], complete: bool) -> str:
    part = "This is" if complete else "This is only a part, not to be cited, of"
    at = ", ".join(f"{w:g}" for w in strengths)
    return f"{part} version {VERSION} of the benchmark (entries: {num_entries}; targets: {len(targets)}; w = {at})."
