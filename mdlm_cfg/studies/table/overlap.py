"""Where a law's mass lies by how many coordinates overlap with other classes (theory, sections 4 and 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.studies.table.distances import TableEvaluation


@dataclass(frozen=True)
class OverlapRow:
    """One law on the class's support.

    Attributes:
        w, kind: of the guidance, w a number or the name of a schedule. law: "class", "exact", "learned", ...
        mass, mean_probability: by the number of coordinates that overlap; of all such states, and per state.
    """

    w: float | str
    kind: str
    law: str
    mass: dict[int, float]
    mean_probability: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "w": self.w, "kind": self.kind, "law": self.law, "num_overlapping": list(self.mass),
            "mass": list(self.mass.values()), "mean_probability": list(self.mean_probability.values()),
        }  # fmt: skip


def overlap_of(evaluation: TableEvaluation) -> list[OverlapRow]:
    """Every law of every guidance by overlap."""
    e = evaluation
    counts, support = overlap_counts(e.class_law, e.others_law), e.class_law > 0
    parts = {int(k): support & (counts == k) for k in counts[support].unique()}
    return [
        OverlapRow(
            result.guidance.written,
            str(result.guidance.kind),
            name,
            {k: float(result.laws[name][part].sum()) for k, part in parts.items()},
            {k: float(result.laws[name][part].mean()) for k, part in parts.items()},
        )
        for result in e.results
        for name in e.law_names
        if name in result.laws
    ]


def overlap_counts(class_law: Tensor, others_law: Tensor) -> Tensor:
    """How many coordinates of x take a value that other classes take too: int64 (N,)*D (theory, section 7).

    In one dimension 1 is the overlap itself; in the five-dimensional example of theory, section 4, it is k.
    """
    dims = range(class_law.ndim)
    counts = torch.zeros(class_law.shape, dtype=torch.int64)
    for i in dims:
        drop = [j for j in dims if j != i]
        own, other = (law.sum(dim=drop) if drop else law for law in (class_law, others_law))
        shape = [-1 if j == i else 1 for j in dims]
        counts = counts + ((own > 0) & (other > 0)).long().reshape(shape)
    return counts
