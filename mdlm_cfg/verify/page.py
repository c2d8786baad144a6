"""The page of a session: what was checked, with all deviations and their pictures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from scipy import stats

from mdlm_cfg.app.folders import check_place
from mdlm_cfg.app.places import naming_way_out
from mdlm_cfg.app.report_cache import files_of, written_together
from mdlm_cfg.reports.page import Picture, Section, write_page
from mdlm_cfg.reports.style import CYCLE, GREY, INK, RC, new_figure, save_figure
from mdlm_cfg.reports.tables import Table, write_json
from mdlm_cfg.support.atomic import remove_parts
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import Made
from mdlm_cfg.support.numbers import rounded_up, short
from mdlm_cfg.verify.checks import CERTAIN, COVERAGE, DIFFERENCE, P_VALUE, Check, by_chance
from mdlm_cfg.verify.run import Verification

PAGE = "report.html"
NUMBERS = "verification.json"
SMALLEST = 1e-18  # differences of 0 are drawn here
FAILED = CYCLE[1]
PASSED = CYCLE[0]
TITLES = {
    "laws": "Laws against enumeration",
    "samples": "Samples against laws",
    "intervals": "Intervals and standard errors",
    "training": "Training estimators",
    "resume": "Resuming",
}
TEXTS = {
    "laws": (
        "Each law of the package, and each number that is computed from laws, is computed again by brute force: sums "
        "over all orders, subsets and hidden paths, dense kernels and generators over all partial states. The brute "
        "force imports only numpy and shares no code with the package. Targets, classes and strengths are random. The "
        "number is the largest absolute difference (relative where the true value exceeds 1)."
    ),
    "samples": (
        "Each sampler, with each of its settings and under each policy, draws 20,000 samples. Pearson's chi- "
        "square test compares them with the enumerated law, and with the sampler's own law where the enumeration "
        "does not know the sampler. Means of weights are compared by z-tests. If a sampler is right, its p-values are "
        "uniform: the points follow the diagonal and lie within the band with probability 99%."
    ),
    "intervals": (
        "An experiment is repeated with new data, and the interval covers the true value in some share of the "
        "repetitions. Bars show the range in which a correct program's share lies with near certainty, given what the "
        "interval claims."
    ),
    "training": (
        "The estimators of the NELBO, the losses of all objectives, and their derivatives along a direction of the "
        "weights have the means that enumeration over all orders gives: z-tests over many batches of independent data."
    ),
    "resume": (
        "A small network is trained once without interruption, and again from the checkpoint before each step. "
        "Weights, averaged weights and the optimiser's moments must agree bit for bit at the end."
    ),
}


def write_report(found: Verification, folder: Path) -> Path:
    """Write `report.html`, its pictures with their numbers, and `verification.json`; returns the page's path."""
    title = f"verification {found.seed}"
    settings = {"seed": found.seed, "minutes": found.minutes, **found.to_dict()["environment"]}
    with written_together(folder, NUMBERS, title, (PAGE,)) as part:
        sections = [summary(found)]
        for group in TITLES:
            checks = [check for check in found.checks if check.group == group]
            if checks:
                sections.append(section_of(group, checks, part))
        write_json(found.to_dict(), part / NUMBERS)
        write_page(part / PAGE, f"mdlm_cfg: {title}", sections, settings)
    return folder / PAGE


def check_folder(folder: Path, made: Made) -> None:
    """Make the folder of a verification if it does not exist.

    Args:
        made: the record of what the command makes.

    Raises:
        UserError: it holds anything other than an earlier verification, or cannot be made.
    """
    with made.taken_back(), naming_way_out("out"):
        made.folder(folder)
        remove_parts(folder)
        if {path.name for path in folder.iterdir()} - files_of(folder, NUMBERS):
            raise UserError(f"out={folder} exists and holds more than an earlier verification: give another folder")
        check_place(folder, "out")


