"""Findings as sections of a page: one renderer for every study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.reports.page import Numbers, Picture, Section
from mdlm_cfg.reports.panel import panel_looks
from mdlm_cfg.reports.pictures import Drawing, save
from mdlm_cfg.reports.pictures.lines import NOTHING, Lines
from mdlm_cfg.reports.pictures.mosaic import Images
from mdlm_cfg.reports.pictures.panels import Panels
from mdlm_cfg.reports.pictures.scatter import Points
from mdlm_cfg.reports.style import colours_of, file_name
from mdlm_cfg.reports.tables import Table as ShownTable, write_csv
from mdlm_cfg.studies.findings import Block, Findings, word
from mdlm_cfg.studies.views import Cloud, Curve, Interactive, Listing, Mosaic, PanelGrid, Table, View
from mdlm_cfg.support.numbers import ABSENT, format_column

Rows = Sequence[Any]
PANEL_FILE = "panel.csv"
MOST_SHOWN = 6  # numbers of a list in one cell
OF_ROWS = (Table, Curve)  # views that need rows


def sections_of(findings: Findings, folder: Path, backend: str = "matplotlib") -> list[Section]:
    """The sections that show findings, without the verdict; their pictures and CSV files are written into `folder`.

    Args:
        backend: "matplotlib", or "none", which draws nothing (see `mdlm_cfg.reports.pictures.save`).
    """
    taken = table_files(findings)
    for block, name in zip(_more(findings), taken):
        write_csv(block.plain(), folder / name)
    return [section for block in findings.blocks for section in _sections(block, folder, backend, taken)]


def table_files(findings: Findings) -> list[str]:
    """The names of the CSV files of all tables but the main one, which is report.csv."""
    return [f"{file_name(block.name)}.csv" for block in _more(findings)]


def _more(findings: Findings) -> list[Block]:
    return [block for block in findings.blocks if block.rows and block is not findings.main]


def _sections(block: Block, folder: Path, backend: str, taken: Sequence[str]) -> list[Section]:
    """One section for each value of `per`, and one more for each further table; none where nothing is shown.

    No picture has the name of a file in `taken`, since its numbers are written to a file of that name.
    """
    if not block.rows and block.views and all(isinstance(view, OF_ROWS) for view in block.views):
        return []
    parts: dict[tuple[str, ...], list[Any]] = {}
    for row in block.rows:
        parts.setdefault(tuple(word(getattr(row, name)) for name in block.per), []).append(row)
    sections: list[Section] = []
    stems: set[str] = set()
    for key, rows in (parts or {(): []}).items():
        heads = [_head(rows[0], name) for name in block.per if rows]
        said = ", ".join(f"{head} = {value}" for head, value in zip(heads, key))
        title = f"{block.title}: {said}" if said else block.title
        stem = file_name("_".join([block.name, *(f"{name}{value}" for name, value in zip(block.per, key))]))
        stem = f"{stem}_{len(stems)}" if stem in stems else stem
        stems.add(stem)
        part = _part(replace(block, title=title), rows, folder / stem, backend, taken)
        part = [replace(one, table=None if is_of_zeros(one.table) else one.table) for one in part] if key else part
        sections += [one for one in part if one.table or one.pictures or one.listing or one.panel]
    if not sections and not block.text:
        return []
    first = sections[0] if sections else Section(block.title, group=block.group)
    return [replace(one, text=block.text if one is first else "", block=block.title) for one in [first, *sections[1:]]]


def is_of_zeros(table: ShownTable | None) -> bool:
    """Whether a table has only zeros after its first column, and so can be left out."""
    return table is not None and all(cell in ("0", ABSENT, "") for row in table.rows for cell in row[1:])


def _part(block: Block, rows: Rows, stem: Path, backend: str, taken: Sequence[str]) -> list[Section]:
    declared = [view for view in block.views if isinstance(view, Table) and rows]
    tables = [(view.title, shown_table(view, chosen)) for view in declared if (chosen := rows_of(view, rows))]
    listing = "\n\n".join(view.text for view in block.views if isinstance(view, Listing))
    pictures = []
    for k, view in enumerate(block.views):
        if not isinstance(view, Table | Listing | Interactive):
            name = f"{stem.name}_{k}" if k or f"{stem.name}.csv" in taken else stem.name
            pictures += _pictures(view, rows, stem.with_name(name), backend)
    panel = next((view for view in block.views if isinstance(view, Interactive)), None)
    panel_numbers = None if panel is None else Numbers(write_csv(panel.rows, stem.with_name(PANEL_FILE)))
    first = tables[0][1] if tables else None
    head = Section(
        title=block.title,
        text=block.text,
        table=first,
        pictures=pictures,
        listing=listing,
        panel=None if panel is None else {**panel.data, **panel_looks()},
        panel_numbers=panel_numbers,
        printed=block.printed,
        group=block.group,
    )
    others = [Section(title or block.title, "", table, printed=False, group=block.group) for title, table in tables[1:]]
    return [head, *others]


def _about(row: Any, name: str) -> Mapping[str, Any]:
    """The declaration of a column."""
    return next(f.metadata for f in fields(row) if f.name == name)


def _head(row: Any, name: str) -> str:
    return str(_about(row, name)["head"])


def _label(row: Any, name: str) -> str:
    """The label of an axis: the column's heading and its unit."""
    about = _about(row, name)
    return f"{about['head']} ({about['unit']})" if about["unit"] else str(about["head"])


