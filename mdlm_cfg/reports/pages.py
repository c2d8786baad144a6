"""The page of every study: what its findings are shown as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlm_cfg.reports.inpainting_report import inpainting_sections
from mdlm_cfg.reports.page import Section
from mdlm_cfg.reports.render import sections_of as rendered
from mdlm_cfg.studies.findings import Findings as Declared
from mdlm_cfg.studies.inpainting.findings import InpaintingFindings
from mdlm_cfg.studies.study import Findings


@dataclass(frozen=True)
class Page:
    """How findings are shown.

    Attributes:
        sections: draws their pictures into a folder, and returns the sections that show them, without the verdict.
        arrays: the name of the file that their arrays go to.
    """

    sections: Callable[[Any, Path], list[Section]]
    arrays: str = "arrays.npz"


PAGES: dict[type, Page] = {
    InpaintingFindings: Page(inpainting_sections),
}


def sections_of(findings: Findings | Declared, folder: Path) -> list[Section]:
    """The sections that show findings, without the verdict; their pictures are drawn into `folder`."""
    if isinstance(findings, Declared):
        return rendered(findings, folder)
    return PAGES[type(findings)].sections(findings, folder)


def arrays_file_of(findings: Findings | Declared) -> str:
    """The name of the file that the arrays of findings go to."""
    return findings.arrays_file if isinstance(findings, Declared) else PAGES[type(findings)].arrays
