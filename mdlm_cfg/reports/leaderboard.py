"""The benchmark's leaderboard as a page: see `mdlm_cfg.app.pages`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mdlm_cfg.reports.tables import Table, check_page, markdown
from mdlm_cfg.studies.benchmark.ranking import MeanRow, RankingRow, ranked_of, shown_place
from mdlm_cfg.studies.benchmark.targets import VERSION
from mdlm_cfg.studies.common import calls_of
from mdlm_cfg.studies.findings import REPORT_VERSION
from mdlm_cfg.support.atomic import write_text
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import check_is_file, is_path
from mdlm_cfg.support.numbers import format_column
from mdlm_cfg.support.numeric import is_number

MANY = 64  # calls with which corrections have converged
HEAD = """\
# Leaderboard

All samplers of the benchmark on {targets} at w = {strengths}: rank, and mean total variation (TV) between exact
distributions. *Tilted* is the distribution that guidance is often believed to sample; *chain* is that of the guided
chain in continuous time. Calls are of the denoiser, for each of its two conditionals; "-" means that an entry needs
more calls on some target. What entries and targets are, and how to enter your own sampler:
[benchmark](benchmark.md).

    python eval.py experiment=benchmark
    python -m mdlm_cfg.app.pages leaderboard REPORT.json docs/leaderboard.md

Version {version} of the benchmark, mdlm_cfg {package}.{scope}
"""


def leaderboard(report: Mapping[str, Any]) -> str:
    """The page, in Markdown, of a report.json of the benchmark; raises ValueError as `_check`."""
    _check(report)
    plan = report["plan"]
    rows = [RankingRow(**row) for row in report["rankings"]]
    calls = ranked_of(plan["calls"])
    head = HEAD.format(
        targets=f"{len(report['targets'])} target{'s'[: len(report['targets']) > 1]}",
        strengths=", ".join(f"{w:g}" for w in plan["w"]),
        version=report["benchmark_version"],
        package=report["package"],
        scope="" if report["complete"] else " This is part of the benchmark and not to be cited.",
    )
    first = ("tilted", calls[-1])
    kinds = [first, *((to, most) for to in ("tilted", "chain") for most in [*calls, MANY] if (to, most) != first)]
    kinds = [(to, most) for to, most in kinds if most in plan["calls"]]
    parts = [head, "## Ranking\n", markdown(_ranking(rows, kinds))]
    parts += _by_strength(report, rows, calls[-1])
    parts += ["## In sentences\n", *(f"- {sentence}" for sentence in report["verdict"])]
    return "\n".join(parts) + "\n"


def _check(report: Mapping[str, Any]) -> None:
    """Raise ValueError for another version, or for rows that are missing, repeated or without numbers."""
    for name, version in (("version", REPORT_VERSION), ("benchmark_version", VERSION)):
        if report[name] != version:
            raise ValueError(f"{name} {report[name]}, not {version}")
    for name, kind in (("rankings", RankingRow), ("means", MeanRow)):
        index = [column.name for column in fields(kind) if column.metadata["index"]]
        rows = [tuple(row[key] for key in index) for row in report[name]]
        if not rows or len(set(rows)) < len(rows):
            raise ValueError(f"{name} are missing or repeated")
    numbers = [row[key] for row in report["means"] for key in ("tv", "used")]
    numbers += [row[key] for row in report["rankings"] if row["rank"] is not None for key in ("rank", "error")]
    if not all(is_number(value) and math.isfinite(value) for value in numbers):
        raise ValueError("a rank or a mean is not a finite number")


def _ranking(rows: Sequence[RankingRow], kinds: Sequence[tuple[str, int]]) -> Table:
    """Entries in the order of the first given ranking, with their ranks in all of them."""
    rankings = [{row.entry: row for row in rows if (row.against, row.calls) == one} for one in kinds]
    columns = ["entry", *(f"to {against}, {calls_of(most)}" for against, most in kinds)]
    return Table(columns, [[name, *(shown_place(ranking[name]) for ranking in rankings)] for name in rankings[0]])


def _by_strength(report: Mapping[str, Any], rows: Sequence[RankingRow], calls: int) -> list[str]:
    """Entries with a rank at this number of calls, and their means at each strength."""
    what = f"Mean TV to the tilted distribution over the targets, with {calls_of(calls)}; at w = 0 it is the class."
    text = f'{what} "Calls made" is the mean number over the targets, at the w that needs most.\n'
    strengths = report["plan"]["w"]
    kind = ("tilted", calls)
    means = {(row["entry"], row["w"]): row for row in report["means"] if (row["against"], row["calls"]) == kind}
    names = [row.entry for row in rows if (row.against, row.calls) == kind and row.rank is not None]
    columns = [format_column([means[name, w]["tv"] for name in names]) for w in strengths]
    used = [f"{max(means[name, w]['used'] for w in strengths):.2f}" for name in names]
    table = Table(["entry", *(f"w = {w:g}" for w in strengths), "calls made"], list(zip(names, *columns, used)))
    return ["## By strength\n", text, markdown(table)]


def write_page(report: Path, page: Path) -> None:
    """Write the page of a report.json.

    Raises:
        UserError: no such file, a report of another study, or a page that would replace a file that is not ours.
    """
    if not page.name or page.parts[0].startswith("~") or not is_path(str(page)):
        raise UserError(f"{str(page)!r} is not the path of a page: give one such as docs/leaderboard.md")
    check_page(page, HEAD.partition("{")[0])
    check_is_file(report, "give the report.json of python eval.py experiment=benchmark")
    try:
        text = leaderboard(json.loads(report.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{report} is not a complete report of this version of the benchmark: give the report.json of python "
            "eval.py experiment=benchmark"
        ) from error
    write_text(page.resolve(), text)
