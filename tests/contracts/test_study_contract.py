"""What every study promises: a new one must have a case here, and inherits these tests."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from helpers import Blurred, Inconsistent, data_of, every_pair
from references import studies
from study_cases import CASES, HIDDEN
from torch import Tensor

from mdlm_cfg import Correction, Guidance, LinearRamp, Negative, Sampler, UserError
from mdlm_cfg.reports.render import sections_of, table_files
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.protocol import Case, check, run
from mdlm_cfg.support.annotations import in_words
from mdlm_cfg.support.cache import AnyCache, Cache

OTHERS = {  # of a model's own answers and of fixed experiments: each has its own test file
    "OwnModel": "../app/test_own_report.py",
    "Paper": "test_paper.py",
}
names = pytest.mark.parametrize("name", CASES)
ASKED: dict[str, dict[str, Any]] = {
    "a schedule": {"guidances": (Guidance(LinearRamp(0.0, 1.0)),)},
    "two kinds": {"guidances": (Guidance(1.0), Guidance(1.0, "normalized"))},
    "another rule": {"guidances": (Guidance(1.0, rule=Negative(1)),)},
    "a temperature": {"guidances": (Guidance(1.0, temperature=0.5),)},
    "no guidance, of the last class": {"guidances": (Guidance(0.0),), "classes": (1,)},
    "one sample of several classes": {"num_samples": 1, "classes": (1, 0)},
    "one sample": {"num_samples": 1},
    "parallel steps": {"sampler": Sampler("tau_leaping", 4)},
    "moves": {"sampler": Sampler(correction=Correction(moves=2))},
    "an order": {"sampler": Sampler(policy="confidence")},
}
REFUSED: dict[str, dict[str, Any]] = {"no class": {"classes": (9,)}, "a class twice": {"classes": (0, 0)}}
EXACT_ONLY = {"Benchmark"}  # it has targets of its own
SHARED = ("samples", "compared")  # pieces that several processes draw
# rows that are about several strengths, about strengths of the study's own, or about the noise of a common draw
OF_SEVERAL = {"between", "decay", "decay_curves", "transfer"}


@pytest.fixture(scope="module", autouse=True)
def short_searches() -> Iterator[None]:
    """A search for the best strengths that ends early: what studies promise does not depend on how far it goes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, least in (("ITERATIONS", 3), ("RANDOM_STARTS", 1), ("VALUES", 5)):
            patch.setattr(f"mdlm_cfg.compare.best_schedule.{name}", least)
        yield


class Asked(Exception):
    """A denoiser was asked where none may be."""


class Mute:
    """A denoiser that refuses to answer."""

    def __init__(self, target: Any) -> None:
        self.num_tokens = target.num_tokens
        self.num_dims = target.num_dims
        self.num_classes = target.num_classes

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        raise Asked


def case_of(name: str, is_learned: bool = True) -> Case:
    """With a learned denoiser, where the study takes one."""
    _, data, plan = CASES[name]
    learned = Blurred(data.target or HIDDEN, 0.3) if is_learned and name not in EXACT_ONLY else None
    return Case.of(data, learned, plan)


@cache
def found_and_asked(name: str, is_learned: bool = True) -> tuple[Findings, list[Any]]:
    """What a study finds, and the keys of the pieces that it asks for."""
    asked: list[Any] = []

    def keep(key: Any, make: Callable[[], Any]) -> Any:
        asked.append(key)
        return make()

    return run(CASES[name][0], replace(case_of(name, is_learned), cache=keep)), asked


def found(name: str) -> Findings:
    return found_and_asked(name)[0]


def test_every_study_has_a_case() -> None:
    assert {study.__name__ for study in studies()} == {*CASES, *OTHERS}
    here = Path(__file__).parent.parent / "studies"
    assert all((here / file).is_file() for file in OTHERS.values())


def test_the_types_of_settings_are_said_in_words() -> None:
    for study in studies():
        for name, hint in get_type_hints(study).items():
            assert not set(in_words(hint)) & set("[]|.<>'"), (study, name)


@names
def test_naming_the_pieces_computes_nothing(name: str) -> None:
    study, data, plan = CASES[name]
    case = Case.of(data, None if name in EXACT_ONLY else Mute(data.target or HIDDEN), plan)
    check(study, case)
    pieces = list(study.pieces(case))
    assert pieces and len({piece.key for piece in pieces}) == len(pieces)
    assert all(piece.label and piece.cost >= 0 for piece in pieces)


@names
def test_its_blocks_are_the_declared_rows(name: str) -> None:
    declared = CASES[name][0].rows
    blocks = found(name).blocks
    assert blocks and len({block.name for block in blocks}) == len(blocks)
    assert {block.name for block in blocks if block.rows} <= set(declared)  # others show pictures or text alone
    for block in (block for block in blocks if block.rows):
        columns = {f.name for f in fields(declared[block.name])}
        assert all(type(row) is declared[block.name] for row in block.rows)
        assert set(block.logged) <= columns and set(block.per) <= columns
        assert all(f.metadata["head"] for f in fields(declared[block.name]))


