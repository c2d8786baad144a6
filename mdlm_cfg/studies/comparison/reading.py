"""Reports that were written, and the configurations that they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mdlm_cfg.support.errors import UserError

NUMBERS, CONFIG = "report.json", "resolved_config.yaml"
VERSION = 2  # of report.json
REPEATS = ("seed", "data.seed")  # what only makes the same thing again
PLACES = ("runs", "name", "out", "ckpt_path", "evaluate", "w", "target_class")  # where; and what the rows say


@dataclass(frozen=True)
class Entry:
    """One report.

    Attributes:
        path: of its report.json. settings: flat, "net.width" and so on, without seeds and places. seed: or None.
        rows: one per strength (and class). test: results of the test, by name.
    """

    path: Path
    settings: dict[str, Any]
    seed: Any
    rows: list[dict[str, Any]]
    test: dict[str, float]


def find_reports(paths: Sequence[str | Path]) -> list[Path]:
    """Every report.json among files and below folders, in order, each once.

    Raises:
        UserError: a path that is not there, or no report at all.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"there is no {path}: give folders of runs, or report.json files")
        found |= dict.fromkeys([path] if path.is_file() else sorted(path.rglob(NUMBERS)))
    if not found:
        raise UserError(f"there is no {NUMBERS} below {', '.join(map(str, paths))}: evaluate the runs first")
    return list(found)


def read_entry(path: Path) -> Entry:
    """One report, and the configuration of the run that it lies in.

    Raises:
        UserError: a file that is no report, or of another version.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        version, rows, plan = report["version"], report["distances"], report["plan"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no report that can be compared: it holds no distances by w") from error
    if version != VERSION:
        raise UserError(f"{path} is a report of version {version}, and only version {VERSION} can be compared")
    config = flattened(_config_of(path))
    flat = config | {key: value for key, value in plan.items() if key not in ("guidances", "seed")}
    flat["guidance"] = ", ".join(dict.fromkeys(row["kind"] for row in rows))
    flat |= {"data": report["data"].get("name"), "denoiser": report["run"].get("denoiser", "learned")}
    settings = {key: value for key, value in flat.items() if key not in (*REPEATS, *PLACES)}
    return Entry(path, settings, config.get("seed", plan.get("seed")), rows, report.get("test") or {})


def _config_of(path: Path) -> dict[str, Any]:
    """The configuration of the run that a report was written for: in a folder above it, at most three up."""
    for folder in list(path.parents)[:4]:
        if (folder / CONFIG).is_file():
            return yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) or {}
    return {}


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"net": {"width": 8}} is {"net.width": 8}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
