"""The report of a denoiser whose data are unknown: the effect of guidance on it, and its samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Confidence, Policy
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.sequences import mean_pairwise_difference
from mdlm_cfg.studies.aligned import SHOWN_CLASSES, aligned_pieces, block_to_read, to_read
from mdlm_cfg.studies.common import draw_pieces, law_made, law_piece, samples_of
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_nats, in_tv
from mdlm_cfg.studies.protocol import LEARNED, Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import AtStrength, OfClass, tied_ends
from mdlm_cfg.studies.samplers import Samplers, is_small
from mdlm_cfg.support.numbers import named, rounded_up, short
from mdlm_cfg.targets.table import entropy_of

ROUNDING = 1e-9  # a TV below which two distributions count as equal
HALVES = 20  # random halves of both sets of samples
CLEAR = 4  # standard deviations above the mean noise, from which a change of single values counts
UNKNOWN = """\
The data are not known, so this report shows the effect of guidance on the model, not the quality of the model. All \
distances in the first columns are exact: they are computed over all partial states."""
TOO_MANY = "There are too many partial states for exact distributions of this model: the report uses samples only."


@dataclass(frozen=True)
class ModelRow(OfClass, AtStrength):
    """One class at one strength: exact values if its states can be enumerated, and values from samples."""

    tv_unguided: float | None = in_tv("guidance effect", "exact TV between the distributions at w = 0 and at this w")
    tv_orders: float | None = in_tv(
        "between two orders", "exact TV between the order of the guidance and highest confidence first"
    )
    entropy: float | None = in_nats("entropy", "entropy of the distribution")
    diversity: float = col(
        "differing positions",
        "mean share of positions in which two samples of the class differ",
        unit="share",
        digits=3,
    )
    values_changed: float = in_tv(
        "change of single values", "TV between the single values of samples at w = 0 and at this w, mean over positions"
    )
    values_noise: float = in_tv("its noise", "mean of the same between random halves of both sets of samples")
    values_noise_sd: float = in_tv("spread", "standard deviation of the noise, over random halves")


@dataclass(frozen=True)
class OwnModel:
    """The effect of guidance on a denoiser, from the denoiser alone.

    Where its (N+1)^D partial states can be enumerated, distributions are exact: the effect of guidance, the difference
    between two orders of unmasking (0 at w = 0 for conditionals of one joint distribution), and the samplers.
    """

    needs: ClassVar[Needs] = Needs(learned="required", samples=2)
    rows: ClassVar[Rows] = {"distances": ModelRow}

    def pieces(self, case: Case) -> Iterable[Piece]:
        """Distributions in two orders, samples, samplers with steps, and a few samples to read."""
        for guidance in dict.fromkeys([_unguided(case), *case.plan.guidances]):
            for k in case.classes:
                if _is_exact(case):
                    yield law_piece(case, LEARNED, guidance, k, case.plan.sampler.policy)
                    yield law_piece(case, LEARNED, guidance, k, Confidence())
                yield from draw_pieces(case, LEARNED, guidance, k)
        yield from aligned_pieces(case, LEARNED, case.classes[:SHOWN_CLASSES])
        if _has_samplers(case):
            yield from Samplers().pieces(case)

    def findings(self, case: Case, made: Made) -> Findings:
        """A row for each class and strength."""
        rows = [_row(case, made, g, k) for g in case.plan.guidances for k in case.classes]
        blocks = [_distances(case, rows), _to_read(case, made)]
        verdict = verdict_of(rows, case.plan.sampler.policy)
        if _has_samplers(case):
            found = Samplers().findings(case, made)
            blocks += found.blocks
            verdict += found.verdict
        arrays = {
            f"samples_class{k}_{g.identifier}": _samples(case, made, g, k).numpy()
            for g in case.plan.guidances
            for k in case.classes
        }
        return Findings(case.plan, blocks, verdict, arrays=arrays)


def _is_exact(case: Case) -> bool:
    return case.table(LEARNED) is not None


def _has_samplers(case: Case) -> bool:
    denoiser = case.denoisers[LEARNED]
    return _is_exact(case) and is_small(denoiser.num_tokens, denoiser.num_dims)


def _unguided(case: Case) -> Guidance:
    return replace(case.plan.guidances[0], w=0.0)


def _law(case: Case, guidance: Guidance, k: int, policy: Policy | None = None) -> Tensor | None:
    """The exact distribution of a class, in the plan's order or another; None if there is none."""
    return law_made(case, LEARNED, guidance, k, policy or case.plan.sampler.policy)


def _samples(case: Case, made: Made, guidance: Guidance, k: int) -> Tensor:
    return samples_of(made, draw_pieces(case, LEARNED, guidance, k)).long()


