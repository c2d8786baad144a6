"""study=corpus: guided samples of sequences known by examples only, beside held-out sequences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.images import class_nelbos
from mdlm_cfg.compare.metrics import recognised, total_variation
from mdlm_cfg.compare.sequences import gram_histogram, gram_lengths, mean_pairwise_difference, nearest_sequence
from mdlm_cfg.studies.aligned import (
    SHOWN_CLASSES,
    aligned,
    aligned_pieces,
    block_to_read,
    listing,
    symbols_of,
    to_read,
)
from mdlm_cfg.studies.common import SURE, draw_pieces, held_out_of, samples_of
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, View, col, in_tv
from mdlm_cfg.studies.protocol import LEARNED, Case, Made, Needs, Piece, Rows, Settings, whole
from mdlm_cfg.studies.rows import OfClass, at_strengths, mean_rows, measured, weak_and_strong, where
from mdlm_cfg.studies.simple_models import (
    NelboRow,
    Words,
    nelbo_block,
    nelbo_rows,
    of_held,
    of_recognised,
    training_sentence,
    without_structure,
)
from mdlm_cfg.support.numbers import in_percent, percent
from mdlm_cfg.support.seeds import generator_for

NETWORK = "Network on held-out sequences"
HELD_OUT = "data"  # in place of a strength: held-out sequences, measured like samples
SHOWN_EXAMPLES = 4  # held-out sequences of such a class
FEWEST = 2  # sequences of a class; with fewer, nothing is measured
W = 'guidance strength; "data" stands for held-out sequences in the samples\' place'
SEQUENCE = Words("sequence", "positions", "held-out sequences")
READING = """\
{plan.num_samples:,} samples per class and strength, {plan.drawn}. In the row "data", held-out \
sequences take the place of samples: it is the noise floor. The network itself is the only classifier: it assigns a \
sequence to the class of the smallest NELBO, with {draws} masks that all classes share. The row of held-out sequences \
shows how well it classifies.

