"""eval.py writes what the study that was asked for finds, for the settings that were asked for, in every form."""

from __future__ import annotations

import csv
import math
import shlex
import shutil
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import QUICK, TOY, flat, report_in, run, table_file
from helpers import found_by, random_target

from mdlm_cfg import Blocks, Confidence, FixedOrder, Guidance, LinearRamp, Sampler
from mdlm_cfg.app import evaluation
from mdlm_cfg.app.evaluation import with_commands
from mdlm_cfg.reports.render import sections_of
from mdlm_cfg.studies.best_schedule import BestScheduleStudy
from mdlm_cfg.studies.calibration import CalibrationStudy
from mdlm_cfg.studies.common import EVALUATE_AGAIN, LONGER, TRAIN_AGAIN
from mdlm_cfg.studies.comparison import compare
from mdlm_cfg.studies.correction import Correction
from mdlm_cfg.studies.correction_moves import CorrectionMoves
from mdlm_cfg.studies.decay import DecayStudy
from mdlm_cfg.studies.departure import Departures
from mdlm_cfg.studies.geometry import GeometryStudy
from mdlm_cfg.studies.inpainting import Inpainting
from mdlm_cfg.studies.laws import Laws
from mdlm_cfg.studies.ledger import LedgerStudy
from mdlm_cfg.studies.likelihood import LikelihoodStudy
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.policies import Policies
from mdlm_cfg.studies.profile import ProfileStudy
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.studies.samplers import Samplers
from mdlm_cfg.targets.data import KnownData
from mdlm_cfg.training.checkpoints import newest_run
from mdlm_cfg.training.runs import load_run

TARGET = random_target(3, 2, 3, seed=5, zeros=0.2)
Z = 2
NUM = 100
INF = float("inf")
STUDIES: dict[str, tuple[Any, tuple[str, ...]]] = {  # with the settings of it that are given
    "best_schedule": (BestScheduleStudy("trade_off", 0.5), ("study.objective=trade_off", "study.entropy_weight=0.5")),
    "calibration": (CalibrationStudy(), ()),
    "correction": (Correction(threshold=0.7), ("study.threshold=0.7",)),
    "correction_moves": (CorrectionMoves(moves=[1, 3]), ("study.moves=[1,3]",)),
    "decay": (DecayStudy((0.0, 2.0)), ("study.strengths=[0,2]",)),
    "departure": (Departures(), ()),
    "geometry": (GeometryStudy(), ()),
    "inpainting": (Inpainting(num_free=1), ("study.num_free=1",)),
    "laws": (Laws(), ()),
    "ledger": (LedgerStudy(), ()),
    "likelihood": (LikelihoodStudy(orders=4), ("study.orders=4",)),
    "policies": (Policies(), ()),
    "profile": (ProfileStudy(), ()),
    "samplers": (Samplers((2, 5)), ("study.budgets=[2,5]",)),
}
SAMPLERS: dict[str, Sampler] = {  # as options say them
    "sampler=euler schedule=exponential": Sampler("euler", 50, "exponential"),
    "sampler=tau_leaping schedule=cosine steps=8": Sampler("tau_leaping", 8, "cosine"),
    "sampler=d_cfg steps=[0,0.5,1,inf]": Sampler("d_cfg", (0.0, 0.5, 1.0, INF)),
    "policy=fixed_order(1,0)": Sampler(policy=FixedOrder([1, 0])),
    "sampler=event_leaping events=2 policy=blocks(0|1;confidence(temperature=0.5))": Sampler(
        "event_leaping", events=2, policy=Blocks([[0], [1]], within=Confidence(0.5))
    ),
}


