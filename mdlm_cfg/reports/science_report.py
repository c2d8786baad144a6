"""Sections on what the laws say: geometry, decay, samplers at equal cost, and the error ledger (theory, 5 to 8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.decay import Decay, tv_decay
from mdlm_cfg.compare.geometry import Region, limit_law, local_moments, region_mass, regions
from mdlm_cfg.compare.ledger import LINES, Ledger, ledgers
from mdlm_cfg.compare.metrics import mean_and_covariance, total_variation
from mdlm_cfg.laws.push import terminal_law
from mdlm_cfg.laws.stepped import stepped_law
from mdlm_cfg.reports.curves import line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.sampling.sampler import JUMP_PROBABILITIES
from mdlm_cfg.studies.table.evaluation import TableEvaluation
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.targets.table import TableMixture

BUDGETS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
MAX_DECAY_STATES = 20_000  # partial states up to which the decay is computed
MAX_KERNEL_ENTRIES = 200_000  # entries of one step's kernel up to which stepped laws come with every report
DECAY_STRENGTHS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
LEDGER_SAMPLERS: list[tuple[str, int | None]] = [("first_hitting", None), ("tau_leaping", 50), ("event_leaping", 2)]
MAX_REGIONS = 8  # regions of a table in more than two dimensions that are listed, largest first


def geometry_section(target: TableMixture, evaluation: TableEvaluation, folder: Path) -> Section:
    """Masses of the regions of the class's support against w, the private part's moments, and the limit w = inf."""
    z = evaluation.target_class
    parts = sorted(regions(target, z), key=lambda r: (len(r.overlapping) + r.shared, -r.num_states))[:MAX_REGIONS]
    laws = [(f"{r.w:g}", r.laws["exact"]) for r in evaluation.results]
    laws.append(("inf", limit_law(target, z, evaluation.kind)))
    learned = [(f"{r.w:g}", r.laws["learned"]) for r in evaluation.results if "learned" in r.laws]
    rows = []
    for part in parts:
        cells = [format_number(region_mass(law, part)[0]) for _, law in laws]
        means = [f"{1000 * region_mass(law, part)[1]:.3f}" for _, law in laws]
        rows.append([part.name, str(part.num_states), *(f"{a} ({b})" for a, b in zip(cells, means))])
    note = "Mass of each region under the exact law, and in brackets 1000 times the mean probability per state."
    if evaluation.num_dims == 2:
        note += (
            " R1: both projections private; R2,i: the i-th overlaps another class's; R3: both overlap, the point does "
            "not; R4: the point itself is shared."
        )
    text = f"Eigenvalues of the covariance: {_eigenvalues(laws)}."
    if parts[0].overlapping == () and not parts[0].shared:
        text += "\n\n" + _private_text(parts[0], laws)
    series = {
        p.name: ([r.w for r in evaluation.results], [region_mass(law, p)[1] for _, law in laws[:-1]]) for p in parts
    }
    for part in parts if learned else []:
        series[f"{part.name}, learned"] = (
            [r.w for r in evaluation.results],
            [region_mass(law, part)[1] for _, law in learned],
        )
    pictures = []
    if len(laws) > 2:
        path = line_plot(
            series,
            folder / "regions.png",
            "guidance strength w",
            "mean probability per state",
            dashed=[name for name in series if name.endswith("learned")],
        )
        pictures = [Picture(path, "Mean probability per state of each region against w.")]
    table = Table(["region", "states", *(f"w={w}" for w, _ in laws)], rows, note)
    return Section("Geometry: who gains and who loses", text, table, pictures)


def _eigenvalues(laws: Sequence[tuple[str, torch.Tensor]]) -> str:
    parts = []
    for w, law in laws:
        values = torch.linalg.eigvalsh(mean_and_covariance(law)[1]).tolist()
        parts.append(f"w = {w}: " + ", ".join(f"{v:.3f}" for v in values))
    return "; ".join(parts)


def _private_text(private: Region, laws: Sequence[tuple[str, torch.Tensor]]) -> str:
    parts = []
    for w, law in laws:
        mean, covariance = local_moments(law, private)
        middle = ", ".join(f"{v:.3f}" for v in mean.tolist())
        parts.append(f"w = {w}: mean ({middle}), covariance of trace {float(covariance.trace()):.3f}")
    return "Inside the private region, conditioned on it: " + "; ".join(parts) + "."


def decay_section(decay: Decay, folder: Path) -> Section:
    """TV against the clock and against w, and whether the decay is double-exponential in w or saturates."""
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
        f"{decay.statement}\n\nThe slope of ln(-ln TV) against w at tau = {decay.fit_tau:g} is "
        f"{decay.fit_slope[0]:.3f} over the smaller half of the strengths and {decay.fit_slope[1]:.3f} over the larger."
    )
    series = {
        f"w = {w:g}": (decay.taus.tolist(), [-v for v in log_tv.tolist()])
        for w, log_tv in zip(decay.strengths, decay.log_tv)
    }
    path = line_plot(series, folder / "decay.png", "clock time tau", "-ln P(still masked)", log_x=True, log_y=True)
    table = Table(["w", "tau at TV 0.05", "sooner by", "-ln TV"], rows, note)
    return Section("Convergence in time", text, table, [Picture(path, "-ln TV against the clock, one line per w.")])


def samplers_section(target: TableMixture, target_class: int, strengths: Sequence[float], folder: Path) -> Section:
    """Exact TV of every K-step sampler to the continuous-time law, at equal numbers of denoiser calls."""
    denoiser, inside = target.denoiser(), (slice(0, target.num_tokens),) * target.num_dims
    names = [*JUMP_PROBABILITIES, "event_leaping"]
    rows, pictures = [], []
    for w in strengths:
        series: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
        exact = terminal_law(denoiser, Guidance(w), target_class)
        for budget in BUDGETS:
            errors = [
                total_variation(stepped_law(denoiser, Guidance(w), target_class, name, budget)[inside], exact)
                for name in names
            ]
            for name, error in zip(names, errors):
                if error > 1e-13:
                    series[name][0].append(budget)
                    series[name][1].append(error)
            rows.append([f"{w:g}", str(budget), *(format_number(e) for e in errors)])
        shown = {name: points for name, points in series.items() if points[0]}
        if shown:
            path = line_plot(
                shown, folder / f"samplers_w{w:g}.png", "denoiser calls K", "exact TV", f"w = {w:g}", True, True
            )
            pictures.append(Picture(path, f"Exact TV to the continuous-time law against K at w = {w:g}."))
    text = (
        "No samples: these are distances between exact laws. Event-leaping fixes the number of coordinates a step "
        f"unmasks and is exact from K = {target.num_dims} on (one coordinate a step)."
    )
    return Section("Samplers at equal cost", text, Table(["w", "K", *names], rows, "Exact TV, exact scores."), pictures)


def ledger_section(entries: Sequence[Ledger], folder: Path) -> Section:
    """The error ledger of a trained network (theory, section 8)."""
    rows = []
    for e in entries:
        steps = "" if e.steps is None else f", K = {e.steps}"
        rows.append(
            [
                f"{e.w:g}",
                e.sampler + steps,
                *(format_number(e.tv[line]) for line in LINES),
                format_number(e.expected_noise),
                f"{e.predicted_total.low:.4f} to {e.predicted_total.high:.4f}",
                "yes" if e.closes else "NO",
            ]
        )
    columns = ["w", "sampler", *LINES, "expected noise", "predicted total", "closes"]
    note = (
        "All in total variation. The predicted total is the central 99% of TV(exact law, samples) that the exact laws "
        "of the network's own sampler give; a ledger closes if the sampled total lies inside."
    )
    text = "Lines: " + "; ".join(f"{line} = TV({a}, {b})" for line, (a, b) in LINES.items()) + "."
    for e in entries[:: max(1, len(entries) // 4)]:
        text += (
            f"\n\nw = {e.w:g}, {e.sampler}: with only the conditional network learned the score error is "
            f"{format_number(e.score_share['conditional'])}, with only the unconditional one "
            f"{format_number(e.score_share['unconditional'])}. " + _worst_text(e)
        )
    pictures = []
    labels = sorted({(e.sampler, e.steps) for e in entries}, key=str)
    if len({e.w for e in entries}) > 1:
        chosen = [e for e in entries if (e.sampler, e.steps) == labels[0]]
        series = {
            line: ([e.w for e in chosen], [e.tv[line] for e in chosen])
            for line in ("score error", "discretisation error", "sampling noise", "total")
        }
        path = line_plot(series, folder / "ledger.png", "guidance strength w", "total variation")
        pictures = [Picture(path, f"The ledger's lines against w, {labels[0][0]}.")]
    return Section("The error ledger", text, Table(columns, rows, note), pictures)


def _worst_text(entry: Ledger) -> str:
    if not entry.states:
        return ""
    worst = entry.states[0]
    mask = max(max(s.state) for s in entry.states)
    state = ", ".join("mask" if v == mask else str(v) for v in worst.state)
    return (
        f"The costliest partial state is ({state}): visited with probability {worst.visits:.3g}, KL "
        f"{format_number(worst.kl_conditional)} (class) and {format_number(worst.kl_unconditional)} (null) nats."
    )


def ledger_moment_table(entries: Sequence[Ledger]) -> Section:
    """The ledger's lines for mean and covariance, and KL where it is finite."""
    rows = [
        [
            f"{e.w:g}",
            e.sampler if e.steps is None else f"{e.sampler}, K = {e.steps}",
            line,
            format_number(e.mean[line]["euclidean"]),
            format_number(e.covariance[line]["frobenius"]),
            format_number(e.covariance[line]["spectral"]),
            format_number(e.kl[line]) if math.isfinite(e.kl[line]) else "inf",
        ]
        for e in entries
        for line in LINES
    ]
    columns = ["w", "sampler", "line", "mean", "covariance (Frobenius)", "covariance (spectral)", "KL (nats)"]
    return Section("The ledger in moments", "Differences relative to the first law of a line.", Table(columns, rows))


