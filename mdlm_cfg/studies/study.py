"""What a study is: asked of data and of what was learned of them, it answers with findings.

Each has its folder and its page in reports/pages.py. Tables, images, mixtures and sequences have a study of their own
(`mdlm_cfg.app.settings.study_of`); the others are asked for by `study=NAME`, and have a file in conf/study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.cache import Keep, keep_nothing
from mdlm_cfg.targets.data import Data


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

    def check(self, data: Data, plan: Plan) -> None:
        """Raise UserError for anything that `run` would refuse, before any time is spent.

        Args:
            data: a data module that is set up.
        """
        ...

    def run(
        self,
        data: Data,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> Findings:
        """Answer it.

        Args:
            data: a data module that is set up.
            denoiser: a learned one; None is the target's own exact one.
            plan: guidances, a sampler, samples, classes and a seed.
            progress: called with one short line before every piece of work.
            keep: has what long pieces of an evaluation that was interrupted have found.

        Raises:
            UserError: as `check`, and for a denoiser of another space than the data's.
        """
        ...
