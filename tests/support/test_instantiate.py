"""Objects by name: what may be imported, and what their arguments must be."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from mdlm_cfg.support.annotations import in_words
from mdlm_cfg.support.arguments import check_setting
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import locate, make, names_in, thing_named
from mdlm_cfg.support.torch_state import torch_as_it_is

MODULE = """
class Point:
    def __init__(self, x: int, y: float = 0.0):
        self.x, self.y = x, y
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_points.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_points", None)
    return "own_points.Point"


def test_what_is_trusted_is_made_with_its_arguments(own: str) -> None:
    point = make({"_target_": own, "x": 1}, "point", (), {own}, x=5, y=2.0)
    assert (point.x, point.y) == (1, 2.0)  # the settings' own win
    nested = make({"_target_": own, "x": 1, "y": 2}, "point", (), {own})
    assert nested.y == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"z": 1}, r"point\.z .*Point: .*x, y"),
        ({}, r"point\.x .*Point\b"),
        ({"x": "1"}, r"point\.x = '1'"),
        ({"x": True}, r"point\.x = True"),
        ({"x": 1, "y": None}, r"point\.y = None"),
    ],
)
def test_wrong_arguments_are_named(own: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make({"_target_": own} | arguments, "point", (), {own})


def test_what_is_not_trusted_is_not_imported(own: str) -> None:
    for name in (own, "own_points.Point.x", "mdlm_cfg.nets.own_points.Point"):
        with pytest.raises(UserError, match=rf"net .*{name}:.*mdlm_cfg\.nets"):
            locate(name, "net", ("mdlm_cfg.nets",))
    nested = {"_target_": "mdlm_cfg.nets.GridTransformer", "num_tokens": {"_target_": own, "x": 1}}
    with pytest.raises(UserError, match=r"net\.num_tokens .*own_points\.Point:.*mdlm_cfg\.nets"):
        make(nested, "net", ("mdlm_cfg.nets",))
    assert "own_points" not in sys.modules


def test_a_group_of_modules_is_offered_one_level_down() -> None:
    offered = ("mdlm_cfg.targets.*",)
    assert locate("mdlm_cfg.targets.toys.toy_1d_overlap", "data", offered)().num_dims == 1
    for name in ("mdlm_cfg.targets.toys.torch.load", "mdlm_cfg.targets.toys._x", "mdlm_cfg.targets.none.x"):
        with pytest.raises(UserError):
            locate(name, "data", offered)


def test_settings_without_a_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"net\._target_=module\.Name"):
        make({"x": 1}, "net", ())


def test_names_are_found_at_every_depth() -> None:
    settings = {"_target_": "a.b", "c": [{"_target_": "d.e"}, 3], "f": {"_target_": None, "g": {"_target_": "h.i"}}}
    assert names_in(settings) == {"a.b", "d.e", "h.i"}


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (None, int | None, True),
        (1.5, int | None, False),
        ([1, 2.0], Sequence[float], True),
        ([1, "a"], Sequence[float], False),
        (3, int | Sequence[int], True),
        ("3", int | Sequence[int], False),
        (1, bool, False),
        ([1, 2], list[int], True),
        ([1, 2], tuple[int, ...], True),
        ([1, "a"], tuple[int, str], True),
        ([1, 2], tuple[int, str], False),
        ([1], tuple[int, str], False),
        ({"a": 1}, dict[str, int], True),
        ("cpu", torch.device | None, True),  # what a setting cannot say is for the function itself to refuse
        ([0.5], torch.Tensor | None, True),
        ("a", Sequence[Path], False),
        ("warn", bool | Literal["warn"] | None, True),
        ("bogus", bool | Literal["warn"] | None, False),
        (1.0, Literal[1, "1"], False),
    ],
)
def test_plain_values_fit_plain_types(value: object, hint: object, expected: bool) -> None:
    with nullcontext() if expected else pytest.raises(UserError):
        check_setting("width", value, hint)


def test_types_of_different_values_have_different_words() -> None:
    plain = [int, float, str, bool, int | None, int | str, Path]
    hints: list[Any] = [*plain, *(Sequence[hint] for hint in plain), Sequence[Sequence[int]], Sequence[int] | None]
    assert len({in_words(hint) for hint in hints}) == len(hints)
    assert in_words(list[int]) == in_words(tuple[int, ...]) == in_words(Sequence[int])


def test_own_code_changes_torch_for_its_own_job_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module sets the default type when it is imported, which is once, also for a later job that names it."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("import torch\ntorch.set_default_dtype(torch.float64)\nthing = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for is_named in (True, False, True):
        with torch_as_it_is():
            if is_named:
                thing_named(f"{name}.thing", "net")
            found.append(torch.get_default_dtype())
            torch.set_grad_enabled(False)
            torch.set_autocast_enabled("cpu", True)
    assert found == [torch.float64, torch.float32, torch.float64] and torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
