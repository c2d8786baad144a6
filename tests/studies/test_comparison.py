"""Reports side by side: what differs, means over seeds, and nothing mixed that differs in more."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from commands import run
from hypothesis import given, settings, strategies as st

from mdlm_cfg.app.comparing import main
from mdlm_cfg.reports.comparison_report import comparison_sections
from mdlm_cfg.studies.comparison import Comparison, compare
from mdlm_cfg.studies.findings import REPORT_VERSION
from mdlm_cfg.support.atomic import PART
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.schema import SCHEMAS, role_of

Rows = Sequence[dict[str, Any]]
INDEX = ("w", "kind", "class", "set", "denoiser", "policy", "num_samples", "calls")


def written(folder: Path, errors: dict[Any, float], seed: int = 0, more: Rows = (), **config: Any) -> None:
    """A run's folder with a report of these errors by w. `more` are further rows."""
    (folder / "report").mkdir(parents=True)
    rows = [
        {"w": w, "kind": "rate", "tv_exact_learned": error, "tv_tilted_exact": None, "kl": "inf"}
        for w, error in errors.items()
    ] + [{"w": 0, "kind": "rate"} | row for row in more]
    report = {
        "version": REPORT_VERSION,
        "distances": rows,
        "columns": {"distances": {name: {"index": name in INDEX} for row in rows for name in row}},
        "data": {"name": "toy"},
        "run": {},
        "settings": {"runs": str(folder), **config},
        "test": {"test/nelbo": 10.0 + seed},
        "plan": {"guidances": [], "sampler": "first_hitting", "steps": None, "seed": seed},
    }
    (folder / "report" / "report.json").write_text(json.dumps(report))


def at(found: Comparison, setting: int, name: str, **about: Any) -> tuple[float, float | None, int]:
    """Mean, standard error and number of seeds of one number in the only row that is about this."""
    (row,) = (
        row
        for row in found.means.to_dict("records")
        if row["setting"] == setting and all(row[key] == value for key, value in about.items())
    )
    error = row[f"{name}_se"]
    return row[name], None if math.isnan(error) else error, row[f"{name}_seeds"]


def test_seeds_are_averaged_and_settings_are_not(tmp_path: Path) -> None:
    for seed, error in enumerate((1.0, 2.0, 6.0)):
        written(tmp_path / f"a{seed}", {0: error, 2: 10 * error}, seed, net={"width": 8})
    written(tmp_path / "b", {0: 5.0, "ramp(0,4)": 7.0}, net={"width": 16})
    found = compare([tmp_path])
    assert found.labels == ["net.width=8", "net.width=16"]
    assert found.seeds == [[0, 1, 2], [0]]
    mean, error, num = at(found, 0, "tv_exact_learned", w=2)
    assert mean == 30.0 and num == 3 and math.isclose(error, math.sqrt((400 + 100 + 900) / 2 / 3))
    assert at(found, 1, "tv_exact_learned", w="ramp(0,4)") == (7.0, None, 1)
    assert at(found, 1, "tv_exact_learned", w=0)[1] is None  # of a single one
    assert found.test["test/nelbo"].tolist() == [11.0, 10.0]
    assert found.measured == ["tv_exact_learned", "kl"]  # what no report has a number for is not there


def test_jobs_of_one_seed_are_no_repeats(tmp_path: Path) -> None:
    """A sweep over w and seeds measures w = 0 in every job: that makes its error bar no smaller."""
    for seed, error in enumerate((1.0, 3.0)):
        for w in (1, 2, 4):
            written(tmp_path / f"{seed}{w}", {0: error, w: error + w}, seed)
    found = compare([tmp_path])
    for w in (0, 1, 2, 4):
        assert at(found, 0, "tv_exact_learned", w=w) == (2.0 + w, 1.0, 2)
    assert found.test["test/nelbo_se"].tolist() == [0.5]


