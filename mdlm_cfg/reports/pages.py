"""The page of every study that is asked for by name: what its findings are shown as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdlm_cfg.reports.benchmark_report import benchmark_sections
from mdlm_cfg.reports.best_schedule_report import best_schedule_sections
from mdlm_cfg.reports.corpus_report import corpus_sections
from mdlm_cfg.reports.correction_report import correction_sections
from mdlm_cfg.reports.departure_report import departure_sections
from mdlm_cfg.reports.inpainting_report import inpainting_sections
from mdlm_cfg.reports.likelihood_report import bounds_sections, table_likelihood_sections
from mdlm_cfg.reports.mixture_correction_report import mixture_correction_sections
from mdlm_cfg.reports.page import Section
from mdlm_cfg.reports.policies_report import policies_sections
from mdlm_cfg.reports.sequence_report import sequence_sections
from mdlm_cfg.studies.benchmark.findings import BenchmarkFindings
from mdlm_cfg.studies.best_schedule.findings import BestScheduleFindings
from mdlm_cfg.studies.corpus.findings import CorpusFindings
from mdlm_cfg.studies.correction.findings import TableCorrection
from mdlm_cfg.studies.correction.mixture_findings import MixtureCorrection
from mdlm_cfg.studies.departure.findings import DepartureFindings
from mdlm_cfg.studies.inpainting.findings import InpaintingFindings
from mdlm_cfg.studies.likelihood.findings import BoundsFindings, TableLikelihoodFindings
from mdlm_cfg.studies.policies.findings import PolicyFindings
from mdlm_cfg.studies.sequences.findings import SequenceFindings
from mdlm_cfg.studies.study import Findings

PAGES: dict[type, Callable[[Any, Path], list[Section]]] = {
    PolicyFindings: policies_sections,
    DepartureFindings: departure_sections,
    BestScheduleFindings: best_schedule_sections,
    TableLikelihoodFindings: table_likelihood_sections,
    BoundsFindings: bounds_sections,
    TableCorrection: correction_sections,
    MixtureCorrection: mixture_correction_sections,
    InpaintingFindings: inpainting_sections,
    SequenceFindings: sequence_sections,
    CorpusFindings: corpus_sections,
    BenchmarkFindings: benchmark_sections,
}


def sections_of(findings: Findings, folder: Path) -> list[Section]:
    """The sections that show findings, without the verdict; their pictures are drawn into `folder`."""
    return PAGES[type(findings)](findings, folder)
