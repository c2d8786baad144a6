"""mdlm_cfg: masked discrete diffusion with classifier-free guidance, compared with exact solutions.

The packages, each of which imports only those before it (docs/design.md):

    support    errors, seeds, progress, files, the configuration's schema
    chain      the reverse chain, one step at a time: denoiser, guidance, policies, schedules, steps
    targets    distributions that are known exactly, and their denoisers
    laws       exact distributions of the guided chain
    sampling   samplers, which draw samples and have an exact distribution
    compare    distances, error budgets, calibration; nets: networks as denoisers (neither imports the other)
    training   objectives, runs, checkpoints, data loaders
    studies    the questions that a report answers, one file each
    reports    pages, pictures, tables, wandb
    app        the commands
    verify     checks against an independent enumeration

The names that `__init__.pyi` lists are imported when they are first used: a command that only prints its help needs
none of them.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_LIST = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_WHERE = {of.name: str(node.module) for node in _LIST.body if isinstance(node, ast.ImportFrom) for of in node.names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'mdlm_cfg' has no attribute {name!r}")
