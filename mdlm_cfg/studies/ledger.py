"""study=ledger: the error budget of a trained sampler, line by line (theory, section 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.ledger import Ledger, LedgerLaws, SampledLedger, ledger_laws, ledger_of
from mdlm_cfg.laws.stepped import MAX_ENTRIES, kernel_entries
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, FIRST_HITTING, Sampler
from mdlm_cfg.studies.common import CALLS, SAMPLER
from mdlm_cfg.studies.evaluation import TABLE_NEEDS, TableEvaluation, evaluation_of, evaluation_pieces
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_nats, in_probability, in_tv
from mdlm_cfg.studies.protocol import LEARNED, Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import AtStrength, OfDenoiser
from mdlm_cfg.studies.samplers import is_small
from mdlm_cfg.support.numbers import largest, named, short
from mdlm_cfg.targets.table import TableMixture

NOTHING = 1e-12  # smaller values are rounding
COST = 2.0  # of one budget, relative to the samples of one strength
STANDARD = (Sampler(FIRST_HITTING), Sampler("tau_leaping", 50), Sampler(EVENT_LEAPING, 2))
COLUMNS = {
    "guidance effect": "guidance_effect",
    "gap to tilted": "gap_to_tilted",
    "error of the network": "conditionals_error",
    "discretisation error": "discretisation_error",
    "discretisation error, exact conditionals": "discretisation_error_exact",
    "sampling noise": "sampling_noise",
    "total": "total",
}
OF_LEARNED = ("error of the network", "discretisation error, exact conditionals")  # of learned conditionals
GROUP = "Error budget"
INFINITE = "KL is infinite where the second distribution, such as the samples, lacks states that the first one has."
ALONE = (
    "TV(L2, L3) with only the {} learned, within the support of an exact mixture that rates divide by; may be larger "
    "than with both learned, whose errors may cancel; absent where rates would be infinite"
)
READING = """\
The error budget compares seven distributions: L0 is the class, L1 the tilted distribution, L2 the exact guided \
distribution, L3 that of the evaluated denoiser, L2' and L3' the same after the sampler's steps, and L4 the samples. \
Guidance effect = TV(L0, L2); gap to tilted = TV(L1, L2); error of the network = TV(L2, L3); discretisation error = \
TV(L3, L3'); sampling noise = TV(L3', L4); total = TV(L2, L4). Total variation is a metric, so the errors bound the \
total. The exact distributions predict the total: the budget balances if the sampled total lies in the predicted \
central 99% interval."""


@dataclass(frozen=True)
class Budget:
    """The error budget of one sampler, in total variation."""

    sampler: Sampler = col("sampler", SAMPLER, index=True)
    num_samples: int = col("samples", "n")
    closes: bool = col("balances", "whether the sampled total lies in the predicted interval")
    total: float = in_tv("total", "TV(L2, L4); TV(L3, L4) where the exact conditionals are not known")
    predicted_low: float = in_tv("predicted from", "lower end of the central 99% of the total")
    predicted_high: float = in_tv("to", "upper end of the central 99% of the total")
    conditionals_error: float | None = in_tv("error of the network", "TV(L2, L3)")
    discretisation_error: float = in_tv("discretisation error", "TV(L3, L3')")
    sampling_noise: float = in_tv("sampling noise", "TV(L3', L4)")
    expected_sampling_noise: float = in_tv("expected noise", "mean of TV(L3', L4)")
    guidance_effect: float | None = in_tv("guidance effect", "TV(L0, L2); absent where L2 is not known")
    gap_to_tilted: float | None = in_tv("gap to tilted", "TV(L1, L2); absent for a schedule, and where L2 is not known")


@dataclass(frozen=True)
class LedgerRow(Budget, OfDenoiser):
    """The error budget of one strength and sampler, in total variation."""

    calls: int = col("calls", CALLS)
    sampling_noise_low: float = in_tv("low", "lower end of the 95% bootstrap interval of the sampling noise")
    sampling_noise_high: float = in_tv("high", "upper end of the 95% bootstrap interval of the sampling noise")
    discretisation_error_exact: float | None = in_tv("discretisation error, exact", "TV(L2, L2')")
    conditionals_error_conditional: float | None = in_tv("error, conditional only", ALONE.format("class's conditional"))
    conditionals_error_unconditional: float | None = in_tv("error, null only", ALONE.format("null conditional"))


class Line(str):
    """The column of a line of the budget, with its heading for tables."""

    @property
    def label(self) -> str:
        """As in the budget's own table."""
        return next(head for head, name in COLUMNS.items() if name == self)


@dataclass(frozen=True)
class LineRow(OfDenoiser):
    """One line of a budget in other distances."""

    sampler: Sampler = col("sampler", SAMPLER, index=True)
    line: str = col("line", "line of the budget", index=True)
    kl: float | None = in_nats(
        "KL",
        "KL(first distribution || second); inf without common support, absent if the steps leave probabilities too "
        "small for float64",
    )
    mean: float | None = col("mean", "Euclidean difference between means, relative to the first distribution")
    covariance_frobenius: float | None = col(
        "covariance (Frobenius)", "difference between covariances, relative to the first distribution"
    )
    covariance_spectral: float | None = col(
        "covariance (spectral)", "difference between covariances, relative to the first distribution"
    )


@dataclass(frozen=True)
class StateRow(AtStrength):
    """A partial state where the network is most wrong."""

    state: str = col("partial state", "coordinates of the partial state", index=True)
    visits: float = in_probability("visits", "probability that the exact chain visits it")
    kl_conditional: float = in_nats("KL, class", "KL(exact || learned) of the class's conditionals")
    kl_unconditional: float = in_nats("KL, null", "KL(exact || learned) of the null conditionals")


@dataclass(frozen=True)
class VisitRow(AtStrength):
    """The error of the network's conditionals at one number of unmasked coordinates."""

    level: int = col("unmasked", "coordinates that are already unmasked", index=True)
    kl_conditional: float = in_nats("KL, class", "sum over states of visit probability times KL(exact || learned)")
    kl_unconditional: float = in_nats("KL, null", "the same for the null conditionals")


@dataclass(frozen=True)
class LedgerStudy:
    """The error budget of every strength, for the plan's sampler and the standard ones."""

    name: ClassVar[str] = "ledger"
    needs: ClassVar[Needs] = TABLE_NEEDS
    rows: ClassVar[Rows] = {
        "ledger": LedgerRow,
        "ledger_lines": LineRow,
        "worst_states": StateRow,
        "visited_kl": VisitRow,
    }

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The distributions and samples that every budget reads, and the budgets of each strength."""
        yield from evaluation_pieces(case)
        samplers = ledger_samplers(case.target, case.plan.sampler)
        for guidance in case.plan.guidances:
            label = f"error budget at w = {guidance.label}"
            yield case.piece(_budgets, guidance, label=label, cost=COST * len(samplers), cached=False)

    def findings(self, case: Case, made: Made) -> Findings:
        """A row for each strength and sampler, also in other distances."""
        e = evaluation_of(case)
        budgets: dict[Guidance, list[Ledger]] = {g: made.of(_budgets, g) for g in case.plan.guidances}
        rows = [_row(g, entry, e.case.judged) for g, entries in budgets.items() for entry in entries]
        lines = [row for g, entries in budgets.items() for entry in entries for row in _lines(g, entry, e.case.judged)]
        shared = {g: entries[0].shared for g, entries in budgets.items() if entries}
        blocks = [*_blocks(rows, lines, e), *_error_blocks(shared)] if rows else []
        return Findings(case.plan, blocks, verdict_of(e, rows))


def has_ledger(e: TableEvaluation) -> bool:
    """Whether every distribution of a budget can be computed: the denoiser's own, and that of the sampler's steps."""
    if e.follows is None:
        return False
    return e.case.plan.sampler.exact_in_time or kernel_entries(e.target.num_tokens, e.target.num_dims) <= MAX_ENTRIES


def _budgets(case: Case, guidance: Guidance) -> list[Ledger]:
    """The budget of the plan's own sampler first, from the existing samples; then those of the other samplers."""
    e = evaluation_of(case)
    if not has_ledger(e):
        return []
    plan = case.plan
    z = case.one_class
    table = case.table(LEARNED) if case.has_learned else None
    learned = table if isinstance(table, TabulatedDenoiser) else None
    result = next(result for result in e.results if result.guidance == guidance)
    shared = ledger_laws(case.target, learned, guidance, z, plan.sampler.policy)
    entries = []
    for sampler in ledger_samplers(case.target, plan.sampler):
        generator = plan.generator("ledger", guidance, z, sampler.label, num_dims=case.target.num_dims)
        samples = result.samples if sampler is plan.sampler else None
        entries.append(ledger_of(shared, sampler, plan.num_samples, generator, samples))
    return entries


def ledger_samplers(target: TableMixture, own: Sampler) -> list[Sampler]:
    """The plan's own, and the standard ones if a step's kernel is small; under a policy only those that take one."""
    if not is_small(target.num_tokens, target.num_dims):
        return [own]
    others = list(STANDARD)
    if own.policy is not None:
        others = [replace(s, policy=own.policy) for s in STANDARD if s.name in (FIRST_HITTING, EVENT_LEAPING)]
    return [own, *(sampler for sampler in others if sampler != own)]


def columns_of(entry: SampledLedger, absent: Sequence[str] = ()) -> dict[str, Any]:
    """The columns of a budget's row; those of lines that are missing, or in `absent`, are None."""
    return {column: None if line in absent else entry.tv.get(line) for line, column in COLUMNS.items()} | {
        "sampler": entry.sampler,
        "num_samples": entry.num_samples,
        "closes": entry.closes,
        "predicted_low": entry.predicted_total.low,
        "predicted_high": entry.predicted_total.high,
        "expected_sampling_noise": entry.expected_noise,
    }


def _row(guidance: Guidance, entry: Ledger, judged: str) -> LedgerRow:
    return LedgerRow(
        w=guidance,
        denoiser=judged,
        calls=entry.sampler.calls(entry.shared.target.num_dims),
        sampling_noise_low=entry.noise.low,
        sampling_noise_high=entry.noise.high,
        conditionals_error_conditional=entry.shared.error_alone.get("conditional"),
        conditionals_error_unconditional=entry.shared.error_alone.get("unconditional"),
        **columns_of(entry, () if judged == LEARNED else OF_LEARNED),
    )


def _lines(guidance: Guidance, entry: Ledger, judged: str) -> list[LineRow]:
    absent = () if judged == LEARNED else OF_LEARNED
    return [
        LineRow(
            w=guidance,
            denoiser=judged,
            sampler=entry.sampler,
            line=Line(COLUMNS[line]),
            kl=entry.kl[line],
            mean=entry.mean[line]["euclidean"],
            covariance_frobenius=entry.covariance[line]["frobenius"],
            covariance_spectral=entry.covariance[line]["spectral"],
        )
        for line in entry.tv
        if line not in absent
    ]


def _blocks(rows: Sequence[LedgerRow], lines: Sequence[LineRow], e: TableEvaluation) -> list[Block]:
    values = ["closes", "total", "predicted_low", "predicted_high", "conditionals_error", "discretisation_error"]
    values += ["sampling_noise", "guidance_effect", "gap_to_tilted"]
    note = "The first row of each w uses the report's own samples; the other rows draw their own."
    errors = ["conditionals_error", "discretisation_error", "sampling_noise", "total"]
    own = Curve(
        "w", errors if e.case.judged == LEARNED else errors[1:], caption="The budget against w.", panels="sampler"
    )
    views: list[View] = [Table(["w", "sampler"], values, note=note), own]
    in_moments = ["mean", "covariance_frobenius", "covariance_spectral", "kl"]
    moments = Table(["w", "sampler", "line"], in_moments, note=INFINITE)
    return [
        Block("ledger", rows, "The error budget", READING, views=views, logged=("total",), group=GROUP),
        Block("ledger_lines", lines, "The budget in moments", views=[moments], group=GROUP),
    ]


def _error_blocks(shared: Mapping[Guidance, LedgerLaws]) -> list[Block]:
    """Where the network is wrong, by state and by level; empty if nothing was learned."""
    states = [
        StateRow(g, name_state(list(s.state), x.target.num_tokens), s.visits, s.kl_conditional, s.kl_unconditional)
        for g, x in shared.items()
        for s in x.states
    ]
    visits = [VisitRow(g, level, *pair) for g, x in shared.items() for level, pair in enumerate(x.visit_error)]
    text = "Weighted by how often the exact chain visits them, worst first."
    kls = ["kl_conditional", "kl_unconditional"]
    listed = Table(["w", "state"], ["visits", *kls])
    by_level = Curve("level", kls, caption="Error of the network by level.", panels="w")
    return [
        Block("worst_states", states, "Where the network is most wrong", text, views=[listed], group=GROUP),
        Block("visited_kl", visits, "Error of the network by level", views=[by_level], group=GROUP),
    ]


def _of_the_sampler(e: TableEvaluation, rows: Sequence[LedgerRow]) -> list[str]:
    """The largest error of the plan's own sampler over the numbers w; empty if there are only schedules."""
    own = [row for row in rows if row.sampler == e.case.plan.sampler and not row.w.is_schedule]
    if not own:
        return []
    worst = largest(own, lambda row: row.discretisation_error)
    error = worst[0].discretisation_error
    name = e.case.plan.sampler.label
    if error < NOTHING:
        return [f"The sampler ({name}) samples the guided chain exactly."]
    return [
        f"The sampler ({name}) ends at most {short(error)} from the guided chain of the same conditionals (total "
        f"variation, at w = {named([row.w.label for row in worst])})."
    ]


def balance_of(missed: Sequence[str], total: int) -> str:
    """How many of `total` error budgets balance; `missed` names the others."""
    others = f" The others: {'; '.join(missed)}; one in a hundred is expected to miss." if missed else ""
    return (
        f"{total - len(missed)} of {total} error budgets balance: the sampled total lies in its predicted 99% interval."
        f"{others}"
    )


def verdict_of(e: TableEvaluation, rows: Sequence[LedgerRow]) -> list[str]:
    """Whether the budgets balance, or why there are none."""
    if rows:
        missed = [f"w = {row.w.label}, {row.sampler.label}" for row in rows if not row.closes]
        return [*_of_the_sampler(e, rows), balance_of(missed, len(rows))]
    if e.follows is None:
        return []
    return [
        f"There is no error budget: the distribution of {e.case.plan.sampler.label} on {e.target.num_tokens} values in "
        f"{e.target.num_dims} dimensions cannot be computed; sampler=first_hitting needs none."
    ]
