"""study=profile: the information profile of a class, and the cheapest steps that it implies (theory, section 22)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.guidance_schedules import PerCount
from mdlm_cfg.chain.schedules import ALPHA
from mdlm_cfg.compare.divergence import divergence_from_sampler
from mdlm_cfg.compare.metrics import student
from mdlm_cfg.compare.profile import InformationProfile, Measured
from mdlm_cfg.laws.stepped import freeze, kernel_entries
from mdlm_cfg.laws.terminal import tilted_law
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_nats
from mdlm_cfg.studies.fitting import (
    FEWEST,
    FIT,
    NUM_EXAMPLES,
    TEST,
    check_samples,
    fitted_profile,
    num_tested,
    origin_of_examples,
    too_few,
)
from mdlm_cfg.studies.protocol import Case, Made, Needs, Piece, Rows, Settings, whole, wholes
from mdlm_cfg.studies.rows import OfDenoiser, by, tied_ends, where
from mdlm_cfg.support.numbers import apart, largest, named

BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
BEST = "best"
SCHEDULES = {"linear": "uniform"} | {name: name for name in ALPHA if name != "linear"}
SAME = 1e-9  # nats
CLEAR = 2  # standard errors
MOST_ENTRIES = 1e7  # kernel entries of a step up to which the distributions of all steps take seconds
READING = """\
h(l) is the mean entropy of one more coordinate when l are known: the mean over sets of l coordinates and over the \
remaining ones. It falls as more is known. One step that unmasks k coordinates in parallel when a are known costs the \
sum of h(a) - h(a + j) over j < k in KL divergence, averaged over random orders. The sum over steps is an upper bound \
on the KL divergence from the target distribution to that of the sampler in uniform order.

