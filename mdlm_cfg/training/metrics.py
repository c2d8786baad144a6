"""metrics.csv of a run; a resumed run continues its own."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from mdlm_cfg.support.atomic import write_text
from mdlm_cfg.support.errors import not_ours

METRICS = "metrics.csv"
FLUSH_EVERY = 10.0  # seconds
Row = dict[str, Any]


class MetricsLog(Logger):
    """Logs to `folder/metrics.csv`: the file is always complete, however the process ends.

    Args:
        folder: of the run; it must exist, and it is an error if it disappears.
        kept_steps: lines of steps before this one are kept; 0 starts a new file.

    Raises:
        UserError: a file of this name that was not written by such a log.
    """

    name = None  # a run's folder has its name already
    version = None

    def __init__(self, folder: str | Path, kept_steps: int = 0) -> None:
        super().__init__()
        self.path = Path(folder, METRICS)
        self.kept_steps = kept_steps
        self._check()
        self._rows: list[Row] | None = None  # of the whole file, once something is logged
        self._is_saved = True
        self._saved = time.monotonic()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Add a line; the file is written every `FLUSH_EVERY` seconds."""
        if self._rows is None:
            self._rows = self._earlier()
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self._rows.append(row | {"step": len(self._rows) if step is None else step})
        self._is_saved = False
        if time.monotonic() - self._saved > FLUSH_EVERY:
            self.save()

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml beside the file has them."""

    @rank_zero_only
    def save(self) -> None:
        """Write what was logged since the last write."""
        if self._is_saved or self._rows is None:
            return
        text = StringIO(newline="")
        writer = csv.DictWriter(text, sorted({name for row in self._rows for name in row}))
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, text.getvalue())
        self._is_saved = True
        self._saved = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the rest."""
        self.save()

    def _check(self) -> None:
        """Refuse a file with lines that `_earlier` would not keep: every whole line of a log has a step."""
        if not os.path.lexists(self.path):
            return
        if not self.path.is_file():
            raise not_ours(self.path)
        try:
            rows = self._lines()
            steps = [row.get("step") or "" for row in rows]
            is_log = "step" in (rows.fieldnames or ("step",)) and all(step.isdigit() for step in steps[:-1])
        except (OSError, UnicodeDecodeError, csv.Error):
            is_log = False
        if not is_log:
            raise not_ours(self.path)

    def _lines(self) -> csv.DictReader[str]:
        return csv.DictReader(StringIO(self.path.read_text(encoding="utf-8-sig"), newline=""))

    def _earlier(self) -> list[Row]:
        """The complete lines of steps before `kept_steps`: a kill may have cut the last line."""
        if not self.path.is_file():
            return []
        rows = [dict(row) for row in self._lines()]
        whole = [row for row in rows if None not in row and None not in row.values()]
        return [row for row in whole if (row.get("step") or "").isdigit() and int(row["step"]) < self.kept_steps]
