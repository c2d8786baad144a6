"""The references of the documentation, as Markdown: of the configuration, and of the keys of report.json.

The site shows both. `python docs/references.py` makes the part of docs/report.md between two marks anew.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import mdlm_cfg.studies
from mdlm_cfg.app.groups import groups_of, options_of, settings_text
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.support.schema import SCHEMAS

PROGRAMS = {"train": "train.py", "eval": "eval.py", "sample": "-m mdlm_cfg.sample"}
SETTING = re.compile(r"(\w+):(?: (?P<value>[^#]*?))?(?:\s+# (?P<comment>.*))?$")
CONTINUED = re.compile(r"\s+# (.*)$")
HEAD = """\
# Configuration

Made from the schema and the files in `conf`; `python train.py --help` prints the same. Settings are given as
`key=value`, a file of a group as `group=name`, a setting inside a group as `group.key=value`
([hydra's syntax](https://hydra.cc)). Put values that contain brackets, `|` or `;` in single quotes. A value of the
wrong type and an unknown setting are refused before anything runs.
"""
PAGE = Path(__file__).parent / "report.md"
START = "<!-- made from the code: begin -->"
END = "<!-- made from the code: end -->"
SPREAD = {Guidance: "`w`, `kind`", Sampler: "`sampler`, `schedule`, `steps`, ..."}
WORDS = {float: "number", int: "whole number", str: "text", bool: "true or false", type(None): "null"}


def reference(configs: Path) -> str:
    """Every setting of every command with its type, default and comment, and every file of every group.

    Args:
        configs: the folder of the configuration files.

    Returns:
        a page of Markdown.
    """
    parts: list[str] = [HEAD]
    groups: dict[str, dict[str, Any]] = {}
    for command, schema in SCHEMAS.items():
        text = settings_text(command, configs)
        types = {field.name: str(field.type) for field in fields(schema)}
        rows = [_setting_row(key, types, value, comment) for key, value, comment in settings(text) if key in types]
        table = "\n".join(["| setting | type | default | what it is |", "|---|---|---|---|", *rows])
        parts.append(f"## python {PROGRAMS[command]}\n\n{table}\n")
        for group, default in groups_of(command, configs).items():
            groups.setdefault(group, {})[command] = default
    for group, defaults in groups.items():
        said = "; ".join(f"`{command}.py`: `{default or 'null'}`" for command, default in defaults.items())
        parts.append(f"## {group}\n\nDefault of {said}.\n")
        for name, path in options_of(group, configs).items():
            parts.append(f"### {group}={name}\n\n```yaml\n{path.read_text(encoding='utf-8').strip()}\n```\n")
    return "\n".join(parts)


def settings(text: str) -> list[tuple[str, str, str]]:
    """(key, value as written, comment) of the settings that a file has at its top, in order.

    A comment continues in indented lines that are only comments.
    """
    found: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        if match := SETTING.match(line):
            found.append((match[1], (match["value"] or "").strip(), (match["comment"] or "").strip()))
        elif found and (more := CONTINUED.match(line)):
            key, value, comment = found[-1]
            found[-1] = (key, value, f"{comment} {more[1]}".strip())
    return found


def _setting_row(key: str, types: dict[str, str], value: str, comment: str) -> str:
    cells = (_code(key), "" if types[key] == "Any" else _code(types[key]), _code(value), comment.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""  # of a table's cell: a | within is the site's, and ends no cell


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
    PAGE.write_text(with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
