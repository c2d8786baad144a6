"""report.json as the commands write it is of the kind, sampler, schedule, class and denoiser that were asked for."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from commands import TOY, run
from helpers import data_of, found_by, random_target
from rich.console import Console

from mdlm_cfg import Guidance, TableMixture, error_ledger, stepped_law, terminal_law, tilted_law
from mdlm_cfg.app.evaluation import Report, evaluate
from mdlm_cfg.compare.decay import log_still_masked
from mdlm_cfg.reports.paper_report import to_markdown
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.ledger import COLUMNS
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets import toys
from mdlm_cfg.training.data import TableData
from mdlm_cfg.training.runs import newest_run

STRENGTHS = [0, 2, 4]
ASKED = (
    *("denoiser=exact", "guidance=normalized", "sampler=tau_leaping", "schedule=cosine", "steps=8", "w=[0,2,4]"),
    "num_samples=200",
)


def tv(p: torch.Tensor, q: torch.Tensor) -> float:
    return 0.5 * float((p - q).abs().sum())


Asked = tuple[TableMixture, int, dict[str, Any]]  # the data, the class, and report.json


@pytest.fixture(scope="module", params=[pytest.param("the toy", marks=pytest.mark.slow), "a table"])
def normalized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """The command on the default toy; and for another class of a table whose classes are not alike."""
    out = tmp_path_factory.mktemp("report")
    target = toys.toy_2d_overlap()
    z = 0
    data = ["data=toy_2d_overlap"]
    if request.param == "a table":
        target = random_target(4, 2, 3, seed=5, zeros=0.2)
        z = 2
        path = out / "table.npz"
        np.savez(path, class_pmfs=target.class_pmfs.numpy(), class_weights=target.class_weights.numpy())
        data = ["data=table", f"data.path={path}", "target_class=2"]
    assert run("eval", *ASKED, *data, f"out={out}") == 0
    return target, z, json.loads((out / "report.json").read_text())


def finished(law: torch.Tensor) -> torch.Tensor:
    """The part of a law over partial states that has no mask."""
    return law[:-1, :-1]


def test_the_plan_is_what_was_asked(normalized: Asked) -> None:
    _, z, report = normalized
    plan = report["plan"]
    assert plan["guidances"] == [{"w": w, "kind": "normalized", "strengths": [w, w]} for w in STRENGTHS]
    assert plan["classes"] in (None, [z])
    assert (plan["sampler"], plan["schedule"], plan["steps"]) == ("tau_leaping", "cosine", 8)
    assert report["target_class"] == z and report["judged"] == "exact"


def test_the_samplers_table_is_of_the_normalized_chain(normalized: Asked) -> None:
    target, z, report = normalized
    denoiser = target.denoiser()
    rows = [row for row in report["samplers"] if row["steps"] == 8 and row["sampler"] != "event_leaping"]
    assert len(rows) == 3 * len(STRENGTHS)
    for row in rows:
        guidance = Guidance(row["w"], "normalized")
        p = finished(stepped_law(denoiser, guidance, z, row["sampler"], 8, "cosine"))
        assert abs(row["tv"] - tv(p, terminal_law(denoiser, guidance, z))) < 1e-12
        assert (row["kind"], row["schedule"], row["calls"], row["denoiser"]) == ("normalized", "cosine", 8, "exact")
        if row["w"] > 0:  # and is not the table of the other kind
            rate = Guidance(row["w"])
            other = finished(stepped_law(denoiser, rate, z, row["sampler"], 8, "cosine"))
            assert abs(row["tv"] - tv(other, terminal_law(denoiser, rate, z))) > 1e-6


def test_the_ledger_is_of_the_cosine_steps(normalized: Asked) -> None:
    target, z, report = normalized
    own = [entry for entry in report["ledger"] if (entry["sampler"], entry["steps"]) == ("tau_leaping", 8)]
    assert [entry["w"] for entry in own] == STRENGTHS
    for entry in report["ledger"]:
        guidance = Guidance(entry["w"], "normalized")
        sampler = Sampler(entry["sampler"], entry["steps"], entry["schedule"])
        generator = generator_for("ledger", 0, *guidance.key(target.num_dims), z, sampler.label)
        expected = error_ledger(target, target.denoiser(), guidance, z, sampler, num_samples=200, generator=generator)
        assert entry["kind"] == "normalized" and entry["conditionals_error"] is None
        for line in ("guidance effect", "gap to tilted", "discretisation error"):
            assert abs(entry[COLUMNS[line]] - expected.tv[line]) < 1e-12
        if entry not in own:  # the plan's own is judged by the samples of the report
            assert abs(entry["total"] - expected.tv["total"]) < 1e-12
    assert all(entry["schedule"] == "cosine" for entry in own)
    strong = Guidance(4, "normalized")
    denoiser = target.denoiser()
    linear = finished(stepped_law(denoiser, strong, z, "tau_leaping", 8, "linear"))
    assert abs(own[2]["discretisation_error"] - tv(linear, terminal_law(denoiser, strong, z))) > 1e-4


def test_the_decay_is_of_the_normalized_chain(normalized: Asked) -> None:
    target, z, report = normalized
    denoiser = target.denoiser()
    curves = report["decay_curves"]
    assert {row["kind"] for row in curves} == {"normalized"} and not report["decay_fit"][0]["double_exponential"]
    for w in {row["w"] for row in curves}:
        own = [row for row in curves if row["w"] == w]
        expected = log_still_masked(denoiser, Guidance(w, "normalized"), z, [row["tau"] for row in own])
        found = torch.tensor([row["log_tv"] for row in own], dtype=torch.float64)
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_the_distances_are_of_the_class_that_was_asked_for(normalized: Asked) -> None:
    target, z, report = normalized
    for row, w in zip(report["distances"], STRENGTHS, strict=True):
        exact = terminal_law(target.denoiser(), Guidance(w, "normalized"), z)
        assert (row["w"], row["kind"]) == (w, "normalized")
        assert abs(row["tv_class_exact"] - tv(target.class_pmfs[z], exact)) < 1e-12
        assert abs(row["tv_tilted_exact"] - tv(tilted_law(target, w, z), exact)) < 1e-12


@pytest.mark.slow
def test_a_grid_of_clock_times_by_command_line(tmp_path: Path) -> None:
    arguments = ("denoiser=exact", "data=toy_1d_overlap", "sampler=euler", "steps=[0,0.5,1,inf]", "w=[2]")
    assert run("eval", *arguments, "num_samples=50", f"out={tmp_path}") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["plan"]["steps"] == [0, 0.5, 1, "inf"] and report["plan"]["schedule"] is None
    own = next(entry for entry in report["ledger"] if entry["sampler"] == "euler")
    chain = oracle.Chain(toys.toy_1d_overlap().denoiser(), 2.0, "rate", 0)
    stepped = chain.stepped("euler", oracle.grid_fractions([0, 0.5, 1, float("inf")]))[:-1]
    assert abs(own["discretisation_error"] - tv(stepped, chain.terminal_by_orders())) < 1e-12


NUMBERS = ("samplers", "ledger", "decay", "distances", "geometry")


def test_every_number_is_a_number(normalized: Asked) -> None:
    _, _, report = normalized

    def strings(value: Any, where: str) -> list[tuple[str, str]]:
        if isinstance(value, dict):
            return [found for key, item in value.items() for found in strings(item, f"{where}.{key}")]
        if isinstance(value, list):
            return [found for item in value for found in strings(item, where)]
        return [(where, value)] if isinstance(value, str) else []

    def parses(text: str) -> bool:
        try:
            float(text.strip().rstrip("%"))
        except ValueError:
            return False
        return text not in ("inf", "-inf", "nan")

    found = [item for part in NUMBERS for item in strings(report[part], part)]
    assert found and not [item for item in found if parses(item[1])]
    assert parses("0.0472") and parses("1.2e-05") and parses("12%") and not parses("inf")  # it would be seen


def refuse_constant(name: str) -> None:
    raise AssertionError(f"report.json holds {name}, which is no JSON")


@pytest.mark.slow
def test_report_json_is_json(tmp_path: Path) -> None:
    out = tmp_path / "report"  # of the second class KL is infinite somewhere, and so is the limit's w
    assert run("eval", "denoiser=exact", "data=toy_1d_disjoint", "w=[0,1]", "num_samples=20", f"out={out}") == 0
    report = json.loads((out / "report.json").read_text(), parse_constant=refuse_constant)
    assert report["geometry"][-1]["w"] == "inf"


@pytest.mark.parametrize("sampler", [Sampler(), Sampler("tau_leaping", 4, "cosine")], ids=lambda s: s.label)
def test_no_figure_depends_on_which_other_strengths_were_asked_for(sampler: Sampler) -> None:
    target = toys.toy_1d_overlap()
    network = TableMixture(0.9 * target.class_pmfs + 0.1 / target.class_pmfs[0].numel(), target.class_weights)

    def at_2(strengths: list[float]) -> dict[str, Any]:
        asked = Plan(tuple(Guidance(w) for w in strengths), sampler, num_samples=100, classes=(1,))
        report = found_by(TableReport(), data_of(target), network.denoiser(), asked).to_dict()
        names = ("distances", "samplers", "ledger", "geometry")
        parts = {part: [row for row in report[part] if row["w"] == 2] for part in names}
        assert all(parts.values())
        return parts | {"decay": report["decay"]}

    alone = at_2([2])
    assert at_2([0, 1, 2]) == alone and at_2([2, 8]) == alone


def test_strengths_do_not_share_a_stream() -> None:
    assert hash((0, -1.0)) == hash((0, -2.0))  # what seeds were once made of
    keys = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 1e4]
    draws = [torch.rand(4, generator=generator_for("table samples", 0, "rate", f"{w:g}", 0)) for w in keys]
    draws += [torch.rand(4, generator=generator_for("x", 0, w)) for w in keys]
    assert len({tuple(draw.tolist()) for draw in draws}) == 2 * len(keys)
    plan = Plan(tuple(Guidance(w) for w in (-1.0, -0.5, 0.0, 1.0)), Sampler())
    ours = {
        tuple(torch.rand(4, generator=plan.generator(what, g, z)).tolist())
        for g in (*plan.guidances, *(Guidance(g.constant, "normalized") for g in plan.guidances))
        for what in ("table samples", "bootstrap", "ledger")
        for z in (0, 1)
    }
    assert len(ours) == 8 * 3 * 2


@pytest.fixture
def too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """The report of a network that is wrong on purpose, and too large for its own exact law."""
    target = toys.toy_1d_overlap()
    wrong = TableMixture(target.class_pmfs.flip(0), target.class_weights.flip(0))  # takes one class for the other
    monkeypatch.setattr("mdlm_cfg.studies.protocol.LEARNED_LAW_ENTRIES", 10)
    data = TableData(target, "toy_1d_overlap")
    data.setup("fit")
    plan = Plan((Guidance(0), Guidance(2)), Sampler(), num_samples=2000, classes=(0,))
    with (tmp_path / "terminal.txt").open("w") as file:
        report = Report(tmp_path / "report", "Wrong", {"command": "x"}, {}, {}, Console(file=file, width=200))
        evaluate(data, wrong.denoiser(), plan, report, TableReport("1d_overlap"))
    return tmp_path / "report", (tmp_path / "terminal.txt").read_text()


def test_a_network_that_is_too_large_is_judged_by_its_own_samples(too_large: tuple[Path, str]) -> None:
    folder, said = too_large
    report = json.loads((folder / "report.json").read_text())
    assert report["judged"] == "learned"
    target = toys.toy_1d_overlap()
    for row in report["distances"]:
        wrong = TableMixture(target.class_pmfs.flip(0), target.class_weights.flip(0)).denoiser()
        guidance = Guidance(row["w"])
        apart = tv(terminal_law(wrong, guidance, 0), terminal_law(target.denoiser(), guidance, 0))
        assert apart > 0.3 and abs(row["tv_exact_samples"] - apart) < 0.1
        assert row["tv_exact_samples"] > 5 * row["noise_floor_exact"]
        assert not [name for name, value in row.items() if "learned" in name and value is not None]
    assert {row["law"] for row in report["moments"]} == {"class", "tilted", "exact", "samples"}
    assert "ledger" not in report and {row["denoiser"] for row in report["samplers"]} == {"exact"}
    assert {row["law"] for row in report["geometry"]} == {"exact"}
    assert not [name for name in report["laws"] if "learned" in name]
    assert any("too large" in line for line in report["verdict"]) and "too large" in said
    with (folder / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert not [name for row in rows for name, value in row.items() if "learned" in name and value]


@pytest.mark.slow
def test_the_paper_leaves_open_what_was_not_learned(too_large: tuple[Path, str]) -> None:
    folder, _ = too_large
    lines = to_markdown(json.loads((folder / "report.json").read_text())).splitlines()
    heads = [k for k, line in enumerate(lines) if line.startswith("| the paper")]
    assert len(heads) == 1
    cells = [line.strip("|").split(" | ") for line in lines[heads[0] + 2 :]]
    claims = cells[: next((k for k, row in enumerate(cells) if len(row) < 4), len(cells))]
    assert claims and all(len(row) == 4 for row in claims)
    learned = [row[2].strip() for row in claims]
    assert not [cell for cell in learned if any(character.isdigit() for character in cell)], learned


@pytest.mark.slow
def test_training_and_its_evaluation_are_one_group_on_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    opened: list[dict[str, Any]] = []
    right = wandb.init

    def init(*arguments: Any, **settings: Any) -> Any:
        opened.append(settings)
        return right(*arguments, **settings)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert run("train", *TOY, f"runs={tmp_path}") == 0
    folder = newest_run(tmp_path).parent.parent
    assert run("eval", f"runs={tmp_path}", "logger=wandb") == 0
    train, judged = opened
    assert train["job_type"] == "train" and judged["job_type"] == "eval"
    assert train["group"] == judged["group"] == "toy_1d_overlap"
    assert train["config"]["run"] == judged["config"]["run"] == f"toy_1d_overlap/{folder.name}"
    (evaluation,) = (folder / "evaluations").iterdir()
    assert list((evaluation / "wandb").glob("offline-run-*/*.wandb")) and (evaluation / "report.json").is_file()
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert wandb.run is None  # both are over
    with (evaluation / "metrics.csv").open() as file:
        (row,) = list(csv.DictReader(file))
    report = json.loads((evaluation / "report.json").read_text())
    assert float(row["eval/tv_exact_learned_w2"]) == report["distances"][1]["tv_exact_learned"]