APART: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # changes of two reports that measure different things
    "data of one name": ({"data": {"name": "toy", "fingerprint": "a"}}, {"data": {"name": "toy", "fingerprint": "b"}}),
    "checkpoints of a run": ({"run": {"checkpoint": "r/last.ckpt"}}, {"run": {"checkpoint": "r/step_5.ckpt"}}),
    "the best and the last": ({"run": {"checkpoint": "r/best.ckpt"}}, {"run": {"checkpoint": "r/last.ckpt"}}),
    "a part of the training": (
        {"run": {"checkpoint": "r/last.ckpt", "share of training done": 0.5, "steps of training": 50}},
        {"run": {"checkpoint": "r/last.ckpt", "share of training done": 1.0, "steps of training": 100}},
    ),
    "studies": ({"settings": {"study": {"_target_": "a"}}}, {"settings": {"study": {"_target_": "b"}}}),
    "settings of a study": ({"settings": {"study": {"n": 1}}}, {"settings": {"study": {"n": 2}}}),
    "networks": ({"settings": {"net": {"width": 8}}}, {"settings": {"net": {"width": 16}}}),
    "denoisers": ({"run": {"denoiser": "mine"}}, {"run": {"denoiser": "other"}}),
    "samplers": ({"plan": {"sampler": "euler"}}, {"plan": {"sampler": "first_hitting"}}),
    "classes": ({"plan": {"classes": [0]}}, {"plan": {"classes": [1]}}),
    "versions of the benchmark": ({"benchmark_version": 1}, {"benchmark_version": 2}),
    "code of the user's own": ({"code": {"mine": "1" * 64}}, {"code": {"mine": "2" * 64, "other": "3" * 64}}),
}


def changed(path: Path, changes: dict[str, Any]) -> None:
    report = json.loads(path.read_text())
    for key, value in changes.items():
        report[key] = report.get(key, {}) | value if isinstance(value, dict) else value
    path.write_text(json.dumps(report))


@pytest.mark.parametrize("what", APART)
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_different_things_are_never_averaged(what: str, seeds: tuple[int, int], tmp_path: Path) -> None:
    for k, changes in enumerate(APART[what]):
        written(tmp_path / str(k), {0: 1.0 + k}, seeds[k])
        changed(tmp_path / str(k) / "report" / "report.json", changes)
    found = compare([tmp_path])
    assert len(set(found.labels)) == 2
    assert [at(found, k, "tv_exact_learned")[0] for k in (0, 1)] == [1.0, 2.0]


def test_reports_that_contradict_each_other_are_told_apart_whatever_they_differ_in(tmp_path: Path) -> None:
    """Two functions of one name, say: with the same seeds and settings there is one right number."""
    for folder, error in (("a", 1.0), ("b", 1.5), ("a_again", 1.0)):
        written(tmp_path / folder, {0: error})
    found = compare([tmp_path])
    assert sorted(found.means["tv_exact_learned"]) == [1.0, 1.0, 1.5] and len(set(found.labels)) == 3
    assert compare([tmp_path / "a", tmp_path / "a_again"]).labels == ["all"]  # a copy is no other result


def test_repeats_are_trainings_or_evaluations_of_one(tmp_path: Path) -> None:
    for training in (0, 1):
        for evaluation in (0, 1, 2):
            path = tmp_path / f"{training}{evaluation}"
            written(path, {0: 10.0 * training + evaluation}, evaluation)
            changed(path / "report" / "report.json", {"run": {"seed of training": training}})
    assert at(compare([tmp_path]), 0, "tv_exact_learned") == (6.0, 5.0, 2)  # of two networks, not of six
    mean, error, num = at(compare(sorted(tmp_path.glob("0*"))), 0, "tv_exact_learned")
    assert mean == 1.0 and num == 3 and error is not None and math.isclose(error, 1 / math.sqrt(3))


