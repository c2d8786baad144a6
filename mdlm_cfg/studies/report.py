"""The default report of a table: five small studies, each of which can be run alone, and a paper's claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdlm_cfg.studies.decay import DecayStudy
from mdlm_cfg.studies.evaluation import TABLE_NEEDS
from mdlm_cfg.studies.geometry import GeometryStudy
from mdlm_cfg.studies.laws import Laws
from mdlm_cfg.studies.ledger import LedgerStudy
from mdlm_cfg.studies.paper.study import Paper
from mdlm_cfg.studies.protocol import ByCase, Case, Needs, Study, Together
from mdlm_cfg.studies.samplers import Samplers, is_small


@dataclass(frozen=True)
class TableReport(ByCase):
    """The report of data given as a table.

    Args:
        paper: the name of a paper's experiment whose claims are compared with the distributions.
    """

    paper: str | None = None
    name: ClassVar[str] = "report"
    needs: ClassVar[Needs] = TABLE_NEEDS

    def study(self, case: Case) -> Study:
        """The studies of the report; distributions of steps are left out where they take minutes."""
        studies: list[Study] = [Laws()]
        if self.paper is not None:
            studies.append(Paper(self.paper))
        studies += [GeometryStudy(), DecayStudy()]
        if is_small(case.target.num_tokens, case.target.num_dims):
            studies.append(Samplers())
        return Together([*studies, LedgerStudy()])
