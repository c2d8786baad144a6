"""Sections on sequences known by examples only: samples to read, and how they compare as guidance grows."""

from __future__ import annotations

from pathlib import Path

from mdlm_cfg.reports.aligned import listing, symbols_of
from mdlm_cfg.reports.curves import line_plot
from mdlm_cfg.reports.page import Picture, Section
from mdlm_cfg.reports.tables import Table, format_number
from mdlm_cfg.studies.corpus.findings import CorpusFindings

GRAMS = {"tv_1": "values", "tv_2": "pairs", "tv_3": "triples"}
HEADS = {
    "accuracy": "taken for their class",
    "diversity": "differ from each other",
    "nearest_train": "nearest training sequence",
    **{name: f"{what}, TV" for name, what in GRAMS.items()},
}


def corpus_sections(findings: CorpusFindings, folder: Path) -> list[Section]:
    """Everything that was found; writes its pictures to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_to_read(findings), _comparison(findings, folder), _by_class(findings)]


def _to_read(findings: CorpusFindings) -> Section:
    f = findings
    symbols = symbols_of(f.num_tokens, f.value_names)
    line = f.grid_shape[-1] if len(f.grid_shape) > 1 else None
    blocks = []
    for k, by_w in f.aligned.items():
        real = [listing({"": x}, symbols, marked=False, line=line) for x in f.examples[k]]
        if real:
            blocks.append("\n".join([f"class {_name(f, k)}: held-out sequences", *real]))
        for at in range(len(by_w[f.strengths[0]])):
            rows = {f"w = {w:g}": by_w[w][at] for w in f.strengths}
            blocks.append(f"class {_name(f, k)}: sample {at + 1}\n{listing(rows, symbols, line=line)}")
    left = len(f.classes) - len(f.aligned)
    text = (
        "Samples by the same random numbers at every strength, positions in the same random order. ^ marks what "
        f"differs from w = {f.strengths[0]:g}: what guidance changed, there or earlier on the way."
        + (f" The other {left} classes are in arrays.npz." if left else "")
    )
    return Section("Sequences to read", text, listing="\n\n".join(blocks))


def _comparison(findings: CorpusFindings, folder: Path) -> Section:
    f = findings
    rows = [
        [name, *(format_number(f.mean(w, key), 3) for key in f.statistics)]
        for name, w in [*((f"{w:g}", w) for w in f.strengths), ("held-out sequences", None)]
    ]
    fewer = ""
    if f.num_held_out < f.plan.num_samples:
        fewer = (
            f" A class has no more than {f.num_held_out:,} held-out sequences, fewer than samples: their distances are "
            "then too high."
        )
    text = (
        f"{f.plan.num_samples:,} samples per class and strength, by {f.plan.sampler.label}, guidance of the kind "
        f"“{f.kind}”, seed {f.plan.seed}. Whether a sample is of its class is judged by the network itself, there "
        "being no other judge: it takes a sequence for the class of the smallest negative ELBO, by "
        f"{f.num_draws} masks that all classes share. How good a judge it is, the row of held-out sequences tells.\n\n"
        "The next two columns are shares of positions: in which two sequences of a class differ, and in which one "
        "differs from the nearest training sequence of its class (near 0 where it is a copy). The others are the total "
        "variation of the law of n neighbouring values, at any place, to that of the class's training sequences."
        f"{fewer}"
    )
    note = "Means over classes. The last row judges held-out sequences in the samples' place: the noise floor."
    heads = ["w", *(HEADS[key] for key in f.statistics)]
    return Section("Samples against data", text, Table(heads, rows, note), _curves(f, folder))


def _curves(findings: CorpusFindings, folder: Path) -> list[Picture]:
    f = findings
    if len(f.strengths) < 2:
        return []
    captions = {
        "accuracy": "The share of samples that the network itself takes for their class.",
        "diversity": "The share of positions in which two samples of a class differ.",
        "tv_2": "How far the pairs of neighbours are from the training data's.",
    }
    return [
        Picture(
            line_plot(
                {"samples": (f.strengths, f.against_w(key))}, folder / f"{key}.png", "guidance strength w", HEADS[key],
                levels={"held-out sequences": f.mean(None, key)},
            ),
            caption,
        )
        for key, caption in captions.items()
        if key in f.statistics
    ]  # fmt: skip


def _by_class(findings: CorpusFindings) -> Section:
    f = findings
    blocks = [*((f"{w:g}", rows) for w, rows in f.judged.items()), ("held-out sequences", f.held_out)]
    rows = [[name, *(format_number(row["accuracy"], 3) for row in by_class)] for name, by_class in blocks]
    note = "The share that the network itself takes for their class."
    return Section("By class", "", Table(["w", *(_name(f, k) for k in f.classes)], rows, note))


def _name(findings: CorpusFindings, target_class: int) -> str:
    names = findings.class_names
    return str(target_class) if names is None else names[target_class]
