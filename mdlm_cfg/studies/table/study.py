"""The study of a table: a plan goes in, findings come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.compare.decay import Decay
from mdlm_cfg.compare.ledger import Ledger
from mdlm_cfg.studies.paper.claims import PaperResult
from mdlm_cfg.studies.paper.experiments import EXPERIMENTS
from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan
from mdlm_cfg.studies.table.decay import decay_dict, decay_of
from mdlm_cfg.studies.table.distances import TableEvaluation, evaluate_table, table_of
from mdlm_cfg.studies.table.equal_cost import SamplerRow, equal_cost, is_small
from mdlm_cfg.studies.table.geometry import Geometry, geometry_of
from mdlm_cfg.studies.table.ledgers import ledger_dict, ledgers_of
from mdlm_cfg.studies.table.verdict import verdict_of
from mdlm_cfg.targets.table import TableMixture


@dataclass(frozen=True)
class TableFindings:
    """Everything that was found about a table under guidance.

    Attributes:
        evaluation: laws, samples and distances. geometry: of the class's support.
        decay: of TV in time, one for each kind of guidance; empty for a table that is too large.
        samplers: at equal cost; empty where a step's kernel is too large.
        ledger: entries; empty for a network that is too large for its own exact law.
        paper: the name of a paper's experiment and what became of its claims; None if not asked for.
    """

    evaluation: TableEvaluation
    geometry: Geometry
    decay: list[Decay]
    samplers: list[SamplerRow]
    ledger: list[Ledger]
    paper: tuple[str, PaperResult] | None = None

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "tv_exact_learned_w2", and so on."""
        return {
            f"{name}_w{row['w']:g}": float(value)
            for row in self.evaluation.rows()
            for name, value in row.items()
            if name.startswith(("tv_", "noise_floor_", "kl_")) and isinstance(value, float)
        }

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds of a study (docs/report.md): numbers under names, none of them formatted."""
        e = self.evaluation
        moments = [{name: vars(found) for name, found in result.moments.items()} for result in e.results]
        return to_plain(
            {
                "version": REPORT_VERSION,
                "plan": e.plan.describe(),
                "target_class": e.target_class,
                "judged": e.judged,
                "laws": list(e.laws()),
                "distances": [row | {"moments": found} for row, found in zip(e.rows(), moments)],
                "samplers": [row.to_dict() for row in self.samplers],
                "ledger": [ledger_dict(entry, e.judged) for entry in self.ledger],
                "decay": decay_dict(self.decay[0]) if self.decay else None,
                "geometry": self.geometry.to_dict(),
                "verdict": verdict_of(e, self.ledger),
                "paper": None if self.paper is None else {"name": self.paper[0], **self.paper[1].to_dict()},
            }
        )


def run(
    target: TableMixture,
    denoiser: Denoiser | None,
    plan: Plan,
    paper: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> TableFindings:
    """Everything that a table of this size allows to know.

    Args:
        target: the distribution, known exactly.
        denoiser: a learned one; None studies the target's exact one.
        plan: what is asked.
        paper: a name in `EXPERIMENTS` whose claims are held against the laws.
        progress: called with one short line before every piece of work.

    Raises:
        UserError: as `evaluate_table`.
    """
    learned = None if denoiser is None else table_of(denoiser)
    evaluation = evaluate_table(target, learned or denoiser, plan, progress)
    z, say = evaluation.target_class, progress or (lambda line: None)
    say("geometry and decay in time")
    kinds = dict.fromkeys(guidance.kind for guidance in plan.guidances)
    decays = [decay for kind in kinds if (decay := decay_of(target, z, kind)) is not None]
    geometry = geometry_of(target, evaluation)
    denoisers: dict[str, Denoiser] = {"exact": target.denoiser()}
    if learned is not None:
        denoisers["learned"] = learned
    small = is_small(target.num_tokens, target.num_dims)
    samplers = equal_cost(denoisers, z, plan, progress) if small else []
    judged = target.denoiser() if denoiser is None else learned
    entries = [] if judged is None else ledgers_of(target, judged, evaluation, progress)
    claims = None if paper is None else (paper, EXPERIMENTS[paper](target, evaluation, learned))
    return TableFindings(evaluation, geometry, decays, samplers, entries, claims)
