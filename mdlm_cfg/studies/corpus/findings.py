"""What a study of a corpus finds: how guided samples compare with the examples, and the samples themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.studies.plain import to_plain
from mdlm_cfg.studies.plan import REPORT_VERSION, Plan

Row = dict[str, float]
HELD_OUT, ALL = "data", "all"


@dataclass(frozen=True)
class CorpusFindings:
    """Guided sequences of every class, beside as many held-out ones, against the training data.

    Attributes:
        plan: what was asked for. name: of the data. grid_shape: of the D positions; n-grams run along its last axis.
        num_tokens: N. class_names, value_names: where there are any.
        classes: which were sampled, C of them. grams: the lengths n of n-grams that were counted.
        num_draws: masks by which the network was asked for the class of a sequence.
        num_held_out: the fewest held-out sequences of a class that were judged like samples.
        judged: by w, a row for each class: `accuracy`, the share that the network itself takes for their class;
            `diversity`, the mean share of positions in which two of them differ; `nearest_train`, the mean share in
            which one differs from the nearest training sequence of its class; `tv_n`, the TV of its n-grams to those of
            the training sequences of its class.
        held_out: the same of held-out sequences. NaN where there are fewer than two.
        samples: by w, integer (C, n, D). examples: held-out sequences to read, (m, D), by class.
        aligned: by class and w, sequences (m, D) by the same random numbers, in the same random order.
    """

    plan: Plan
    name: str
    grid_shape: tuple[int, ...]
    num_tokens: int
    class_names: tuple[str, ...] | None
    value_names: tuple[str, ...] | None
    classes: list[int]
    grams: list[int]
    num_draws: int
    num_held_out: int
    judged: dict[float, list[Row]]
    held_out: list[Row]
    samples: dict[float, Tensor]
    examples: dict[int, Tensor]
    aligned: dict[int, dict[float, Tensor]]

    @property
    def kind(self) -> str:
        """The kind of guidance, one for all strengths."""
        return str(self.plan.guidances[0].kind)

    @property
    def strengths(self) -> list[float]:
        """The guidance strengths, in the order asked for."""
        return list(self.judged)

    @property
    def statistics(self) -> list[str]:
        """The names of what every row holds."""
        return list(self.held_out[0])

    def mean(self, w: float | None, name: str) -> float:
        """A statistic of the samples at one strength, or of held-out sequences (None): the mean over classes."""
        rows = self.held_out if w is None else self.judged[w]
        return float(torch.tensor([row[name] for row in rows], dtype=torch.float64).nanmean())

    def against_w(self, name: str) -> list[float]:
        """The same in the order of the strengths."""
        return [self.mean(w, name) for w in self.strengths]

    @property
    def verdict(self) -> list[str]:
        """What guidance did to the samples, and what it cost, in sentences."""
        weak, strong = min(self.strengths), max(self.strengths)
        said = [
            ("accuracy", ".1%", "Taken for their class by the network itself", "held-out sequences"),
            ("tv_2", ".3f", "Their pairs of neighbours, in TV to the training data's", "held-out ones"),
            ("diversity", ".1%", "Positions in which two of a class differ", "held-out ones"),
        ]
        sentences = []
        for name, show, what, others in said:
            if name in self.statistics:
                low, high, data = (self.mean(w, name) for w in (weak, strong, None))
                known = "too few to say" if math.isnan(data) else format(data, show)
                sentences.append(
                    f"{what}: samples at w = {weak:g} {low:{show}}, at w = {strong:g} {high:{show}}; {others} {known}."
                )
        return sentences

    def rows(self) -> list[dict[str, Any]]:
        """Flat rows: per w and class, and held-out sequences under w = "data"; class "all" is the mean over classes."""
        blocks = [(w, self.kind, self.judged[w], w) for w in self.strengths] + [(HELD_OUT, None, self.held_out, None)]
        return [
            {"w": label, "kind": kind, "class": k, **row}
            for label, kind, by_class, w in blocks
            for k, row in [*zip(self.classes, by_class), (ALL, {name: self.mean(w, name) for name in self.statistics})]
        ]

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "accuracy_w2", "tv_2_data", and so on."""
        keys = {f"w{w:g}": w for w in self.strengths} | {HELD_OUT: None}
        flat = {f"{name}_{key}": self.mean(w, name) for key, w in keys.items() for name in self.statistics}
        return {name: value for name, value in flat.items() if not math.isnan(value)}

    def to_dict(self) -> dict[str, Any]:
        """All but the sequences, as plain numbers."""
        return to_plain(
            {
                "version": REPORT_VERSION,
                "verdict": self.verdict,
                "plan": self.plan.describe(),
                "data": {"name": self.name, "classes": self.classes, "num_held_out": self.num_held_out},
                "distances": self.rows(),
                "nelbo_classification": {"num_draws": self.num_draws},
            }
        )

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Samples of every w, (C, n, *grid_shape), and the aligned ones: the smallest whole numbers that hold them."""
        small = torch.uint8 if self.num_tokens <= 256 else torch.int32
        found = {f"w{w:g}": x for w, x in self.samples.items()}
        found |= {f"aligned_class{k}_w{w:g}": x for k, by_w in self.aligned.items() for w, x in by_w.items()}
        return {name: x.to(small).reshape(*x.shape[:-1], *self.grid_shape).numpy() for name, x in found.items()}
