"""study=laws: the effect of guidance on a class, and the errors of network and samples (theory, section 8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mdlm_cfg.compare.metrics import mean_and_covariance, total_variation
from mdlm_cfg.studies.common import LONGER
from mdlm_cfg.studies.evaluation import (
    LAWS,
    NOTHING,
    TABLE_NEEDS,
    StrengthEvaluation,
    TableEvaluation,
    array_name,
    eigenvalues_of,
    evaluation_of,
    evaluation_pieces,
)
from mdlm_cfg.studies.findings import Block, Curve, Findings, Interactive, Table, View, col, in_tv
from mdlm_cfg.studies.law_pictures import all_pairs, cells, differences, side_by_side
from mdlm_cfg.studies.panel import panel_of, panel_pieces
from mdlm_cfg.studies.protocol import LEARNED, Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import AtStrength, measured
from mdlm_cfg.support.numbers import largest, percent, short

SMALL = 0.1  # a learned distribution is good enough if its error is below this share of the guidance effect
READING = """\
Guidance of strength w raises the probability of states that are more likely in this class than in the whole mixture: \
w = 0 is the class itself. (Codebases that use a guidance scale gamma have gamma = 1 + w.)

The tilted distribution, proportional to p(x)^(-w) p(x | class)^(1+w), is what guidance is often assumed to sample. \
The exact guided distribution is the one in which the guided chain ends when both conditionals are exact and time is \
continuous. In one dimension the two agree; in more dimensions they generally do not. The learned distribution is the \
one in which the same chain ends with the network's conditionals. It is computed exactly, so its distance to the \
exact guided distribution is the error of the network alone.