def summary(found: Verification) -> Section:
    """The verdict, and a row for each group."""
    if found.passed:
        verdict = f"All {len(found.checks):,} checks passed."
    else:
        verdict = f"{len(found.failures):,} of {len(found.checks):,} checks failed."
    again = (
        f"The seed is {found.seed}. Some checks are random: a correct program fails one of them with probability at "
        f"most {rounded_up(found.false_alarm)}.\n\nTo repeat the verification: python -m mdlm_cfg.verify out=FOLDER "
        f"seed={found.seed} minutes={found.minutes:g}"
    )
    rows = []
    for group, seconds in found.seconds.items():
        checks = [check for check in found.checks if check.group == group]
        failed = sum(not check.passed for check in checks)
        subjects = len({check.subject for check in checks})
        rows.append([TITLES[group], str(subjects), f"{len(checks):,}", str(failed), f"{seconds:.0f} s"])
    rows += [["failed: " + c.subject, c.case, c.measure, short(c.value), ""] for c in found.failures[:20]]
    return Section(
        "Verdict", f"{verdict}\n\n{again}", Table(["group", "subjects", "checks", "failed", "time"], rows), printed=True
    )


def section_of(group: str, checks: Sequence[Check], folder: Path) -> Section:
    """A group: a row for each subject, and its picture."""
    rows = []
    for subject, own in by_subject(checks).items():
        failed = sum(not check.passed for check in own)
        worst = max(own, key=badness)
        rows.append(
            [subject, str(len(own)), number(worst), limits(worst), "passed" if failed == 0 else f"{failed} failed"]
        )
    table = Table(["subject", "checks", "worst value", "limits", "result"], rows)
    with rc_context(RC):
        path = PICTURES[group](checks, folder / f"{group}.png")
    return Section(TITLES[group], TEXTS[group], table, [Picture(path, CAPTIONS[group])])


def by_subject(checks: Sequence[Check]) -> dict[str, list[Check]]:
    """The checks of each subject, in the order of the session."""
    found: dict[str, list[Check]] = defaultdict(list)
    for check in checks:
        found[check.subject].append(check)
    return found


def badness(check: Check) -> float:
    """Larger is worse: the difference, or minus the p-value, or the distance to the middle of the limits."""
    if math.isnan(check.value) or not check.passed:
        return math.inf
    if check.measure == DIFFERENCE:
        return check.value
    return -check.value if check.measure == P_VALUE else abs(check.value - (check.low + check.high) / 2)


def number(check: Check) -> str:
    """The value of a check as text."""
    if check.measure == COVERAGE:
        return f"{check.value:.1%}"
    return f"{check.value:.1e}" if check.measure == DIFFERENCE else f"p = {check.value:.2g}"


def limits(check: Check) -> str:
    """The limits of a check as text."""
    if check.measure == COVERAGE:
        return f"{check.low:.1%} to {check.high:.1%}"
    if check.measure == P_VALUE:
        return f"p at least {CERTAIN:.0e}"
    return f"at most {check.high:.0e}" if check.high else "exactly 0"


def draw_differences(checks: Sequence[Check], path: Path) -> Path:
    """A row of points for each subject, on a logarithmic axis, with the limit as a tick."""
    groups = by_subject(checks)
    figure, axes = new_figure(1, 1, 8.0, 0.8 + 0.24 * len(groups))
    ax = axes[0, 0]
    rows = []
    for place, (subject, own) in enumerate(groups.items()):
        values = [min(max(check.value, SMALLEST), 1e3) for check in own]
        jitter = 0.5 * ((np.arange(len(own)) * 0.618) % 1 - 0.5)
        colours = [PASSED if check.passed else FAILED for check in own]
        ax.scatter(values, place + jitter, s=7, c=colours, alpha=0.5, linewidths=0)
        if limit := max(check.high for check in own):
            ax.plot([limit] * 2, [place - 0.4, place + 0.4], color=INK, linewidth=1.5)
        rows += [{"subject": subject, "case": c.case, "difference": c.value, "limit": c.high} for c in own]
    ax.set_yticks(range(len(groups)), list(groups))
    ax.set(xscale="log", xlabel="largest difference (black: the limit; 0 is drawn at 1e-18)", ylim=(len(groups), -1))
    return save_figure(figure, path, rows)


