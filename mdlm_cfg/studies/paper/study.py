"""study=paper: a paper's claims beside exact distributions, a trained network's, and samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from mdlm_cfg.studies.evaluation import TABLE_NEEDS, evaluation_of, evaluation_pieces
from mdlm_cfg.studies.findings import Block, Findings, Listing, Table
from mdlm_cfg.studies.paper.claims import Claim
from mdlm_cfg.studies.paper.experiments import EXPERIMENTS, check
from mdlm_cfg.studies.protocol import Case, Made, Needs, Piece, Rows


@dataclass(frozen=True)
class Paper:
    """The claims of one experiment of a paper.

    Args:
        experiment: its name, in `EXPERIMENTS`.
    """

    experiment: str
    name: ClassVar[str] = "paper"
    needs: ClassVar[Needs] = TABLE_NEEDS
    rows: ClassVar[Rows] = {"claims": Claim}

    def check(self, case: Case) -> None:
        """Refuse an unknown experiment, and data or strengths to which it does not apply."""
        check(self.experiment, case.target, case.plan)

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The distributions and samples that the claims use."""
        yield from evaluation_pieces(case)

    def findings(self, case: Case, made: Made) -> Findings:
        """A row for each claim, and the numbers beside them."""
        result = EXPERIMENTS[self.experiment](evaluation_of(case))
        paper = "2507.08965" if self.experiment.startswith("2507_08965") else "2506.10971"
        text = f"The statements of arXiv {paper}, compared with exact distributions."
        views = [Table(["statement"], ["exact", "learned", "verdict"])]
        title = f"The paper: {self.experiment}"
        blocks = [Block("claims", result.claims, title, text, views=views, group="The paper", printed=True)]
        for title, columns, cells in result.tables:
            lines = [columns, *cells]
            widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
            shown = "\n".join("  ".join(c.ljust(width) for c, width in zip(line, widths)) for line in lines)
            blocks.append(Block(title, [], title, views=[Listing(shown)], group="The paper"))
        tables = [{"title": title, "columns": columns, "rows": cells} for title, columns, cells in result.tables]
        facts = {"paper": {"name": self.experiment, "tables": tables}}
        return Findings(case.plan, blocks, [], facts)
