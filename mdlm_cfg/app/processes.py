"""A sweep and several processes for each of its jobs do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mdlm_cfg.support.errors import UserError


def refuse_processes(trainer: Mapping[str, Any] | None) -> None:
    """Raise UserError for a job of a sweep that is to run in several processes.

    Each of them would begin the sweep anew: Lightning starts them by the command line.
    """
    settings = trainer or {}
    for name in ("devices", "num_nodes"):
        if str(value := settings.get(name, 1)) != "1":
            raise UserError(
                f"trainer.{name}={value} means several processes for every job, and a sweep (-m) runs its jobs in one: "
                "give trainer.devices=1, or run each setting as a command of its own (docs/scaling.md)"
            )