@names
def test_what_it_finds_is_written_whole(name: str, tmp_path: Path) -> None:
    findings = found(name)
    plain = findings.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert not any(isinstance(value, float) and math.isnan(value) for value in findings.numbers().values())
    sections = sections_of(findings, tmp_path, "none")
    assert sections and all(section.title for section in sections)
    assert len(set(table_files(findings))) == len(table_files(findings))
    assert findings.verdict and all(sentence.strip() for sentence in findings.verdict)


@names
def test_strengths_that_agree_in_six_digits_keep_their_own_arrays_numbers_and_files(name: str) -> None:
    case = case_of(name)
    close = replace(case, plan=replace(case.plan, guidances=(Guidance(2.0), Guidance(2.0000001))))
    findings = run(CASES[name][0], close)
    assert len(findings.arrays) == len(found(name).arrays)
    assert len(findings.numbers()) == len(found(name).numbers())
    assert len(set(table_files(findings))) == len(table_files(findings)) == len(table_files(found(name)))


@names
def test_without_a_network_nothing_is_said_of_one(name: str) -> None:
    if CASES[name][0].needs.learned != "required":
        findings = found_and_asked(name, False)[0]
        assert not any("learned" in key or "score" in key for key in findings.numbers())
        assert not any(getattr(row, "denoiser", "") == "learned" for block in findings.blocks for row in block.rows)


@pytest.mark.parametrize(("name", "asked"), every_pair(CASES, ASKED, 3))
def test_what_is_asked_is_refused_before_any_work_or_answered(name: str, asked: str) -> None:
    study = CASES[name][0]
    case = case_of(name)
    case = replace(case, plan=replace(case.plan, **ASKED[asked]))
    try:
        check(study, case)
    except UserError:
        return
    findings = run(study, case)
    assert findings.verdict and "nan" not in " ".join(findings.verdict)
    json.dumps(findings.to_dict(), allow_nan=False)


@names
def test_classes_other_data_and_settings_that_do_not_exist_are_refused(name: str) -> None:
    study, data, plan = CASES[name]
    for changes in REFUSED.values():
        with pytest.raises(UserError):
            check(study, Case.of(data, None, replace(plan, **changes)))
    with pytest.raises(UserError):
        check(study, Case.of(data, Inconsistent(7, 2, 2), plan))
    unknown = data_of(HIDDEN)
    unknown.target = None
    if study.needs.target or study.needs.accepts:
        with pytest.raises(UserError):
            check(study, Case.of(unknown, Blurred(HIDDEN, 0.1), plan))
    for setting in fields(study):
        for value in (setting.metadata["least"] - 1, "many", True, 1.5) if "least" in setting.metadata else ():
            with pytest.raises(UserError, match=setting.name):
                replace(study, **{setting.name: value})


class Stop(Exception):
    """In place of an interrupt."""


def stopped_after(pieces: int, kept: Cache) -> AnyCache:
    """What is kept, until so many pieces were made anew."""
    made: list[object] = []

    def keep(key: object, make: Callable[[], Any]) -> Any:
        def counted() -> Any:
            if len(made) >= pieces:  # a piece that needs another makes two
                raise Stop
            value = make()
            made.append(key)
            return value

        return kept(key, counted)

    return keep


@names
def test_interrupted_again_and_again_it_finds_the_same_and_makes_nothing_twice(name: str, tmp_path: Path) -> None:
    study = CASES[name][0]
    kept = Cache(tmp_path, "about")
    num = sum(piece.cached for piece in study.pieces(case_of(name)))
    torch.rand(3)  # other random numbers than before
    resumed = None
    for _ in range(2 * num + 2):
        with suppress(Stop):
            resumed = resumed or run(study, replace(case_of(name), cache=stopped_after(max(1, num // 3), kept)))
    assert resumed is not None and len(kept) >= min(num, 1)
    again = run(study, replace(case_of(name), cache=stopped_after(0, kept)))
    assert resumed.to_dict() == found(name).to_dict() == again.to_dict()
    assert resumed.arrays.keys() == found(name).arrays.keys()
    assert all((found(name).arrays[key] == value).all() for key, value in resumed.arrays.items())


@names
@pytest.mark.parametrize("is_learned", [True, False])
def test_it_names_beforehand_what_several_processes_may_draw(name: str, is_learned: bool) -> None:
    """The study then finds every piece, and none was drawn in vain."""
    if not is_learned and CASES[name][0].needs.learned == "required":
        with pytest.raises(UserError):
            check(CASES[name][0], case_of(name, is_learned))
        return
    pieces = CASES[name][0].pieces(case_of(name, is_learned))
    shared = [piece.key for piece in pieces if piece.shared]
    asked = found_and_asked(name, is_learned)[1] if shared or is_learned else []
    assert shared == [key for key in asked if key in shared or key[0] in SHARED]


@names
def test_what_it_finds_of_a_strength_does_not_depend_on_the_others(name: str) -> None:
    study, _, plan = CASES[name]
    (strong,) = [one for one in plan.guidances if one.constant == 2.0]
    alone = run(study, replace(case_of(name), plan=replace(plan, guidances=(strong,))))
    for block in alone.blocks:
        if block.name not in OF_SEVERAL and block.rows and hasattr(block.rows[0], "w"):
            among = next(one.rows for one in found(name).blocks if one.name == block.name)
            of_it = [[row for row in rows if row.w == strong] for rows in (block.rows, among)]
            assert of_it[0] == of_it[1], block.name