def draw_quantiles(checks: Sequence[Check], path: Path) -> Path:
    """Sorted p-values of each subject against the uniform quantiles, with a 99% band."""
    groups = {name: own for name, own in by_subject(checks).items() if any(c.measure == P_VALUE for c in own)}
    columns = 4
    lines = -(-len(groups) // columns)
    figure, axes = new_figure(lines, columns, 8.6, 2.35 * lines)
    rows = []
    for ax, (subject, own) in zip(axes.flat, groups.items()):
        values = np.sort(by_chance(check for check in own if "are uniform" not in check.case))
        n = len(values)
        expected = (np.arange(n) + 0.5) / max(n, 1)
        half = stats.kstwo.isf(0.01, max(n, 1))  # of the Kolmogorov-Smirnov test
        ends = np.linspace(0, 1, 201)
        ax.fill_between(ends, np.clip(ends - half, 0, 1), np.clip(ends + half, 0, 1), color=GREY, alpha=0.18, lw=0)
        ax.plot(ends, ends, color=GREY, linewidth=0.8)
        failed = any(not check.passed for check in own)
        ax.plot(expected, values, ".", color=FAILED if failed else PASSED, markersize=4)
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 1], yticks=[0, 1])
        ax.set_title(subject.removeprefix("samples of ").removeprefix("samples ").replace(": ", ":\n"), fontsize=9)
        ax.set_aspect("equal")
        rows += [{"subject": subject, "expected": float(e), "p_value": float(v)} for e, v in zip(expected, values)]
    for ax in list(axes.flat)[len(groups) :]:
        ax.set_visible(False)
    figure.supxlabel("uniform quantile", fontsize=9)
    figure.supylabel("p-value", fontsize=9)
    return save_figure(figure, path, rows)


def draw_coverage(checks: Sequence[Check], path: Path) -> Path:
    """The share of hits of each subject beside its limits."""
    figure, axes = new_figure(1, 1, 8.0, 0.9 + 0.32 * len(checks))
    ax = axes[0, 0]
    rows = []
    for place, check in enumerate(checks):
        ax.plot([check.low, check.high], [place, place], color=GREY, linewidth=7, alpha=0.35, solid_capstyle="butt")
        ax.plot(check.value, place, "o", color=PASSED if check.passed else FAILED, markersize=6)
        rows.append({"subject": check.subject, "covered": check.value, "lowest": check.low, "highest": check.high})
    ax.set_yticks(range(len(checks)), [check.subject for check in checks])
    ax.set(xlabel="share of the repetitions that cover the truth", ylim=(len(checks) - 0.5, -0.5))
    return save_figure(figure, path, rows)


def draw_training(checks: Sequence[Check], path: Path) -> Path:
    """The distance of each mean from the truth in standard errors, with the limits as lines."""
    groups = by_subject([check for check in checks if check.detail and "z" in check.detail])
    figure, axes = new_figure(1, 1, 8.0, 0.9 + 0.32 * len(groups))
    ax = axes[0, 0]
    rows = []
    limit = stats.norm.isf(CERTAIN / 2)
    for place, each in enumerate(groups.values()):
        colours = [PASSED if check.passed else FAILED for check in each]
        found = [check.detail["z"] for check in each if check.detail]
        ax.scatter(np.clip(found, -8, 8), [place] * len(each), c=colours, s=24, alpha=0.7)
        rows += [{"subject": c.subject, "case": c.case, **(c.detail or {})} for c in each]
    for end in (-limit, limit):
        ax.axvline(end, color=INK, linewidth=1.2)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.set(xlabel="deviation from the enumerated value in standard errors (black: the limits)")
    ax.set(xlim=(-8.3, 8.3), ylim=(len(groups) - 0.5, -0.5))
    return save_figure(figure, path, rows)


PICTURES: dict[str, Callable[[Sequence[Check], Path], Path]] = {
    "laws": draw_differences,
    "samples": draw_quantiles,
    "intervals": draw_coverage,
    "training": draw_training,
    "resume": draw_differences,
}
CAPTIONS = {
    "laws": "Differences between the package and the enumeration, one point for each law.",
    "samples": "p-values in order against uniform quantiles; the band holds all points with probability 99%.",
    "intervals": "How often intervals cover the truth (points), and the allowed range (bars).",
    "training": "How far the means of estimators and of their derivatives are from the enumerated values.",
    "resume": "Differences after resuming from each step.",
}
