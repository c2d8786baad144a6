"""The findings of an evaluation on wandb: the same as in the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

AXIS = "eval/w"
STEP = "trainer/global_step"  # Lightning's axis for everything else
TABLES = ("eval_tables/distances", "eval_tables/ledger")
NOT_FINITE = ("inf", "-inf", "nan")  # as in report.json


def log_evaluation(
    run: wandb.Run,
    rows: Sequence[Mapping[str, Any]],
    ledger: Sequence[Mapping[str, Any]],
    pictures: Sequence[Path],
    step: int = 0,
) -> None:
    """Log curves over w, tables and pictures of an evaluation; the run stays open.

    Args:
        run: a run that is open.
        rows: flat rows of numbers, each with its `w`: curves over w, and a table. If a `w` (of one `set`) has
        several rows, such as one for each image or policy, they are only in the table.
        ledger: plain rows of report.json's ledger.
        pictures: PNG files, shown under their names.
        step: training step of the network, by which a run's pictures and tables are shown.
    """
    import wandb  # only with a wandb run: the import takes a third of a second

    plain = [_flat(row) for row in rows]
    times = Counter((row.get("w"), row.get("set")) for row in plain)
    curves = [row for row in plain if _is_number(row.get("w")) and times[row["w"], row.get("set")] == 1]
    run.define_metric(AXIS, hidden=True)
    run.define_metric("eval/*", step_metric=AXIS)
    for row in curves:
        of = f"{row['set']}/" if "set" in row else ""  # the set of samples, if a w has several rows
        numbers = {f"eval/{of}{name}": value for name, value in row.items() if _is_number(value) and name != "w"}
        run.log({AXIS: float(row["w"]), **numbers})
    media: dict[str, Any] = {
        name: _table(table) for name, table in zip(TABLES, (plain, [_flat(row) for row in ledger])) if table
    }
    media |= {f"eval_pictures/{path.stem}": wandb.Image(str(path)) for path in pictures}
    if media:
        run.define_metric(STEP, hidden=True)
        for kind in ("eval_tables/*", "eval_pictures/*"):
            run.define_metric(kind, step_metric=STEP)
        run.log({STEP: step, **media})


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested numbers under joined names; lists are left out."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list | tuple):
            flat[prefix + name] = value
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


def _table(rows: Sequence[Mapping[str, Any]]) -> wandb.Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = {name: _column([row.get(name) for row in rows]) for name in columns}
    import wandb

    return wandb.Table(columns=list(columns), data=[[cells[name][k] for name in columns] for k in range(len(rows))])


def _column(values: Sequence[Any]) -> list[Any]:
    """A column of one type, as wandb requires: numbers if all present values are numbers, otherwise text."""
    known = [value for value in values if value is not None and value not in NOT_FINITE]
    if all(_is_number(value) for value in known):
        return [value if _is_number(value) else None for value in values]
    if all(isinstance(value, bool) for value in known):
        return [value if isinstance(value, bool) else None for value in values]
    return [None if value is None else str(value) for value in values]
