"""The leaderboard is what the benchmark's JSON says: every rank and every mean, and nothing of another report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers import random_target

from mdlm_cfg import UserError, benchmark
from mdlm_cfg.reports.leaderboard import leaderboard, write_page
from mdlm_cfg.reports.paper_report import HEAD, collect
from mdlm_cfg.reports.tables import check_page
from mdlm_cfg.studies.benchmark.targets import of_table


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    targets = [of_table(name, random_target(2, 2, seed=k), 1) for k, name in enumerate(("first", "second"))]
    found = benchmark(targets=targets, strengths=[0.0, 2.0], calls=[2, 4, 16])
    return json.loads(json.dumps(found.to_dict()))


def tables(page: str) -> list[list[list[str]]]:
    """The cells of every table of a page, its head first."""
    blocks = [block.splitlines() for block in page.split("\n\n") if block.strip().startswith("|")]
    return [[[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block] for block in blocks]


def test_every_place_and_mean_is_that_of_the_report(report: dict[str, Any]) -> None:
    ranking, strengths = tables(leaderboard(report))
    assert ranking[0][:3] == ["entry", "to tilted, 16 calls", "to tilted, 4 calls"] and len(ranking[0]) == 5
    rows = {(row["against"], row["calls"], row["entry"]): row for row in report["rankings"]}
    assert len(ranking) - 2 == len(report["entries"])
    for name, *places in ranking[2:]:
        for place, (against, calls) in zip(places, [("tilted", 16), ("tilted", 4), ("chain", 4), ("chain", 16)]):
            row = rows[against, calls, name]
            rank, _, error = place.partition(": ")
            assert (row["rank"] is None) == (place == "-")
            assert place == "-" or (int(rank) == row["rank"] and abs(float(error) - row["error"]) <= 5e-5)
    first = [int(row[1].partition(":")[0]) for row in ranking[2:] if row[1] != "-"]
    assert first == sorted(first) and first[0] == 1
    for name, *means in strengths[2:]:
        own = [r["tv_tilted"] for r in report["results"] if (r["entry"], r["calls"], r["w"]) == (name, 16, 2.0)]
        assert abs(float(means[1]) - sum(own) / 2) <= 5e-5


def test_the_page_of_the_paper_replaces_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("# The paper as experiments that I made")
    (tmp_path / "link.md").symlink_to("nowhere")
    for name in ("mine.md", "link.md"):
        with pytest.raises(UserError, match=name):
            collect(tmp_path, tmp_path / name)
    check_page(Path(__file__).parents[2] / "docs" / "paper.md", HEAD.partition(",")[0])  # its own is replaced


def test_the_page_is_written_whole_or_not_at_all(report: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "leaderboard.md"
    part = {key: report[key] for key in ("benchmark_version", "plan")}
    first = report["means"][0]
    damaged = [
        {"version": 99},
        {"benchmark_version": report["benchmark_version"] - 1},
        {"rankings": []},
        {"means": []},
        {"rankings": [*report["rankings"], report["rankings"][0]]},
    ]
    damaged += [{"means": [first | {"tv": value}, *report["means"][1:]]} for value in (math.nan, math.inf, "a", None)]
    contents = [None, "{}", json.dumps(part), *(json.dumps(report | change) for change in damaged)]
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError):
            write_page(path, page)
        assert not page.exists()
    (tmp_path / "report.json").write_text(json.dumps(report))
    for _ in range(2):  # an earlier page is replaced
        write_page(tmp_path / "report.json", page)
        assert page.read_text() == leaderboard(report)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "mine").write_text("# Leaderboard of my own")
    for name in ("report.json", "link", "mine"):
        with pytest.raises(UserError):
            write_page(tmp_path / "report.json", tmp_path / name)
    assert (tmp_path / "mine").read_text() == "# Leaderboard of my own" and not (tmp_path / "nowhere").exists()
    assert json.loads((tmp_path / "report.json").read_text()) == report