def test_every_report_counts_once_and_no_half_one(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    for seed in (0, 1):
        written(tmp_path / f"seed{seed}", {0: 1.0 + seed}, seed)
    inside.mkdir()
    (inside / "zero").symlink_to(tmp_path / "seed0")
    (inside / "loop").symlink_to(inside)
    (inside / "nowhere").symlink_to(tmp_path / "missing")
    written(inside / f".report.1{PART}", {0: 50.0}, seed=7)
    shutil.copytree(tmp_path / "seed1", inside / "one")
    found = compare([inside, tmp_path / "seed0", tmp_path / "seed0" / ".." / "seed0" / "report" / "report.json"])
    assert found.seeds == [[0, 1]] or found.seeds == [[1, 0]]
    assert at(found, 0, "tv_exact_learned") == (1.5, 0.5, 2)


def test_what_a_report_has_no_word_for_is_named_only_where_it_tells_two_apart(tmp_path: Path) -> None:
    for width in (8, 16):
        written(tmp_path / f"{width}", {0: 1.0}, net={"width": width, "depth": 2})
    written(tmp_path / "c", {0: 1.0})
    assert compare([tmp_path]).labels == ["net.width=16", "net.width=8", "net.width=None"]
    written(tmp_path / "d", {0: 1.0}, objective="pooled")  # told from c by a setting that no other has
    labels = compare([tmp_path]).labels
    assert len(set(labels)) == 4 and all("net.depth" in label and "objective" in label for label in labels)


def test_code_that_came_with_another_job_tells_no_reports_apart(tmp_path: Path) -> None:
    for seed, code in enumerate(({"mine": "1" * 64}, {"mine": "1" * 64, "other": "2" * 64}, {})):
        written(tmp_path / str(seed), {0: 1.0}, seed)
        changed(tmp_path / str(seed) / "report" / "report.json", {"code": code})
    assert compare([tmp_path]).seeds == [[0, 1, 2]]


def test_a_single_seed_has_no_error_and_no_band(tmp_path: Path) -> None:
    for seed, errors in enumerate(({0: 0.1, 2: 0.2, 4: 0.5}, {0: 0.3, 2: 0.6})):
        written(tmp_path / f"a{seed}", errors, seed, net={"width": 8})
    written(tmp_path / "b", {0: 0.5, 2: 0.7}, net={"width": 16})
    main([str(tmp_path), f"out={tmp_path / 'out'}"])
    with (tmp_path / "out" / "tv_exact_learned.csv").open(newline="") as file:
        drawn = list(csv.DictReader(file))
    bands = [(float(row["low"]), float(row["high"])) if row["low"] else None for row in drawn]
    assert bands == [pytest.approx((0.1, 0.3)), pytest.approx((0.2, 0.6)), None, None, None]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "set": st.sampled_from(["exact", "noise floor", "learned", "class"]),
                "denoiser": st.sampled_from(["exact", "learned", None]),
                "policy": st.sampled_from(["rate", "uniform"]),
                "num_samples": st.sampled_from([10, 100]),
                "calls": st.sampled_from([1, 2]),
                "w": st.sampled_from([0.0, 2.0, "ramp(0,4)"]),
            }
        ),
        min_size=1,
        max_size=12,
        unique_by=lambda row: repr(sorted(row.items())),
    )
)
@settings(max_examples=25, deadline=None)
def test_rows_that_are_about_different_things_are_never_averaged(about: list[dict[str, Any]]) -> None:
    """Whatever columns say what a row is about: over two seeds, each such row has the mean of its own two numbers."""
    with TemporaryDirectory() as folder:
        for seed in (0, 1):
            rows = [row | {"log_prob": 10.0 * k + seed, "log_prob_se": 0.1} for k, row in enumerate(about)]
            written(Path(folder, str(seed)), {}, seed, more=rows)
        found = compare([folder])
    assert len(found.means) == len(about) and "log_prob_se" not in found.measured
    for k, row in enumerate(about):
        given = {key: value for key, value in row.items() if value is not None}
        same = [v for v in found.means.to_dict("records") if all(v[key] == given[key] for key in given)]
        assert (10.0 * k + 0.5, 0.5) in [(v["log_prob"], v["log_prob_se"]) for v in same]


def test_what_is_not_finite_is_not_dropped(tmp_path: Path) -> None:
    for seed, kl in enumerate((1.0, "inf", "inf")):
        written(tmp_path / str(seed), {}, seed, more=[{"kl_b": kl, "kl_c": None if seed else 3.0, "kl_d": "nan"}])
    found = compare([tmp_path])
    assert at(found, 0, "kl_b") == (math.inf, None, 3)
    (row,) = found.rows()
    assert row["kl_b"] == math.inf and row["kl_b_se"] is None and row["kl_d"] is None
    assert row["kl_c"] == 3.0 and row["kl_c_seeds"] == 1  # one seed of three has it, and the row says so


