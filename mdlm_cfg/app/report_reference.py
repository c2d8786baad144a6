"""The keys of report.json, as Markdown: from the columns that every study declares.

`python -m mdlm_cfg.app.report_reference docs/report.md` makes the part of that page between two marks anew.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import mdlm_cfg.studies
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.sampling.sampler import Sampler

START = "<!-- made from the code: begin -->"
END = "<!-- made from the code: end -->"
SPREAD = {Guidance: "`w`, `kind`", Sampler: "`sampler`, `schedule`, `steps`, ..."}
WORDS = {float: "number", int: "whole number", str: "text", bool: "true or false", type(None): "null"}


def report_reference() -> str:
    """Every block of every study that declares its rows, and every column of a block."""
    parts = []
    for study in studies():
        parts.append(f"### {study.__name__}\n\n{_first_line(study)}\n")
        for block, row in study.rows.items():
            lines = [_row(f, hint) for f, hint in _columns(row)]
            table = "\n".join(["| key | heading | type | unit | what it is |", "|---|---|---|---|---|", *lines])
            parts.append(f"**`{block}`**: {_first_line(row)}\n\n{table}\n")
    return "\n".join(parts)


def studies() -> list[Any]:
    """The classes of studies that declare rows, by name."""
    found: dict[str, Any] = {}
    for module in _modules():
        for thing in vars(module).values():
            own = isinstance(thing, type) and thing.__module__ == module.__name__
            rows = vars(thing).get("rows") if own else None
            if isinstance(rows, Mapping) and rows:
                found[thing.__name__] = thing
    return [found[name] for name in sorted(found)]


def with_reference(page: str) -> str:
    """A page with the part between its two marks made anew."""
    head, _, rest = page.partition(START)
    _, _, tail = rest.partition(END)
    return f"{head}{START}\n\n{report_reference()}\n{END}{tail}"


def _modules() -> Iterator[Any]:
    for one in pkgutil.walk_packages(mdlm_cfg.studies.__path__, "mdlm_cfg.studies."):
        yield import_module(one.name)


def _columns(row: type) -> list[tuple[Field[Any], Any]]:
    assert is_dataclass(row)
    hints = get_type_hints(row)
    return [(f, hints[f.name]) for f in fields(row)]


def _row(column: Field[Any], hint: Any) -> str:
    about = column.metadata
    says = f"{about['doc']} (index)".strip() if about["index"] else about["doc"]
    key = next((SPREAD[part] for part in (hint, *get_args(hint)) if part in SPREAD), f"`{column.name}`")
    cells = [cell.replace("|", "\\|") for cell in (key, about["head"], _type(hint), about["unit"], says)]
    return f"| {' | '.join(cells)} |"


def _type(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return ", or ".join(_type(part) for part in get_args(hint))
    if hint in SPREAD:
        return "several"
    return WORDS.get(hint, "list" if get_origin(hint) in (list, tuple) else "any")


def _first_line(thing: type) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_reference(path.read_text(encoding="utf-8")), encoding="utf-8")
