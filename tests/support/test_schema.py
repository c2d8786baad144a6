"""Every setting declares what it decides, and no other list of settings says so."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import yaml

from mdlm_cfg.app.groups import settings_text
from mdlm_cfg.support import schema
from mdlm_cfg.support.schema import HYDRA, SCHEMAS, Role, flattened, role_of, with_roles

ROOT = Path(schema.__file__).resolve().parents[2]
NAMES = {one.name for known in SCHEMAS.values() for one in fields(known)}


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_key_of_every_command_has_a_role(command: str) -> None:
    keys = set(yaml.safe_load(settings_text(command, ROOT / "conf")))
    declared = {one.name: one.metadata.get("role") for one in fields(SCHEMAS[command])}
    assert keys <= set(declared)
    assert set(declared.values()) <= set(get_args(Role))


def test_a_setting_of_several_commands_has_one_role() -> None:
    found: dict[str, set[str]] = {}
    for known in SCHEMAS.values():
        for one in fields(known):
            found.setdefault(one.name, set()).add(repr(dict(one.metadata)))
    assert [name for name, roles in found.items() if len(roles) > 1] == []


def test_no_other_list_of_settings_says_what_they_decide() -> None:
    """A literal of settings alone, one of which does not decide the result, would be such a list."""
    aside = {name for name in NAMES if role_of(name) in ("operational", "place")}
    lists = []
    for path in sorted((ROOT / "mdlm_cfg").rglob("*.py")):
        if path.name == "schema.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                words = {one.value for one in node.elts if isinstance(one, ast.Constant) and isinstance(one.value, str)}
                if len(words) > 1 and words <= {*NAMES, HYDRA} and words & aside:
                    lists.append(f"{path.name}:{node.lineno} {sorted(words)}")
    assert lists == []


def test_what_is_inside_a_setting_may_have_another_role() -> None:
    given = {"trainer": {"max_epochs": 3, "enable_progress_bar": True}, "data": {"seed": 1, "name": "toy"}, "runs": "x"}
    assert with_roles(given, "result") == {"trainer.max_epochs": 3, "data.name": "toy"}
    assert with_roles(given, *get_args(Role)) == flattened(given)
    assert role_of("net.width") == "result" and role_of("hydra.run.dir") == "operational"
