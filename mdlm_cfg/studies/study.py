"""What a study of one question is: asked of data and of what was learned of them, it answers with findings.

The studies that every report of a table, of images or of a mixture holds need no asking; those here are asked for by
`study=NAME`, and each has its folder, its file in conf/study, and its page in reports/pages.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.studies.plan import Plan


class Findings(Protocol):
    """What a study found: plain numbers with names and units."""

    @property
    def verdict(self) -> list[str]:
        """What was found, in sentences."""
        ...

    def rows(self) -> list[dict[str, Any]]:
        """Flat rows of plain numbers, for report.csv."""
        ...

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log, by name."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds: `version`, `plan`, `verdict`, and the study's own; none of it formatted."""
        ...

    def arrays(self) -> Mapping[str, np.ndarray]:
        """What arrays.npz holds, by name; may be empty."""
        ...


class Study(Protocol):
    """A question, with its own settings as attributes."""

    def check(self, data: Any, plan: Plan) -> None:
        """Raise UserError for anything that `run` would refuse, before any time is spent.

        Args:
            data: a data module that is set up.
        """
        ...

    def run(self, data: Any, denoiser: Denoiser | None, plan: Plan, progress: Callable[[str], None]) -> Findings:
        """Answer it.

        Args:
            data: a data module that is set up.
            denoiser: a learned one; None is the target's own exact one.
            plan: guidances, a sampler, samples, classes and a seed.
            progress: called with one short line before every piece of work.
        """
        ...