A histogram of n samples is never at distance 0 from the distribution that they are drawn from: the noise floor is \
the mean distance of n exact samples."""
PANEL = """\
The slider (or the arrow keys) changes the guidance strength. All numbers are exact; none is estimated from samples. \
Colour scales are the same for all w; in differences red means more and blue means less. Ellipses are at one standard \
deviation around the mean; that of the class is dashed. Guidance of kind "rate" changes when a coordinate is unmasked \
and what it becomes; kind "normalized" changes only what it becomes."""


@dataclass(frozen=True)
class DistanceRow(AtStrength):
    """One strength: the effect of guidance, the error of the network, and the samples with their noise floor."""

    tv_class_exact: float = in_tv("guidance effect", "TV(class, exact guided)")
    tv_tilted_exact: float | None = in_tv("gap to tilted", "TV(tilted, exact guided); absent for a schedule")
    tv_exact_learned: float | None = in_tv("error of the network", "TV(exact guided, learned)")
    tv_exact_samples: float = in_tv("samples to exact", "TV(exact guided, histogram of the samples)")
    noise_floor_exact: float = in_tv("noise floor", "mean TV of the same number of exact samples")
    tv_learned_samples: float | None = in_tv("samples to learned", "TV(learned, histogram of the samples)")
    noise_floor_learned: float | None = in_tv("noise floor, learned", "mean TV of the same number of learned samples")


@dataclass(frozen=True)
class MomentRow(AtStrength):
    """Mean and covariance of one distribution."""

    law: str = col("distribution", f"one of {', '.join(LAWS)}", index=True)
    mean: list[float] = col("mean", "mean of every coordinate, in units of the values")
    covariance: list[list[float]] = col("covariance", "covariance matrix, in units of the values squared")
    eigenvalues: list[float] = col("eigenvalues of the covariance", "descending, in units of the values squared")


@dataclass(frozen=True)
class StrengthRow(AtStrength):
    """The strength of a schedule at one number of unmasked coordinates."""

    unmasked: int = col("unmasked", "coordinates that are already unmasked", index=True)
    strength: float = col("strength", "w at this number of unmasked coordinates")


@dataclass(frozen=True)
class Laws:
    """The class, the tilted, the exact guided and the learned distribution, and samples, for one class of a table."""

    needs: ClassVar[Needs] = TABLE_NEEDS
    rows: ClassVar[Rows] = {"distances": DistanceRow, "moments": MomentRow, "strengths": StrengthRow}

    def pieces(self, case: Case) -> Iterable[Piece]:
        """Distributions and samples of every strength, and those of the interactive panel."""
        yield from evaluation_pieces(case)
        yield from panel_pieces(case)

    def findings(self, case: Case, made: Made) -> Findings:
        """Distances, pictures of the distributions, their moments."""
        e = evaluation_of(case)
        panel = _interactive(case)
        pictures = _pictures(e, "Distributions" if panel else "")  # so that the first screen has a picture
        blocks = [_distances(e), *panel, _strengths(e), pictures, _moments(e)]
        facts = {"target_class": e.target_class, "judged": e.case.judged, "laws": list(arrays_of(e))}
        return Findings(case.plan, blocks, verdict_of(e), facts, arrays_of(e), "laws.npz")


def arrays_of(evaluation: TableEvaluation) -> dict[str, np.ndarray]:
    """Every distribution under its name in laws.npz: "class", "tilted_w2", "exact_rate_w2", and so on."""
    arrays = {"class": evaluation.results[0].laws["class"].numpy()}
    for result in evaluation.results:
        for name in LAWS[1:]:
            if name in result.laws:
                guidance = result.guidance
                named = replace(guidance, temperature=1.0, top_p=1.0) if name == "tilted" else guidance
                arrays[array_name(name, guidance, named.identifier)] = result.laws[name].numpy()
    return arrays


def row_of(result: StrengthEvaluation) -> DistanceRow:
    """The distances at one strength."""
    return DistanceRow(
        w=result.guidance,
        tv_class_exact=result.guidance_effect,
        tv_tilted_exact=result.tv("tilted", "exact"),
        tv_exact_learned=result.tv("exact", "learned"),
        tv_exact_samples=total_variation(result.laws["exact"], result.laws["samples"]),
        noise_floor_exact=result.noise_floors["exact"],
        tv_learned_samples=result.tv("learned", "samples"),
        noise_floor_learned=result.noise_floors.get("learned"),
    )


def _distances(e: TableEvaluation) -> Block:
    whose = "the network's samples" if e.case.judged == LEARNED else "exact samples"
    floor = "noise_floor_learned" if e.follows == LEARNED else "noise_floor_exact"
    shown = ["tv_class_exact", "tv_tilted_exact", "tv_exact_learned", "tv_exact_samples"]
    shown += ["tv_learned_samples"] if e.follows == LEARNED else []
    note = (
        "Total variation. Guidance effect: class to exact guided. Gap: tilted to exact guided. The noise floor is of "
        f"{e.case.plan.num_samples:,} samples of the {e.follows or 'exact'} distribution."
    )
    heads = {"tv_exact_samples": f"{whose} to exact", floor: "noise floor"}
    against_w = ["tv_class_exact", "tv_tilted_exact", "tv_exact_learned", "tv_exact_samples", "noise_floor_exact"]
    errors = ["tv_exact_learned", "tv_exact_samples", "noise_floor_exact"]
    views: list[View] = [
        Table(["w"], [*shown, floor], note=note, heads=heads),
        Curve("w", against_w, caption="Total variation against w."),
    ]
    if e.has_learned:
        views.append(Curve("w", errors, caption="The errors alone, on a logarithmic axis.", log_y=True))
    text = f"{_subject(e)}\n\n{READING}"
    rows = [row_of(result) for result in e.results]
    logged = measured(DistanceRow)
    return Block("distances", rows, "Distances", text, views=views, logged=logged, group="Distances", printed=True)


def _subject(e: TableEvaluation) -> str:
    kinds = ", ".join(dict.fromkeys(str(result.guidance.kind) for result in e.results))
    plan = e.case.plan
    target = e.target
    order = "" if plan.sampler.policy is None else f", order of unmasking {plan.sampler.policy}"
    return (
        f"Class {e.case.class_name(e.target_class)} (of {target.num_classes}), {target.num_tokens} values, "
        f"D = {target.num_dims}; guidance of kind {kinds}{order}; {plan.num_samples:,} samples per w by "
        f"{plan.sampler.label}, seed {plan.seed}."
    )


def _interactive(case: Case) -> list[Block]:
    panel = panel_of(case)
    if panel is None:
        return []
    view = Interactive(panel.data(), panel.rows())
    return [Block("panel", [], "Explore the distributions", PANEL, views=[view], group="")]


def _strengths(e: TableEvaluation) -> Block:
    schedules = [result.guidance for result in e.results if result.guidance.is_schedule]
    rows = [StrengthRow(g, k, w) for g in schedules for k, w in enumerate(g.table(e.target.num_dims))]
    text = (
        "A schedule gives w for every number of unmasked coordinates. It has no tilted distribution, which would need "
        "a single w: comparisons with it are blank, and curves against w leave the schedule out."
    )
    table = Table(["w"], ["strength"], "unmasked")
    return Block("strengths", rows, "Strength by unmasked coordinates", text, views=[table], group="Distances")


def _moments(e: TableEvaluation) -> Block:
    rows = []
    for result in e.results:
        for name, law in result.laws.items():
            mean, covariance = mean_and_covariance(law)
            rows.append(
                MomentRow(result.guidance, name, mean.tolist(), covariance.tolist(), eigenvalues_of(covariance))
            )
    table = Table(["w", "law"], ["mean", "eigenvalues"], note="In units of the values.")
    return Block("moments", rows, "Mean and covariance", views=[table], group="Distributions")


def _pictures(e: TableEvaluation, group: str) -> Block:
    shape = tuple(e.case.data.grid_shape)
    if len(shape) == 2:
        views = cells(e, shape)
    else:
        views = [side_by_side(e), *([differences(e)] if e.target.num_dims <= 2 else all_pairs(e))]
    return Block("pictures", [], "Distributions side by side", views=views, group=group)


def verdict_of(e: TableEvaluation) -> list[str]:
    """Whether the network is good enough, what guidance does, and what the samples can reveal."""
    said = []
    top = e.strongest
    errors = [(error, r.guidance.label) for r in e.results if (error := r.tv("exact", "learned")) is not None]
    if errors:
        most = largest(errors, lambda found: found[0])
        said.append(_of_the_network(most[0][0], ", ".join(at for _, at in most), e))
    elif e.case.judged == LEARNED:
        said.append(
            "The exact distribution of the network is too expensive to compute: its samples are compared with the "
            "exact guided distribution."
        )
    judged = [top, *(r for r in e.results if r.guidance.is_schedule and r is not top)]
    said += [_of_the_guidance(result, e) for result in judged]
    floor = top.noise_floors[e.follows or "exact"]
    if floor > NOTHING:
        said.append(
            f"The noise floor at w = {top.guidance.label} is {short(floor)} (num_samples={e.case.plan.num_samples}): "
            "the samples cannot reveal a smaller error."
        )
    return said


def _of_the_network(worst: float, at: str, e: TableEvaluation) -> str:
    """The largest error of the network, at the strengths `at`, beside the effect of the strongest guidance."""
    effect = e.strongest.guidance_effect
    top = e.strongest.guidance.label
    name = e.case.class_name(e.target_class)
    within = (
        f"For class {name}, the learned distribution is within {short(worst)} of the exact one (largest distance at "
        f"w = {at})"
    )
    if effect < NOTHING:
        return f"{within}; guidance does not move the distribution at w = {top}."
    if worst <= SMALL * effect:
        moved = f"guidance moves the distribution by {short(effect)}"
        return f"The network is good enough to study guidance. {within}; {moved}."
    return (
        f"The largest error of the network is {percent(worst / effect)} of the effect of guidance at w = {top}, too "
        f"large to study guidance with it. {within}. {LONGER}"
    )


def _of_the_guidance(result: StrengthEvaluation, e: TableEvaluation) -> str:
    guidance = result.guidance
    gap = result.tv("tilted", "exact")
    effect = result.guidance_effect
    order = e.case.plan.sampler.policy or guidance.kind
    head = f"At w = {guidance.label} ({order}),"
    if effect < NOTHING:
        return f"{head} the guided distribution is the class itself."
    moved = f"{head} the guided distribution is {short(effect)} from the class (total variation)"
    if gap is None:
        is_unknown = guidance.rule.has_tilted and not guidance.is_schedule
        return f"{moved}; {'its tilted distribution is not known' if is_unknown else 'it has no tilted distribution'}."
    if gap < NOTHING:
        return f"{moved}, and it is the tilted distribution."
    return f"{moved} and {short(gap)} from the tilted distribution, which guidance is often believed to sample."
