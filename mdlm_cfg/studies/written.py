"""Checks of what a user's own study returns, before any of it is shown: pieces, blocks, rows and views."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from mdlm_cfg.studies.case import Piece
from mdlm_cfg.studies.findings import Block, Findings, plain_row
from mdlm_cfg.studies.views import Curve, Table
from mdlm_cfg.support.errors import UserError, shown


def check_pieces(name: str, pieces: Any) -> list[Piece]:
    """The pieces of a study as a list.

    Raises:
        UserError: anything other than pieces.
    """
    found = list(pieces) if isinstance(pieces, Iterable) else [pieces]
    wrong = [piece for piece in found if not isinstance(piece, Piece)]
    if wrong:
        raise UserError(
            f"{name}.pieces must give pieces, such as case.piece(function, w, label=...), and gives {shown(wrong[0])}"
        )
    return found


def check_findings(name: str, found: Any) -> None:
    """Raise UserError unless a study returns findings that can be shown and whose rows are distinguishable."""
    if not isinstance(found, Findings):
        raise UserError(f"{name}.findings must return Findings, and returns {shown(found)}")
    verdict = found.verdict
    if isinstance(verdict, str) or not all(isinstance(sentence, str) for sentence in verdict):
        raise UserError(f"the verdict of {name} must be a list of sentences, and is {shown(verdict)}")
    for block in found.blocks:
        if not isinstance(block, Block):
            raise UserError(f"the blocks of {name} must each be a Block, and one is {shown(block)}")
        if block.rows:
            _check_rows(f"the block {block.name!r} of {name}", block)


def _check_rows(where: str, block: Block) -> None:
    kind = type(block.rows[0])
    declared = is_dataclass(kind) and all("head" in field.metadata for field in fields(kind))
    if not declared or any(type(row) is not kind for row in block.rows):
        raise UserError(f"the rows of {where} must be of one dataclass whose fields are made by col")
    columns = {field.name: field for field in fields(kind)}
    for column in _columns_of(block):
        if column not in columns:
            raise UserError(f"{where} shows the column {column!r}, and its rows have {', '.join(columns)}")
    hints = get_type_hints(kind)
    for row in block.rows:
        for column in columns:
            value = getattr(row, column)
            kinds = get_args(hints[column]) or (hints[column],)
            if float in kinds and not (isinstance(value, int | float) or (value is None and type(None) in kinds)):
                raise UserError(
                    f"the column {column!r} of {where} must be a number, and is {shown(value)}: use float()"
                )
    index = [name for name, field in columns.items() if field.metadata["index"]]
    seen: set[str] = set()
    for row in block.rows:
        plain = plain_row(row)
        measured = [name for name in plain if name in columns and name not in index]
        key = json.dumps({name: value for name, value in plain.items() if name not in measured}, sort_keys=True)
        if key in seen:
            raise UserError(
                f"two rows of {where} have the same index ({', '.join(index) or 'none is declared'}): declare the "
                "columns that tell rows apart with col(..., index=True)"
            )
        seen.add(key)


def _columns_of(block: Block) -> Iterator[str]:
    """The columns named in a block."""
    yield from (*block.per, *block.logged)
    for view in block.views:
        if isinstance(view, Table):
            yield from (*view.index, *view.values, *view.heads, *view.where, *([view.across] if view.across else []))
        elif isinstance(view, Curve):
            yield from (view.x, *([view.y] if isinstance(view.y, str) else view.y), *view.by, *view.where)
            yield from (one for one in (view.panels, view.low, view.high) if one)