def cells(rows: Rows, name: str) -> list[str]:
    """A column of rows as text; measured numbers share one format."""
    about = _about(rows[0], name)
    values = [getattr(row, name) for row in rows]
    is_measured = [isinstance(value, float) and not about["index"] for value in values]
    numbers = format_column([value if of else None for value, of in zip(values, is_measured)], about["digits"])
    return [number if of else _word(value) for value, of, number in zip(values, is_measured, numbers)]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return _numbers(value)
    return ABSENT if value is None else word(value)


def _numbers(values: Sequence[Any]) -> str:
    numbers = format_column([v if isinstance(v, float) else None for v in values[:MOST_SHOWN]], 3)
    shown = [number if isinstance(v, float) else word(v) for v, number in zip(values, numbers)]
    return ", ".join(shown) + (f", … ({len(values)})" if len(values) > MOST_SHOWN else "")


def rows_of(view: View, rows: Rows) -> Rows:
    """The rows that a view shows."""
    where: Mapping[str, Sequence[Any]] = getattr(view, "where", {})
    return [row for row in rows if all(getattr(row, name) in values for name, values in where.items())]


def shown_table(view: Table, rows: Rows) -> ShownTable:
    """A declared table of rows as text."""
    heads = {name: view.heads.get(name, _head(rows[0], name)) for name in (*view.index, *view.values)}
    if view.across is None:
        names = [*view.index, *view.values]
        kept = [name for name in names if name in view.index or any(getattr(r, name) is not None for r in rows)]
        return ShownTable([heads[n] for n in kept], list(zip(*(cells(rows, n) for n in kept))), view.note)
    keys = list(zip(*(cells(rows, name) for name in view.index))) or [()] * len(rows)
    parts: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
    for key, row, column in zip(keys, rows, cells(rows, view.across)):
        parts.setdefault(column, []).append((key, row))
    values = [name for name in view.values if any(getattr(row, name) is not None for row in rows)] or view.values
    table: dict[tuple[str, ...], dict[tuple[str, str], str]] = {key: {} for key in keys}
    for column, own in parts.items():
        for name in values:
            for (key, _), text in zip(own, cells([row for _, row in own], name)):
                table[key][column, name] = text
    over = view.heads.get(view.across, _head(rows[0], view.across))
    shown = [(column, name) for column in parts for name in values]
    several = len(values) > 1
    titles = [f"{over} = {column}{f': {heads[name]}' if several else ''}" for column, name in shown]
    lines = [[*key, *(own.get(one, "") for one in shown)] for key, own in table.items()]
    return ShownTable([*(heads[name] for name in view.index), *titles], lines, view.note)


def _pictures(view: View, rows: Rows, path: Path, backend: str) -> list[Picture]:
    path = path.with_name(f"{path.name}.png")
    drawing = drawing_of(view, rows)
    if drawing is not None:
        return [Picture(save(drawing, path, backend), getattr(view, "caption", ""))]
    if callable(view) and type(view) not in DRAWN:
        made = view(rows, path)
        return [made] if isinstance(made, Picture) else [Picture(path)] if path.is_file() else []
    return []