def science_sections(
    target: TableMixture,
    evaluation: TableEvaluation,
    denoiser: Denoiser | None,
    folder: Path,
    progress: Callable[[str], None] | None = None,
) -> tuple[list[Section], dict[str, Any]]:
    """Everything beyond the table of laws that this target is small enough for.

    Args:
        target, evaluation: as evaluated; its class, kind, strengths, sampler and number of samples are kept.
        denoiser: the learned one, for the ledger; None for exact laws only.
        progress: told what is being computed.

    Returns:
        the sections, and the same numbers for report.json.
    """
    strengths = [r.w for r in evaluation.results]
    z, n, d = evaluation.target_class, target.num_tokens, target.num_dims
    folder.mkdir(parents=True, exist_ok=True)
    decays = (n + 1) ** d <= MAX_DECAY_STATES
    small = (2 * n + 1) ** d <= MAX_KERNEL_ENTRIES
    guided = [w for w in strengths if w > 0]
    samplers = small and bool(guided) and d > 1
    say = Pieces([1, *([1] * decays), *([1] * samplers), *([1] * (denoiser is not None))], progress)
    say("geometry")
    sections = [geometry_section(target, evaluation, folder)]
    numbers: dict[str, Any] = {}
    if decays:
        say("decay in time")
        decay = tv_decay(target, z, DECAY_STRENGTHS, torch.logspace(-2, 1, 31, dtype=torch.float64), evaluation.kind)
        sections.append(decay_section(decay, folder))
        numbers["decay"] = decay_numbers(decay)
    if samplers:
        say("samplers at equal cost")
        sections.append(samplers_section(target, z, guided, folder))
    if denoiser is not None:
        say("error ledger")
        steps = evaluation.steps if isinstance(evaluation.steps, int) else None
        runs = dict.fromkeys([(evaluation.sampler, steps), *(LEDGER_SAMPLERS if small else [])])
        entries = ledgers(
            target, denoiser, strengths, z, evaluation.kind, list(runs), evaluation.num_samples,
            torch.Generator().manual_seed(evaluation.seed),
        )  # fmt: skip
        sections += [ledger_section(entries, folder), ledger_moment_table(entries)]
        numbers["ledger"] = [ledger_numbers(e) for e in entries]
    numbers["tables"] = {
        s.title: {"columns": list(s.table.columns), "rows": [list(row) for row in s.table.rows]}
        for s in sections
        if s.table is not None
    }
    return sections, numbers


