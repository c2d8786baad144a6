"""What wandb gets of a report: curves of rows that one curve can show, and every row in a table."""

from __future__ import annotations

from typing import Any

import pytest
import wandb

from mdlm_cfg.reports.wandb_log import AXIS, log_evaluation


class Run:
    """As much of a run as logging asks for."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)


def logged(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], wandb.Table]:
    run = Run()
    log_evaluation(run, rows, [], [])  # type: ignore[arg-type]
    *curves, media = run.logged
    return curves, media["eval_tables/distances"]


@pytest.mark.parametrize("name", ["image", "policy"])
def test_rows_of_one_strength_are_a_curve_only_where_there_is_one_of_each(name: str) -> None:
    rows = [{name: k, "w": w, "tv": 10.0 * k + w} for k in (1, 2) for w in (0.0, 3.0)]
    curves, table = logged(rows)
    assert curves == [] and len(table.data) == 4
    curves, table = logged(rows[:2])
    assert [(row[AXIS], row["eval/tv"]) for row in curves] == [(0.0, 10.0), (3.0, 13.0)] and len(table.data) == 2


def test_sets_have_a_curve_each_and_schedules_none() -> None:
    rows = [{"set": of, "w": w, "tv": 0.5} for of in ("exact", "learned") for w in (0.0, "ramp(0,4)")]
    curves, table = logged(rows)
    assert curves == [{AXIS: 0.0, "eval/exact/tv": 0.5}, {AXIS: 0.0, "eval/learned/tv": 0.5}]
    assert len(table.data) == 4
