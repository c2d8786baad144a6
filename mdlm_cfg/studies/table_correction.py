"""The cost of sampling the tilted distribution of a table, by importance weights and by resampling (theory, 11)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import policy_of
from mdlm_cfg.compare.metrics import expected_sampling_tv, student, sure_of, total_variation
from mdlm_cfg.compare.weighted import weighted_tv
from mdlm_cfg.laws.policy_transitions import policy_or_own
from mdlm_cfg.laws.rates import partial_state_lattice
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling.smc import Weighted, check_groups, even_of, sequential_monte_carlo
from mdlm_cfg.studies.common import MORE, TABLE, draw_more
from mdlm_cfg.studies.evaluation import array_name
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_nats, in_tv
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import LEARNED, Case, Made, Needs, Piece, Rows, check_guided_class
from mdlm_cfg.studies.rows import AtStrength, OfDenoiser, strongest, where
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numbers import apart, percent, short

SMALLEST = 100  # samples of a set
MOST_SETS = 20  # over which a mean is taken
ORDERS = ("rate", "uniform", "fixed_order", "confidence")  # compared with the plan's own order by relative ESS
ORDER_OF = {"normalized": "uniform"}  # the order of a kind of guidance, if it has another name
NOTHING = 1e-9  # a total variation that is rounding
WEIGHTS = """\
Each finished sample is weighted by W, the product of the normalisers Z of the coordinates that it unmasked. With \
exact conditionals the weighted distribution is the tilted one, whatever the order of unmasking. With learned \
conditionals it is their tilted distribution, averaged over orders. The relative effective sample size (ESS), (E W)^2 \
/ E W^2, is the effective share of the samples; it is known exactly before any sample is drawn."""
RESAMPLED = """\
Sequential Monte Carlo resamples a group of samples whenever its relative ESS falls below the threshold. E W, the sum \
over x of p(x)^(-w) p(x | class)^(1+w), is still estimated without bias. The error is the relative standard error of \
that estimate, from the spread of the groups."""


@dataclass(frozen=True)
class SampleRow(AtStrength):
    """The mean distance of sets of n samples to the tilted distribution."""

    num_samples: int = col("n", "number of samples in a set", index=True)
    num_sets: int = col("sets", "number of independent sets, over which means are taken")
    tv_guided: float = in_tv("guided", "TV of the samples as the chain draws them")
    tv_weighted: float = in_tv("weighted", "TV of the same samples with their importance weights")
    tv_resampled: float = in_tv("resampled", "TV of samples of sequential Monte Carlo")
    se_guided: float = in_tv("guided, ±", "standard error of the guided TV, from the spread of groups")
    se_weighted: float = in_tv("weighted, ±", "the same for weighted samples")
    se_resampled: float = in_tv("resampled, ±", "the same for resampled samples")
    noise_floor: float = in_tv("noise floor", "TV expected for n samples of the tilted distribution")


@dataclass(frozen=True)
class CostRow(OfDenoiser):
    """The exact effect of weighting the finished samples of one chain."""

    policy: str = col("order", "order of unmasking", index=True)
    own: bool = col("own", "whether this is the order of the plan")
    ess: float = col("relative ESS", "(E W)^2 / E W^2, in (0, 1]")
    cost: float = col("samples per effective one", "1 / ESS; inf if the ESS is below 1e-308", digits=2)
    log_normalizer: float = in_nats("ln E W", "logarithm of the normaliser")
    tv_guided: float = in_tv("TV, guided", "TV from the guided to the tilted distribution")
    tv_weighted: float = in_tv("TV, weighted", "TV from the weighted to the tilted distribution")


@dataclass(frozen=True)
class ResamplingRow(AtStrength):
    """Sequential Monte Carlo with the plan's number of samples."""

    exact_log_normalizer: float = in_nats("ln E W", "exact logarithm of the normaliser")
    log_normalizer: float = in_nats("estimate", "estimate of ln E W")
    relative_error: float = col("error", "relative standard error of the estimate of E W")
    ess: float = col("relative ESS", "relative effective sample size of the final weights")


