"""`mdlm_cfg.report`: the whole report of any denoiser, by one call."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_target
from torch import Tensor, nn

import mdlm_cfg
from mdlm_cfg import FunctionDenoiser, Guidance, HiddenMarkovMixture, Sampler, TableMixture, UserError, terminal_law
from mdlm_cfg.app.own_report import STRENGTHS
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.nets.transformer import GridTransformer

TARGET = random_target(3, 2, seed=5)


def as_function(target: TableMixture) -> FunctionDenoiser:
    """The exact conditionals of a target, as a function of which nothing else is known."""
    exact = target.denoiser()

    def answer(tokens: Tensor, classes: Tensor | None) -> Tensor:
        return exact(tokens, classes)

    return FunctionDenoiser(answer, target.num_tokens, target.num_dims, target.num_classes)


class Small(nn.Module):
    """A module with random weights, whose conditionals belong to no joint distribution."""

    def __init__(self, num_tokens: int, num_dims: int, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shape = (num_tokens, num_dims, num_classes)
        self.inside = nn.Linear(num_dims * (num_tokens + 1) + num_classes + 1, num_dims * num_tokens)
        self.inside.weight.data *= 3

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        n, d, k = self.shape
        seen = nn.functional.one_hot(tokens, n + 1).flatten(1)
        wanted = nn.functional.one_hot(classes, k + 1)
        return self.inside(torch.cat([seen, wanted], dim=1).float()).unflatten(1, (d, n)).log_softmax(dim=-1)


def module(num_tokens: int, num_dims: int, num_classes: int) -> FunctionDenoiser:
    return FunctionDenoiser(Small(num_tokens, num_dims, num_classes), num_tokens, num_dims, num_classes)


def read(written: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((written.path.parent / "report.json").read_text())
    return found


def test_without_a_target_the_effect_of_guidance_is_exact_and_orders_agree(tmp_path: Path) -> None:
    denoiser = as_function(TARGET)
    written = mdlm_cfg.report(denoiser, w=[0, 3], out=tmp_path, num_samples=500)
    assert {"report.html", "report.json", "report.csv"} <= {path.name for path in tmp_path.iterdir()}
    rows = read(written)["distances"]
    assert [(row["w"], row["target_class"]) for row in rows] == [(0, 0), (0, 1), (3, 0), (3, 1)]
    for row in rows:
        law = terminal_law(TARGET.denoiser(), Guidance(row["w"]), row["target_class"])
        assert row["tv_unguided"] == pytest.approx(total_variation(TARGET.class_pmf(row["target_class"]), law))
        assert row["entropy"] == pytest.approx(-float((law * law.log().clamp(min=-1e9)).sum()))
        assert row["values_changed"] < row["tv_unguided"] + 0.1  # of single values, by samples
        assert "tv_exact_learned" not in row and "tv_tilted_exact" not in row
        if row["w"] == 0:
            assert row["tv_unguided"] == 0 and row["tv_orders"] < 1e-12


def test_without_a_target_conditionals_of_no_distribution_are_named(tmp_path: Path) -> None:
    denoiser = module(3, 3, 2)
    found = read(mdlm_cfg.report(denoiser, w=0, out=tmp_path, num_samples=100, class_names=["one", "two"]))
    for row in found["distances"]:
        laws = [
            terminal_law(denoiser, Guidance(0.0), row["target_class"], order) for order in ("uniform", "confidence")
        ]
        assert row["tv_orders"] == pytest.approx(total_variation(*laws)) and row["tv_orders"] > 0.01
        assert row["class_name"] == ["one", "two"][row["target_class"]]


def test_with_a_target_the_exact_columns_are_there(tmp_path: Path) -> None:
    other = random_target(3, 2, seed=6)
    found = read(mdlm_cfg.report(as_function(other), TARGET, [0, 2], tmp_path, num_samples=200, target_class=1))
    for row in found["distances"]:
        exact, learned = (terminal_law(t.denoiser(), Guidance(row["w"]), 1) for t in (TARGET, other))
        assert row["tv_exact_learned"] == pytest.approx(total_variation(exact, learned))
        assert row["tv_class_exact"] == pytest.approx(total_variation(TARGET.class_pmf(1), exact))


def test_more_states_than_can_be_enumerated_are_sampled(tmp_path: Path) -> None:
    found = read(mdlm_cfg.report(module(5, 24, 2), w=[0, 4], out=tmp_path, num_samples=20))
    assert all(row["tv_unguided"] is None and 0 <= row["diversity"] <= 1 for row in found["distances"])
    arrays = np.load(tmp_path / "arrays.npz")
    assert all(array.shape == (20, 24) for array in arrays.values()) and len(arrays) == 4


def test_sequences_and_networks_too(tmp_path: Path) -> None:
    chain = HiddenMarkovMixture(
        torch.full((2, 2), 0.5),
        torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]]),
        torch.tensor([[[0.8, 0.2], [0.1, 0.9]], [[0.4, 0.6], [0.3, 0.7]]]),
        torch.tensor([0.5, 0.5]),
        num_dims=30,
    )
    found = read(mdlm_cfg.report(chain.denoiser(), chain, [0, 1], tmp_path / "chain", num_samples=4))
    assert found["distances"]
    net = GridTransformer(3, (2,), 2, width=8, depth=1, num_heads=1)
    assert read(mdlm_cfg.report(NetDenoiser(net), TARGET, [1], tmp_path / "net", num_samples=50))["ledger"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"denoiser": lambda tokens, classes: None},
        {"denoiser": TARGET},
        {"denoiser": 3},
        {"target": "toy_2d_overlap"},
        {"target": random_target(3, 3)},
        {"w": []},
        {"w": None},
        {"w": "two"},
        {"w": [-2]},
        {"guidance": "fast"},
        {"target_class": 2},
        {"target_class": "1"},
        {"w": [None]},
        {"w": [Guidance(1.0), Guidance(1.0, "normalized")]},
        {"num_samples": 0},
        {"out": ""},
        {"out": "x\0y"},
        {"out": Path("x", "\ud800")},
        {"out": None, "name": "x\0y"},
        {"class_names": "ab"},
        {"value_names": [1, 2, 3]},
        {"num_samples": 1},
        {"class_names": ["one"]},
        {"target": TARGET, "value_names": list("abc")},
        {"sampler": "euler"},
    ],
)
def test_wrong_arguments_are_user_errors_and_leave_nothing(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"denoiser": as_function(TARGET), "out": tmp_path / "here", "w": [0], **arguments}
    with pytest.raises(UserError):
        mdlm_cfg.report(**given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("odd", ["[/b]", "[red]x", ":smile:", "{}", "$$", "\u202eabc", "caf\udce9"])
def test_names_are_shown_as_they_are(odd: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"class_names": [odd, "other"], "value_names": [odd, "b", "c"], "name": odd}
    written = mdlm_cfg.report(as_function(TARGET), w=[1], out=tmp_path, num_samples=10, **names)
    assert written.path.is_file()
    shown = odd.encode(errors="backslashreplace").decode()  # of a folder's name that is no text
    assert capsys.readouterr().out.count(shown) >= 3  # in the title, the table and the verdict


def test_a_console_that_cannot_encode_shows_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(bytes_shown, encoding="ascii"))
    names = ["\u65e5", "other"]
    written = mdlm_cfg.report(as_function(TARGET), out=tmp_path, num_samples=10, class_names=names)
    assert written.path.is_file() and b"\\u65e5" in bytes_shown.getvalue()
    assert {row["w"] for row in read(written)["distances"]} == set(STRENGTHS)  # where none are given


def test_a_report_is_in_its_place_before_its_tables_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no terminal")

    monkeypatch.setattr("mdlm_cfg.app.evaluation.print_table", fail)
    with pytest.raises(RuntimeError):
        mdlm_cfg.report(as_function(TARGET), w=[1], out=tmp_path / "here", num_samples=10)
    assert json.loads((tmp_path / "here" / "report.json").read_text())["distances"]


def test_a_sampler_with_steps_is_evaluated_as_it_is(tmp_path: Path) -> None:
    sampler = Sampler("event_leaping", 2)
    found = read(mdlm_cfg.report(as_function(TARGET), w=[1], out=tmp_path, num_samples=50, sampler=sampler))
    steps = [row for row in found["samplers"] if row["sampler"] == "event_leaping" and row["calls"] == 2]
    assert steps[0]["tv"] == pytest.approx(0, abs=1e-12)  # two coordinates in two steps
