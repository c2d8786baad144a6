"""Sections on sequences: score error, guided samples against exact ones, orders and steps, and samples to read."""

from __future__ import annotations

from pathlib import Path

from mdlm_cfg.reports.curves import Points, line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.score_section import score_section
from mdlm_cfg.reports.style import COLOURS, GREY
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.aligned import listing, symbols_of
from mdlm_cfg.studies.sequences.findings import CLASS, EXACT, FLOOR, LEARNED, SequenceFindings, SequenceSet

SETS = {EXACT: "exact", FLOOR: "exact again", LEARNED: "learned", CLASS: "class"}
HEADS = ("p(z | x)", "ln p(x | z)", "pairs to class", "pairs to exact")
SET_COLOURS = {EXACT: COLOURS["exact"], FLOOR: GREY, LEARNED: COLOURS["learned"], CLASS: "#000000"}


def sequence_sections(findings: SequenceFindings, folder: Path) -> list[Section]:
    """Everything that was found; writes its pictures to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tested = f"test sequences of {findings.num_dims} positions"
    return [
        *([score_section(findings, tested, "sequence", 2)] if findings.has_learned else []),
        _guided(findings, folder),
        _in_full(findings),
        *([_compared(findings, folder)] if findings.compared else []),
        *_aligned(findings),
    ]


def _guided(findings: SequenceFindings, folder: Path) -> Section:
    f = findings
    rows = [[f"{one.w:g}", SETS[one.name], *_cells(one)] for one in f.sets]
    text = (
        f"{f.plan.num_samples:,} sequences of {_class(f)} in each set, by {f.plan.sampler.label}, guidance of the "
        f"kind “{f.kind}”, seed {f.plan.seed}. Each sequence is judged exactly: p(z | x) says how surely it is of its "
        "class, ln p(x | z) in nats how likely it is there. Pairs are neighbouring values at any place: shown is the "
        "total variation of their law in each set to the class's own law (known exactly), and to that of the exact "
        "guided samples.\n\n"
        "The noise of so few samples is in every distance. What the class's own draws (“class”) show to the class is "
        "noise alone, and so is what exact guided samples again (“exact again”) show to exact guided samples."
    )
    table = Table(["w", "set", *HEADS], rows, "± is one standard error.")
    return Section("Guided samples against exact ones", text, table, _curves(f, folder))


def _cells(one: SequenceSet) -> list[str]:
    s = one.statistics
    return [
        f"{s.posterior:.3f} ± {s.posterior_se:.3f}",
        f"{s.log_prob:.1f} ± {s.log_prob_se:.1f}",
        format_number(one.tv_class.get(2), 3),
        format_number(one.tv_exact.get(2), 3),
    ]


def _in_full(findings: SequenceFindings) -> Section:
    """What the sets are like beside how likely they are."""
    f = findings
    lengths = [n for n in f.grams if n != 2]  # of pairs the other table speaks
    rows = [
        [
            f"{one.w:g}", SETS[one.name],
            *(format_number(value, 3) for value in (one.statistics.diversity, one.statistics.pair_entropy)),
            *(format_number(one.tv_class[n], 3) for n in lengths),
            *(format_number(one.tv_exact.get(n), 3) for n in lengths),
            *([f"{one.statistics.impossible:.1%}"] if _any_impossible(f) else []),
        ]
        for one in f.sets
    ]  # fmt: skip
    text = (
        f"Differ: the share of the {f.num_dims} positions in which two sequences of a set differ. Entropy: of the law "
        "of pairs, in nats. The other columns are the total variation of the law of n-grams, n neighbouring values at "
        "any place, to the class's own and to that of the exact guided samples."
    )
    grams = [f"{n} to {whose}" for whose in ("class", "exact") for n in lengths]
    heads = ["w", "set", "differ", "entropy", *grams, *(["impossible"] if _any_impossible(f) else [])]
    note = "Impossible: the share of sequences that the class does not allow; they are left out of ln p(x | z)."
    return Section("Variety and n-grams", text, Table(heads, rows, note if _any_impossible(f) else ""))


def _any_impossible(findings: SequenceFindings) -> bool:
    return any(one.statistics.impossible for one in findings.sets)


def _curves(findings: SequenceFindings, folder: Path) -> list[Picture]:
    f, pictures = findings, []
    if len(f.strengths) < 2:
        return []
    shown = [name for name in (EXACT, LEARNED, CLASS) if name in f.names]
    dashed = [SETS[CLASS], SETS[FLOOR]]
    colours = {SETS[name]: colour for name, colour in SET_COLOURS.items()}
    for key, label, caption in (
        ("posterior", "class posterior p(z | x)", "How surely guided sequences are of their class."),
        ("log_prob", "ln p(x | z) (nats)", "How likely guided sequences are in their class."),
        ("tv_class_2", "pairs: TV to the class", "How far the pairs of neighbours are from the class's own."),
        ("tv_exact_2", "pairs: TV to exact guided", "How far the pairs are from those of exact guided sequences."),
    ):
        names = [n for n in (FLOOR, LEARNED, CLASS) if n in f.names] if key.startswith("tv_exact") else shown
        series: dict[str, Points] = {}
        for name in names:
            rows = [f.at(w, name).row() for w in f.strengths]
            values = [float(row[key]) for row in rows if row.get(key) is not None]
            if len(values) == len(rows):
                series[SETS[name]] = (f.strengths, values)
        if series:
            path = line_plot(
                series, folder / f"{key}.png", "guidance strength w", label, colours=colours, dashed=dashed,
                from_zero=key.startswith("tv"),
            )  # fmt: skip
            pictures.append(Picture(path, caption))
    return pictures


def _compared(findings: SequenceFindings, folder: Path) -> Section:
    f = findings
    rows = [
        [f"{one.w:g}", one.name, _order(one.sampler), str(one.sampler.calls(f.num_dims)), *_cells(one)[:-1]]
        for one in f.compared
        if one.sampler is not None
    ]
    text = (
        f"The same guidance with other orders and fewer calls of the denoiser, {f.plan.num_samples:,} sequences each: "
        f"{f.num_dims} calls are one position at a time, fewer are steps of event_leaping (or tau_leaping). At w = 0 "
        "on exact scores every order of one at a time draws the class itself. With guidance the order matters, and "
        "with several positions a call, neighbours that are drawn at once do not see each other."
    )
    table = Table(["w", "scores", "order", "calls", *HEADS[:-1]], rows, "Calls: per conditional.")
    return Section("Which order, and how many at a time", text, table, _by_calls(f, folder))


def _by_calls(findings: SequenceFindings, folder: Path) -> list[Picture]:
    """Log-likelihood and TV of pairs to the class against calls, on the strongest guidance's best known scores."""
    f, pictures = findings, []
    name = LEARNED if f.has_learned else EXACT
    for w in sorted({one.w for one in f.compared}):
        for key, label in (("log_prob", "ln p(x | z) (nats)"), ("tv_class_2", "pairs: TV to the class")):
            lines: dict[str, list[tuple[float, float]]] = {}
            for one in f.compared:
                value = one.row().get(key)
                if one.sampler is not None and (one.w, one.name) == (w, name) and value is not None:
                    calls = one.sampler.calls(f.num_dims)
                    for line in _lines_of(one):
                        lines.setdefault(line, []).append((calls, value))
            series: dict[str, Points] = {}
            for line, points in lines.items():
                x, y = zip(*sorted(points))
                series[line] = (x, y)
            if not series:
                continue
            path = line_plot(
                series, folder / f"calls_{key}_w{w:g}.png", "calls of the denoiser, per conditional", label,
                log_x=True, from_zero=False, levels={"class, unguided": f.at(w, CLASS).row()[key]},
            )  # fmt: skip
            pictures.append(Picture(path, f"At w = {w:g}, {SETS[name]} scores."))
    return pictures


