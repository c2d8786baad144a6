"""`python -m mdlm_cfg.app.pages leaderboard REPORT.json PAGE.md`, `... paper RUNS PAGE.md`: pages of the docs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdlm_cfg.app.commands import process, with_arguments

HELP = """\
Write a page of the documentation from reports. An earlier page of the same kind is replaced, and no other file.

    python -m mdlm_cfg.app.pages leaderboard REPORT.json docs/leaderboard.md   of python eval.py experiment=benchmark
    python -m mdlm_cfg.app.pages paper runs docs/paper.md                      of the folder of all paper experiments
"""
KINDS = ("leaderboard", "paper")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page that the command line names."""
    with_arguments(HELP, _write, arguments)


def _write(given: Sequence[str]) -> None:
    from mdlm_cfg.reports.leaderboard import write_page
    from mdlm_cfg.reports.paper_report import collect
    from mdlm_cfg.support.errors import UserError, one_of

    kind = one_of("the page", given[0], KINDS)
    if len(given) != 3:
        raise UserError(f"{kind} takes two paths, its source and PAGE.md, and {len(given) - 1} were given")
    write = write_page if kind == "leaderboard" else collect
    write(*map(Path, given[1:]))


if __name__ == "__main__":
    process("mdlm_cfg.app.pages")
