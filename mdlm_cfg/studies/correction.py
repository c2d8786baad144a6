"""study=correction: the cost of sampling the tilted distribution, by importance weights and by resampling.

For a table everything is known exactly (theory, section 11). `MixtureCorrection` is for a Bernoulli mixture in many
dimensions; `Correction` chooses between the two by the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdlm_cfg.studies.mixture_correction import MixtureCorrection
from mdlm_cfg.studies.protocol import ByCase, Needs
from mdlm_cfg.studies.table_correction import TableCorrection
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.table import TableMixture


@dataclass(frozen=True)
class Correction(ByCase):
    """The cost of sampling the tilted distribution of a table, or of a Bernoulli mixture in many dimensions.

    Args:
        threshold, num_groups: see `TableCorrection`. num_reference: see `MixtureCorrection`.
    """

    threshold: float = TableCorrection.threshold
    num_groups: int = TableCorrection.num_groups
    num_reference: int = MixtureCorrection.num_reference
    needs: ClassVar[Needs] = Needs(
        target=(TableMixture, BernoulliMixture),
        what="data whose tilted distribution is known",
        example="data=toy_5d_hypercube or data=bernoulli_mnist",
    )
    kinds = (TableCorrection, MixtureCorrection)