def drawing_of(view: View, rows: Rows) -> Drawing | None:
    """A view of rows, ready to be drawn; None if there is nothing to draw."""
    make = DRAWN.get(type(view))
    return None if make is None else make(view, rows_of(view, rows))


def _lines(view: Curve, rows: Rows) -> Lines | None:
    names = [view.y] if isinstance(view.y, str) else list(view.y)
    levels = _levels(view, rows, names)
    rows = [row for row in rows if not _is_reference(view, row)]
    by = [name for name in view.by if len({word(getattr(row, name)) for row in rows}) > 1]
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    bands: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    dashed: set[str] = set()
    drawn: dict[str, None] = {}  # all lines, even without points, so that colours agree in all pictures of these rows
    for row in rows:
        title = "" if view.panels is None else f"{_head(row, view.panels)} = {word(getattr(row, view.panels))}"
        for y_name in names:
            parts = [_series(row, name) for name in by]
            series = ", ".join(filter(None, parts if len(names) == 1 else [*parts, _head(row, y_name)]))
            drawn[series] = None
            x = _number(getattr(row, view.x))
            y = _number(getattr(row, y_name))
            if x is None or y is None:
                continue
            points = panels.setdefault(title, {}).setdefault(series, ([], []))
            points[0].append(x)
            points[1].append(y)
            if view.low is not None and view.high is not None and getattr(row, view.low) is not None:
                band = bands.setdefault((title, series), ([], []))
                band[0].append(getattr(row, view.low))
                band[1].append(getattr(row, view.high))
            if any(k in by and getattr(row, k) == v for k, v in view.dashed.items()):
                dashed.add(series)
    if all(abs(v) <= NOTHING for series in panels.values() for _, y in series.values() for v in y):
        return None  # no picture of zeros: the tables show them
    bands = {key: band for key, band in bands.items() if len(band[0]) == len(panels[key[0]][key[1]][0])}
    if max((len(x) for series in panels.values() for x, _ in series.values()), default=0) < 2:
        return None
    y_label = _label(rows[0], names[0]) if len(names) == 1 else _unit(rows[0], names[0])
    how: Mapping[str, Any] = {"log_x": view.log_x, "log_y": view.log_y, "levels": levels}
    how = {**how, "colours": colours_of(list(drawn)), "bands": bands, "dashed": dashed}
    return Lines(panels, _label(rows[0], view.x), y_label, **how)


def _is_reference(view: Curve, row: Any) -> bool:
    return bool(view.reference) and all(getattr(row, name) == value for name, value in view.reference.items())


def _levels(view: Curve, rows: Rows, names: Sequence[str]) -> dict[str, float]:
    """The horizontal lines of the reference rows, by the reference's name and, for several columns, the column's."""
    found = {}
    of = ", ".join(word(value) for value in view.reference.values())
    for row in rows:
        for name in names:
            value = _number(getattr(row, name)) if _is_reference(view, row) else None
            if value is not None:
                found[of if len(names) == 1 else f"{_head(row, name)}, {of}"] = value
    return found


def _series(row: Any, name: str) -> str:
    """A value as the name of a line or bar; a number is named with its column."""
    value = getattr(row, name)
    is_number = isinstance(value, Guidance | int | float) and not isinstance(value, bool)
    return f"{_head(row, name)} = {word(value)}" if is_number else word(value)


def _unit(row: Any, name: str) -> str:
    return str(_about(row, name)["unit"] or _head(row, name))


def _number(value: Any) -> float | None:
    """A value as a number on an axis; for a guidance its strength, if that is one number."""
    if hasattr(value, "is_schedule"):
        return None if value.is_schedule else float(value.one_strength)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if value == value and abs(value) != float("inf") else None


def _cloud(view: Cloud, rows: Rows) -> Points | None:
    points = {title: (x.tolist(), y.tolist()) for title, (x, y) in view.points.items()}
    return Points(points, *view.labels) if view.points else None


def _panels(view: PanelGrid, rows: Rows) -> Panels | None:
    if not any(panel is not None for panels in view.panels.values() for panel in panels):
        return None
    return Panels(view.panels, view.labels, view.one_scale, view.value_names)


DRAWN: Mapping[type, Callable[[Any, Rows], Any]] = {
    Curve: _lines,
    Cloud: _cloud,
    PanelGrid: _panels,
    Mosaic: lambda view, rows: Images(view.images, view.lines, view.signed) if view.images else None,
}
