"""Tables on the terminal, and files of numbers (CSV, JSON, npz), written atomically."""

from __future__ import annotations

import csv
import io
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mdlm_cfg.studies.findings import to_jsonable
from mdlm_cfg.support.atomic import atomic_write, write_text
from mdlm_cfg.support.errors import UserError

GAP = 2  # letters between two columns on the terminal


@dataclass(frozen=True)
class Table:
    """Column heads and rows of text, ready to be shown; `note` explains the columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def print_table(table: Table, title: str = "", console: Console | None = None) -> None:
    """Show a table on the terminal; one that is too wide is transposed if that makes it narrower.

    One that is too wide either way is shown in parts, with a few rows each.

    All text is shown literally: a name may hold what rich would read as markup or as an emoji.
    """
    console = console or Console()
    shown = [table]
    if _width(table) > console.width:
        turned = _turned(table)
        narrow = min(table, turned, key=_width)
        shown = [narrow] if _width(narrow) <= console.width else _parts(turned, console.width)
    for k, part in enumerate(shown):
        _print_part(part, "" if k else title, console)
    if table.note:
        console.print(Text(table.note), style="dim", highlight=False)


def _turned(table: Table) -> Table:
    """Rows as columns."""
    lines = [[name, *(row[k] for row in table.rows)] for k, name in enumerate(table.columns)]
    return Table(lines[0], lines[1:], table.note)


def _parts(table: Table, width: int) -> list[Table]:
    """Parts of a table: the first column with as many further columns as fit in the width."""
    first, *widths = (one + GAP for one in _widths(table))
    parts: list[list[int]] = [[]]
    for k, own in enumerate(widths, start=1):
        if parts[-1] and first + sum(widths[one - 1] for one in parts[-1]) + own > width:
            parts.append([])
        parts[-1].append(k)
    return [
        Table([table.columns[k] for k in (0, *part)], [[row[k] for k in (0, *part)] for row in table.rows])
        for part in parts
    ]


def _print_part(table: Table, title: str, console: Console) -> None:
    rich_table = RichTable(
        title=Text(title, "table.title") if title else None,
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0, 0, 1),
    )
    for k, (name, width) in enumerate(zip(table.columns, _widths(table))):
        head = Text(textwrap.fill(name, width))
        rich_table.add_column(head, justify="left" if k == 0 else "right", overflow="fold")
    for row in table.rows:
        rich_table.add_row(*map(Text, row))
    console.print(rich_table)


def _width(table: Table) -> int:
    return sum(_widths(table)) + GAP * len(table.columns)


def markdown(table: Table) -> str:
    """The table as Markdown, without its note."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (table.columns, *table.rows)]
    head, *rows = [f"| {' | '.join(line)} |\n" for line in lines]
    return "".join([head, "|" + "---|" * len(table.columns) + "\n", *rows])


def _widths(table: Table) -> list[int]:
    """The width of each column: that of its cells and of the longest word of its head."""
    return [
        max(len(text) for text in ["-", *name.split(), *(row[k] for row in table.rows)])
        for k, name in enumerate(table.columns)
    ]


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write flat rows; numbers in full precision, empty where there is none."""
    text = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())


def write_json(value: Any, path: Path) -> Path:
    """Write valid JSON: numbers that are not finite become the strings "inf", "-inf", "nan"."""
    text = json.dumps(to_jsonable(value), indent=1, allow_nan=False, ensure_ascii=False)
    return write_text(path, f"{text}\n")


def write_arrays(arrays: Mapping[str, Any], path: Path) -> Path:
    """Write arrays to one compressed npz file under their names."""
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)
    return path


def check_page(page: Path, start: str) -> None:
    """Raise UserError if a page would replace anything but an earlier page, a file with the same start."""
    if os.path.lexists(page) and not (page.is_file() and page.read_bytes().startswith(start.encode())):
        raise UserError(f"{page} exists and is not an earlier page of this kind: move it, or give another name")