Two columns are shares of positions: the positions in which two sequences of a class differ, and those in which a \
sequence differs from the nearest training sequence of its class (near 0 for a copy). The others are the total \
variation between the distribution of n neighbouring values, at any position, and that of the training sequences of \
the class."""


@dataclass(frozen=True)
class SetRow:
    """Samples of all classes at one strength, or held-out sequences, compared with the training sequences."""

    w: Guidance | str = col("w", W, index=True)
    accuracy: float | None = col(
        "assigned to their class",
        "share of sequences that the network itself assigns to their class",
        unit="share",
        digits=3,
    )
    diversity: float | None = col(
        "differ from each other", "share of positions in which two sequences of a class differ", unit="share", digits=3
    )
    nearest_train: float | None = col(
        "nearest training sequence", "share of positions in which a sequence differs from it", unit="share", digits=3
    )
    tv_1: float | None = in_tv(
        "values", "distribution of single values, compared with that of the training sequences", digits=3
    )
    tv_2: float | None = in_tv("pairs", "the same for neighbouring pairs; absent if there are too many", digits=3)
    tv_3: float | None = in_tv("triples", "the same for three neighbours; absent if there are too many", digits=3)
    num_sequences: int = col(
        "sequences", "number of sequences of each class; for held-out sequences, of the smallest class"
    )
    num_classified: int = col("classified", "total number of sequences that the network classified")


STATISTICS = measured(SetRow)[:-2]  # the other two are counts


@dataclass(frozen=True)
class ClassRow(OfClass, SetRow):
    """The same for one class."""


@dataclass(frozen=True)
class Corpus(Settings):
    """Samples of every class at every strength: n-grams, diversity, and the class that the network assigns.

    Such data are known only by examples, so the network itself judges the class: it assigns a sequence to the class
    under which its NELBO is smallest.

    Args:
        num_classified: sequences of each strength that it classifies; num_draws: masks for each.
    """

    num_classified: int = whole(200, least=1)
    num_draws: int = whole(8, least=1)
    needs: ClassVar[Needs] = Needs(
        what="data that are examples",
        example="data=text",
        accepts=lambda data: data.example_kind is not None,
        learned="required",
        numbers=True,
        one_kind=True,
        samples=FEWEST,
    )
    rows: ClassVar[Rows] = {"distances": SetRow, "nelbo": NelboRow, "by_class": ClassRow}

    def pieces(self, case: Case) -> Iterable[Piece]:
        """The pieces that measure held-out sequences, draw and measure samples, and draw a few to read."""
        cost = float(self.num_draws * case.data.num_classes * self._each(case))
        for k in case.classes:
            yield case.piece(self._held_nelbos, k, label=f"held-out sequences of {case.class_name(k)}", cost=cost)
            yield case.piece(self._measured, HELD_OUT, k, label=f"n-grams of {case.class_name(k)}", cost=1.0)
        for guidance in case.plan.guidances:
            for k in case.classes:
                yield from draw_pieces(case, LEARNED, guidance, k)
            for k in case.classes:
                label = f"measuring samples of {case.class_name(k)} at w = {guidance.label}"
                yield case.piece(self._measured, guidance, k, label=label, cost=cost)
        yield from aligned_pieces(case, LEARNED, case.classes[:SHOWN_CLASSES])

    def _each(self, case: Case) -> int:
        """The number of sequences of a class that are classified."""
        return math.ceil(self.num_classified / len(case.classes))

    def _measured(self, case: Case, w: Guidance | str, target_class: int) -> dict[str, Any]:
        """The columns of a row for the sequences of one class; None for those that need more sequences."""
        data = case.data
        x = held_out(case, target_class) if isinstance(w, str) else _samples(case, case.made, w, target_class)
        found: dict[str, Any] = dict.fromkeys(STATISTICS)
        found |= {"num_sequences": len(x), "num_classified": min(len(x), self._each(case))}
        if len(x) < FEWEST:
            return found | {"num_classified": 0}
        if isinstance(w, str):
            nelbos = case.made.of(self._held_nelbos, target_class)
        else:
            nelbos = self._nelbos(case, x, w.label, target_class)
        train, laws = _training(case, target_class)
        return found | {
            "accuracy": float(recognised(-nelbos, target_class).mean()),
            "diversity": mean_pairwise_difference(x, data.num_tokens),
            "nearest_train": float(nearest_sequence(x, train).mean()),
            **{f"tv_{n}": total_variation(law, _grams(case, x, n)) for n, law in laws.items()},
        }

    def _nelbos(self, case: Case, x: Tensor, label: str, target_class: int) -> Tensor:
        """NELBOs of the first sequences of a set under every class, float64 (n, K)."""
        generator = generator_for("classified", case.plan.seed, label, target_class)
        return class_nelbos(case.denoisers[LEARNED], x[: self._each(case)], self.num_draws, generator)

    def _held_nelbos(self, case: Case, target_class: int) -> Tensor:
        """The same for held-out sequences, of which a class may have none."""
        x = held_out(case, target_class)
        if not len(x):
            return torch.empty(0, case.data.num_classes, dtype=torch.float64)
        return self._nelbos(case, x, "held out", target_class)

    def _beside_simple_models(self, case: Case, made: Made) -> list[NelboRow]:
        """The network's NELBO on held-out sequences, and that of models without structure."""
        network, others = [], []
        for k in case.classes:
            own = made.of(self._held_nelbos, k)[:, k]
            network.append(own)
            others.append(without_structure(held_out(case, k)[: len(own)], _training(case, k)[0], case.data.num_tokens))
        if not sum(map(len, network)):
            return []
        return nelbo_rows(torch.cat(network), torch.cat(others, dim=1), SEQUENCE)

    def findings(self, case: Case, made: Made) -> Findings:
        """Whether the network is trained, means over classes, every class, and sequences to read."""
        nelbos = self._beside_simple_models(case, made)
        sets: list[Guidance | str] = [*case.plan.guidances, HELD_OUT]
        by_class = [
            ClassRow(w=w, **made.of(self._measured, w, k), target_class=k, class_name=case.class_name(k))
            for w in sets
            for k in case.classes
        ]
        held = {row.target_class: row for row in where(by_class, w=HELD_OUT)}
        compared = [k for k, row in held.items() if row.num_sequences >= FEWEST] or list(held)
        rows = mean_rows(
            [row for row in by_class if row.target_class in compared],
            SetRow,
            num_sequences=lambda own: min(row.num_sequences for row in own),
            num_classified=lambda own: sum(row.num_classified for row in own),
        )
        left_out = [row.class_name for k, row in held.items() if k not in compared]
        samples = {g: torch.stack([_samples(case, made, g, k) for k in case.classes]) for g in case.plan.guidances}
        fewest = min(row.num_sequences for row in held.values())
        facts = {"data": {"classes": list(case.classes), "num_held_out": fewest}, "num_draws": self.num_draws}
        of_nelbos = [nelbo_block(nelbos, SEQUENCE, NETWORK)] if nelbos else []
        blocks = [_to_read(case, made), self._compared(case, rows, left_out), *of_nelbos, _by_class(by_class)]
        said = [training_sentence(nelbos, SEQUENCE, case.num_dims)] if nelbos else []
        said += verdict_of(rows, case.data.num_classes, [held[k].num_classified for k in compared])
        return Findings(case.plan, blocks, said, facts, _arrays(case, made, samples))

    def _compared(self, case: Case, rows: Sequence[SetRow], left_out: Sequence[str]) -> Block:
        plan = case.plan
        held = rows[-1]
        text = READING.format(plan=plan, draws=self.num_draws)
        note = "Means over classes; the last columns are total variations."
        if left_out:
            note += f" Left out of them, with fewer than two held-out sequences: {', '.join(left_out)}."
        if FEWEST <= held.num_sequences < plan.num_samples:
            note += (
                f" The held-out sequences of a class ({held.num_sequences:,}) are fewer than its samples, which makes "
                "their total variations too large."
            )
        views: list[View] = [Table(["w"], STATISTICS, note=note)]
        views += [Curve("w", name, [], caption, reference={"w": HELD_OUT}) for name, caption in CAPTIONS.items()]
        title = "Samples beside held-out sequences"
        return Block("distances", rows, title, text, views=views, logged=STATISTICS, group=title, printed=True)


