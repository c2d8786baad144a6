"""The study of a table: a plan goes in, findings come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.compare.decay import Decay
from mdlm_cfg.compare.ledger import Ledger
from mdlm_cfg.studies.paper.claims import PaperResult
from mdlm_cfg.studies.paper.experiments import EXPERIMENTS
from mdlm_cfg.studies.paper.experiments import check as check_paper
from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan
from mdlm_cfg.studies.table.asked import check_table, known_table
from mdlm_cfg.studies.table.decay import decay_dict, decay_of, own_kinds
from mdlm_cfg.studies.table.distances import TableEvaluation, evaluate_table, table_of
from mdlm_cfg.studies.table.equal_cost import SamplerRow, equal_cost, is_small
from mdlm_cfg.studies.table.geometry import Geometry, geometry_of
from mdlm_cfg.studies.table.ledgers import has_ledger, ledger_dict, ledgers_of, ledgers_samplers
from mdlm_cfg.studies.table.overlap import OverlapRow, overlap_of
from mdlm_cfg.studies.table.panel import Panel, panel_of
from mdlm_cfg.studies.table.strength import Row, strength_key
from mdlm_cfg.studies.table.verdict import verdict_of
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.targets.table import TableMixture

GEOMETRY, COMPARED, ENTRY = 3.0, 2.5, 2.0  # times that of laws and samples at one strength


@dataclass(frozen=True)
class TableFindings:
    """Everything that was found about a table under guidance.

    Attributes:
        evaluation: laws, samples and distances.
        geometry: of the class's support. overlap: mass by how many coordinates overlap.
        decay: of TV in time, one for each of `own_kinds`; empty for a table that is too large.
        samplers: at equal cost; empty where a step's kernel is too large.
        ledger: entries; empty for a network that is too large for its own exact law.
        paper: the name of a paper's experiment and what became of its claims; None if not asked for.
        panel: laws of every class and kind over a range of strengths; None of large tables, and beyond two dimensions.
        grid_shape: of the coordinates, where they are cells of a grid; None where they are none.
    """

    evaluation: TableEvaluation
    geometry: Geometry
    overlap: list[OverlapRow]
    decay: list[Decay]
    samplers: list[SamplerRow]
    ledger: list[Ledger]
    paper: tuple[str, PaperResult] | None = None
    panel: Panel | None = None
    grid_shape: tuple[int, ...] | None = None

    @property
    def verdict(self) -> list[str]:
        """What was found, in sentences."""
        return verdict_of(self.evaluation, self.ledger)

    def rows(self) -> list[Row]:
        """One flat row of numbers per guidance."""
        return self.evaluation.rows()

    def arrays(self) -> dict[str, np.ndarray]:
        """Every law, under its name in laws.npz."""
        return {name: law.numpy() for name, law in self.evaluation.laws().items()}

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "tv_exact_learned_w2", and so on."""
        return {
            f"{name}_{strength_key(result.guidance)}": float(value)
            for result in self.evaluation.results
            for name, value in result.row().items()
            if name.startswith(("tv_", "noise_floor_", "kl_")) and isinstance(value, float)
        }

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds of a study (docs/report.md): numbers under names, none of them formatted."""
        e = self.evaluation
        moments = [{name: vars(found) for name, found in result.moments.items()} for result in e.results]
        return to_plain(
            {
                "version": REPORT_VERSION,
                "plan": e.plan.describe(e.num_dims),
                "target_class": e.target_class,
                "judged": e.judged,
                "laws": list(e.laws()),
                "distances": [row | {"moments": found} for row, found in zip(e.rows(), moments)],
                "samplers": [row.to_dict() for row in self.samplers],
                "ledger": [ledger_dict(entry, e.judged) for entry in self.ledger],
                "decay": decay_dict(self.decay[0]) if self.decay else None,
                "decays": [decay_dict(decay) for decay in self.decay],
                "geometry": self.geometry.to_dict(),
                "overlap": [row.to_dict() for row in self.overlap],
                "verdict": self.verdict,
                "paper": None if self.paper is None else {"name": self.paper[0], **self.paper[1].to_dict()},
            }
        )


@dataclass(frozen=True)
class Tables:
    """The study of data given as a table.

    Attributes:
        paper: the name of a paper's experiment whose claims are held against the laws.
    """

    paper: str | None = None

    def check(self, data: Any, plan: Plan) -> None:
        """Raise UserError for data that are no table, and as `check_table` and the paper's experiment."""
        check_table(known_table(data, "the study of a table"), plan, data.name)
        if self.paper is not None:
            check_paper(self.paper, data.target, plan)

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> TableFindings:
        """See `mdlm_cfg.studies.study.Study`."""
        self.check(data, plan)
        learned = None if denoiser is None else table_of(denoiser, keep)
        found = study_table(data.target, learned or denoiser, plan, self.paper, progress, keep)
        progress("laws to move through")
        return replace(found, panel=panel_of(data.target, learned, plan), grid_shape=tuple(data.grid_shape))


def study_table(
    target: TableMixture,
    denoiser: Denoiser | None,
    plan: Plan,
    paper: str | None = None,
    progress: Callable[[str], None] | None = None,
    keep: Keep = keep_nothing,
) -> TableFindings:
    """Everything that a table of this size allows to know.

    Args:
        target: the distribution, known exactly.
        denoiser: a learned one; None studies the target's exact one.
        plan: what is asked.
        paper: a name in `EXPERIMENTS` whose claims are held against the laws.
        progress: called with one short line before every piece of work.
        keep: has laws and samples of an evaluation that was interrupted.

    Raises:
        UserError: as `evaluate_table`.
    """
    learned = None if denoiser is None else table_of(denoiser, keep)
    say = Pieces(_costs(target, denoiser, plan), progress)
    evaluation = evaluate_table(target, learned or denoiser, plan, say, keep)
    z = evaluation.target_class
    say("geometry and decay in time")
    decays = [decay for kind in own_kinds(plan) if (decay := decay_of(target, z, kind)) is not None]
    geometry = geometry_of(target, evaluation)
    denoisers: dict[str, Denoiser] = {"exact": target.denoiser()}
    if learned is not None:
        denoisers["learned"] = learned
    small = is_small(target.num_tokens, target.num_dims)
    samplers = equal_cost(denoisers, z, plan, say) if small else []
    entries = ledgers_of(target, learned, evaluation, say) if has_ledger(evaluation) else []
    claims = None if paper is None else (paper, EXPERIMENTS[paper](target, evaluation, learned))
    return TableFindings(evaluation, geometry, overlap_of(evaluation), decays, samplers, entries, claims)


def _costs(target: TableMixture, denoiser: Denoiser | None, plan: Plan) -> list[float]:
    """What the pieces of `study_table` cost, in their order, in laws at one strength: as measured on the toys."""
    strengths, small = len(plan.guidances), is_small(target.num_tokens, target.num_dims)
    compared = [COMPARED] * (strengths * (1 if denoiser is None else 2)) if small else []
    ledgers = [ENTRY * len(ledgers_samplers(target, plan))] * strengths
    return [1.0] * strengths + [GEOMETRY] + compared + ledgers