If w is not 0, the target distribution is the tilted one, and the conditionals are guided by calibrated strengths; \
the cost of a step then includes the difference between the guided conditionals and those of the tilted distribution."""
EXACTLY = "Everything is exact, computed by sums over all partial states."
BY_SAMPLES = """\
h(l) is the cross entropy of the conditionals on samples, as measured. Steps, costs and the total correlation are \
those of the nearest profile that never rises: the best steps are found on one set of samples, and the cost of every \
schedule is measured on another. Noise then makes costs and the total correlation too large on average, by less than \
one standard error. The entropy and the dual total correlation are those of h(l) as measured: few samples may give a \
dual total correlation below 0. Standard errors are those of the measured profile, which makes those of costs too \
large. Calibrated strengths are fitted to the set on which costs are measured, which makes the costs of guided steps \
slightly too small."""
OF_EXAMPLES = """\
These data are known only by examples, so there is no tilted distribution: everything refers to the class, w = 0. \
{origin}"""


@dataclass(frozen=True)
class LevelRow(OfDenoiser):
    """The entropy of one more coordinate."""

    known: int = col("known", "number l of coordinates that are already unmasked", index=True)
    entropy: float = in_nats("h(l)", "mean entropy of one more coordinate")
    entropy_se: float = in_nats("error", "standard error of h(l); 0 where it is exact")
    strength: float = col("strength", "calibrated w of a step from here; 0 without guidance", digits=3)


@dataclass(frozen=True)
class TotalRow(OfDenoiser):
    """The sums of a profile."""

    total_entropy: float = in_nats("entropy", "sum of h(l): H(X), or the NELBO of a network")
    total_entropy_se: float = in_nats("error", "standard error of the entropy")
    total_correlation: float = in_nats(
        "total correlation", "D h(0) - sum of h(l): the lowest possible cost of a single step"
    )
    total_correlation_se: float = in_nats("error", "standard error of the total correlation")
    dual_total_correlation: float = in_nats("dual total correlation", "sum of h(l) - D h(D - 1)")
    dual_total_correlation_se: float = in_nats("error", "standard error of the dual total correlation")


@dataclass(frozen=True)
class CostRow(OfDenoiser):
    """The cost of a list of steps."""

    schedule: str = col("steps", f'"{BEST}", or those of a noise schedule: {", ".join(SCHEDULES.values())}', index=True)
    calls: int = col("calls", "number of steps, each of one call", index=True)
    cost: float = in_nats("predicted cost", "KL divergence, averaged over orders")
    cost_se: float = in_nats("error", "standard error of the predicted cost; 0 where it is exact")
    exact_kl: float | None = in_nats(
        "exact cost", "KL divergence of the sampler's distribution; absent if it cannot be computed"
    )
    sizes: str = col("sizes", "number of coordinates in each step, as events=[...] of event_leaping")


@dataclass(frozen=True)
class ProfileStudy(Settings):
    """The information profile of a class, and what uniform, cosine, exponential and the best steps cost.

    Args:
        calls: numbers of steps to compare, each at most D.
        num_examples: of the class, if distributions are sampled: to find the best steps, and as many to evaluate them
            (all test data if validation data are held out of training).
    """

    calls: Sequence[int] = wholes(BUDGETS)
    num_examples: int = whole(NUM_EXAMPLES, least=FEWEST)
    name: ClassVar[str] = "profile"
    needs: ClassVar[Needs] = Needs(one_class=True, numbers=True, unfiltered=True, guided=True)
    rows: ClassVar[Rows] = {"costs": CostRow, "profile": LevelRow, "totals": TotalRow}

    def check(self, case: Case) -> None:
        """Refuse plans without a target class, and too few examples."""
        check_samples(case, case.one_class, self.num_examples)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The profiles of every strength and denoiser, and the exact costs of steps if they can be computed."""
        for g, who in _cases(case):
            for which in (FIT, TEST):
                label = f"profile of the {who} conditionals at w = {g.label}"
                yield case.piece(self._profile, g, who, which, label=label)
            if _has_law(case, who):
                label = f"exact costs of steps, {who} conditionals, w = {g.label}"
                yield case.piece(self._exact, g, who, label=label, cost=4.0)

    def _profile(self, case: Case, guidance: Guidance, who: str, which: str) -> tuple[torch.Tensor, ...]:
        found = fitted_profile(case, who, case.one_class, guidance.constant, which, self.num_examples)
        return (found.entropies, found.cross_entropies, found.strengths, found.covariance)

    def _profiles(self, case: Case, made: Made, guidance: Guidance, who: str) -> tuple[InformationProfile, ...]:
        """The profile from which the best steps are found, and the one that gives the costs."""
        fit, test = (InformationProfile(*made.of(self._profile, guidance, who, which)) for which in (FIT, TEST))
        return fit.decreasing(), test

    def _steps(self, case: Case, made: Made, guidance: Guidance, who: str) -> list[tuple[str, tuple[int, ...]]]:
        """Every list of steps, with the name of its schedule."""
        fit, _ = self._profiles(case, made, guidance, who)
        found: dict[tuple[str, tuple[int, ...]], None] = {}
        for k in dict.fromkeys(min(k, fit.num_dims) for k in sorted(self.calls)):
            for name, shown in SCHEDULES.items():
                found[shown, fit.scheduled(k, name).sizes] = None
            found[BEST, fit.best(k).sizes] = None
        return list(found)

    def _exact(self, case: Case, guidance: Guidance, who: str) -> list[float | None]:
        """KL(tilted || distribution of the sampler) of every list of steps, in uniform order."""
        fit, _ = self._profiles(case, case.made, guidance, who)
        z = case.one_class
        tilted = tilted_law(case.target, guidance.constant, z)
        strengths = Guidance(PerCount(fit.strengths.tolist()), "normalized")  # type: ignore[arg-type]
        denoiser = case.denoiser(who)
        chain = freeze(denoiser, strengths, z)
        samplers = [Sampler(EVENT_LEAPING, events=sizes) for _, sizes in self._steps(case, case.made, guidance, who)]
        return [
            divergence_from_sampler(tilted, one.law(denoiser, strengths, z, chain), one, denoiser, strengths, z)
            for one in samplers
        ]

    def findings(self, case: Case, made: Made) -> Findings:
        """The cost of every list of steps, h(l), and its sums."""
        levels: list[LevelRow] = []
        totals: list[TotalRow] = []
        costs: list[CostRow] = []
        for g, who in _cases(case):
            _, test = self._profiles(case, made, g, who)
            falling = test.decreasing()
            numbers = (test.entropies, test.standard_errors, test.strengths)
            levels += [
                LevelRow(g, who, known, *found) for known, found in enumerate(zip(*(n.tolist() for n in numbers)))
            ]
            sums = (test.total_entropy, falling.total_correlation, test.dual_total_correlation)
            totals.append(TotalRow(g, who, *(x for one in sums for x in (one.value, one.standard_error))))
            steps = self._steps(case, made, g, who)
            exact = made.get(case.key_of(self._exact, g, who), [None] * len(steps))
            for (name, sizes), kl in zip(steps, exact):
                cost: Measured = falling.plan(sizes).cost
                shown = ", ".join(map(str, sizes))
                row = CostRow(g, who, name, len(sizes), cost.value, cost.standard_error, kl, shown)
                costs.append(row)
        facts = {"target_class": case.one_class, "exact": case.is_exact}
        blocks = _blocks(case, costs, levels, totals, self.num_examples)
        (num,) = num_tested(case, (case.one_class,), self.num_examples)
        return Findings(case.plan, blocks, verdict_of(costs, totals, num), facts)


