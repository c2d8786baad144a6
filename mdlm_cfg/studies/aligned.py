"""Example sequences at every strength, drawn with the same random numbers and aligned by position."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from mdlm_cfg.chain.denoiser import device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import policy_of
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.findings import Block, Listing
from mdlm_cfg.studies.protocol import Case, Made, Piece
from mdlm_cfg.support.seeds import generator_for

SHOWN = 4  # sequences of a class
SHOWN_CLASSES = 4
ALIGNED = Sampler(policy=policy_of("uniform"))  # its order does not depend on w, only on the random numbers
SYMBOLS = string.digits + string.ascii_lowercase + string.ascii_uppercase  # of values without names
LINE = 128  # characters in a line of a listing
FILLER = {"<blank>": "·"}  # short forms of long value names
UNPRINTABLE = "?"
TO_READ = """\
Samples by the same random numbers at every strength, positions in the same random order. ^ marks what differs from \
the first strength: a change by guidance, there or earlier in the order."""


def aligned_pieces(case: Case, who: str, classes: Iterable[int]) -> Iterator[Piece]:
    """The pieces of `aligned`, for each class and strength."""
    for k in classes:
        for guidance in case.plan.guidances:
            label = f"class {case.class_name(k)} by the same random numbers, w = {guidance.label}, {who}"
            cost = ALIGNED.num_rows(SHOWN, case.denoisers[who].num_dims, guidance)
            yield case.piece(aligned, who, guidance, k, label=label, cost=cost)


def aligned(case: Case, who: str, guidance: Guidance, target_class: int) -> Tensor:
    """A few sequences of a class, (m, D) on the CPU; their random numbers are the same at every strength."""
    denoiser = case.denoisers[who]
    generator = generator_for("aligned", case.plan.seed, target_class, device=device_of(denoiser))
    return ALIGNED.draw(denoiser, guidance, target_class, SHOWN, generator).cpu()


def to_read(case: Case, made: Made, who: str, k: int, head: str, line: int | None = None) -> Iterator[str]:
    """Every sequence of a class at all strengths, aligned one below another, after `head` and its number from 1.

    Args:
        line: as in `listing`.
    """
    symbols = symbols_of(case.data.num_tokens, case.data.value_names)
    by_w = {f"w = {g.label}": made.of(aligned, who, g, k) for g in case.plan.guidances}
    for at, rows in enumerate(zip(*by_w.values()), 1):
        yield f"{head} {at}\n{listing(dict(zip(by_w, rows)), symbols, line=line)}"


def block_to_read(parts: Iterable[str], more: str = "", group: str = "") -> Block:
    """The block of sequences to read; `more` is added to its text."""
    return Block("to_read", [], "Example sequences", TO_READ + more, views=[Listing("\n\n".join(parts))], group=group)


def symbols_of(num_tokens: int, value_names: Sequence[str] | None) -> list[str]:
    """The text for each of the N values: its name, else a letter, else its number."""
    if value_names is None:
        return list(SYMBOLS[:num_tokens]) if num_tokens <= len(SYMBOLS) else [str(v) for v in range(num_tokens)]
    return ["".join(c if c.isprintable() else UNPRINTABLE for c in FILLER.get(name, name)) for name in value_names]


def listing(rows: Mapping[str, Tensor], symbols: Sequence[str], marked: bool = True, line: int | None = None) -> str:
    """All rows aligned one below another, wrapped if too long; ^ marks differences from the first row.

    Symbols of more than one letter are separated by spaces.

    Args:
        rows: int64 (D,), by the name shown before each.
        symbols: of the values. marked: whether there are marks.
        line: positions per line; None: as many as fit.
    """
    width = max(len(name) for name in rows)
    first = next(iter(rows.values()))
    written = {name: [symbols[v] for v in x.tolist()] for name, x in rows.items()}
    widths = [max(len(word) for word in column) for column in zip(*written.values())]
    gap = "" if max(map(len, symbols)) == 1 else " "
    lines = []
    for part in _parts(widths, len(gap), line):
        for name, x in rows.items():
            lines.append(f"{name:<{width}}  {_joined(written[name][part], widths[part], gap)}")
            differs = (x != first)[part].tolist()
            marks = _joined(["^" * n if d else "" for d, n in zip(differs, widths[part])], widths[part], gap)
            lines += [f"{'':<{width}}  {marks}"] if marked and marks.strip() else []
    return "\n".join(one.rstrip() for one in lines)


def _joined(words: Sequence[str], widths: Sequence[int], gap: str) -> str:
    return gap.join(f"{word:<{width}}" for word, width in zip(words, widths))


def _parts(widths: Sequence[int], gap: int, line: int | None) -> list[slice]:
    """The positions in each line."""
    if line is not None:
        return [slice(start, start + line) for start in range(0, len(widths), line)]
    parts = []
    start = 0
    letters = 0
    for at, width in enumerate(widths):
        if at > start and letters + width > LINE:
            parts.append(slice(start, at))
            start = at
            letters = 0
        letters += width + gap
    return [*parts, slice(start, len(widths))]
