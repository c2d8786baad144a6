"""Mask-and-refill moves in many dimensions, on samples of an exactly known Bernoulli mixture.

This is `study=correction_moves` for such data (theory, section 19).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.metrics import recognised, sure_of, total_variation, tv_error
from mdlm_cfg.compare.mixtures import component_usage, components_in_use
from mdlm_cfg.sampling.reference import check_reference, tilted_reference
from mdlm_cfg.studies.common import BERNOULLI
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_nats, in_tv
from mdlm_cfg.studies.mixture_correction import usage_noise
from mdlm_cfg.studies.moves import WHAT_MOVES_ARE, AfterMoves, MovedSets, Started, components_column, phrase, verb_of
from mdlm_cfg.studies.protocol import Case, Made, Needs, Piece, Rows
from mdlm_cfg.studies.rows import OfDenoiser, by, measured, strongest, where
from mdlm_cfg.support.numbers import short
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.posterior import posterior_of

REFERENCE = "tilted distribution"
STARTS: tuple[Mapping[str, Any], ...] = (
    {"name": "first_hitting"},
    {"name": "sampled_confidence", "steps": 32},
    {"name": "remdm", "steps": 32, "remasking": "cap(0.2)"},
)
READING = f"""\
{WHAT_MOVES_ARE} The sets are samples. The mixture evaluates them: it gives the probability of every image, of its \
class and of its component."""
NOTE = """\
Usage: the frequencies of the class's components, by their exact posterior, as total variation to those of the tilted \
distribution, whose samples are weighted samples of the class. The noise floor is that of the same number of them. \
Accuracy: share of samples whose most probable class is the intended one. Log-likelihood: mean of ln p(x | class) in \
nats."""


@dataclass(frozen=True)
class MovedSetRow(AfterMoves, OfDenoiser):
    """A set of samples after a number of moves, evaluated by the exact mixture; mean over classes."""

    usage_tv: float = in_tv("usage", "TV between the component frequencies and those of the tilted distribution")
    usage_floor: float = in_tv(
        "noise floor", "usage TV expected for the same number of samples of the tilted distribution"
    )
    components: float = components_column()
    accuracy: float = col("accuracy", "share of samples whose most probable class is the intended one", unit="share")
    log_likelihood: float = in_nats("log-likelihood", "mean of ln p(x | class)", digits=2)


MEASURED = measured(MovedSetRow)[1:]  # all but the calls


@dataclass(frozen=True)
class MixtureMoves(MovedSets):
    """Component usage, accuracy and likelihood after moves, from several samplers, by size and number of moves.

    Args:
        sizes, moves, starts: as in `MovedSets`; sizes of None are just 1.
        num_reference: samples of the class from which the tilted distribution is estimated.

    Raises:
        UserError: numbers out of range, or an entry that is not a sampler.
    """

    starts: Sequence[Started] = STARTS
    num_reference: int = 20_000
    name: ClassVar[str] = "correction_moves"
    needs: ClassVar[Needs] = Needs(**BERNOULLI, numbers=True, one_kind=True, samples=2, guided=True)
    rows: ClassVar[Rows] = {"sets": MovedSetRow}

    def check(self, case: Case) -> None:
        """Refuse moves or samplers that do not fit the data."""
        check_reference(self.num_reference)
        super().check(case)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """References, and the sets of all starts and moves."""
        for guidance in case.plan.guidances:
            for z in case.classes:
                yield case.piece(self._reference, guidance, z, label=f"reference of class {z}", cost=self.num_reference)
                for who in case.denoisers:
                    yield from self.pieces_of_sets(case, guidance, z, who)

    def judged(self, case: Case, guidance: Guidance, z: int, x: Tensor) -> dict[str, float]:
        """The statistics of samples under the mixture."""
        return _numbers(_seen(case.target, x, None, z), case.made.of(self._reference, guidance, z))

    def _reference(self, case: Case, guidance: Guidance, z: int) -> dict[str, Any]:
        generator = case.plan.generator("reference", guidance, z, num_dims=case.target.num_dims)
        found = tilted_reference(case.target, guidance.constant, z, self.num_reference, generator)
        floor = usage_noise(case.target, found, z, case.plan.num_samples)
        return _seen(case.target, found.x, found.weights, z) | {"floor": floor}

    def findings(self, case: Case, made: Made) -> Findings:
        """A row for each strength, denoiser, start, move and number of moves, and one for the reference."""
        rows = []
        for g, who in case.by_denoiser():
            seen = [made.of(self._reference, g, z) for z in case.classes]
            known = [_numbers(one, one) for one in seen]
            rows.append(MovedSetRow(g, who, REFERENCE, "", 0, 0, *_mean(known)))
            rows += [MovedSetRow(g, who, *at, *_mean(found)) for at, found in self.each_set(case, made, g, who)]
        text = f"{case.plan.num_samples:,} samples of each class and set, seed {case.plan.seed}.\n\n{READING}"
        facts = {"data": {"classes": list(case.classes)}, "num_reference": self.num_reference}
        error = tv_error(case.plan.num_samples * len(case.classes))
        return Findings(case.plan, blocks_of(rows, text), verdict_of(rows, error), facts)


