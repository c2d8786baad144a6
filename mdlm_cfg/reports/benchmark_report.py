"""The page of the benchmark: rankings, error against calls, and the targets."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from mdlm_cfg.reports.curves import NOTHING
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.style import CYCLE, INK, MARKERS, RC, new_figure, save_figure
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.benchmark.findings import BenchmarkFindings

DRAWN = (  # of what is built in: one of each family, or no line could be followed
    "tau_leaping, rate, linear", "euler, rate, linear", "d_cfg, rate, linear", "event_leaping, rate, cosine",
    "policy confidence", "event_leaping, rate, ramp",
)  # fmt: skip
REFERENCES = {"tilted": "the tilted law", "chain": "the guided chain in continuous time"}


def benchmark_sections(findings: BenchmarkFindings, folder: Path) -> list[Section]:
    """Rankings, error against calls, every target by itself, and what the targets are; pictures go into `folder`."""
    return [
        *(_ranking(findings, against) for against in REFERENCES),
        _pictures(findings, folder),
        _by_target(findings),
        _targets(findings),
    ]


def _ranking(findings: BenchmarkFindings, against: str) -> Section:
    heads, rows = findings.standings([against])
    text = (
        "Entries by their mean total variation over all targets and strengths. The tilted law is what guidance is "
        "often believed to sample; the guided chain is that of the entry's own kind of guidance at constant w. Calls "
        "are of the denoiser, for each of its two conditionals. These are distances between exact laws, and no "
        "samples, but for entries that can only draw: of those the ranks that the interval of their TV allows stand "
        "in brackets."
    )
    note = "Rank: mean TV. Ties share a rank; “-” is an entry that needs more calls on some target."
    return Section(f"Ranking to {REFERENCES[against]}", text, Table(heads, rows, note))


def _pictures(findings: BenchmarkFindings, folder: Path) -> Section:
    pictures = [
        Picture(
            draw_error(findings, against, folder / f"benchmark_{against}.png"),
            f"Mean TV over the targets to {name}, against calls; a panel for every w. Lines end where the error is 0.",
        )
        for against, name in REFERENCES.items()
    ]
    return Section("Error against calls", "", None, pictures)


@rc_context(RC)
def draw_error(findings: BenchmarkFindings, against: str, path: Path) -> Path:
    """Mean TV over the targets against calls, logarithmic both; a panel per w, a line per entry."""
    strengths = findings.strengths
    across = min(len(strengths), 2)
    down = -(-len(strengths) // across)
    figure, grid = new_figure(down, across, 4.4 * across + 0.4, 2.9 * down + 0.9, sharex=True, sharey=True)
    for axes in grid.flat[len(strengths) :]:
        axes.set_visible(False)
    for k, (axes, w) in enumerate(zip(grid.flat, strengths)):
        _draw_panel(axes, findings, against, w)
        axes.set_title(f"w = {w:g}", loc="left")
        if k % across == 0:
            axes.set_ylabel("mean TV")
        if k + across >= len(strengths):
            axes.set_xlabel("denoiser calls")
            axes.xaxis.set_tick_params(labelbottom=True)
    found = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=3 if across > 1 else 1)
    rows = [
        {"w": w, "entry": name, "denoiser calls": calls, "mean TV": tv}
        for w in strengths
        for name in _drawn(findings)
        for calls, tv in _points(findings, name, against, w)
    ]
    return save_figure(figure, path, rows)


def _drawn(findings: BenchmarkFindings) -> list[str]:
    return [*DRAWN, *(entry.name for entry in findings.entries if entry.own)]


def _points(findings: BenchmarkFindings, name: str, against: str, w: float) -> list[tuple[int, float]]:
    found = [(calls, findings.mean_tv(name, calls, against, w=w)) for calls in findings.calls]
    return [(calls, tv) for calls, tv in found if tv is not None]


def _draw_panel(axes: Axes, findings: BenchmarkFindings, against: str, w: float) -> None:
    own = [entry.name for entry in findings.entries if entry.own]
    for k, name in enumerate(_drawn(findings)):
        points = [(calls, tv) for calls, tv in _points(findings, name, against, w) if tv > NOTHING]
        if points:
            axes.plot(
                [calls for calls, _ in points], [tv for _, tv in points], label=name, marker=MARKERS[k % len(MARKERS)],
                markersize=5, color=INK if name in own else CYCLE[k], linewidth=2.6 if name in own else 1.6,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(findings.calls)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _by_target(findings: BenchmarkFindings) -> Section:
    """Who is nearest to the tilted law on every target, and one's own beside."""
    calls = findings.ranked[-1]
    own = [entry.name for entry in findings.entries if entry.own]
    rows = []
    for target in (str(known["name"]) for known in findings.targets):
        name, tv = findings.nearest(target, calls, "tilted")
        theirs = (findings.mean_tv(entry, calls, "tilted", target=target) for entry in own)
        rows.append([target, name, format_number(tv), *map(format_number, theirs)])
    note = f"Mean TV over w to the tilted law, with {calls} calls; of ties the first."
    return Section("Target by target", "", Table(["target", "nearest", "mean TV", *own], rows, note))


def _targets(findings: BenchmarkFindings) -> Section:
    heads = ("target", "values N", "dimensions D", "classes", "class z", "fingerprint")
    keys = ("name", "num_tokens", "num_dims", "num_classes", "target_class", "fingerprint")
    rows = [[str(target[key]) for key in keys] for target in findings.targets]
    text = (
        "The conditionals of learned_rotation are a small network's, and those of no joint: its class is that of the "
        "data it learned, and its tilted law the mean over all orders of unmasking."
    )
    return Section("Targets", text, Table(heads, rows, "What every entry was judged on."))