@pytest.mark.parametrize("value", ["0.5", [0.5], True, {"a": 1}, 10**400])
def test_what_is_no_number_among_numbers_is_refused(value: Any, tmp_path: Path) -> None:
    """It counted as missing: the mean was that of the other seeds."""
    for seed in (0, 1):
        written(tmp_path / str(seed), {}, seed, more=[{"kl_b": value if seed else 3.0}])
    with pytest.raises(UserError, match=r"1/report/report\.json has kl_b"):
        compare([tmp_path])
    changed(tmp_path / "0" / "report" / "report.json", {"test": {"test/nelbo": value}})
    with pytest.raises(UserError, match=r"0/report/report\.json has test/nelbo"):
        compare([tmp_path / "0"])


def test_a_mean_says_how_many_seeds_lack_it(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        written(tmp_path / str(seed), {}, seed, more=[{"recall": 0.5 if seed else None}])
    _, over_w, _ = comparison_sections(compare([tmp_path]), tmp_path)
    assert over_w.table is not None and "2 of 3" in over_w.table.rows[0][-1]


def test_a_report_that_declares_its_columns_is_compared_by_them(tmp_path: Path) -> None:
    """An index of whole numbers is not averaged, a count that was measured is, and words are not measurements."""
    columns = {"w": True, "together": True, "num_left": False, "tv": False, "remark": False}
    for seed in (0, 1):
        table = [
            {"w": 0.0, "together": k, "num_left": 10 * k + seed, "tv": "inf", "remark": f"of {seed}"} for k in (1, 2)
        ]
        report = {
            "version": REPORT_VERSION,
            "laws": table,
            "data": {"name": "toy"},
            "run": {},
            "settings": {},
            "plan": {"seed": seed},
            "columns": {"laws": {name: {"index": index} for name, index in columns.items()}, "other": {}},
        }
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "report.json").write_text(json.dumps(report))
    found = compare([tmp_path])
    assert found.index == ["setting", "w", "together"] and found.measured == ["num_left", "tv"]
    assert at(found, 0, "num_left", together=1) == (10.5, 0.5, 2) and at(found, 0, "num_left", together=2)[0] == 20.5
    assert at(found, 0, "tv", together=1) == (math.inf, None, 2)


def test_the_noise_floor_is_that_of_the_sampled_distribution(tmp_path: Path) -> None:
    written(tmp_path / "a", {}, more=[{"noise_floor_exact": 0.2, "noise_floor_learned": 0.3}], net={"width": 8})
    written(tmp_path / "b", {}, more=[{"noise_floor_exact": 0.2}])
    assert compare([tmp_path]).means["noise_floor"].tolist() == [0.3, 0.2]


@pytest.mark.parametrize("role", ["operational", "place", "seed", "selection"])
def test_only_settings_that_decide_the_result_tell_reports_apart(role: str, tmp_path: Path) -> None:
    keys = sorted({one.name for schema in SCHEMAS.values() for one in fields(schema)})
    for k in (0, 1):
        config = {key: k for key in keys if role_of(key) == role and key != "seed"}
        written(tmp_path / str(k), {0: 1.0}, k if role == "seed" else 0, **config)
    assert compare([tmp_path]).labels == ["all"]
    written(tmp_path / "other", {0: 1.0}, num_samples=5)
    assert len(compare([tmp_path]).labels) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, r"/report\.json ") for text in ("{", "[" * 10**5, "[]", "null", '"x"', "3", '{"version": 3}')),
        (json.dumps({"version": REPORT_VERSION, "plan": [], "columns": {"a": {"w": 1}}, "a": [3]}), r"/report\.json "),
        ('{"version": 1, "plan": {}}', f"version 1: .* {REPORT_VERSION} "),
        (None, r" report\.json .*: "),
    ],
)
def test_what_is_no_report_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=message):
        compare([tmp_path])
    with pytest.raises(UserError, match="/missing: "):
        compare([tmp_path / "missing"])