def _seen(target: BernoulliMixture, x: Tensor, weights: Tensor | None, z: int) -> dict[str, Any]:
    """Statistics of a set under the mixture: usage of components and of none (C + 1,), accuracy, mean ln p(x | z)."""
    shares = torch.full((len(x),), 1 / len(x), dtype=torch.float64) if weights is None else weights
    right = recognised(posterior_of(target)(x), z)
    own = target.log_prob(x, torch.full((len(x),), z))
    usage = component_usage(target, x, z, weights)
    return {"usage": usage, "accuracy": min(float(shares @ right), 1.0), "log_likelihood": float(shares @ own)}


def _numbers(seen: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
    """The measured columns of `MovedSetRow`."""
    return {
        "usage_tv": total_variation(seen["usage"], reference["usage"]),
        "usage_floor": reference["floor"],
        "components": components_in_use(seen["usage"]),
        "accuracy": seen["accuracy"],
        "log_likelihood": seen["log_likelihood"],
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> list[float]:
    return [sum(row[name] for row in rows) / len(rows) for name in MEASURED]


def blocks_of(rows: Sequence[MovedSetRow], text: str) -> list[Block]:
    """Usage and likelihood against calls, and the table of all sets."""
    how: dict[str, Any] = {"panels": "start", "reference": {"start": REFERENCE}}
    views: list[View] = [
        Curve("calls", "usage_tv", ["move"], "Component usage against all calls, a panel for each sampler.", **how),
        Curve("calls", "log_likelihood", ["move"], "Mean ln p(x | class) in nats against all calls.", **how),
        Table(["start", "move", "moves"], ["calls", *MEASURED], note=NOTE),
    ]
    return [
        Block("sets", rows, "Samples after moves", text, ["w", "denoiser"], views, MEASURED[:1], group="", printed=True)
    ]


def verdict_of(rows: Sequence[MovedSetRow], error: float) -> list[str]:
    """Whether moves correct the usage of components, at the largest strength.

    Args:
        error: the standard error of a usage, a mean over classes.
    """
    top = strongest(rows)
    said = []
    for who, own in by(rows, "denoiser"):
        reference, *here = where(own, w=top)
        head = f"At w = {top.label}, with {who} conditionals,"
        said.append(_of_denoiser(head, reference.usage_floor, here, error))
    return said


def _of_denoiser(head: str, floor: float, rows: Sequence[MovedSetRow], error: float) -> str:
    """The effect beyond chance of the largest number of moves, after the sampler that it helps most."""
    chance = sure_of(len({row.start for row in rows})) * math.sqrt(2) * error
    most = max(row.moves for row in rows)
    before = {(row.start, row.move): row.usage_tv for row in where(rows, moves=0)}
    farthest = max(before.values())
    if farthest <= floor + chance:
        return (
            f"{head} the usage of components of every sampler equals that of the tilted distribution within the noise "
            f"(total variation at most {short(farthest)}; noise floor {short(floor)}): there is nothing to correct."
        )
    gains = {row: before[row.start, row.move] - row.usage_tv for row in where(rows, moves=most)}
    best = max(gains, key=lambda row: gains[row])
    do = verb_of(most, "correct") if gains[best] > chance else "cannot be shown to correct"
    return (
        f"{head} {phrase(most, best.move)} {do} the usage of components (total variation to that of the tilted "
        f'distribution {short(before[best.start, best.move])} before, {short(best.usage_tv)} after "{best.start}"; '
        f"noise floor {short(floor)})."
    )
