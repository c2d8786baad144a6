"""The page of every study that is asked for by name: what its findings are shown as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdlm_cfg.reports.benchmark_report import benchmark_sections
from mdlm_cfg.reports.page import Section
from mdlm_cfg.studies.benchmark.findings import BenchmarkFindings
from mdlm_cfg.studies.study import Findings

PAGES: dict[type, Callable[[Any, Path], list[Section]]] = {
    BenchmarkFindings: benchmark_sections,
}


def sections_of(findings: Findings, folder: Path) -> list[Section]:
    """The sections that show findings, without the verdict; their pictures are drawn into `folder`."""
    return PAGES[type(findings)](findings, folder)
