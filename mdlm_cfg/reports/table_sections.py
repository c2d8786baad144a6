"""Sections on what the laws of a table say: geometry, decay, samplers at equal cost, and the error ledger.

They render findings; nothing is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mdlm_cfg.chain.denoiser import name_state
from mdlm_cfg.compare.decay import Decay
from mdlm_cfg.compare.ledger import LINES, Ledger
from mdlm_cfg.reports.curves import NOTHING, Points, draw_decay, line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.style import CYCLE, file_name
from mdlm_cfg.reports.tables import Table, format_number, format_strength
from mdlm_cfg.studies.table.equal_cost import SamplerRow
from mdlm_cfg.studies.table.geometry import Geometry, GeometryRow
from mdlm_cfg.studies.table.ledgers import LEARNED_LINES
from mdlm_cfg.studies.table.study import TableFindings

NEUTRAL = (
    "(A partial state x_U is neutral where p(. | x_U, z) = p(. | x_U) for every masked coordinate: its exit rate is "
    "the same for every w.)"
)
TAU = (
    "tau is the clock on which every masked coordinate is unmasked at rate 1 when nothing guides; TV to the terminal "
    "law is the probability that something is still masked."
)


def table_findings_sections(findings: TableFindings, folder: Path) -> list[Section]:
    """Every section there are findings for; pictures are drawn into `folder`."""
    e = findings.evaluation
    sections = [geometry_section(findings.geometry, e.num_dims, folder)]
    for k, decay in enumerate(findings.decay):
        sections.append(decay_section(decay, folder / (f"decay_{decay.kind}.png" if k else "decay.png")))
    if findings.samplers:
        sections.append(samplers_section(findings.samplers, e.num_dims, folder))
    if findings.ledger:
        sections += [
            ledger_section(findings.ledger, e.judged, folder),
            ledger_moments_section(findings.ledger, e.judged),
        ]
    return sections


def geometry_section(geometry: Geometry, num_dims: int, folder: Path) -> Section:
    """Masses of the regions of the class's support against w, the private part's moments, and the limit w = inf."""
    exact, learned = geometry.of("exact"), geometry.of("learned")
    rows = []
    for k, part in enumerate(geometry.regions):
        cells = [f"{format_number(r.mass[k])} ({1000 * r.mean_probability[k]:.3f})" for r in exact]
        rows.append([part.name, str(part.num_states), *cells])
    note = "Mass of each region under the exact law, and in brackets 1000 times the mean probability per state."
    if num_dims == 2:
        note += (
            " R1: both projections private; R2,i: the i-th overlaps another class's; R3: both overlap, the point does "
            "not; R4: the point itself is shared."
        )
    spread = [f"w = {format_strength(r.w)}: {_numbers(r.eigenvalues)}" for r in exact]
    text = f"Eigenvalues of the covariance: {'; '.join(spread)}."
    private = [_private(r) for r in exact if r.private_mean is not None]
    if private:
        text += "\n\nInside the private region, conditioned on it: " + "; ".join(private) + "."
    table = Table(["region", "states", *(f"w={format_strength(r.w)}" for r in exact)], rows, note)
    return Section("Geometry: who gains and who loses", text, table, _region_picture(geometry, exact, learned, folder))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _private(row: GeometryRow) -> str:
    mean, trace = row.private_mean or [], row.private_trace or 0.0
    return f"w = {format_strength(row.w)}: mean ({_numbers(mean)}), covariance of trace {trace:.3f}"


def _region_picture(
    geometry: Geometry, exact: Sequence[GeometryRow], learned: Sequence[GeometryRow], folder: Path
) -> list[Picture]:
    series: dict[str, Points] = {}
    colours: dict[str, str] = {}
    for rows, suffix in ((exact, ""), (learned, ", learned")):
        numbers = [(r.w, r) for r in rows if not isinstance(r.w, str) and math.isfinite(r.w)]
        for k, part in enumerate(geometry.regions):
            if len(numbers) > 1:
                series[part.name + suffix] = ([w for w, _ in numbers], [r.mean_probability[k] for _, r in numbers])
                colours[part.name + suffix] = CYCLE[k % len(CYCLE)]  # a learned region has its region's colour
    if not series:
        return []
    dashed = [name for name in series if name.endswith(", learned")]
    path = line_plot(series, folder / "regions.png", "guidance strength w", "mean probability per state", dashed=dashed)
    return [Picture(path, "Mean probability per state of each region against w.")]


def decay_section(decay: Decay, path: Path) -> Section:
    """TV against the clock and against w, and what kind of decay it is; its picture goes to `path`."""
    base = decay.time_to_5_percent[0]
    rows = [
        [f"{w:g}", format_number(t), f"{1 - t / base:.1%}", format_number(float(-log_tv[-1]))]
        for w, t, log_tv in zip(decay.strengths, decay.time_to_5_percent, decay.log_tv)
    ]
    note = (
        f"Clock time until TV = 0.05, how much sooner than at w = {decay.strengths[0]:g}, and -ln TV at tau = "
        f"{float(decay.taus[-1]):g}."
    )
    text = (
        f"{decay.statement} {NEUTRAL}\n\nGuidance of the kind “{decay.kind}”. The slope of ln(-ln TV) against w at "
        f"tau = {decay.fit_tau:g} is {decay.fit_slope[0]:.3f} over the smaller half of the strengths and "
        f"{decay.fit_slope[1]:.3f} over the larger. {TAU}"
    )
    draw_decay(decay, path)
    table = Table(["w", "tau at TV 0.05", "sooner by", "-ln TV"], rows, note)
    return Section("Convergence in time", text, table, [Picture(path, "-ln TV against the clock, one line per w.")])


def samplers_section(found: Sequence[SamplerRow], num_dims: int, folder: Path) -> Section:
    """Exact TV of every sampler to the continuous-time law of the same denoiser, by calls."""
    names = list(dict.fromkeys(map(_column, found)))
    table = {(r.guidance.label, r.denoiser, _budget(r), _column(r)): r for r in found}
    rows, pictures = [], []
    for w, denoiser, budget in dict.fromkeys((r.guidance.label, r.denoiser, _budget(r)) for r in found):
        there = [table.get((w, denoiser, budget, name)) for name in names]
        rows.append([w, denoiser, budget, *("" if r is None else format_number(r.tv) for r in there)])
    for w, denoiser in dict.fromkeys((r.guidance.label, r.denoiser) for r in found):
        series: dict[str, Points] = {}
        for name in names:
            own = [r for r in found if (r.guidance.label, r.denoiser, _column(r)) == (w, denoiser, name)]
            points = [(float(r.sampler.steps), r.tv) for r in own if isinstance(r.sampler.steps, int)]
            if points:
                series[name] = ([steps for steps, _ in points], [tv for _, tv in points])
        if any(tv > NOTHING for _, y in series.values() for tv in y):
            path = line_plot(
                series, folder / f"{file_name(f'samplers_{denoiser}_w{w}')}.png", "denoiser calls K", "exact TV",
                f"w = {w}", log_x=True, log_y=True,
            )  # fmt: skip
            pictures.append(
                Picture(path, f"Exact TV to the continuous-time law against K, {denoiser} scores, w = {w}.")
            )
    schedules = sorted({f"{r.sampler.name}: {r.sampler.schedule}" for r in found if r.sampler.schedule is not None})
    text = (
        "No samples: these are distances between exact laws, each to the terminal law of the same denoiser"
        f"{_and_order(found)}. Noise schedules: {', '.join(schedules)}. Event-leaping fixes the number of coordinates "
        f"a step unmasks and is exact from K = {num_dims} on (one coordinate a step)."
    )
    heads = ["w", "scores", "K", *names]
    return Section("Samplers at equal cost", text, Table(heads, rows, "Exact total variation."), pictures)


def _column(row: SamplerRow) -> str:
    """What a column of samplers holds: one sampler, in one order."""
    policy = row.sampler.policy
    return row.sampler.name if policy is None else f"{row.sampler.name}, {policy}"


def _budget(row: SamplerRow) -> str:
    """Its steps for people: their number, or what they are in its place."""
    steps, events = row.sampler.steps, row.sampler.events
    if events is not None:
        return f"{events} a step"
    return str(steps) if isinstance(steps, int) else f"grid of {len(steps or ()) - 1}"


def _and_order(found: Sequence[SamplerRow]) -> str:
    """Which order the terminal laws have, where a policy says it."""
    policies = dict.fromkeys(str(r.sampler.policy) for r in found if r.sampler.policy is not None)
    if not policies:
        return ""
    return f" in the same order: of the columns that name {', '.join(policies)} that one, of the others guidance's own"


def ledger_section(entries: Sequence[Ledger], judged: str, folder: Path) -> Section:
    """The error ledger (theory, section 8)."""
    lines = [line for line in LINES if judged == "learned" or line not in LEARNED_LINES]
    rows = [
        [
            e.guidance.label,
            e.sampler.label,
            "yes" if e.closes else "NO",
            *(format_number(e.tv.get(line)) for line in lines if line == "total"),
            f"{e.predicted_total.low:.4f} to {e.predicted_total.high:.4f}",
            *(format_number(e.tv.get(line)) for line in lines if line != "total"),
        ]
        for e in entries
    ]
    note = (
        "All in total variation. The predicted total is the central 99% of TV(exact law, samples) that the exact laws "
        "of the sampler that was run give; a ledger closes if the sampled total lies inside. The first entry of each w "
        "is of the report's own samples; the others draw their own, so that their totals differ from it by noise."
    )
    text = "Lines: " + "; ".join(f"{line} = TV({LINES[line][0]}, {LINES[line][1]})" for line in lines) + "."
    text += (
        " L0 is the class, L1 the tilted law, L2 the exact guided law, L3 that of the judged denoiser, L2' and L3' the "
        "same after the sampler's steps, L4 the samples."
    )
    if judged == "learned":
        text += "".join(_blame(e) for e in entries[:: max(1, len(entries) // 4)])
    parts = [line for line in lines if line != "total"]
    columns = ["w", "sampler", "closes", "total", "predicted total", *parts]
    return Section("The error ledger", text, Table(columns, rows, note), _ledger_picture(entries, judged, folder))


def _blame(entry: Ledger) -> str:
    share = entry.shared.score_share
    text = (
        f"\n\nw = {entry.guidance.label}, {entry.sampler.label}: with only the conditional network learned the score "
        f"error is {format_number(share['conditional'])}, with only the unconditional one "
        f"{format_number(share['unconditional'])}. "
    )
    if not entry.shared.states:
        return text
    worst = entry.shared.states[0]
    return text + (
        f"The costliest partial state is {name_state(list(worst.state), entry.shared.target.num_tokens)}: visited with "
        f"probability {worst.visits:.3g}, KL {format_number(worst.kl_conditional)} (class) and "
        f"{format_number(worst.kl_unconditional)} (null) nats."
    )


def _ledger_picture(entries: Sequence[Ledger], judged: str, folder: Path) -> list[Picture]:
    """The lines against w, of the sampler that was run."""
    chosen = [e for e in entries if e.sampler == entries[0].sampler and not e.guidance.is_schedule]
    if len(chosen) < 2:
        return []
    lines = ["score error"] if judged == "learned" else []
    series: dict[str, Points] = {
        line: ([e.guidance.constant for e in chosen], [e.tv[line] for e in chosen])
        for line in (*lines, "discretisation error", "sampling noise", "total")
    }
    path = line_plot(series, folder / "ledger.png", "guidance strength w", "total variation")
    return [Picture(path, f"The ledger's lines against w, {chosen[0].sampler.label}.")]


def ledger_moments_section(entries: Sequence[Ledger], judged: str) -> Section:
    """The ledger's lines for mean and covariance, and KL where it is finite."""
    rows = [
        [
            e.guidance.label,
            e.sampler.label,
            line,
            format_number(e.mean[line]["euclidean"]),
            format_number(e.covariance[line]["frobenius"]),
            format_number(e.covariance[line]["spectral"]),
            format_number(e.kl[line]),
        ]
        for e in entries
        for line in e.tv
        if judged == "learned" or line not in LEARNED_LINES
    ]
    columns = ["w", "sampler", "line", "mean", "covariance (Frobenius)", "covariance (spectral)", "KL (nats)"]
    return Section("The ledger in moments", "Differences relative to the first law of a line.", Table(columns, rows))
