"""The benchmark: everything that samples, on the same targets, by exact laws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import mdlm_cfg
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.laws.stepped import kernel_entries
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.benchmark.entries import Entry, built_in, entry_of
from mdlm_cfg.studies.benchmark.findings import BenchmarkFindings
from mdlm_cfg.studies.benchmark.judge import Bench, Cell
from mdlm_cfg.studies.benchmark.targets import TARGETS, Target, target_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.targets.data import Data

STRENGTHS = (0.0, 1.0, 2.0, 4.0)
CALLS = (1, 2, 4, 8, 16, 32, 64)


def benchmark(
    *own: Any,
    targets: Sequence[Target | str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    calls: Sequence[int] = CALLS,
    num_samples: int = 10_000,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> BenchmarkFindings:
    """Judge samplers, policies, guidance rules and schedules, beside all that is built in (docs/benchmark.md).

    At every strength and number of denoiser calls, the exact TV and KL of what an entry samples to the class, to the
    guided chain in continuous time, and to the tilted law.

    Args:
        own: each a `Sampler` (with a jump rule of your own, say), a `Policy`, a `Kind`, a function of w that makes a
            `Guidance`: judged by exact laws; or a function (denoiser, guidance, target_class, num_samples, generator)
            that draws int64 (num_samples, D): judged by its samples, and its calls are counted. An `Entry` gives any
            of them another name or guidance. None at all judges what is built in.
        targets: names in `TARGETS`, or `Target`s of your own; None is all.
        strengths: w. calls: of the denoiser, per conditional, that an entry may make.
        num_samples: drawn of a function, on every target at every strength.
        seed: of those draws.
        progress: called with one short line before every piece of work.

    Raises:
        UserError: something that cannot be judged, two entries of one name, unknown targets, or calls below 1.
    """
    plan = Plan(tuple(Guidance(float(w)) for w in strengths), Sampler(), num_samples, seed)
    return _judged(own, targets, calls, plan, progress, keep_nothing)


def _judged(
    own: Sequence[Any],
    targets: Sequence[Target | str] | None,
    calls: Sequence[int],
    plan: Plan,
    progress: Callable[[str], None] | None,
    keep: Keep,
) -> BenchmarkFindings:
    entries = entries_of(own)
    made = [target_of(target) for target in (TARGETS if targets is None else targets)]
    if not made:
        raise UserError("no target was given: give names of targets, or leave targets away for all")
    budgets = check_calls(calls)
    work = [(target, guidance) for target in made for guidance in plan.guidances]
    say = Pieces([_cost(target) for target, _ in work], progress)
    cells: list[Cell] = []
    for target, guidance in work:
        say(f"benchmark: {target.name}, w = {guidance.label}")
        key = ("benchmark", target.describe(), guidance.w, budgets)  # and the version, which is what is built in
        rows = partial(_rows, target, guidance, plan, entries, budgets)
        cells += [Cell.of(row) for row in (rows() if own else keep(key, rows))]
    complete = [target.name for target in made] == list(TARGETS) and tuple(budgets) == CALLS
    return BenchmarkFindings(
        plan, [target.describe() for target in made], entries, budgets, cells,
        complete and tuple(g.constant for g in plan.guidances) == STRENGTHS, mdlm_cfg.__version__,
    )  # fmt: skip


def _rows(
    target: Target, guidance: Guidance, plan: Plan, entries: Sequence[Entry], budgets: Sequence[int]
) -> list[dict[str, Any]]:
    """The cells of one target at one strength, as plain values."""
    bench = Bench(target, guidance, plan)
    return [asdict(cell) for entry in entries for cell in bench.judge(entry, budgets)]


def _cost(target: Target) -> float:
    """In proportion to how long a target takes, for estimates of time: kernel entries, and what no size changes."""
    return kernel_entries(target.denoiser.num_tokens, target.num_dims) + 20_000.0


def entries_of(own: Sequence[Any]) -> list[Entry]:
    """One's own entries, and then what is built in.

    Raises:
        UserError: something that is no entry, or two of one name.
    """
    entries = [*(entry_of(one) for one in own), *built_in()]
    names = [entry.name for entry in entries]
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise UserError(f"two entries are called {twice[0]!r}: give Entry(name, ...) with another name")
    return entries


def check_calls(calls: Sequence[int]) -> list[int]:
    """Numbers of calls, in order.

    Raises:
        UserError: none, one below 1, or one twice.
    """
    if not calls or min(calls) < 1 or len(set(calls)) < len(calls):
        raise UserError(f"calls = {list(calls)} must be different whole numbers of at least 1, such as [1,4,16]")
    return sorted(calls)


@dataclass(frozen=True)
class Benchmark:
    """The benchmark as a study: of its own targets, whatever the data and the network are.

    Args:
        own: what `benchmark` takes; None judges what is built in. On the command line a name,
            study.own=my_package.my_sampler.
        targets: names; None is all. calls: None is 1 to 64.
    """

    own: Any = None
    targets: list[str] | None = None
    calls: list[int] | None = None

    def check(self, data: Data, plan: Plan) -> None:
        """See `Study.check`: settings that the benchmark would not heed are refused."""
        entries_of(self._own)
        check_calls(self._calls)
        for name in self.targets or ():
            target_of(name)
        given = [
            what
            for what, changed in (
                ("sampler, steps, schedule, policy and events", plan.sampler != Sampler()),
                ("guidance", any(g.kind != KINDS["rate"] for g in plan.guidances)),
                ("temperature and top_p", any(g.filters for g in plan.guidances)),
                ("target_class", plan.classes is not None),
            )
            if changed
        ]
        if given:
            raise UserError(f"the benchmark runs all that is built in itself: leave {' and '.join(given)} as they are")
        for guidance in plan.guidances:
            guidance.constant  # noqa: B018 (raises for a schedule: those are entries)

    def run(
        self,
        data: Data,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> BenchmarkFindings:
        """See `Study.run`."""
        asked = Plan(plan.guidances, Sampler(), plan.num_samples, plan.seed)
        return _judged(self._own, self.targets, self._calls, asked, progress, keep)

    @property
    def _own(self) -> tuple[Any, ...]:
        return () if self.own is None else (self.own,)

    @property
    def _calls(self) -> Sequence[int]:
        return CALLS if self.calls is None else self.calls
