"""What a study of one's own returns is refused where it cannot be shown, or its rows cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mdlm_cfg import Guidance, Sampler, UserError
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, col
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, Needs, run
from mdlm_cfg.targets.toys import toy_1d_overlap
from mdlm_cfg.training.data import TargetData


@dataclass(frozen=True)
class Row:
    w: Guidance = col("w", index=True)
    value: float = col("value")
    half: float | None = col("half", default=None)


@dataclass(frozen=True)
class Alone:
    w: Guidance = col("w")
    value: float = col("value")


@dataclass(frozen=True)
class Plain:
    w: float
    value: float


class Own:
    """A study whose rows, views, verdict and pieces are given."""

    needs: ClassVar[Needs] = Needs()

    def __init__(self, **given: Any) -> None:
        self.given = given

    def pieces(self, case: Case) -> Any:
        if "pieces" in self.given:
            return self.given["pieces"]
        return [case.piece(self.value, guidance, label="w") for guidance in case.plan.guidances]

    def value(self, case: Case, guidance: Guidance) -> float:
        if "seen" in self.given:
            self.given["seen"].append(guidance)
        return guidance.constant + math.pi

    def findings(self, case: Case, made: Any) -> Any:
        if "findings" in self.given:
            return self.given["findings"]
        make: Callable[[Guidance, float], Any] = self.given.get("row", Row)
        asked = self.given.get("asked", lambda guidance: guidance)
        rows = [make(guidance, made.of(self.value, asked(guidance))) for guidance in case.plan.guidances]
        views = [Table(["w"], ["value"]), *self.given.get("views", ())]
        block = Block("own", rows, "Own", views=views, logged=self.given.get("logged", ["value"]))
        return Findings(case.plan, self.given.get("blocks", [block]), self.given.get("verdict", ["It is so."]))


def found(study: Own) -> Findings:
    data = TargetData(toy_1d_overlap(), "toy")
    data.setup()
    return run(study, Case.of(data, None, Plan((Guidance(0.0), Guidance(2.0)), Sampler(), num_samples=5)))


WRONG: dict[str, dict[str, Any]] = {
    "no findings": {"findings": None},
    "no list of pieces": {"pieces": None},
    "pieces of another sort": {"pieces": [lambda: 1.0]},
    "a piece that was not named": {"asked": lambda guidance: Guidance(guidance.constant + 1)},
    "fields that change": {"seen": []},
    "a verdict that is one text": {"verdict": "It is so."},
    "a verdict of numbers": {"verdict": [1.0]},
    "a block of another sort": {"blocks": [{"name": "own"}]},
    "rows that are mappings": {"row": lambda w, value: {"w": w, "value": value}},
    "rows without col": {"row": Plain},
    "rows without an index": {"row": Alone},
    "rows with one index": {"row": lambda w, value: Row(Guidance(1.0), value)},
    "a text for a number": {"row": lambda w, value: Row(w, str(value))},
    "a tensor for a number": {"row": lambda w, value: Row(w, torch.tensor(value))},
    "a number that JSON does not have": {"row": lambda w, value: Row(w, np.float32(value))},
    "nothing for a number": {"row": lambda w, value: Row(w, None)},
    "a table of what is no column": {"views": [Table(["w"], ["valeu"])]},
    "a table across what is no column": {"views": [Table(["w"], ["value"], across="denoiser")]},
    "a curve of what is no column": {"views": [Curve("w", ["value", "valeu"])]},
    "a curve by what is no column": {"views": [Curve("w", "value", by=["denoiser"])]},
    "what is logged is no column": {"logged": ["valeu"]},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(UserError):
        found(Own(**WRONG[name]))


@pytest.mark.parametrize("views", [[], [Curve("w", "value")], [lambda rows, path: None]])
def test_what_can_be_shown_is_returned_whole(views: list[Any]) -> None:
    rows = found(Own(views=views)).rows()
    assert [(row["w"], row["value"], row["half"]) for row in rows] == [(w, w + math.pi, None) for w in (0.0, 2.0)]
