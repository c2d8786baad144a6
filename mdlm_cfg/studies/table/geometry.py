"""Who gains and who loses: the regions of a class's support, their masses and moments against w (theory, section 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.compare.geometry import Region, limit_law, local_moments, region_mass, regions
from mdlm_cfg.compare.metrics import mean_and_covariance
from mdlm_cfg.studies.table.decay import own_kinds
from mdlm_cfg.studies.table.distances import TableEvaluation
from mdlm_cfg.targets.table import TableMixture

MAX_REGIONS = 8  # of a table in more than two dimensions, largest first


@dataclass(frozen=True)
class GeometryRow:
    """One law.

    Attributes:
        w: its strength, a number or the name of a schedule; inf for the limit. law: "exact" or "learned".
        mass, mean_probability: of every region, and per state of it, in the regions' order.
        eigenvalues: of the law's covariance, ascending, in units of the values squared.
        private_mean, private_trace: mean, and trace of the covariance, of the law conditioned on the private region;
            None where there is none, or no mass in it.
    """

    w: float | str
    kind: str
    law: str
    mass: list[float]
    mean_probability: list[float]
    eigenvalues: list[float]
    private_mean: list[float] | None
    private_trace: float | None


@dataclass(frozen=True)
class Geometry:
    """The regions of the support, and every law in them."""

    regions: list[Region]
    rows: list[GeometryRow]

    def of(self, law: str) -> list[GeometryRow]:
        """The rows of "exact" or "learned" laws, by strength."""
        return [row for row in self.rows if row.law == law]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        heads = [
            {"name": r.name, "overlapping": list(r.overlapping), "shared": r.shared, "num_states": r.num_states}
            for r in self.regions
        ]
        return {"regions": heads, "rows": [vars(row) for row in self.rows]}


def geometry_of(target: TableMixture, evaluation: TableEvaluation) -> Geometry:
    """Masses of the regions under the exact laws, the limits of `own_kinds` at infinite w, and the learned ones."""
    z = evaluation.target_class
    parts = sorted(regions(target, z), key=lambda r: (len(r.overlapping) + r.shared, -r.num_states))[:MAX_REGIONS]
    rows = []
    for name in ("exact", "learned"):
        for result in evaluation.results:
            if name in result.laws:
                rows.append(_row(result.guidance.written, str(result.guidance.kind), name, result.laws[name], parts))
    for kind in own_kinds(evaluation.plan):
        rows.append(_row(math.inf, str(kind), "exact", limit_law(target, z, kind), parts))
    return Geometry(parts, rows)


def _row(w: float | str, kind: str, name: str, law: Tensor, parts: Sequence[Region]) -> GeometryRow:
    masses = [region_mass(law, part) for part in parts]
    eigenvalues = torch.linalg.eigvalsh(mean_and_covariance(law)[1]).tolist()
    mean = trace = None
    if parts and not parts[0].overlapping and not parts[0].shared and masses[0][0] > 0:
        local_mean, local_covariance = local_moments(law, parts[0])
        mean, trace = local_mean.tolist(), float(local_covariance.trace())
    return GeometryRow(w, kind, name, [m for m, _ in masses], [p for _, p in masses], eigenvalues, mean, trace)