@settings(deadline=None)
@given(st.data())
def test_a_report_with_a_part_of_another_type_is_compared_or_refused(data: st.DataObject) -> None:
    """A folder of a user may hold a report.json of anybody's."""
    with TemporaryDirectory() as name:
        written(Path(name), {0: 1.0, 2: 2.0})
        path = Path(name, "report", "report.json")
        report = json.loads(path.read_text())
        part = report
        for _ in range(data.draw(st.integers(0, 4))):
            if isinstance(part, dict | list) and part:
                key = data.draw(st.sampled_from(sorted(part) if isinstance(part, dict) else [0]))
                inside = part[key]
                part[key] = data.draw(st.sampled_from([None, 3, "x", [], [1], {}, {"a": 1}, inside]))
                part = inside
        path.write_bytes(data.draw(st.sampled_from([b"", b"\xff"])) + json.dumps(report).encode())
        with suppress(UserError):
            assert compare([name]).rows() is not None


def test_the_command_prints_and_writes_the_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, error in enumerate((0.1, 0.3)):
        written(tmp_path / f"a{seed}", {0: error, 2: 2 * error, "ramp(0,4)": error}, seed, net={"width": 8})
    written(tmp_path / "b", {0: 0.5, 2: 0.7}, net={"width": 16})
    main([str(tmp_path), f"out={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    page = (tmp_path / "out" / "comparison.html").read_text()
    for text in ("net.width", "ramp(0,4)", "0.2000 ± 0.1000", "0.4000 ± 0.2000", "10.5000 ± 0.5000"):
        assert text in page, text
    assert "0.2000 ± 0.1000" in printed and str(tmp_path / "out" / "comparison.html") in printed
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = [(row["net.width"], row["w"], row["tv_exact_learned"]) for row in csv.DictReader(file)]
    assert rows == [
        ("8", "0", "0.2"),
        ("8", "2", "0.4"),
        ("8", "ramp(0,4)", "0.2"),
        ("16", "0", "0.5"),
        ("16", "2", "0.7"),
    ]
    with (tmp_path / "out" / "tv_exact_learned.csv").open(newline="") as file:
        drawn = list(csv.DictReader(file))
    assert len(drawn) == 4  # a schedule has no place on an axis of w


def test_the_command_explains_itself_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        main(arguments)
        assert "python compare.py" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "nothing"), f"out={tmp_path / 'out'}"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and str(tmp_path / "nothing") in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_replaces_an_earlier_one_and_no_file_of_anybody_elses(tmp_path: Path) -> None:
    report = tmp_path / "a"
    written(report, {0: 0.5, 2: 0.7})
    out = tmp_path / "out"
    for _ in range(2):
        main([str(report), f"out={out}"])
    ours = {path.name for path in out.iterdir()}
    for name in ours:
        mine = tmp_path / f"mine_{name}"
        mine.mkdir()
        (mine / name).write_text("mine")
        with pytest.raises(SystemExit) as ended:
            main([str(report), f"out={mine}"])
        assert ended.value.code == 2
        assert [path.name for path in mine.iterdir()] == [name] and (mine / name).read_text() == "mine"


@pytest.mark.slow
def test_a_sweep_is_compared_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ("-m", "denoiser=exact", "data=toy_1d_disjoint", "w=[0,1]", "seed=0,1", "num_samples=20,80")
    assert run("eval", *sweep, f"runs={tmp_path / 'runs'}") == 0
    main([str(tmp_path / "runs"), f"out={tmp_path / 'out'}"])
    assert str(tmp_path / "out" / "comparison.html") in capsys.readouterr().out
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["num_samples"], row["w"], row["reports"]) for row in rows] == [
        ("20", "0.0", "2"),
        ("20", "1.0", "2"),
        ("80", "0.0", "2"),
        ("80", "1.0", "2"),
    ]
    reports = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("report.json")]
    each = [r["distances"][1]["tv_exact_samples"] for r in reports if r["plan"]["num_samples"] == 80]
    assert math.isclose(float(rows[3]["tv_exact_samples"]), sum(each) / 2)
