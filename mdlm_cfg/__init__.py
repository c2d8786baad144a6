"""mdlm_cfg: masked discrete diffusion with classifier-free guidance, judged against exact solutions.

The names below are imported when they are first used: a command that only prints its help needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdlm_cfg.chain.denoiser import Denoiser, FunctionDenoiser
    from mdlm_cfg.chain.guidance import Guidance, interval, linear_ramp
    from mdlm_cfg.chain.schedules import Schedule
    from mdlm_cfg.compare.ledger import error_ledger
    from mdlm_cfg.laws.in_time import law_at
    from mdlm_cfg.laws.terminal import terminal_law, tilted_law
    from mdlm_cfg.sampling.sampler import Sampler, sample, stepped_law
    from mdlm_cfg.support.errors import UserError
    from mdlm_cfg.targets.table import TableMixture
    from mdlm_cfg.training.runs import load_run

__version__ = "0.2.0"

_HOMES = {
    "chain.denoiser": ("Denoiser", "FunctionDenoiser"),
    "chain.guidance": ("Guidance", "interval", "linear_ramp"),
    "chain.schedules": ("Schedule",),
    "compare.ledger": ("error_ledger",),
    "laws.in_time": ("law_at",),
    "laws.terminal": ("terminal_law", "tilted_law"),
    "sampling.sampler": ("Sampler", "sample", "stepped_law"),
    "support.errors": ("UserError",),
    "targets.table": ("TableMixture",),
    "training.runs": ("load_run",),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Denoiser", "FunctionDenoiser", "Guidance", "Sampler", "Schedule", "TableMixture", "UserError", "error_ledger",
    "interval", "law_at", "linear_ramp", "load_run", "sample", "stepped_law", "terminal_law", "tilted_law",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"mdlm_cfg.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'mdlm_cfg' has no attribute {name!r}")
