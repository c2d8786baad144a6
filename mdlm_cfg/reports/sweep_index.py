"""The index of a sweep: the settings and the outcome of every job, with a link to its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mdlm_cfg.reports.tables import Table, markdown, print_table, write_csv
from mdlm_cfg.support.atomic import write_text
from mdlm_cfg.support.numbers import ABSENT, format_column

MAIN = {  # numbers that are shown, by the beginning of their names; the CSV file has all
    "test/nelbo": "NELBO",
    "tv_exact_learned": "error of the network",
    "accuracy": "accuracy",
    "recall": "recall",
    "tv_tilted_exact": "gap to tilted",
}
MOST = 8  # numbers that are shown
Record = Mapping[str, Any]


def write_index(folder: Path, records: Sequence[Record]) -> Path:
    """Write index.csv, with everything, and index.md, for readers; returns the path of the second.

    Args:
        records: of the jobs: job, folder, overrides, state, value, report, numbers, failure.
    """
    write_csv([_flat(record) for record in records], folder / "index.csv")
    note = "Everything that was measured is in index.csv."
    return write_text(folder / "index.md", f"# {folder.name}\n\n{markdown(_table(records, is_stored=True))}\n{note}\n")


def print_index(records: Sequence[Record]) -> None:
    """Print the index on the terminal."""
    print_table(_table(records), "jobs", Console())


def _flat(record: Record) -> dict[str, Any]:
    """One row, with a column for every swept setting and every number."""
    settings = dict(item.lstrip("+").split("=", 1) for item in record["overrides"] if "=" in item)
    row = {key: record[key] for key in ("job", "folder", "state")} | settings
    error = None if record["failure"] is None else record["failure"]["said"]
    return row | {"value": record["value"], "error": error, "report": record["report"] or "", **record["numbers"]}


def _table(records: Sequence[Record], is_stored: bool = False) -> Table:
    """The table of the index; with links to folders and reports if it is stored beside them."""
    names = _shown(records)
    columns = [format_column([record["numbers"].get(name) for record in records]) for name in names]
    rows = []
    for record, numbers in zip(records, zip(*columns) if columns else [()] * len(records)):
        job = str(record["job"])
        where = record["report"]
        cells = [f"[{job}]({record['folder']})" if is_stored else job, " ".join(record["overrides"])]
        cells += [record["state"], *numbers]
        rows.append([*cells, f"[report]({where})" if where else ABSENT] if is_stored else cells)
    heads = ["job", "overrides", "state", *(_head(name) for name in names)]
    return Table([*heads, "report"] if is_stored else heads, rows)


def _shown(records: Sequence[Record]) -> list[str]:
    """The numbers to show, in the order of `MAIN`."""
    there = dict.fromkeys(name for record in records for name in record["numbers"])
    return [name for start in MAIN for name in there if name == start or name.startswith(f"{start}_w")][:MOST]


def _head(name: str) -> str:
    start, _, strength = name.partition("_w")
    return MAIN[start] + (f" w={strength}" if strength else "")