@pytest.fixture
def with_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn, and a test fails where one has no room for what it shows."""
    monkeypatch.setattr(evaluation, "sections_of", sections_of)


def judged(out: Path, study: Any, plan: Plan, *asked: str) -> None:
    """Run eval.py on the table, and compare all that it writes and says with the study's findings."""
    given = ("denoiser=exact", *table_file(out.parent, TARGET), "data.num_test=50", f"num_samples={NUM}")
    assert run("eval", *given, *asked, f"out={out}") == 0
    expected = found_by(study, KnownData(TARGET, "table", num_test=50), None, plan)
    found = report_in(out)
    expected = replace(expected, verdict=[with_commands(sentence, found["run"]) for sentence in expected.verdict])
    found["data"] = {key: found["data"][key] for key in expected.facts.get("data", {})}  # more is said of them
    for name, values in expected.to_dict().items():
        assert flat(found[name]) == pytest.approx(flat(values), abs=1e-12), name
    assert set(found["files"]) == {path.name for path in out.iterdir()}
    page = (out / "report.html").read_text()
    for section in sections_of(expected, out.parent, "none"):
        rows = section.table.rows if section.table is not None else []
        assert all(f">{escape(cell)}</td>" in page for row in rows for cell in row), section.title
    with (out / "report.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(expected.rows())
    if expected.arrays:
        with np.load(out / expected.arrays_file) as arrays:
            assert set(arrays) == set(expected.arrays)
            assert all(np.abs(arrays[name] - value).max() < 1e-12 for name, value in expected.arrays.items())


@pytest.mark.usefixtures("with_pictures")
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for limit, least in (("ITERATIONS", 3), ("RANDOM_STARTS", 1), ("VALUES", 5)):  # how far a search goes
        monkeypatch.setattr(f"mdlm_cfg.compare.best_schedule.{limit}", least)
    study, settings = STUDIES[name]
    classes = None if name == "likelihood" else (Z,)  # it is of all classes
    plan = Plan((Guidance(0.0), Guidance(2.0)), Sampler(), NUM, classes=classes)
    asked = (f"study={name}", *settings, "w=[0,2]", f"target_class={'null' if classes is None else Z}")
    judged(tmp_path / "out", study, plan, *asked)
    said = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(sentence.split()) in said for sentence in report_in(tmp_path)["verdict"])


def looks_like_a_number(text: Any) -> bool:
    try:
        return isinstance(text, str) and math.isfinite(float(text.strip().rstrip("%")))
    except ValueError:
        return False


@pytest.mark.parametrize("options", SAMPLERS)
def test_settings_of_the_plan(options: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """By the default report of a table, and by its quickest part."""
    whole = options.startswith("sampler=tau_leaping")
    w = (Guidance(2.0, "normalized"), Guidance(LinearRamp(0.0, 4.0), "normalized"), Guidance([0.5, 2.0], "normalized"))
    asked = ("guidance=normalized", "w=[2,ramp(0,4),[0.5,2]]", "target_class=2", "seed=7")
    if whole:
        request.getfixturevalue("with_pictures")
    study = TableReport() if whole else LedgerStudy()
    named = () if whole else ("study=ledger",)
    judged(tmp_path / "out", study, Plan(w, SAMPLERS[options], NUM, 7, (Z,)), *options.split(), *asked, *named)
    found = report_in(tmp_path)
    for part in {"samplers", "ledger", "decay", "distances", "geometry"} & found.keys():
        assert not any(looks_like_a_number(value) for value in flat(found[part]).values())
    assert looks_like_a_number("1.2e-05") and looks_like_a_number("12%") and not looks_like_a_number("inf")


@pytest.mark.parametrize("what", ["excess", "nelbo"])
def test_the_training_curve_is_the_excess_over_the_entropy_where_it_is_known(
    what: str, runs: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(newest_run(runs).parent.parent, tmp_path / "run"))
    curve = folder / "again" / "training.csv"
    quick = ("data=toy_1d_overlap", "study=samplers", "study.budgets=[2]", "w=[1]", "logger=null")
    asked = (*quick, f"out={curve.parent}")
    values = {f"val/{name}{end}": start for name, start in (("nelbo", 4.0), (what, 0.5)) for end in ("", "_null")}
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["val/minutes", *values])
        writer.writeheader()
        writer.writerows({"val/minutes": k} | {name: v / (k + 1) for name, v in values.items()} for k in range(3))
    assert run("eval", f"ckpt_path={folder}", *asked) == 0
    with curve.open(newline="") as file:
        drawn = [float(list(row.values())[-1]) for row in csv.DictReader(file)]
    assert drawn == pytest.approx([0.5, 0.25, 0.5 / 3] * 2)
    if what == "nelbo":
        return
    assert run("eval", "denoiser=exact", *asked) == 0
    assert not curve.exists()  # it is of its own network, and of no other
    for content in (b"val/nelbo,val/minutes\n1,2\nno,number", b"\xff\xfe", b"val/nelbo,val/minutes\n1,2\n3,4"):
        (folder / "metrics.csv").write_bytes(content)  # no table of numbers, or not all of them
        assert run("eval", f"ckpt_path={folder}", *asked) == 0
        assert not curve.exists()