@dataclass(frozen=True)
class TableCorrection:
    """The cost of sampling the tilted distribution of a table, by importance weights and by resampling.

    Args:
        threshold: relative effective sample size below which a group is resampled.
        num_groups: independent groups of sequential Monte Carlo, which give the normaliser's error.
    """

    threshold: float = 0.5
    num_groups: int = 10
    name: ClassVar[str] = "correction"
    needs: ClassVar[Needs] = Needs(**TABLE, one_class=True, numbers=True)
    rows: ClassVar[Rows] = {"distances": SampleRow, "costs": CostRow, "resampling": ResamplingRow}

    def check(self, case: Case) -> None:
        """Refuse guidance without weights, a class without a tilted distribution, and tables that are too large."""
        target = case.target
        plan = case.plan
        for guidance in plan.guidances:
            plan.sampler.check_weighted(guidance)
        partial_state_lattice(target.denoiser(), case.one_class, states_kept=2)
        if not case.is_enumerable:
            raise UserError(
                f"{target.num_tokens} values in {target.num_dims} dimensions are too many for the exact weights of "
                "several policies: use fewer values or dimensions"
            )
        check_guided_class(case)
        for n in sizes_of(plan):
            check_groups(n, self.num_groups, self.threshold)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """For each strength the exact costs, with each denoiser, and the samples."""
        for g in case.plan.guidances:
            for who in case.denoisers:
                yield case.piece(self._costs, g, who, label=f"exact weights of {who} conditionals at w = {g.label}")
            yield case.piece(self._samples, g, label=f"weighted and resampled samples at w = {g.label}")

    def _costs(self, case: Case, guidance: Guidance, who: str) -> list[tuple[Any, ...]]:
        """The columns of `CostRow` from `policy` on: the plan's own order first, then the others."""
        own = policy_or_own(case.plan.sampler.policy, guidance)
        own_name = ORDER_OF.get(str(own), str(own))
        policies = {own_name: own} | {name: policy_of(name) for name in ORDERS if name != own_name}
        tilted = tilted_law(case.target, guidance.constant, case.one_class)
        found = []
        for name, policy in policies.items():
            chain = (case.denoiser(who), guidance, case.one_class, policy)
            weights = tilted_weights(*chain)
            law = terminal_law(*chain)
            cost = 1 / weights.ess if weights.ess else math.inf
            tvs = total_variation(law, tilted), total_variation(weights.law, tilted)
            found.append((name, policy is own, weights.ess, cost, weights.log_normalizer, *tvs))
        return found

    def _samples(self, case: Case, guidance: Guidance) -> dict[str, Any]:
        """The columns of `SampleRow` from `num_samples` on, those of `ResamplingRow`, and distributions."""
        plan = case.plan
        chain = (case.denoiser(case.judged), guidance, case.one_class)
        weights = tilted_weights(*chain, plan.sampler.policy)
        law = terminal_law(*chain, plan.sampler.policy)
        tilted = tilted_law(case.target, guidance.constant, case.one_class)
        generator = plan.generator("weighted samples", *chain[1:], of=chain[0])
        x, log_weights = plan.sampler.draw_weighted(*chain, plan.num_samples, generator)
        rows = []
        for n in sizes_of(plan):
            sets = min(MOST_SETS, plan.num_samples // n)
            again = self._resampled(case, guidance, n, sets)
            weighted = Weighted(x[: n * sets], log_weights[: n * sets], again.num_groups)
            guided = even_of(weighted.x, weighted.num_groups)
            tvs, errors = zip(*(mean_tv(drawn, sets, tilted) for drawn in (guided, weighted, again)))
            rows.append((n, sets, *tvs, *errors, expected_sampling_tv(tilted, n)))
        estimates = (weights.log_normalizer, again.log_normalizer, again.relative_error, again.ess)
        return {
            "rows": rows,
            "resampling": estimates,
            "laws": {"tilted": tilted, "guided": law, "weighted": weights.law},
        }

    def _resampled(self, case: Case, guidance: Guidance, num_samples: int, num_sets: int) -> Weighted:
        chain = (case.denoiser(case.judged), guidance, case.one_class)
        generator = case.plan.generator("resampled samples", *chain[1:], num_samples, of=chain[0])
        how: Any = {"policy": case.plan.sampler.policy, "threshold": self.threshold, "generator": generator}
        return sequential_monte_carlo(*chain, num_samples * num_sets, num_groups=self.num_groups * num_sets, **how)

    def findings(self, case: Case, made: Made) -> Findings:
        """Exact costs, samples against their number, and the normaliser."""
        rows: dict[str, list[Any]] = {name: [] for name in self.rows}
        arrays: dict[str, np.ndarray] = {}
        for g in case.plan.guidances:
            for who in case.denoisers:
                rows["costs"] += [CostRow(g, who, *found) for found in made.of(self._costs, g, who)]
            drawn = made.of(self._samples, g)
            rows["distances"] += [SampleRow(g, *found) for found in drawn["rows"]]
            rows["resampling"].append(ResamplingRow(g, *drawn["resampling"]))
            arrays |= {array_name(name, g, g.identifier): law.numpy() for name, law in drawn["laws"].items()}
        text = f"{RESAMPLED}\n\n{self.num_groups} groups, threshold {self.threshold:g}."
        views = [Table(["w"], ["exact_log_normalizer", "log_normalizer", "relative_error", "ess"])]
        title = "Sequential Monte Carlo"
        blocks = [
            self._sample_block(case, rows["distances"]),
            cost_block(rows["costs"]),
            Block("resampling", rows["resampling"], title, text, (), views, ["log_normalizer"], group="Resampling"),
        ]
        settings = {"threshold": self.threshold, "num_groups": self.num_groups}
        facts = {"target_class": case.one_class, "judged": case.judged, **settings, "laws": sorted(arrays)}
        verdict = verdict_of(rows["costs"], rows["distances"], case.judged, self.num_groups)
        return Findings(case.plan, blocks, verdict, facts, arrays)

    def _sample_block(self, case: Case, rows: Sequence[SampleRow]) -> Block:
        plan = case.plan
        text = (
            f"Samples of the {case.judged} conditionals, class {case.class_name(case.one_class)}, by "
            f"{plan.sampler.label}, seed {plan.seed}: as the chain draws them, the same with importance weights, and "
            f"resampled on the way (sequential Monte Carlo in {self.num_groups} groups, threshold {self.threshold:g}). "
            "With more samples, the distance of unweighted ones approaches that of the guided distribution."
        )
        note = (
            f"Mean total variation to the tilted distribution, over up to {max(row.num_sets for row in rows)} "
            "independent sets of n samples. The noise floor is that of n samples of the tilted distribution itself."
        )
        names = ["tv_guided", "tv_weighted", "tv_resampled"]
        shown = [*names, "noise_floor"]
        caption = "Total variation to the tilted distribution against the number of samples n."
        curve = Curve("num_samples", shown, (), caption, "w", log_x=True, log_y=True)
        title = "Distance to the tilted distribution"
        views: list[View] = [Table(["w", "num_samples"], shown, note=note), curve]
        return Block("distances", rows, title, text, (), views, names, group="", printed=True)


def mean_tv(drawn: Weighted, num_sets: int, tilted: Tensor) -> tuple[float, float]:
    """The mean TV to a distribution over equally large sets of weighted samples, and its error."""
    parts = zip(drawn.x.chunk(num_sets), drawn.log_weights.chunk(num_sets))
    found = [weighted_tv(Weighted(x, w, drawn.num_groups // num_sets), tilted) for x, w in parts]
    tvs, errors = zip(*found)
    return sum(tvs) / num_sets, math.hypot(*errors) / num_sets


def sizes_of(plan: Plan) -> list[int]:
    """Numbers of samples: 100, 1,000, ... below the plan's number, and that number."""
    sizes = []
    n = SMALLEST
    while n < plan.num_samples:
        sizes.append(n)
        n *= 10
    return [*sizes, plan.num_samples]


def cost_block(rows: Sequence[CostRow]) -> Block:
    """The exact costs of weights; for exact conditionals the weighted distribution is the tilted one, and left out."""
    has_learned = any(row.denoiser == LEARNED for row in rows)
    index = ["w", "denoiser", "policy"] if has_learned else ["w", "policy"]
    weighted = ["tv_weighted"] if has_learned else []
    note = "Total variation is to the tilted distribution."
    caption = "The exact relative ESS of the importance weights. Orders that coincide share one line."
    views: list[View] = [
        Table(index, ["ess", "cost", "tv_guided", *weighted], note=note),
        Curve("w", "ess", ["policy"], caption, "denoiser", log_y=True),
    ]
    title = "The cost of importance weights"
    return Block("costs", rows, title, WEIGHTS, views=views, logged=["ess", "log_normalizer"], group="Weights")


def verdict_of(costs: Sequence[CostRow], samples: Sequence[SampleRow], judged: str, num_groups: int) -> list[str]:
    """Whether correction helps at the strongest guidance, its cost, and the best method for these samples.

    Args:
        num_groups: groups of the plan's samples, whose spread gives the errors.
    """
    g = strongest(costs)
    (cost,) = where(costs, own=True, w=g, denoiser=judged)
    of_samples = [] if cost.tv_guided < NOTHING else [_of_samples(where(samples, w=g)[-1], num_groups, cost)]
    return [_of_weights(cost), *of_samples]


def _of_weights(cost: CostRow) -> str:
    head = f"At w = {cost.w.label} ({cost.policy})"
    if cost.tv_guided < NOTHING:
        return f"{head} the guided chain ends in the tilted distribution, so there is nothing to correct."
    guided, weighted = apart(cost.tv_guided, cost.tv_weighted)
    help_ = "help with enough samples" if cost.tv_weighted < cost.tv_guided - NOTHING else "do not help"
    return (
        f"{head} importance weights {help_}: guidance with {cost.denoiser} conditionals ends {guided} from the tilted "
        f"distribution (total variation), and with weights {weighted}. Their relative ESS is {percent(cost.ess, 1)}: "
        f"{cost.cost:.4g} samples count as one."
    )


def closest(last: SampleRow, num_groups: int) -> list[str]:
    """The methods to which no other is measurably closer to the tilted distribution, by the errors of the groups."""
    ways = {
        "no correction": (last.tv_guided, last.se_guided),
        "weighting": (last.tv_weighted, last.se_weighted),
        "resampling": (last.tv_resampled, last.se_resampled),
    }
    sure = student(sure_of(len(ways)), num_groups)

    def is_behind(tv: float, error: float) -> bool:
        return any(tv - other >= NOTHING + sure * math.hypot(error, its_error) for other, its_error in ways.values())

    return [name for name, found in ways.items() if not is_behind(*found)]


def _of_samples(last: SampleRow, num_groups: int, cost: CostRow) -> str:
    """The best methods for these samples, with advice to draw more if only exact costs differ."""
    best = closest(last, num_groups)
    end = f"closest to the tilted distribution: {' and '.join(best)}"
    more = ""
    if len(best) == 3:
        end = "none measurably closer to the tilted distribution than the others"
        if abs(cost.tv_guided - cost.tv_weighted) >= NOTHING:
            more = f" {draw_more(MORE * last.num_samples)}"
    return (
        f"With {last.num_samples:,} samples, the total variation is {short(last.tv_guided)} without correction, "
        f"{short(last.tv_weighted)} with weighting and {short(last.tv_resampled)} with resampling (noise floor "
        f"{short(last.noise_floor)}), {end}.{more}"
    )
