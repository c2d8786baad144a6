"""The configuration reference, as Markdown: from the schema, the configuration files and their comments alone.

`python -m mdlm_cfg.app.reference` prints it; the documentation's site shows it.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from mdlm_cfg.app.groups import groups_of, options_of, settings_text
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
        rows = [_row(key, types, value, comment) for key, value, comment in settings(text) if key in types]
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


def _row(key: str, types: dict[str, str], value: str, comment: str) -> str:
    cells = (_code(key), "" if types[key] == "Any" else _code(types[key]), _code(value), comment.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""  # of a table's cell: a | within is the site's, and ends no cell


if __name__ == "__main__":
    from mdlm_cfg.app.cli import CONFIGS

    print(reference(CONFIGS), end="")
