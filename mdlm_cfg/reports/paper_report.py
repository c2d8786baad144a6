"""The paper experiments as one Markdown page: the statement, the exact value, the learned value, the verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdlm_cfg.reports.tables import Table, check_page, markdown
from mdlm_cfg.studies.paper.experiments import EXPERIMENTS
from mdlm_cfg.support.atomic import write_text
from mdlm_cfg.support.errors import UserError

COLUMNS = ["the paper", "exact", "learned", "verdict"]


def to_markdown(report: Mapping[str, Any]) -> str:
    """Markdown for docs/paper.md, of a report.json with its `run`, `claims` and `paper`."""
    paper = report["paper"]
    lines = [f"## {paper['name']}", "", f"    python {report['run'].get('command', '')}", ""]
    claims = [[claim[key] for key in ("statement", "exact", "learned", "verdict")] for claim in report["claims"]]
    for table in [{"title": "", "columns": COLUMNS, "rows": claims}, *paper["tables"]]:
        title = table["title"]
        columns = table["columns"]
        rows = table["rows"]
        lines += [f"{title}:", ""] if title else []
        lines += [markdown(Table(columns, rows))]
    return "\n".join(lines) + "\n"


HEAD = """\
# The paper as experiments

This page compares the statements of arXiv 2506.10971, and in the last blocks those of arXiv 2507.08965, with exact
distributions (laws) and with a network trained here. Each block has the command that made it; `make paper` runs them
all and writes this page. Values under "exact" come from exact distributions. Values under "learned" come from the exact
distribution of the trained network and, where named, from 10,000 samples in 50 tau-leaping steps, as in the paper.
w = 0 is the class without guidance.
"""


def collect(runs: Path, path: Path) -> None:
    """Write one Markdown page from the newest run of every paper experiment.

    Raises:
        UserError: an experiment that has not been run, or a page that would replace a file that is not ours.
    """
    check_page(path, HEAD.partition(",")[0])
    parts = [HEAD]
    for name in EXPERIMENTS:
        found = sorted(runs.glob(f"paper_{name}/*/report/report.json"))
        if not found:
            raise UserError(f"no run of experiment=paper/{name} under {runs}: run it first")
        try:
            parts.append(to_markdown(json.loads(found[-1].read_text(encoding="utf-8"))))
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{found[-1]} is not a report of experiment=paper/{name}: run it again") from error
    write_text(path.resolve(), "\n".join(parts))
