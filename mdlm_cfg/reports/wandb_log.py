"""What a run shows on wandb, where there is one; nothing happens where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_cfg.reports.tables import Table
from mdlm_cfg.studies.table.evaluation import TableEvaluation

if TYPE_CHECKING:
    from wandb import Run

CURVES = {
    "eval/guidance_effect": "tv_class_exact",
    "eval/gap_to_tilted": "tv_tilted_exact",
    "eval/score_error": "tv_exact_learned",
    "eval/tv_exact_samples": "tv_exact_samples",
    "eval/tv_learned_samples": "tv_learned_samples",
    "eval/noise_floor": "noise_floor_exact",
}


def find_run(logger: Any) -> Run | None:
    """The wandb run behind a logger, a list of loggers, or a run itself; None where there is none.

    Other loggers, None, and the stand-ins that loggers give to other processes than the first have no run.
    """
    if isinstance(logger, list | tuple):
        return next((run for run in map(find_run, logger) if run is not None), None)
    if any(cls.__name__ == "WandbLogger" for cls in type(logger).__mro__):
        logger = logger.experiment
    if not type(logger).__module__.startswith("wandb"):  # wandb itself takes seconds to import
        return None
    from wandb import Run

    return logger if isinstance(logger, Run) else None


def log_table_evaluation(logger: Any, evaluation: TableEvaluation, pictures: Iterable[Path] = ()) -> None:
    """Log TV against w, every number as a table, and pictures under their file names.

    Args:
        logger: anything that `find_run` takes.
        evaluation: what `evaluate_table` found.
        pictures: PNG files: heat maps, curves, grids.
    """
    run = find_run(logger)
    if run is None:
        return
    rows = evaluation.rows()
    names = list(rows[0])
    log_rows(run, "eval/table", names, [[row[name] for name in names] for row in rows])
    run.define_metric("eval/w")
    for name in CURVES:
        run.define_metric(name, step_metric="eval/w")
    for row in rows:
        numbers = {name: row[key] for name, key in CURVES.items() if row[key] is not None}
        run.log({"eval/w": row["w"], **numbers})
        run.summary.update({f"{name}/w{row['w']:g}": value for name, value in numbers.items()})
    log_pictures(run, pictures)


def log_pictures(logger: Any, pictures: Iterable[Path], prefix: str = "eval/") -> None:
    """Log PNG files (heat maps, sample grids) under `prefix` and their names."""
    run, paths = find_run(logger), [Path(path) for path in pictures]
    if run is None or not paths:
        return
    from wandb import Image

    run.log({f"{prefix}{path.stem}": Image(str(path)) for path in paths})


def log_table(logger: Any, name: str, table: Table) -> None:
    """Log a table as it is shown on the terminal and on the page."""
    log_rows(logger, name, table.columns, table.rows)


def log_rows(logger: Any, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Log a table of numbers or text."""
    run = find_run(logger)
    if run is None:
        return
    from wandb import Table as WandbTable

    run.log({name: WandbTable(columns=list(columns), data=[list(row) for row in rows])})


def log_numbers(logger: Any, numbers: Mapping[str, float | None]) -> None:
    """Put final numbers into the run's summary; absent ones are left out."""
    run = find_run(logger)
    if run is not None:
        run.summary.update({name: value for name, value in numbers.items() if value is not None})