CAPTIONS = {
    "accuracy": "The share of samples that the network itself assigns to their class.",
    "diversity": "The share of positions in which two samples of a class differ.",
    "tv_2": "How far the pairs of neighbouring values are from the training data's.",
}


def _training(case: Case, target_class: int) -> tuple[Tensor, dict[int, Tensor]]:
    """The training sequences of a class, int64 (m, D), and their distributions of n-grams; found once."""
    key = ("training sequences", target_class)
    if key not in case.made:
        generator = generator_for("reference", case.plan.seed, target_class)
        x = case.data.train_examples(target_class, generator).long()
        lengths = [n for n in gram_lengths(case.denoisers[LEARNED]) if n <= case.data.grid_shape[-1]]
        case.made[key] = x, {n: _grams(case, x, n) for n in lengths}
    x, laws = case.made[key]
    return x, laws


def _grams(case: Case, x: Tensor, n: int) -> Tensor:
    """The distribution of n-grams along the last axis of the grid."""
    return gram_histogram(x.reshape(-1, case.data.grid_shape[-1]), case.data.num_tokens, n)


def held_out(case: Case, target_class: int) -> Tensor:
    """Test sequences of a class, as many as samples if there are enough: int64 (n, D)."""
    return held_out_of(case, target_class)[: case.plan.num_samples].long()


def _samples(case: Case, made: Made, guidance: Guidance, target_class: int) -> Tensor:
    """Of one class, int64 (n, D)."""
    return samples_of(made, draw_pieces(case, LEARNED, guidance, target_class)).long()