def _row(case: Case, made: Made, guidance: Guidance, k: int) -> ModelRow:
    law = _law(case, guidance, k)
    unguided = _law(case, _unguided(case), k)
    confident = _law(case, guidance, k, Confidence())
    x = _samples(case, made, guidance, k)
    n = case.data.num_tokens
    at_zero = _samples(case, made, _unguided(case), k)
    noise = _noise(torch.cat([x, at_zero]), n, case.plan.generator("halves", guidance, k, num_dims=x.shape[1]))
    return ModelRow(
        w=guidance,
        target_class=k,
        class_name=case.class_name(k),
        tv_unguided=None if law is None or unguided is None else total_variation(unguided, law),
        tv_orders=None if law is None or confident is None else total_variation(law, confident),
        entropy=None if law is None else entropy_of(law),
        diversity=mean_pairwise_difference(x, n),
        values_changed=_values_changed(x, at_zero, n),
        values_noise=float(noise.mean()),
        values_noise_sd=float(noise.std()),
    )


def _value_shares(x: Tensor, num_tokens: int) -> Tensor:
    """The shares of the values at every position, float64 (D, N)."""
    shares = [torch.bincount(column, minlength=num_tokens) for column in x.T]
    return torch.stack(shares).double() / len(x)


def _values_changed(a: Tensor, b: Tensor, num_tokens: int) -> float:
    """TV between the single values of two sets of samples, mean over positions."""
    return float(0.5 * (_value_shares(a, num_tokens) - _value_shares(b, num_tokens)).abs().sum(dim=1).mean())


def _noise(x: Tensor, num_tokens: int, generator: torch.Generator) -> Tensor:
    """The same between random halves of one set, (HALVES,)."""
    half = len(x) // 2
    orders = [torch.randperm(len(x), generator=generator) for _ in range(HALVES)]
    return torch.tensor([_values_changed(x[order[:half]], x[order[half:]], num_tokens) for order in orders])


def _distances(case: Case, rows: Sequence[ModelRow]) -> Block:
    plan = case.plan
    shown = ["tv_unguided", "tv_orders", "entropy", "diversity", "values_changed", "values_noise"]
    first = "tv_unguided" if _is_exact(case) else "values_changed"
    note = f"{plan.num_samples:,} samples of each class by {plan.sampler.label}, seed {plan.seed}."
    views: list[View] = [
        Table(["w", "class_name"], shown, note=note),
        Curve("w", first, ["class_name"], "What guidance changes, against w."),
        Curve("w", "tv_orders", ["class_name"], "Distance between two orders, against w."),
    ]
    text = UNKNOWN if _is_exact(case) else TOO_MANY
    return Block("distances", rows, "What guidance does", text, views=views, logged=shown, group="", printed=True)


def _to_read(case: Case, made: Made) -> Block:
    parts: list[str] = []
    for k in case.classes[:SHOWN_CLASSES]:
        parts += to_read(case, made, LEARNED, k, f"class {case.class_name(k)}: sample")
    return block_to_read(parts, group="Samples")


def verdict_of(rows: Sequence[ModelRow], policy: Policy | None = None) -> list[str]:
    """Whether the model can have one joint distribution, and what guidance does to it; `policy` is the plan's."""
    if rows[0].tv_unguided is None:
        return [f"{_of_values(rows)} {TOO_MANY}"]
    said = _of_orders([row for row in rows if row.w == Guidance(0.0, row.w.kind)], policy)
    least, most = tied_ends(rows, "tv_unguided", ROUNDING)
    changed = (most or least)[0].tv_unguided or 0.0
    if changed < ROUNDING:
        return [*said, "Guidance does not change any class at these strengths."]
    return [*said, f"Guidance changes {_named(most or least)} most, by {short(changed)} (total variation)."]


def _of_values(rows: Sequence[ModelRow]) -> str:
    """The effect of guidance on samples, if it exceeds their noise."""
    clear = [row for row in rows if row.values_changed > row.values_noise + CLEAR * row.values_noise_sd]
    least, most = tied_ends(clear or rows, "values_changed", ROUNDING)
    ends = most or least
    change = f"{short(ends[0].values_changed)} (total variation, mean over positions)"
    if clear:
        return f"Guidance changes the single values most for {_named(ends)}, by {change}."
    return (
        f"These samples show no effect of guidance on single values: at most {change}, where samples of one "
        f"distribution differ by {short(ends[0].values_noise)}."
    )


def _named(rows: Sequence[ModelRow]) -> str:
    """The first few of these classes and strengths."""
    return named([f"class {row.class_name} at w = {row.w.label}" for row in rows])


def _of_orders(rows: Sequence[ModelRow], policy: Policy | None) -> list[str]:
    """Whether two orders give the same distribution at w = 0, as they do for a joint distribution."""
    if not rows or policy == Confidence():
        return []
    order = "a random order" if policy is None else f"the order {policy}"
    gap = max(row.tv_orders or 0.0 for row in rows)
    if gap < ROUNDING:
        return [f"Without guidance, {order} and an order by confidence give the same distribution."]
    return [
        f"The conditionals do not agree on one distribution: without guidance, an order by confidence instead of "
        f"{order} changes a class by up to {rounded_up(gap, 2)} (total variation)."
    ]