def test_a_network_saved_on_the_way_is_reported_as_such(tmp_path: Path) -> None:
    assert run("train", *QUICK, f"runs={tmp_path}", "keep_steps=[2]") == 0  # two epochs of three steps
    for name, share in (("step_2.ckpt", 2 / 6), ("last.ckpt", 1.0)):
        (path,) = tmp_path.rglob(name)
        out = tmp_path / name.partition(".")[0]
        assert run("eval", f"ckpt_path={path}", "w=[0]", "num_samples=20", f"out={out}") == 0
        found = report_in(out)
        assert found["run"]["share of training done"] == pytest.approx(share)
        assert (f"{share:.0%}" in found["verdict"][0]) == (share < 1)


@pytest.mark.parametrize("advice", [f"Train: {TRAIN_AGAIN} w=[1]", f"Draw: {EVALUATE_AGAIN} num_samples=100"])
@pytest.mark.parametrize(
    "command", ["train.py data=table 'data.path=my data.npz' w=[0]", "eval.py num_samples=3 seed=2"]
)
def test_an_advised_command_does_what_this_report_did(advice: str, command: str) -> None:
    said = with_commands(advice, {"command": command, "checkpoint": "runs/my run/last.ckpt"})
    program, *options = shlex.split(said.partition(": ")[2].removeprefix("python "))
    new = advice.split()[-1]
    if command.startswith(program):
        replaced = new.partition("=")[0]
        kept = [option for option in shlex.split(command)[1:] if not option.startswith(replaced)]
        assert sorted(options) == sorted([*kept, new])
    elif program == "eval.py":
        assert options == ["ckpt_path=runs/my run/last.ckpt", new]
    else:
        assert said == advice  # how the network was trained is not known


def test_nobody_is_told_to_train_another_model_by_a_command_of_this_package() -> None:
    assert "train.py" not in with_commands(f"It is not trained. {LONGER}", {"command": "eval.py denoiser._target_=a.b"})
    assert "train.py" not in with_commands(f"It is not trained. {LONGER}", {})


@pytest.mark.slow
def test_a_run_that_went_on_with_other_settings_repeats_none_that_did_not(tmp_path: Path) -> None:
    def trained(name: str, *arguments: str) -> Path:
        assert run("train", *TOY, "logger=csv", "keep_steps=[4]", f"runs={tmp_path / name}", *arguments) == 0
        return newest_run(tmp_path / name)

    short = trained("short", "trainer.max_epochs=1")
    longer = trained("longer", f"ckpt_path={short}")
    repeats = [trained(f"fresh_{seed}", f"seed={seed}") for seed in (1, 2)]
    again = trained("again", "seed=1", f"ckpt_path={repeats[0].with_name('step_4.ckpt')}")  # with the same settings
    assert load_run(again).begun_with == "" and load_run(longer).begun_with == "trainer.max_epochs=1 until step 3"
    trained("fresh_3", "seed=3", "trainer.max_epochs=1")
    nothing_left = (*TOY, "logger=csv", "seed=3", "trainer.max_epochs=1", f"ckpt_path={repeats[1]}")
    assert run("train", *nothing_left, f"runs={tmp_path / 'tested'}") == 0
    reports = [tmp_path / name for name in ("longer", "fresh_1", "fresh_2", "again", "tested", "fresh_3")]
    assert compare(reports).seeds == [[0], [1, 2, 1], [3], [3]]
