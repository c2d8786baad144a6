"""Rows are told apart by their index, in reports and in comparisons; none depends on the other strengths."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import pytest
from helpers import Blurred, data_of, found_by, random_target
from study_cases import CASES, HIDDEN, IMAGES

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.chain.guidance_schedules import LinearRamp
from mdlm_cfg.chain.product_rules import Negative
from mdlm_cfg.reports.comparison_report import comparison_sections
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.studies.comparison import compare
from mdlm_cfg.studies.departure import Departures
from mdlm_cfg.studies.findings import Findings, columns_of, together
from mdlm_cfg.studies.geometry import GeometryStudy
from mdlm_cfg.studies.laws import Laws
from mdlm_cfg.studies.ledger import LedgerStudy
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.policies import Policies
from mdlm_cfg.studies.samplers import Samplers

NUMBERS = (Guidance(3.0), Guidance(2.0))
SCHEDULES = (Guidance([2.0, 2.0]), Guidance(LinearRamp(2, 2)))  # the strengths of w = 2
FILTERED = (Guidance(2.0, temperature=0.5), Guidance(2.0, top_p=0.6))
RULES = (Guidance(2.0, rule=Negative(1)),)
STUDIES = {
    "laws": (Laws(), NUMBERS + SCHEDULES + FILTERED + RULES),
    "ledger": (LedgerStudy(), NUMBERS + SCHEDULES + FILTERED + RULES),
    "samplers": (Samplers((2, 16)), NUMBERS + SCHEDULES + FILTERED + RULES),
    "geometry": (GeometryStudy(), NUMBERS + SCHEDULES + FILTERED + RULES),
    "policies": (Policies(), NUMBERS + SCHEDULES + FILTERED),
    "departure": (Departures(), NUMBERS + SCHEDULES),
}
SAMPLERS = {
    "chain": Sampler(),
    "order": Sampler("event_leaping", 2, policy="confidence"),
    "grid": Sampler("tau_leaping", (0.0, 0.5, inf)),
    "correction": Sampler("tau_leaping", 16, correction=Correction(moves=2)),
    "events": Sampler("event_leaping", events=(2,)),
}


@cache
def found(name: str, guidances: tuple[Guidance, ...], sampler: Sampler) -> Findings:
    study, _ = STUDIES[name]
    data = data_of(random_target(2, 2, 3, seed=4))
    return found_by(study, data, None, Plan(guidances, sampler, 20, classes=(0,)))


def asked() -> list[Any]:
    return [
        (name, sampler)
        for name in STUDIES
        for sampler in SAMPLERS
        if sampler == "chain" or (sampler == "order" and name != "departure") or name == "samplers"
    ]


def index_of(report: dict[str, Any], block: str, row: dict[str, Any]) -> str:
    about = {key: row.get(key) for key, column in report["columns"][block].items() if column["index"]}
    return json.dumps(about, sort_keys=True)


@pytest.mark.parametrize(("name", "sampler"), asked())
def test_the_index_that_a_report_declares_tells_its_rows_apart(name: str, sampler: str) -> None:
    report = found(name, STUDIES[name][1], SAMPLERS[sampler]).to_dict()
    for block, columns in report["columns"].items():
        assert set(columns) >= {key for row in report[block] for key in row}, block
        keys = [index_of(report, block, row) for row in report[block]]
        assert len(set(keys)) == len(keys), block


def saved(findings: Findings, folder: Path) -> Path:
    report = findings.to_dict() | {"data": {"name": "small"}, "run": {}, "settings": {}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


SLOW = ("Benchmark", "BestScheduleStudy", "LedgerStudy", "TableMoves")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_reports_of_every_study_are_compared(name: str, tmp_path: Path) -> None:
    study, data, plan = CASES[name]
    few = plan if name in ("TableCorrection", "MixtureCorrection", "ImageMoves") else replace(plan, num_samples=4)
    findings = found_by(study, data, Blurred(HIDDEN, 0.2) if data is IMAGES else None, few)
    means = compare([saved(findings, tmp_path)])
    assert comparison_sections(means, tmp_path) and len(means.means) == len(findings.rows())
    assert ("noise_floor" in means.measured) == any("noise_floor" in name for name in columns_of(findings.main.rows[0]))


def test_the_file_of_every_table_has_its_rows_and_no_file_is_written_twice(tmp_path: Path) -> None:
    parts = [found(name, NUMBERS, SAMPLERS["chain"]) for name in STUDIES]
    findings = together(parts[0].plan, parts)
    sections = sections_of(findings, tmp_path, "none")
    tables = [block for block in findings.blocks if block.rows and block is not findings.main]
    for block in tables:
        with (tmp_path / f"{block.name}.csv").open(newline="") as file:
            written = list(csv.DictReader(file))
        values = [{key: "" if value is None else str(value) for key, value in row.items()} for row in block.plain()]
        assert [{key: row[key] for key in own} for row, own in zip(written, values, strict=True)] == values, block.name
    pictures = [picture for section in sections for picture in section.pictures]
    names = [*(f"{block.name}.csv" for block in tables), *(picture.path.name for picture in pictures)]
    names += [picture.numbers.name for picture in pictures]
    names += [section.panel_numbers.name for section in sections if section.panel_numbers]
    assert len(set(names)) == len(names) > 20
