"""Reports side by side: what differs, means over seeds, and nothing mixed that differs in more."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import run

from mdlm_cfg.app.comparing import main
from mdlm_cfg.studies.comparison.findings import compare
from mdlm_cfg.support.errors import UserError


def written(folder: Path, errors: dict[Any, float], seed: int = 0, classes: int = 1, **config: Any) -> None:
    """A run's folder with a report of these score errors by w; class k's is k higher."""
    (folder / "report").mkdir(parents=True)
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump({"seed": seed, "runs": str(folder), **config}))
    rows = [
        {"w": w, "kind": "rate", "class": k, "tv_exact_learned": error + k, "tv_tilted_exact": None, "kl": "inf"}
        for w, error in errors.items()
        for k in range(classes)
    ]
    report = {
        "version": 2, "distances": rows, "data": {"name": "toy"}, "run": {}, "test": {"test/nelbo": 10.0 + seed},
        "plan": {"guidances": [], "sampler": "first_hitting", "steps": None, "seed": seed},
    }  # fmt: skip
    (folder / "report" / "report.json").write_text(json.dumps(report))


def test_seeds_are_averaged_and_settings_are_not(tmp_path: Path) -> None:
    for seed, error in enumerate((1.0, 2.0, 6.0)):
        written(tmp_path / f"a{seed}", {0: error, 2: 10 * error}, seed, net={"width": 8})
    written(tmp_path / "b", {0: 5.0, "ramp(0,4)": 7.0}, net={"width": 16})
    small, large = compare([tmp_path]).settings
    assert (small.label, large.label) == ("net.width=8", "net.width=16")
    assert [entry.seed for entry in small.entries] == [0, 1, 2]
    found = small.at[2]["tv_exact_learned"]
    assert found.value == 30.0 and found.num == 3
    assert math.isclose(found.standard_error, math.sqrt((400 + 100 + 900) / 2 / 3))
    assert large.at["ramp(0,4)"]["tv_exact_learned"].value == 7.0
    assert large.at[0]["tv_exact_learned"].standard_error is None  # of a single one
    assert small.test["test/nelbo"].value == 11.0
    assert set(small.at[0]) == {"tv_exact_learned"}  # what has no number is not there


def test_jobs_of_one_seed_are_no_repeats(tmp_path: Path) -> None:
    """A sweep over w and seeds measures w = 0 in every job: that makes its error bar no smaller."""
    for seed, error in enumerate((1.0, 3.0)):
        for w in (1, 2, 4):
            written(tmp_path / f"{seed}{w}", {0: error, w: error + w}, seed)
    (only,) = compare([tmp_path]).settings
    for w in (0, 1, 2, 4):
        found = only.at[w]["tv_exact_learned"]
        assert (found.value, found.standard_error, found.num) == (2.0 + w, 1.0, 2)
    assert only.test["test/nelbo"].standard_error == 0.5


def test_what_a_report_has_no_word_for_is_named_only_where_it_tells_two_apart(tmp_path: Path) -> None:
    for width in (8, 16):
        written(tmp_path / f"{width}", {0: 1.0}, net={"width": width, "depth": 2})
    written(tmp_path / "c", {0: 1.0})
    assert [s.label for s in compare([tmp_path]).settings] == ["net.width=16", "net.width=8", "net.width=None"]
    written(tmp_path / "d", {0: 1.0}, objective="pooled")  # told from c by a setting that no other has
    labels = [s.label for s in compare([tmp_path]).settings]
    assert len(set(labels)) == 4 and all("net.depth" in label and "objective" in label for label in labels)


def test_classes_are_averaged_within_a_report(tmp_path: Path) -> None:
    written(tmp_path / "a", {0: 1.0}, classes=3)
    (only,) = compare([tmp_path / "a" / "report" / "report.json"]).settings
    assert only.label == "all" and only.at[0]["tv_exact_learned"].value == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "no report"), ("[]", "no report"), ('{"version": 2}', "no distances"), (None, "no report.json below")],
)
def test_what_is_no_report_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(UserError, match=message):
        compare([tmp_path])
    with pytest.raises(UserError, match=r"there is no .*missing"):
        compare([tmp_path / "missing"])


def test_a_report_of_another_version_is_refused(tmp_path: Path) -> None:
    written(tmp_path, {0: 1.0})
    path = tmp_path / "report" / "report.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(UserError, match="version 1"):
        compare([tmp_path])


def test_the_command_prints_and_writes_the_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, error in enumerate((0.1, 0.3)):
        written(tmp_path / f"a{seed}", {0: error, 2: 2 * error, "ramp(0,4)": error}, seed, net={"width": 8})
    written(tmp_path / "b", {0: 0.5, 2: 0.7}, net={"width": 16})
    main([str(tmp_path), f"out={tmp_path / 'out'}"])
    printed, page = capsys.readouterr().out, (tmp_path / "out" / "comparison.html").read_text()
    for text in ("What differs", "net.width", "ramp(0,4)", "0.2000 ± 0.1000", "0.4000 ± 0.2000", "10.5000 ± 0.5000"):
        assert text in page, text
    assert "0.2000 ± 0.1000" in printed and f"comparison: {tmp_path / 'out' / 'comparison.html'}" in printed
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = [(row["net.width"], row["w"], row["tv_exact_learned"]) for row in csv.DictReader(file)]
    assert rows == [
        ("8", "0", "0.2"), ("8", "2", "0.4"), ("8", "ramp(0,4)", "0.2"), ("16", "0", "0.5"), ("16", "2", "0.7"),
    ]  # fmt: skip
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
    assert ended.value.code == 2 and said.startswith("error: there is no ") and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_is_compared_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ("-m", "denoiser=exact", "data=toy_1d_disjoint", "w=[0,1]", "seed=0,1", "num_samples=20,80")
    assert run("eval", *sweep, f"runs={tmp_path / 'runs'}") == 0
    main([str(tmp_path / "runs"), f"out={tmp_path / 'out'}"])
    assert "comparison: " in capsys.readouterr().out
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["num_samples"], row["w"], row["reports"]) for row in rows] == [
        ("20", "0.0", "2"), ("20", "1.0", "2"), ("80", "0.0", "2"), ("80", "1.0", "2"),
    ]  # fmt: skip
    reports = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("report.json")]
    each = [r["distances"][1]["tv_exact_samples"] for r in reports if r["plan"]["num_samples"] == 80]
    assert math.isclose(float(rows[3]["tv_exact_samples"]), sum(each) / 2)
