"""docs/report.md says of every declared column what it is."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from mdlm_cfg.app.report_reference import END, START, report_reference, studies, with_reference

PAGE = Path(__file__).parents[2] / "docs" / "report.md"


def test_every_block_and_column_of_every_study_is_in_the_reference() -> None:
    text = report_reference()
    assert len(studies()) > 5
    for study in studies():
        part = text.partition(f"### {study.__name__}\n")[2].partition("\n### ")[0]
        for block, row in study.rows.items():
            table = part.partition(f"**`{block}`**")[2].partition("\n**")[0]
            assert table.count("\n| ") == 1 + len(fields(row)), f"{study.__name__}.{block}"


def test_a_page_keeps_what_stands_around_the_reference() -> None:
    page = f"before\n{START}\nOUTDATED\n{END}\nafter\n"
    made = with_reference(page)
    assert made.startswith("before\n") and made.endswith("after\n") and "OUTDATED" not in made
    assert with_reference(made) == made


@pytest.mark.slow
def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_reference(page) == page, "run python -m mdlm_cfg.app.report_reference docs/report.md"