def decay_numbers(decay: Decay) -> dict[str, Any]:
    """A decay as plain JSON."""
    return {
        "statement": decay.statement,
        "double_exponential": not decay.certain,
        "w": decay.strengths,
        "tau": decay.taus.tolist(),
        "log_tv": decay.log_tv.tolist(),
        "fit_tau": decay.fit_tau,
        "fit_slope": list(decay.fit_slope),
        "tau_at_tv_0.05": decay.time_to_5_percent,
        "certain_states": [asdict(c) for c in decay.certain[:20]],
    }


def ledger_numbers(entry: Ledger) -> dict[str, Any]:
    """A ledger as plain JSON."""
    return {
        "w": entry.w,
        "guidance": entry.kind,
        "sampler": entry.sampler,
        "steps": entry.steps,
        "num_samples": entry.num_samples,
        "tv": entry.tv,
        "kl": {line: value if math.isfinite(value) else "inf" for line, value in entry.kl.items()},
        "mean": entry.mean,
        "covariance": entry.covariance,
        "sampling_noise": asdict(entry.noise),
        "expected_sampling_noise": entry.expected_noise,
        "predicted_total": asdict(entry.predicted_total),
        "closes": entry.closes,
        "score_error_if_only": entry.score_share,
        "worst_states": [asdict(s) for s in entry.states],
        "visited_kl_by_level": [list(pair) for pair in entry.visit_error],
    }
