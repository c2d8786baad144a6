"""The findings of a study: rows of declared columns, from which JSON, CSV, wandb names, tables and pictures follow.

A row is a frozen dataclass whose fields are made by `col`. Rows of one class form a `Block`. Views declare how a
block is shown; a view is a value, and nothing here draws. `mdlm_cfg.reports.render` turns blocks into pages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.views import Cloud, Curve, Interactive, Listing, Mosaic, Panel, PanelGrid, Table, View
from mdlm_cfg.support.numbers import SAME

__all__ = [  # names for writing the findings of a study
    "REPORT_VERSION",
    "Block",
    "Cloud",
    "Curve",
    "Findings",
    "Interactive",
    "Listing",
    "Mosaic",
    "Panel",
    "PanelGrid",
    "Table",
    "View",
    "col",
    "columns_of",
    "in_nats",
    "in_probability",
    "in_tv",
    "key_word",
    "listed",
    "plain_row",
    "to_jsonable",
    "together",
    "word",
]
SHARES = ("TV", "share", "probability")  # units of numbers from 0 to 1
REPORT_VERSION = 3  # of report.json, for programs that read it
COMMAND = "command"  # of "run" in report.json
# the same, of a trained network
CHECKPOINT = "checkpoint"
STEPS = "steps of training"
DONE = "share of training done"
TRAINING_SEED = "seed of training"
BEGUN = "begun with"  # settings of an earlier part of the training that differed


def col(head: str, doc: str = "", *, unit: str = "", index: bool = False, digits: int = 4, **default: Any) -> Any:
    """A field of a row.

    Args:
        head: the column's heading in tables and the label of an axis.
        doc: its meaning, for docs/report.md.
        unit: such as "nats" or "TV"; "" for none.
        index: whether it identifies rows. The other columns are measurements.
        digits: after the decimal point, in tables.
        default: `default=` or `default_factory=`, as in `dataclasses.field`.
    """
    return field(metadata={"head": head, "doc": doc, "unit": unit, "index": index, "digits": digits}, **default)


in_tv = partial(col, unit="TV")  # a column of total variations
in_probability = partial(col, unit="probability")
in_nats = partial(col, unit="nats")


@dataclass(frozen=True)
class Block:
    """Rows of one class under one name, with their views.

    Attributes:
        name: of the table in report.json and of its CSV file.
        rows: frozen dataclasses of one class, whose fields are made by `col`. Views of rows show nothing without them.
        title: heading on the page. text: paragraphs below it, separated by empty lines.
        per: columns; the page has a part with all the views for each of their values.
        views: in order. A function `(rows, path) -> Picture` (a PNG written to `path`) is a view as well.
        logged: columns sent to wandb, sweeps and comparisons, one number for each row.
        group: the heading under which it is folded on the page; "" is shown unfolded on the first screen.
        printed: whether its first table goes to the terminal as well.
    """

    name: str
    rows: Sequence[Any]
    title: str
    text: str = ""
    per: Sequence[str] = ()
    views: Sequence[View] = ()
    logged: Sequence[str] = ()
    group: str = "Details"
    printed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", [_without_rounding(row) for row in self.rows])

    def plain(self) -> list[dict[str, Any]]:
        """The rows as JSON types. A value with `describe` (a guidance, a sampler) becomes several entries."""
        return [plain_row(row) for row in self.rows]

    def columns(self) -> dict[str, dict[str, Any]]:
        """The meaning of the columns of `plain`, by name: head, unit, doc and whether it is an index.

        Collected over all rows, since a guidance or a sampler describes only the options that it has.
        """
        return {name: about for row in self.rows for name, about in columns_of(row).items()}


def _without_rounding(row: Any) -> Any:
    """A row whose shares are set to 0 or 1 where rounding takes them outside [0, 1]."""
    if not is_dataclass(row) or isinstance(row, type):  # of a user's own study: refused in `written`
        return row
    own = {f.name: getattr(row, f.name) for f in fields(row) if f.metadata.get("unit") in SHARES}
    changed = {name: float(round(v)) for name, v in own.items() if isinstance(v, float) and _is_beyond(v)}
    return replace(row, **changed) if changed else row


def _is_beyond(share: float) -> bool:
    return -SAME < share < 0 or 1 < share < 1 + SAME


def to_jsonable(value: Any) -> Any:
    """A value as JSON types: tensors as lists, numbers that are not finite as "inf" or "nan"."""
    if isinstance(value, Tensor):
        return to_jsonable(value.tolist())
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return to_jsonable(asdict(value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def plain_row(row: Any) -> dict[str, Any]:
    """One row as JSON types."""
    plain: dict[str, Any] = {}
    for f in fields(row):
        value = getattr(row, f.name)
        if hasattr(value, "describe"):
            plain |= value.describe()
        else:
            plain[f.name] = to_jsonable(value)
    return plain


def columns_of(row: Any) -> dict[str, dict[str, Any]]:
    """The declared columns of a row, by their names in report.json."""
    found: dict[str, dict[str, Any]] = {}
    for f in fields(row):
        about = {key: f.metadata[key] for key in ("head", "unit", "doc", "index")}
        value = getattr(row, f.name)
        names = list(value.describe()) if hasattr(value, "describe") else [f.name]
        found |= dict.fromkeys(names, about)
    return found


def word(value: Any) -> str:
    """A value of a column as text: its label if it has one, a number without trailing zeros."""
    if hasattr(value, "label"):
        return str(value.label)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def listed(names: Sequence[str]) -> str:
    """Names joined by commas, or by semicolons if a name contains a comma."""
    return ("; " if any("," in name for name in names) else ", ").join(names)


def key_word(value: Any) -> str:
    """An index value as part of the name of a logged number: "w2", "exact", "3"."""
    return value.identifier if isinstance(value, Guidance) else re.sub(r"[,;\s]+", "_", word(value))


@dataclass(frozen=True)
class Findings:
    """The findings of a study.

    Attributes:
        plan: of the study.
        blocks: the first one with rows is the main table: report.csv, and what `compare.py` reads first.
        verdict: sentences, the judgement first.
        facts: plain values beside the tables, by name.
        arrays: for arrays.npz, by name.
        arrays_file: its name.
        num_dims: D, for the strengths of schedules; `run` fills it in.
    """

    plan: Plan
    blocks: Sequence[Block]
    verdict: Sequence[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    arrays_file: str = "arrays.npz"
    num_dims: int | None = None

    @property
    def main(self) -> Block:
        """The block of the main table: the first one that has rows."""
        return next((block for block in self.blocks if block.rows), self.blocks[0])

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the main table, plain; empty for a study with only a verdict."""
        return self.main.plain() if self.blocks else []

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log, by column and index: "tv_tilted_exact_rate_1_w2"; the strength comes last."""
        found: dict[str, float] = {}
        for block in self.blocks:
            for row in block.rows:
                values = [getattr(row, f.name) for f in fields(row) if f.metadata["index"]]
                index = [key_word(v) for v in sorted(values, key=lambda v: isinstance(v, Guidance))]
                for name in block.logged:
                    value = getattr(row, name)
                    if isinstance(value, int | float):
                        found["_".join([name, *filter(None, index)])] = float(value)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The contents of report.json: version, plan, facts, a table for each block, their columns, the verdict."""
        tables = {block.name: block.plain() for block in self.blocks if block.rows}
        columns = {block.name: block.columns() for block in self.blocks if block.rows}
        head = {"version": REPORT_VERSION, "plan": self.plan.describe(self.num_dims), **self.facts}
        return to_jsonable({**head, **tables, "columns": columns, "verdict": list(self.verdict)})


def together(plan: Plan, parts: Sequence[Findings]) -> Findings:
    """The findings of several studies of one plan joined in order."""
    return Findings(
        plan=plan,
        blocks=[block for part in parts for block in part.blocks],
        verdict=[sentence for part in parts for sentence in part.verdict],
        facts={name: value for part in parts for name, value in part.facts.items()},
        arrays={name: array for part in parts for name, array in part.arrays.items()},
        arrays_file=next((part.arrays_file for part in parts if part.arrays), "arrays.npz"),
    )
