"""What every study promises: a new one must have a case here, and inherits these tests."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from helpers import Blurred, bernoulli_mixture, random_target
from test_target_contract import hidden_markov
from torch import Tensor

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.app.report_reference import studies
from mdlm_cfg.reports.render import sections_of, table_files
from mdlm_cfg.studies.best_schedule import BestScheduleStudy
from mdlm_cfg.studies.calibration import CalibrationStudy
from mdlm_cfg.studies.correction import TableCorrection
from mdlm_cfg.studies.correction_moves import TableMoves
from mdlm_cfg.studies.decay import DecayStudy
from mdlm_cfg.studies.departure import Departures
from mdlm_cfg.studies.findings import Findings
from mdlm_cfg.studies.geometry import GeometryStudy
from mdlm_cfg.studies.inpainting import Inpainting
from mdlm_cfg.studies.laws import Laws
from mdlm_cfg.studies.ledger import LedgerStudy
from mdlm_cfg.studies.likelihood import LikelihoodStudy
from mdlm_cfg.studies.mixture import Mixtures
from mdlm_cfg.studies.mixture_correction import MixtureCorrection
from mdlm_cfg.studies.mixture_moves import MixtureMoves
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.policies import Policies
from mdlm_cfg.studies.profile import ProfileStudy
from mdlm_cfg.studies.protocol import Case, check, run
from mdlm_cfg.studies.samplers import Samplers
from mdlm_cfg.studies.sequences import Sequences
from mdlm_cfg.support.instantiate import in_words
from mdlm_cfg.targets.data import KnownData

OTHERS = {  # of images, of documents, of fixed experiments and of many targets: each has its own test file
    "ImageMoves": "test_image_moves.py",
    "Images": "test_image_evaluation.py",
    "Corpus": "test_corpus.py",
    "OwnModel": "../app/test_own_report.py",
    "Paper": "test_paper.py",
    "Benchmark": "test_benchmark.py",
}
PLAN = Plan((Guidance(0.0), Guidance(2.0)), Sampler(), 40, classes=(0,))
ALL_CLASSES = Plan((Guidance(0.0), Guidance(2.0)), Sampler(), 40)
TABLE = KnownData(random_target(3, 2, 2, seed=3), "small", (2,))
PIXELS = KnownData(bernoulli_mixture(9), "small", (3, 3))
CASES: dict[str, tuple[Any, Any, Plan]] = {
    "BestScheduleStudy": (BestScheduleStudy(), TABLE, PLAN),
    "CalibrationStudy": (CalibrationStudy(), TABLE, PLAN),
    "DecayStudy": (DecayStudy(), TABLE, PLAN),
    "Departures": (Departures(), TABLE, PLAN),
    "GeometryStudy": (GeometryStudy(), TABLE, PLAN),
    "Inpainting": (Inpainting(num_free=3), PIXELS, PLAN),
    "Laws": (Laws(), TABLE, PLAN),
    "LedgerStudy": (LedgerStudy(), TABLE, PLAN),
    "LikelihoodStudy": (LikelihoodStudy(num_images=4, orders=2), PIXELS, ALL_CLASSES),
    "MixtureCorrection": (MixtureCorrection(num_reference=100), PIXELS, PLAN),
    "MixtureMoves": (MixtureMoves(moves=[3], starts=[Sampler()], num_reference=100), PIXELS, PLAN),
    "Mixtures": (Mixtures(), PIXELS, PLAN),
    "Policies": (Policies(), TABLE, PLAN),
    "ProfileStudy": (ProfileStudy(), TABLE, PLAN),
    "Samplers": (Samplers((2, 16)), TABLE, PLAN),
    "Sequences": (Sequences(num_test=20, num_draws=1), KnownData(hidden_markov(), "small", (3,)), PLAN),
    "TableCorrection": (TableCorrection(), TABLE, PLAN),
    "TableMoves": (TableMoves(), TABLE, PLAN),
}
names = pytest.mark.parametrize("name", CASES)


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


@cache
def found(name: str, again: bool = False) -> Findings:
    """What a study finds with a learned denoiser; `again`: once more, with other random numbers drawn before."""
    study, data, plan = CASES[name]
    if again:
        torch.rand(3)
    return run(study, Case.of(data, Blurred(data.target, 0.3), plan))


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
    case = Case.of(data, Mute(data.target), plan)
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
    assert json.loads(json.dumps(plain)) == plain
    assert not any(isinstance(value, float) and math.isnan(value) for value in findings.numbers().values())
    sections = sections_of(findings, tmp_path, "none")
    assert sections and all(section.title for section in sections)
    assert len(set(table_files(findings))) == len(table_files(findings))
    assert findings.verdict and all(sentence.strip() for sentence in findings.verdict)


@names
def test_the_same_seed_finds_the_same(name: str) -> None:
    assert found(name).to_dict() == found(name, again=True).to_dict()
