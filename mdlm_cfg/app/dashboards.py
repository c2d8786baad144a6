"""`python -m mdlm_cfg.app.dashboards ENTITY/PROJECT [--dry-run]`: save the workspace and the report on wandb."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from mdlm_cfg.app.commands import process


def main(arguments: Sequence[str] | None = None) -> None:
    """Save both, and print where they are; with --dry-run print them as JSON, with no account and no network."""
    parser = argparse.ArgumentParser(prog="python -m mdlm_cfg.app.dashboards", description=__doc__)
    parser.add_argument("where", metavar="ENTITY/PROJECT", help="entity of the runs; the default project is mdlm_cfg")
    parser.add_argument("--dry-run", action="store_true", help="print what would be saved, as JSON")
    given = parser.parse_args(arguments)
    from mdlm_cfg.app.errors import as_command

    with as_command():
        _save(given.where, given.dry_run)


def _save(where: str, is_dry: bool) -> None:
    from mdlm_cfg.reports.dashboards import dashboards
    from mdlm_cfg.support.errors import UserError

    entity, _, project = where.partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"{where!r} does not name a project on wandb: give ENTITY/PROJECT, such as my-team/mdlm_cfg")
    workspace, report = dashboards(entity, project)
    if is_dry:
        from pydantic_core import to_jsonable_python

        print(json.dumps({"workspace": to_jsonable_python(workspace), "report": to_jsonable_python(report)}, indent=1))
        return
    import wandb

    if not wandb.api.api_key:  # wandb itself would prompt, or wait
        raise UserError("wandb has no account here: run `wandb login` first, or give --dry-run")
    for made in (workspace, report):
        made.save()
        print(made.url)


if __name__ == "__main__":
    process("mdlm_cfg.app.dashboards")