def _to_read(case: Case, made: Made) -> Block:
    """Held-out sequences of the first classes, and samples at every strength."""
    symbols = symbols_of(case.data.num_tokens, case.data.value_names)
    line = case.data.grid_shape[-1] if len(case.data.grid_shape) > 1 else None
    parts = []
    for k in case.classes[:SHOWN_CLASSES]:
        name = case.class_name(k)
        examples = [listing({"": x}, symbols, False, line) for x in held_out(case, k)[:SHOWN_EXAMPLES]]
        if examples:
            parts.append("\n".join([f"class {name}: held-out sequences", *examples]))
        parts += to_read(case, made, LEARNED, k, f"class {name}: sample", line)
    left = len(case.classes) - SHOWN_CLASSES
    return block_to_read(parts, f" Samples of the other {left} classes are in arrays.npz." if left > 0 else "")


def _by_class(rows: Sequence[ClassRow]) -> Block:
    note = "Classes with fewer than two sequences are not measured (-)."
    views = [Table(["w", "class_name"], [*STATISTICS, "num_sequences"], note=note)]
    return Block("by_class", rows, "By class", views=views, group="By class")


def _arrays(case: Case, made: Made, samples: Mapping[Guidance, Tensor]) -> dict[str, np.ndarray]:
    """Samples of every w, (C, n, *grid_shape), and the aligned ones: in the smallest integer type that holds them."""
    small = torch.uint8 if case.data.num_tokens <= 256 else torch.int32
    found = {g.identifier: x for g, x in samples.items()}
    for k in case.classes[:SHOWN_CLASSES]:
        found |= {f"aligned_class{k}_{g.identifier}": made.of(aligned, LEARNED, g, k) for g in samples}
    return {name: x.to(small).reshape(*x.shape[:-1], *case.data.grid_shape).numpy() for name, x in found.items()}


def verdict_of(rows: Sequence[SetRow], num_classes: int, classified: Sequence[int]) -> list[str]:
    """The effect of guidance on the class assigned by the network and on diversity, and whether samples are copies.

    Args:
        rows: of every strength, then of held-out sequences.
        classified: of how many held-out sequences of each class the network was asked for the class.
    """
    *samples, held = rows
    ends = weak_and_strong(samples)
    strong = ends[-1]
    said = []
    if num_classes > 1:
        nums = [row.num_classified for row in ends]
        said += [
            *_of_the_judge(held, 1 / num_classes, classified),
            of_recognised("network", ends, nums, held, SEQUENCE),
        ]
    said.append(
        f"Two samples of a class differ in {at_strengths(ends, 'diversity', in_percent, 'of positions')} "
        f"({of_held(held, 'diversity', in_percent, SEQUENCE)})."
    )
    if _copies(strong, held):
        ours, theirs = (percent(row.nearest_train or 0.0, 1) for row in (strong, held))
        said.append(
            f"At w = {strong.w.label} samples copy training sequences: they differ from the nearest one in {ours} of "
            f"positions, held-out sequences in {theirs}."
        )
    return said


def _copies(samples: SetRow, held: SetRow) -> bool:
    """Whether samples are less than half as far from the training sequences as held-out sequences are."""
    if samples.nearest_train is None or held.nearest_train is None:
        return False
    return samples.nearest_train < held.nearest_train / 2


def _of_the_judge(held: SetRow, chance: float, classified: Sequence[int]) -> list[str]:
    """A warning if it is not clear that the network can classify.

    Guessing is right on a share `chance` of each class; of the mean over classes, few sequences of one count most.
    """
    p = held.accuracy
    variance = math.fsum(chance * (1 - chance) / max(num, 1) for num in classified) / max(len(classified), 1) ** 2
    if p is None or p - chance >= SURE * math.sqrt(variance):
        return []
    return [
        f"The network does not clearly classify better than guessing: it recognises {percent(p, 1)} of held-out "
        f"sequences ({held.num_classified:,}; mean over classes), and guessing {percent(chance, 1)}."
    ]
