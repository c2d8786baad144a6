"""One self-contained HTML page: sections of text, a table and pictures; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mdlm_cfg.reports.tables import Table
from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.support.atomic import atomic_write


@dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows."""

    path: Path
    caption: str = ""

    @property
    def base64(self) -> str:
        """The file itself, as a data URL wants it."""
        return base64.b64encode(Path(self.path).read_bytes()).decode("ascii")


@dataclass(frozen=True)
class Section:
    """A part of a page: plain text (an empty line starts a new paragraph), then a table, a listing, pictures.

    Attributes:
        listing: lines of letters of one width, shown as they are.
        printed: whether its table goes to the terminal too.
    """

    title: str
    text: str = ""
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    listing: str = ""
    printed: bool = True

    @property
    def paragraphs(self) -> list[str]:
        """The text, cut at empty lines."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


def render_page(title: str, sections: Sequence[Section], settings: Mapping[str, Any] | None = None) -> str:
    """The page as text.

    Args:
        title: also the browser's.
        sections: in order.
        settings: what was run, shown first: names and values; nested ones as JSON. Everything is escaped.
    """
    environment = Environment(
        loader=PackageLoader("mdlm_cfg.reports", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shown = {name: _shown(value) for name, value in (settings or {}).items()}
    return environment.get_template("page.html.j2").render(title=title, sections=sections, settings=shown)


def write_page(path: Path, title: str, sections: Sequence[Section], settings: Mapping[str, Any] | None = None) -> Path:
    """Write the page, whole or not at all, and return its path."""
    with atomic_write(path) as file:
        file.write(render_page(title, sections, settings).encode())
    return path


def _shown(value: Any) -> str:
    value = to_plain(value)
    if isinstance(value, dict):
        return json.dumps(value, indent=1, ensure_ascii=False)
    if isinstance(value, list):
        return ", ".join(item if isinstance(item, str) else json.dumps(item) for item in value)
    return "none" if value is None else str(value)
