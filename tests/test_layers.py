"""The contracts of imports in pyproject.toml, which `make lint` checks, would say so if they did not hold."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the package in a folder, by the contracts beside it."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    # it finds the package by the path: without this, that of the environment, wherever the folder is
    environment = {**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1"}
    command = [sys.executable, "-c", program, "--no-cache"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


DOWNWARD = "Imports run downward only"
HARNESS = "The mathematics knows nothing of training, configuration and pictures"
EDGE = "Only the edge knows the configuration"
VIOLATIONS = [  # a line in a module, the contract that it breaks, and what is said there
    ("chain/kinds.py", "from mdlm_cfg.laws.push import push", DOWNWARD, "chain.kinds -> mdlm_cfg.laws.push"),
    ("nets/wrapper.py", "from mdlm_cfg.compare.metrics import histogram", DOWNWARD, "nets.wrapper -> mdlm_cfg.compare"),
    ("compare/metrics.py", "from mdlm_cfg.nets import NetDenoiser", DOWNWARD, "compare.metrics -> mdlm_cfg.nets"),
    ("newpackage/__init__.py", "", DOWNWARD, "- mdlm_cfg.newpackage"),  # a package that no layer names
    ("laws/push.py", "def late():\n    import matplotlib", HARNESS, "laws.push -> matplotlib"),
    ("nets/optimizer.py", "import lightning", HARNESS, "nets.optimizer -> lightning"),
    ("training/module.py", "from omegaconf import DictConfig", EDGE, "training.module -> omegaconf"),
]


def test_violations_are_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "mdlm_cfg", tmp_path / "mdlm_cfg", ignore=shutil.ignore_patterns("__pycache__", "conf"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, line, *_ in VIOLATIONS:
        file = tmp_path / "mdlm_cfg" / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{file.read_text() if file.exists() else ''}\n{line}\n")
    found = lint_imports(tmp_path)
    assert found.returncode == 1, found.stdout + found.stderr
    _, *parts = re.split(r"\n(.+)\n-{9,}\n", found.stdout.split("Broken contracts")[1])
    said = dict(zip(parts[::2], parts[1::2], strict=True))
    assert [one for *_, contract, one in VIOLATIONS if one not in said[contract]] == []


RENDERED = {  # all that a report may take of the packages below the studies: types, constants and names
    "LINES",
    "Ledger",
    "Decay",
    "Region",
    "Estimate",
    "Guidance",
    "Kind",
    "Sampler",
    "Plan",
    "GROUPS",
    "name_state",
    "name_class",
}
BELOW = ("chain", "laws", "sampling", "targets", "compare", "nets", "training")


def computing_imports(source: str) -> list[str]:
    """Every name that a report's source takes of the packages that compute, and may not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mdlm_cfg."):
            package = node.module.split(".")[1]
            found += [f"{node.module}.{n.name}" for n in node.names if package in BELOW and n.name not in RENDERED]
        elif isinstance(node, ast.Import):
            found += [n.name for n in node.names if n.name.startswith("mdlm_cfg")]
        elif isinstance(node, ast.ImportFrom) and (node.module == "mdlm_cfg" or node.level):
            found += [f"{node.module}.{n.name}" for n in node.names]
    return found


def test_reports_render_and_compute_nothing() -> None:
    files = list((ROOT / "mdlm_cfg" / "reports").rglob("*.py"))
    assert len(files) > 10
    assert {str(path): names for path in files if (names := computing_imports(path.read_text()))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from mdlm_cfg.laws.terminal import terminal_law",
        "from mdlm_cfg.compare.decay import Decay, tv_decay",
        "from mdlm_cfg import sample",
        "import mdlm_cfg.sampling.samples",
        "def late():\n    from mdlm_cfg.compare.ledger import error_ledger",
    ],
)
def test_a_report_that_computes_is_found(line: str) -> None:
    assert computing_imports(line)


def test_the_mathematics_loads_no_harness() -> None:
    # what the contracts say of the source, seen in a running interpreter: torch does not bring them in either
    program = """
import sys
import mdlm_cfg, mdlm_cfg.nets, mdlm_cfg.compare.ledger, mdlm_cfg.compare.images, mdlm_cfg.targets.bernoulli
mdlm_cfg.terminal_law(mdlm_cfg.TableMixture([[0.5, 0.5]], [1.0]).denoiser(), mdlm_cfg.Guidance(1.0), 0)
loaded = {"lightning", "hydra", "omegaconf", "wandb", "matplotlib", "rich", "sympy"} & set(sys.modules)
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_no_package_imports_the_whole_from_below() -> None:
    # `import mdlm_cfg` runs all of it: an upward import that no layer names
    edge = ("verify", "app", "plot.py", "sample.py", "__init__.py")
    found = []
    for path in sorted((ROOT / "mdlm_cfg").rglob("*.py")):
        if path.relative_to(ROOT / "mdlm_cfg").parts[0] not in edge:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                is_whole = isinstance(node, ast.ImportFrom) and node.module == "mdlm_cfg"
                found += [path.name] * is_whole
                found += [
                    path.name
                    for one in getattr(node, "names", [])
                    if isinstance(node, ast.Import) and one.name == "mdlm_cfg"
                ]
    assert found == []
