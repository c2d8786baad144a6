"""A workspace and a report on wandb as code: their panels and the logged names that these show (extra `dashboards`).

The report compares training runs and evaluations of a project, by experiment; the workspace is a page with the same
panels that can stay open while runs come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mdlm_cfg.reports.wandb_log import AXIS, STEP, TABLES
from mdlm_cfg.support.errors import UserError

NAME = "mdlm_cfg"


@dataclass(frozen=True)
class Panel:
    """Curves in one panel.

    Attributes:
        title: with the units. metrics: names that a run logs. axis: the logged name of the horizontal axis.
    """

    title: str
    metrics: Sequence[str]
    axis: str = STEP


SECTIONS = {
    "Training": (
        Panel("NELBO, validation data (nats)", ("val/nelbo", "val/nelbo_null")),
        Panel("loss (nats)", ("train/loss",)),
        Panel("learning rate", ("train/lr",)),
    ),
    "Training on a table": (
        Panel("NELBO above the entropy (nats)", ("val/excess", "val/excess_null")),
        Panel("TV of the learned to the exact distribution", ("val/tv_w0", "val/tv_w1", "val/tv_w2", "val/tv_w4")),
    ),
    "Exact distributions over w": (
        Panel("guidance effect: TV, class to exact", ("eval/tv_class_exact",), AXIS),
        Panel("gap to tilted: TV, tilted to exact", ("eval/tv_tilted_exact",), AXIS),
        Panel("error of the network: TV, exact to learned", ("eval/tv_exact_learned",), AXIS),
        Panel("samples to exact, and noise floor: TV", ("eval/tv_exact_samples", "eval/noise_floor_learned"), AXIS),
    ),
    "Samples of images over w": (
        Panel("classifier's accuracy on samples", ("eval/accuracy",), AXIS),
        Panel("precision and recall", ("eval/precision", "eval/recall"), AXIS),
        Panel("energy distance to test images", ("eval/energy_pixels", "eval/energy_features"), AXIS),
    ),
}
PICTURES = (
    "train_pictures/drawn",
    "eval_pictures/pictures",
    "eval_pictures/distances_1",
    "eval_pictures/ledger_1",
    "eval_pictures/samples",
)


def dashboards(entity: str, project: str) -> tuple[Any, Any]:
    """The workspace and the report, as objects of wandb-workspaces; nothing is saved, and no account is needed.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports import v2
    except ImportError as error:
        raise UserError(
            'dashboards need wandb-workspaces, which is not installed: pip install "mdlm-cfg[dashboards]"'
        ) from error
    panels: dict[str, list[Any]] = {
        name: [v2.LinePlot(title=panel.title, x=panel.axis, y=list(panel.metrics)) for panel in section]
        for name, section in SECTIONS.items()
    }
    pictures = v2.MediaBrowser(title="pictures, by step", media_keys=list(PICTURES), layout=v2.Layout(w=24, h=12))
    sections = [workspaces.Section(name=name, panels=those, is_open=True) for name, those in panels.items()]
    workspace = workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[*sections, workspaces.Section(name="Pictures", panels=[pictures], is_open=True)],
    )
    runs = v2.Runset(entity, project, name="by experiment", groupby=["Group", "JobType"])
    blocks: list[Any] = [v2.TableOfContents()]
    for name, those in (panels | {"Pictures": [pictures]}).items():
        blocks += [v2.H1(name), v2.PanelGrid(runsets=[runs], panels=those)]
    tables: list[Any] = [v2.WeavePanelSummaryTable(table_name=name) for name in TABLES]
    blocks += [v2.H1("Tables"), v2.PanelGrid(runsets=[runs], panels=tables)]
    report = v2.Report(
        entity=entity,
        project=project,
        title=NAME,
        blocks=blocks,
        description="The effect of guidance, the error of the network, and what steps and samples add.",
    )
    return workspace, report