def _order(sampler: Sampler) -> str:
    """Who comes next, in a word."""
    return sampler.name if sampler.name == "tau_leaping" else str(sampler.policy or "rate")


def _lines_of(one: SequenceSet) -> list[str]:
    """The lines of the picture that a set is a point of: all end in one at a time."""
    assert one.sampler is not None
    order = _order(one.sampler)
    if one.sampler.exact_in_time:
        ends = {"rate": ["event-leaping, rate", "tau-leaping"], "confidence": ["event-leaping, confidence"]}
        return ends.get(order, [f"one at a time, {order}"])
    return ["tau-leaping" if order == "tau_leaping" else f"event-leaping, {order}"]


def _aligned(findings: SequenceFindings) -> list[Section]:
    f = findings
    if len(f.strengths) < 2:
        return []
    symbols, blocks = symbols_of(f.num_tokens, f.value_names), []
    for name, by_w in f.aligned.items():
        for k in range(len(by_w[f.strengths[0]])):
            rows = {f"w = {w:g}": by_w[w][k] for w in f.strengths}
            blocks.append(f"{SETS[name]} scores, sequence {k + 1}\n{listing(rows, symbols)}")
    text = (
        f"The same random numbers at every strength, positions in the same random order. ^ marks what differs from "
        f"w = {f.strengths[0]:g}: what guidance changed, there or earlier on the way."
    )
    return [Section("Sequences to read", text, listing="\n\n".join(blocks))]


def _class(findings: SequenceFindings) -> str:
    names = findings.class_names
    return f"class {findings.target_class}" + ("" if names is None else f" ({names[findings.target_class]})")