def _cases(case: Case) -> list[tuple[Guidance, str]]:
    """Each strength once, whatever its kind, with each denoiser; only w = 0 if data are known only by examples."""
    strengths = {g.constant: g for g in reversed(case.plan.guidances)}
    if case.target is None:
        strengths = {0.0: Guidance(0.0)}
    return [(strengths[w], who) for w in sorted(strengths) for who in case.denoisers]


def _has_law(case: Case, who: str) -> bool:
    """Whether the distribution of the steps can be computed."""
    if not case.is_exact or case.table(who) is None:
        return False
    return kernel_entries(case.target.num_tokens, case.target.num_dims) <= MOST_ENTRIES


def _blocks(
    case: Case, costs: Sequence[CostRow], levels: Sequence[LevelRow], totals: Sequence[TotalRow], num_examples: int
) -> list[Block]:
    name = case.class_name(case.one_class)
    is_sampled = not case.is_exact
    text = f"Class {name}. {BY_SAMPLES if is_sampled else EXACTLY}\n\n{READING}"
    if is_sampled and case.target is not None:
        text += f"\n\nEach set has {num_examples:,} samples.{too_few(num_examples)}"
    if case.target is None:
        text += f"\n\n{OF_EXAMPLES.format(origin=origin_of_examples(case, (case.one_class,), num_examples))}"
    caption = "Predicted cost against the number of steps."
    curve = Curve("calls", "cost", ["schedule", "denoiser"], caption, "w", log_x=True, log_y=True)
    views: list[View] = [
        Table(["w", "denoiser", "schedule"], ["cost"], "calls", "Predicted cost, in nats, by calls."),
        curve,
    ]
    if any(row.exact_kl is not None for row in costs):
        note = "KL divergence to the exact distribution of the sampler, by calls."
        views.append(Table(["w", "denoiser", "schedule"], ["exact_kl"], "calls", note, title="Exact cost"))
        views.append(replace(curve, y="exact_kl", caption="Exact cost against the number of steps."))
    shown = ["sizes", "cost", *(["cost_se"] if is_sampled else [])]
    views.append(Table(["w", "denoiser", "calls"], shown, title="The best steps", where={"schedule": [BEST]}))
    entropy = Curve("known", "entropy", ["w", "denoiser"], "h(l), the entropy of one more coordinate.")
    strength = Table(["w", "denoiser", "known"], ["entropy", "entropy_se", "strength"])
    names = ("total_entropy", "total_correlation", "dual_total_correlation")
    sums = [name for one in names for name in ((one, f"{one}_se") if is_sampled else (one,))]
    return [
        Block("costs", costs, "The cost of steps", text, views=views, logged=["cost", "exact_kl"], group=""),
        Block("profile", levels, "Information profile", views=[entropy, strength], group="Profile"),
        Block("totals", totals, "Sums of the profile", views=[Table(["w", "denoiser"], sums)], printed=True),
    ]


def verdict_of(costs: Sequence[CostRow], totals: Sequence[TotalRow], num_examples: int) -> list[str]:
    """The nats that the best steps save.

    Args:
        num_examples: on which costs are measured, if they are not exact.
    """
    sure = student(CLEAR, num_examples)
    said = []
    for who, own in by(totals, "denoiser"):
        saved = {total.w: _saved(where(costs, w=total.w, denoiser=who), sure) for total in own}
        in_vain = [w.label for w, what in saved.items() if what is None]
        if in_vain:
            said.append(
                f"With {who} conditionals, the best steps save nothing measurable over uniform, cosine and exponential "
                f"ones at w = {', '.join(in_vain)}."
            )
        said += [f"With {who} conditionals at w = {w.label}, {what}" for w, what in saved.items() if what is not None]
    return said


def _saved(rows: Sequence[CostRow], sure: float) -> str | None:
    """The largest saving, beyond chance, of the best steps over the cheapest others with as many calls, or None.

    Args:
        sure: standard errors from which a saving is beyond chance.
    """
    saved = []
    for row in where(rows, schedule=BEST):
        others = [other for other in where(rows, calls=row.calls) if other.schedule != BEST]
        if others:
            cheapest, _ = tied_ends(others, "cost", SAME)
            gain = cheapest[0].cost - row.cost
            if gain > SAME + sure * max(row.cost_se, cheapest[0].cost_se):
                saved.append((gain, row, cheapest))
    if not saved:
        return None
    most = largest(saved, lambda one: one[0], SAME)
    _, row, cheapest = most[0]
    surely = " beyond chance" if row.cost_se else ""
    cost, cheapest_cost = apart(row.cost, cheapest[0].cost)
    return (
        f"the best steps save most{surely} with {named([str(one.calls) for _, one, _ in most])} calls; {row.calls} of "
        f"them cost {cost} nats by prediction, and {named([one.schedule for one in cheapest])} steps, the cheapest of "
        f"the others, {cheapest_cost}."
    )
