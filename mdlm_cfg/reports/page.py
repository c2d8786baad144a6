"""One self-contained HTML page: sections of text, a table and pictures; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mdlm_cfg.reports.style import numbers_of
from mdlm_cfg.reports.tables import Table
from mdlm_cfg.studies.findings import to_jsonable
from mdlm_cfg.support.atomic import write_text

VERDICT = "Verdict"  # the title of the section that comes first
LONGEST = 24  # longer tables within a group are folded separately; the first screen folds none
MOST_INSIDE = 200_000  # bytes of a CSV file that is embedded in the page, for readers who have only the page
SCALE = 0.77  # 10 points at 150 dots per inch are 16 pixels
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Numbers:
    """A CSV file that a page links to: a small one is embedded, a larger one lies beside the page."""

    path: Path

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.name

    @property
    def is_inside(self) -> bool:
        """Whether it is embedded in the page."""
        return self.path.stat().st_size <= MOST_INSIDE

    @property
    def href(self) -> str:
        """The file itself as a data URL, or its name."""
        if not self.is_inside:
            return quote(self.name)
        return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(self.path.read_bytes()).decode('ascii')}"


@dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows."""

    path: Path
    caption: str = ""

    @property
    def numbers(self) -> Numbers:
        """The CSV file of its numbers, beside it."""
        return Numbers(numbers_of(self.path))

    @property
    def width(self) -> int:
        """In pixels of a page, so that the picture's letters are about as large as those of the text."""
        header = Path(self.path).read_bytes()[:24]  # of a PNG: the width is four bytes from the 16th on
        return round(int.from_bytes(header[16:20], "big") * SCALE)

    @property
    def base64(self) -> str:
        """The file itself, encoded for a data URL."""
        return base64.b64encode(Path(self.path).read_bytes()).decode("ascii")


@dataclass(frozen=True)
class Section:
    """A part of a page: plain text (an empty line starts a new paragraph), then a panel, a table, a listing, pictures.

    Attributes:
        panel: the data of the interactive panel; at most one on a page.
        panel_numbers: the file of its numbers.
        listing: preformatted lines in a monospaced font.
        printed: whether its table goes to the terminal too.
        group: the heading under which it is folded; "" is not folded.
        block: the title of the block it belongs to, under which it is folded on a page with one group.
    """

    title: str
    text: str = ""
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    listing: str = ""
    panel: Mapping[str, Any] | None = None
    panel_numbers: Numbers | None = None
    printed: bool = True
    group: str = ""
    block: str = ""

    @property
    def paragraphs(self) -> list[str]:
        """The text, split at empty lines; no line breaks within "w = 4"."""
        text = self.text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
        return [part.strip() for part in text.split("\n\n") if part.strip()]


def command_apart(text: str) -> tuple[str, str]:
    """A text, and the command at its end ("" if there is none), which is shown separately so that it can be copied."""
    said, colon, command = text.partition(": python ")
    return (f"{said}:", f"python {command}") if colon else (text, "")


@cache
def _environment() -> Environment:
    """That of the page's template, which is compiled once."""
    return Environment(
        loader=PackageLoader("mdlm_cfg.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(title: str, sections: Sequence[Section], settings: Mapping[str, Any] | None = None) -> str:
    """The page as text.

    Args:
        title: also the browser's.
        sections: in order.
        settings: of the run, folded at the top: names and values; nested ones as JSON. Everything is escaped.
    """
    environment = _environment()
    shown = {name: _shown(value) for name, value in (settings or {}).items()}
    sections = first_screen(sections)
    first = [section for section in sections if not section.group]
    groups: dict[str, list[Section]] = {}
    for section in sections:
        if section.group:
            groups.setdefault(section.group, []).append(section)
    scripts = ["charts.js", "panel.js"] if any(section.panel for section in sections) else []
    return environment.get_template("page.html.j2").render(
        title=title,
        first=first,
        groups=groups,
        settings=shown,
        longest=LONGEST,
        command_apart=command_apart,
        css=_code("page.css"),
        scripts=[_code(name) for name in scripts],
    )


def first_screen(sections: Sequence[Section]) -> list[Section]:
    """The sections in page order: the verdict, unfolded sections with more than a table, then the others.

    If only the verdict would be unfolded, one section of the first group is unfolded too: in its first block with a
    picture, the section of the strongest guidance, which is the last one. If there is only one group, the others are
    folded by block.
    """
    verdict = [section for section in sections if section.title == VERDICT]
    others = [section for section in sections if section.title != VERDICT]
    if others and all(section.group for section in others):
        first = [one for one in others if one.group == others[0].group]
        drawn = [one for one in first if one.pictures or one.panel or one.listing]
        lead = [one for one in drawn if one.block == drawn[0].block][-1] if drawn else first[0]
        is_only = len(first) == len(others)
        others = [
            replace(one, group="" if one is lead else one.block if is_only and one.block else one.group)
            for one in others
        ]
    others.sort(key=lambda section: not section.group and not (section.pictures or section.panel or section.listing))
    return [*verdict, *others]


def _code(name: str) -> Markup:
    """A file of this package that is included in a page unescaped."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


def write_page(path: Path, title: str, sections: Sequence[Section], settings: Mapping[str, Any] | None = None) -> Path:
    """Write the page atomically, and return its path."""
    write_text(path, render_page(title, sections, settings))
    return path


def _shown(value: Any) -> str:
    value = to_jsonable(value)
    if isinstance(value, dict):
        return json.dumps(value, indent=1, ensure_ascii=False)
    if isinstance(value, list):
        return ", ".join(item if isinstance(item, str) else json.dumps(item) for item in value)
    return "none" if value is None else str(value)
