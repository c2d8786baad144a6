"""The references of settings and of report.json say what is declared: all of it."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
import yaml
from references import (
    END,
    PAGE,
    PROGRAMS,
    SCHEMAS,
    START,
    reference,
    report_reference,
    settings,
    studies,
    with_reference,
)

from mdlm_cfg.app.cli import CONFIGS
from mdlm_cfg.app.groups import settings_text


@pytest.fixture(scope="module")
def page() -> str:
    return reference(CONFIGS)


@pytest.mark.parametrize("command", SCHEMAS)
def test_settings_are_read_as_yaml_reads_them(command: str) -> None:
    text = settings_text(command, CONFIGS)
    there = {key: value for key, value in yaml.safe_load(text).items() if key != "net"}
    found = {key: yaml.safe_load(value) for key, value, _ in settings(text) if key in there}
    assert found == there


def test_a_comment_goes_on_in_the_next_lines() -> None:
    assert settings("a: 1 # one\n  # two\nb:\n  c: 2\n# no\n") == [("a", "1", "one two"), ("b", "", "")]


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_setting_of_the_schema_has_a_row_or_is_a_group(command: str, page: str) -> None:
    part = page.split(f"## python {PROGRAMS[command]}\n")[1].split("\n## ")[0]
    for field in fields(SCHEMAS[command]):
        is_group = f"\n## {field.name}\n" in page
        assert is_group or f"\n| `{field.name}` |" in part, field.name


def test_types_defaults_and_comments_stand_in_a_row(page: str) -> None:
    row = next(line for line in page.splitlines() if line.startswith("| `target_class` |"))
    assert row == "| `target_class` | `int | None` | `null` | null: class 0 for a table, every class for images |"
    rows = [re.sub(r"`[^`]*`|\\\|", "", line) for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 40 and {row.count("|") for row in rows} == {5}


def test_every_file_of_every_group_is_shown_whole(page: str) -> None:
    files = [path for path in CONFIGS.rglob("*.yaml") if path.parent not in (CONFIGS, CONFIGS / "evaluation")]
    assert len(files) > 40
    for path in files:
        group, *rest = path.relative_to(CONFIGS).with_suffix("").parts
        assert f"### {group}={'/'.join(rest)}\n\n```yaml\n{path.read_text().strip()}\n```" in page


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
    assert with_reference(page) == page, "run python docs/references.py"
