"""`python compare.py PATH ... [out=FOLDER]`: several reports as one (mdlm-compare)."""

from __future__ import annotations

from collections.abc import Sequence

from mdlm_cfg.app.commands import with_arguments
from mdlm_cfg.app.places import check_path
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import Made

PAGE = "comparison.html"
ROWS = "comparison.csv"
RECORD = "comparison.json"  # names the files that were written
HELP = """\
Put reports side by side: what differs in their configurations, and what they measured over w, averaged over seeds.

    python compare.py runs/toy_2d_overlap              all reports below a folder of runs or of a sweep
    python compare.py runs/a runs/b out=runs/a_and_b   several folders; where to write (default: runs/comparisons/DATE)

It prints the tables and writes comparison.html, comparison.csv and a picture of each number.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the reports that the command line names."""
    with_arguments(HELP, _compare, arguments)


def _compare(given: Sequence[str]) -> None:
    from rich.console import Console

    from mdlm_cfg.app.folders import place_for
    from mdlm_cfg.app.report_cache import written_together
    from mdlm_cfg.reports.comparison_report import comparison_sections
    from mdlm_cfg.reports.page import write_page
    from mdlm_cfg.reports.tables import print_table, write_csv
    from mdlm_cfg.studies.comparison import compare

    paths = [one for one in given if not one.startswith("out=")]
    outs = [one for one in given if one.startswith("out=")]
    if not paths or len(outs) > 1:
        raise UserError("give folders of runs, or report.json files, and out=FOLDER at most once")
    for key, texts in (("out", outs), ("PATH", paths)):
        for path in texts:
            check_path(key, path.removeprefix("out="))
    found = compare(paths)
    out = outs[0].removeprefix("out=") if outs else None
    made = Made()
    folder = place_for(out, None, "runs", "comparisons", (), made)
    with made.taken_back(), written_together(folder, RECORD, "comparison", (PAGE, ROWS)) as part:
        sections = comparison_sections(found, part)
        write_csv(found.rows(), part / ROWS)
        write_page(part / PAGE, "mdlm_cfg: comparison", sections, {"of": " ".join(paths)})
    for section in sections:
        if section.table is not None:
            print_table(section.table, section.title, Console())
    print(f"comparison: {folder / PAGE}")
