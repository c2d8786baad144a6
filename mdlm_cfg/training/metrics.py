"""metrics.csv of a run: one that goes on goes on with its own."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from mdlm_cfg.support.atomic import atomic_write, naming

METRICS = "metrics.csv"


class MetricsLog(CSVLogger):
    """Lightning's log in `folder/metrics.csv`, with the lines of an earlier part of the same run.

    Args:
        folder: of the run.
        kept_steps: lines of the steps before this one stay; 0 begins the file anew.
    """

    def __init__(self, folder: str | Path, kept_steps: int = 0) -> None:
        super().__init__(folder, name="", version="")
        self.kept_steps = kept_steps

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes the file."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir, self.kept_steps)
        return self._experiment


class _Writer(ExperimentWriter):
    """Keeps what is there, and replaces it only whole: Lightning's deletes the file, and rewrites it in place."""

    def __init__(self, log_dir: str, kept_steps: int) -> None:
        self.kept_steps = kept_steps
        super().__init__(log_dir=log_dir)

    def save(self) -> None:
        """Write what was logged since."""
        with naming(self.metrics_file_path):
            super().save()

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        kept = [row for row in self._rows() if self._is_kept(row)]
        if kept:
            self.metrics_keys = list(kept[0])
            self._write(kept)
        else:
            path.unlink(missing_ok=True)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _is_kept(self, row: dict[str, Any]) -> bool:
        """Whether a line is whole (a kill may have cut the last one) and of an earlier step."""
        step = row.get("step") or ""
        return None not in row.values() and None not in row and step.isdigit() and int(step) < self.kept_steps

    def _write(self, rows: Iterable[dict[str, Any]]) -> None:
        text = StringIO(newline="")
        writer = csv.DictWriter(text, self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(self.metrics_file_path) as file:
            file.write(text.getvalue().encode())
