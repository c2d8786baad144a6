"""The mathematics knows nothing of training, configuration and pictures (docs/design.md, "The layers")."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mdlm_cfg"
MATHEMATICS = (
    *("masking", "schedules", "guidance", "denoiser", "partial_states", "tabulated", "targets", "nets", "laws"),
    *("stepped", "samplers", "objective", "metrics", "geometry", "decay", "ledger", "evaluation", "paper"),
)
FORBIDDEN = ("lightning", "hydra", "omegaconf", "wandb", "matplotlib")


def mathematics() -> list[str]:
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    return sorted(".".join(["mdlm_cfg", *path.parts]) for path in paths if path.parts[0] in MATHEMATICS)


def test_the_mathematics_is_found() -> None:
    assert {"mdlm_cfg.laws.push", "mdlm_cfg.nets.transformer", "mdlm_cfg.targets.table"} <= set(mathematics())


def test_mathematics_imports_no_harness() -> None:
    program = f"""
import importlib, sys
for name in {mathematics()!r}:
    importlib.import_module(name)
    loaded = [m for m in {FORBIDDEN!r} if m in sys.modules]
    if loaded:
        raise SystemExit(f"{{name}} imports {{loaded}}")
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("module", ["hydra", "omegaconf"])
def test_hydra_stays_at_the_edge(module: str) -> None:
    users = {path.name for path in PACKAGE.rglob("*.py") if f"import {module}" in path.read_text()}
    users |= {path.name for path in PACKAGE.rglob("*.py") if f"from {module}" in path.read_text()}
    assert users <= {"cli.py", "schema.py"}
