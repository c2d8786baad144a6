"""Means over rows follow from the columns that a class of rows declares."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import pytest

from mdlm_cfg import Guidance
from mdlm_cfg.studies.findings import col
from mdlm_cfg.studies.rows import AtStrength, OfClass, least_and_most, mean_rows, measured


@dataclass(frozen=True)
class SetRow(AtStrength):
    set: str = col("set", index=True)
    gain: float | None = col("gain")
    gain_se: float = col("error")
    number: int = col("number")


@dataclass(frozen=True)
class ClassRow(OfClass, SetRow):
    pass


def test_rows_of_one_index_have_one_mean() -> None:
    weak, strong = (Guidance(w) for w in (1.0, 2.0))
    rows = [
        ClassRow(strong, "a", 1.0, 3.0, 5, 0, "x"),
        ClassRow(weak, "a", 4.0, 1.0, 6, 0, "x"),
        ClassRow(strong, "a", 2.0, 4.0, 7, 1, "y"),
        ClassRow(strong, "b", 8.0, 0.0, 8, 0, "x"),
        ClassRow(strong, "b", None, 2.0, 9, 1, "y"),
    ]
    assert measured(SetRow) == ("gain", "gain_se", "number")
    found = mean_rows(rows, SetRow, number=lambda own: max(row.number for row in own))
    assert [(row.w, row.set) for row in found] == [(strong, "a"), (weak, "a"), (strong, "b")]
    assert [row.gain for row in found] == [1.5, 4.0, None]
    assert [row.gain_se for row in found] == pytest.approx([math.hypot(3, 4) / 2, 1.0, 1.0])
    assert [row.number for row in found] == [7, 6, 9]


@pytest.mark.parametrize(
    "gains", [(1.0, 2.0, 1.0, 2.0), (3.0, 1.0, 2.0, 1.0), (math.inf, 0.0, math.inf, 0.0), (0.5,) * 4]
)
def test_all_that_have_the_smallest_or_the_largest_number_are_named(gains: tuple[float, ...]) -> None:
    rows = [SetRow(Guidance(1.0), name, gain, 0.0, 0) for name, gain in zip("abcd", gains)]
    said = least_and_most("#", rows, "gain", "set", 1e-9)
    named = [
        (set(names.split(", ")), float(number.replace("infinite", "inf")))
        for names, number in re.findall(r"with ([a-d, ]+) \((\S+)\)", said)
    ]
    ends = [({row.set for row in rows if row.gain == end}, end) for end in (min(gains), max(gains))]
    assert named == (ends if min(gains) < max(gains) else [])
    assert said.count("#") == 1 and f"{min(gains):g}" in said
